"""From finished audits to what the repository keeps of them.

    python docs/make_audits.py AUDITS NAME [AUDIT …]     # a folder of audits that share cells, such as runs/audits/digits

Copies plans, markers and cells (without their training curves) to `results/audits/NAME/`, judges them there, and writes each one's
report and the comparison of all as Markdown, JSON and LaTeX; then writes the tables of `docs/audits.md` anew. The pages themselves
are drawn from these by `undistill audit judge`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

from undistill.auditing.analyze import judge
from undistill.auditing.result import Estimate, Judgement
from undistill.experiments import plan as planned
from undistill.files import read_json, write_json
from undistill.reporting.audit.compare import write_comparison
from undistill.reporting.audit.write import write_audit

ROOT = Path(__file__).parents[1]


def keep(audits: Path, results: Path, names: list[str]) -> None:
    """Replace what `results` holds by these audits, their cells and their reports."""
    scripts = {path: path.read_bytes() for path in results.glob("*.[sp][hy]")}
    shutil.rmtree(results, ignore_errors=True)
    (results / "cells").mkdir(parents=True)
    for path, content in scripts.items():
        path.write_bytes(content)
    for name in names:
        _keep_plan(audits / name, results / name)
        for marker in sorted((audits / name / "done").glob("*.json")):
            told = read_json(marker)
            _keep_cell(audits / name / told.get("cells", "cells"), results / "cells", told["cell"])
            write_json(results / name / "done" / marker.name, {"cell": told["cell"], "cells": "../cells"})


def _keep_plan(audit: Path, out: Path) -> None:
    """The plan, without where somebody's data and models lay."""
    values = read_json(audit / planned.FILE)
    values.pop("sd", None)
    values["data"]["dir"] = None
    values["command"] = re.sub(r" (--data-dir|--jobs) \S+", "", values["command"])
    text = json.dumps(values, indent=1, ensure_ascii=False).replace(
        "runs/reproduction-small", "runs/reproduction/small"
    )
    (out / "done").mkdir(parents=True)
    (out / planned.FILE).write_text(text + "\n")


def _keep_cell(cells: Path, out: Path, name: str) -> None:
    if (out / f"{name}.json").exists():
        return
    values = read_json(cells / f"{name}.json")
    values["curve"] = []
    (out / f"{name}.json").write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n")
    if values["arrays"] is not None:
        shutil.copy(cells / values["arrays"], out)


def draw(results: Path, names: list[str]) -> None:
    """Reports of each audit, and the comparison of those that belong together; without pages and pictures, which are large."""
    found = []
    for name in names:
        judgement = judge(results / name)
        write_audit(judgement, results / name / "report")
        found.append((name, judgement))
    if results.name != "planted":
        write_comparison(found, results / "comparison")
    for page in [*results.glob("*/index.html"), *results.glob("*/report/index.html")]:
        shutil.rmtree(page.parent / "figures", ignore_errors=True)
        page.unlink()
        text = (page.parent / "report.md").read_text()
        (page.parent / "report.md").write_text(re.sub(r"^!\[.*\n+", "", text, flags=re.MULTILINE))


def judged(name: str) -> dict[str, Judgement]:
    """The kept judgements of a set, by audit."""
    found = sorted((ROOT / "results" / "audits" / name).glob("*/report/report.json"))
    return {path.parents[1].name: Judgement.model_validate(read_json(path)["judgement"]) for path in found}


def compared(name: str) -> str:
    """A line an audit: what its best attack got from the main card's probabilities, and what users lose."""
    if not judged(name):
        return ""
    rows = ["| defense | best attack, % | its name | took | of headroom | verdict | users, % | Brier | flags |"]
    rows.append("|---|---|---|---:|---:|---|---:|---:|---:|")
    for audit, found in judged(name).items():
        card, user = found.cards[0], next(v for v in found.victims if v.side == "defended")
        best = next((thief for thief in card.thieves if thief.name == card.best and thief.side == "defended"), None)
        told = card.verdict or (f"no verdict; indication: {card.indication}" if card.indication else "no verdict")
        cells = [audit, _span(card.A_def), best.name if best else "–", _number(card.took), _number(card.headroom)]
        rows.append(
            "| "
            + " | ".join([*cells, told, f"{user.accuracy:.2f}", f"{user.brier or 0:.1f}", str(len(found.flags))])
            + " |"
        )
    one = next(iter(judged(name).values()))
    twin = next(v for v in one.victims if v.side == "undefended")
    soft, hard, ref = (_span(each) for each in (one.cards[0].A_soft0, one.cards[0].A_label0, one.cards[0].A_ref))
    rows.append(
        f"\nThe undefended control has {twin.accuracy:.2f} %; its best attack by scores {soft}, by labels {hard}; alone {ref}."
    )
    return "\n".join(rows)


def planted() -> str:
    """A line a planted victim: the verdict that was wanted, and what came."""
    wanted = {
        "decoy": "reduced to labels, and the flag hard-beats-soft",
        "undefended": "no effect",
        "labels-only": "reduced to labels",
        "no-headroom": "nothing to defend",
        "crash": "inconclusive",
    }
    rows = [
        "| planted | wanted | found | headroom | took | soft − floor, at most | exposure, % | flags of the threat model |"
    ]
    rows.append("|---|---|---|---:|---:|---:|---:|---|")
    found = judged("planted")
    for name, hope in wanted.items():
        if name not in found:
            continue
        card = found[name].cards[0]
        gap = next((c.estimate for c in card.contrasts if c.name == "A_soft − floor"), None)
        flags = ", ".join(dict.fromkeys(flag.name for flag in found[name].flags if flag.card == card.id)) or "–"
        upper = "–" if gap is None or gap.upper is None else f"{gap.upper:.1f}"
        cells = [name, hope, card.verdict or "–", _number(card.headroom), _number(card.took), upper]
        rows.append("| " + " | ".join([*cells, f"{card.exposure or 0:.1f}", flags]) + " |")
    return "\n".join(rows)


def costs() -> str:
    """A line a set: what the dry run had said, what was measured."""
    rows = [
        "| audit | cells | computed for this audit | expected, min | measured, min | measured / expected |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ("digits", "cifar10", "planted"):
        seen: set[str] = set()
        for audit, found in judged(name).items():
            plan = planned.read(ROOT / "results" / "audits" / name / audit)
            new = [line for line in found.lines if line.cell and line.cell not in seen]
            seen |= {line.cell for line in new}
            told = {cell.key: cell.seconds or 0.0 for cell in plan.cells}
            expected, measured = sum(told[line.key] for line in new), sum(line.seconds for line in new)
            ratio = f"{measured / expected:.2f}" if expected else "–"
            rows.append(
                f"| {name}/{audit} | {len(found.lines)} | {len(new)} | {expected / 60:.1f} | {measured / 60:.1f} | {ratio} |"
            )
    return "\n".join(rows)


def _span(found: Estimate | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:.1f}" + (
        "" if found.low is None or found.high is None else f" ({found.low:.1f} to {found.high:.1f})"
    )


def _number(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.1f}"


TABLES = {
    "digits": lambda: compared("digits"),
    "cifar10": lambda: compared("cifar10"),
    "planted": planted,
    "costs": costs,
}


def documented(text: str) -> str:
    """`docs/audits.md` with its tables as the kept results have them."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(f"{begin}.*{end}", f"{begin}\n{table()}\n{end}".replace("\\", "\\\\"), text, flags=re.DOTALL)
    return text


def main(audits: Path, name: str, names: list[str]) -> None:
    """Keep these audits, or all that the folder holds."""
    names = names or sorted(path.parent.name for path in audits.glob(f"*/{planned.FILE}"))
    audits = audits.resolve()
    os.chdir(ROOT)  # so that what is written names no folder of somebody's
    results = Path("results") / "audits" / name
    keep(audits, results, names)
    draw(results, names)
    page = ROOT / "docs" / "audits.md"
    page.write_text(documented(page.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
