"""Writes every generated block of README and docs from `evidence/`: `python -m docs.make`, or `make docs`.

A block is between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; `BLOCKS` says what each is made of, and a test compares them.

    python -m docs.make --pictures demo-page=runs/demo/report/index.html   # photographs a page as docs/demo-page*.png, too
    python -m docs.make --figures small                           # and draws the figures of a study in docs/figures
"""

from __future__ import annotations

import argparse
import atexit
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.table import effect, measured
from PIL import Image
from studies.verdicts.table import table as verdicts

from undistill.auditing.analyze import analyze
from undistill.auditing.result import AuditResult, Estimate
from undistill.experiments import plan as planned
from undistill.experiments.evidence import unpack
from undistill.paper.published import SELF
from undistill.paper.published import reported as published
from undistill.reporting import render
from undistill.reporting.audit import words
from undistill.reporting.demo import TITLE
from undistill.reporting.document import Document, Statement
from undistill.reporting.naming import number, plural
from undistill.reporting.report import write_report
from undistill.statistics import ENOUGH, interval

ROOT = Path(__file__).parents[1]
EVIDENCE, FIGURES = ROOT / "evidence", ROOT / "docs" / "figures"
HOME = Path(tempfile.mkdtemp(prefix="undistill-docs-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


@cache
def study(name: str) -> Path:
    """The folder of a packed study."""
    unpack(EVIDENCE / f"{name}.parquet", HOME / name)
    return HOME / name


@cache
def report(name: str) -> Path:
    """The folder of its report."""
    write_report([study(name)], HOME / f"{name}-report")
    return HOME / f"{name}-report"


@cache
def judged(name: str) -> dict[str, AuditResult]:
    """The judged audits of a set, by name."""
    return {path.parent.name: analyze(path.parent) for path in sorted(study(f"audits-{name}").glob("*/audit.json"))}


DEMOS = {"AVX-512": "demo-avx512.json", "AVX2": "demo-avx2.json"}
"""Ten demos each, by instruction set."""


def demo() -> str:
    """The README's block: most of what the demo of seed 0 says on a terminal, and how ten seeds came out."""
    found = {name: json.loads((EVIDENCE / file).read_text()) for name, file in DEMOS.items()}
    first, facts = found["AVX-512"]["seeds"][0], found["AVX-512"]["computed with"]
    shown = {head: words for head, words in first["says"].items() if head != "Why"}
    said = render.text(Document(TITLE, tuple(Statement(head, words) for head, words in shown.items())))
    ten = " and ".join(f"in {table['excludes 0']} with {name}" for name, table in found.items())
    return (
        f"```\n{said}\n```\n\n"
        f"`undistill demo --seed {first['seed']}`; {facts['data']}; torch {facts['torch']}, {facts['processor']}. "
        f"With ten values of `--seed`, the headline's interval excludes 0 {ten} instructions; effects are {effects(found)} "
        f"points: [`studies/demo/`](studies/demo)."
    )


def effects(found: dict[str, Any]) -> str:
    """`3.9 to 9.0`: the smallest and the largest mean of all seeds."""
    means = [row["taken"]["kd-4"][0] for table in found.values() for row in table["seeds"]]
    return f"{min(means):.1f} to {max(means):.1f}"


PICTURES: dict[str, dict[str, Any]] = {
    "": {"viewport": {"width": 1280, "height": 900}},
    "-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "-phone": {"viewport": {"width": 390, "height": 1700}},
}


def pictures(name: str, page: Path) -> None:
    """Photograph the first screen of a page in an installed Chromium: desktop, dark, phone."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for suffix, how in PICTURES.items():
            tab = browser.new_page(**how)
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("svg, canvas")
            tab.wait_for_timeout(1000)
            shot = Image.open(io.BytesIO(tab.screenshot()))
            shot.convert("RGB").quantize(64).save(ROOT / "docs" / f"{name}{suffix}.png", optimize=True)
        browser.close()


def figures(name: str) -> None:
    """Put the figures of a study's report into docs/figures."""
    for path in sorted((report(name) / "figures").glob("*.png")):
        Image.open(path).convert("RGB").quantize(256).save(FIGURES / f"{name}-{path.name}", optimize=True)


def excerpt(name: str) -> str:
    """Claims, tables and figures of a reproduction's report, its links bent to what docs hold."""
    whole = (report(name) / "report.md").read_text(encoding="utf-8")
    body = re.sub(r"\]\(figures/", f"](figures/{name}-", whole[whole.index("## Claims") :])
    body = re.sub(r"^Files: .*\n+", "", body, flags=re.MULTILINE)  # of the report's folder
    body = re.sub(r"^Outputs in percent\.\n\n(\|.*\n)+\n*", "", body, flags=re.MULTILINE)  # the picture has them
    return re.sub(r"^(#+) ", r"#\1 ", body, flags=re.MULTILINE).rstrip("\n")


SCALES = ("laptop", "small")
MARKS = {"seen": "✓ seen", "opposite": "✗ opposite", "not shown": "? not shown", "not judged": "– too few seeds"}
STUDENTS = ("CNN", "ResNetC-20", "ResNetC-32", SELF)
SHORT = {
    "A student of the nasty teacher ends below the same student of the normal one.": (
        "The nasty teacher's student ends below the normal one's",
        ("normal", "nasty"),
    ),
    "A student of the nasty teacher ends below the same student trained without a teacher.": (
        "The nasty teacher's student ends below one without a teacher",
        ("none", "nasty"),
    ),
    "A student of the normal teacher ends above the same student trained without a teacher.": (
        "The normal teacher's student ends above one without a teacher",
        ("normal", "none"),
    ),
}


def cases(scale: str) -> list[dict[str, Any]]:
    """What was judged at a scale."""
    found: list[dict[str, Any]] = json.loads((report(scale) / "report.json").read_text(encoding="utf-8"))["cases"]
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def shown(case: dict[str, Any] | None) -> str:
    """A case in a table: verdict, mean, bounds and seeds; differences in points."""
    if case is None or case["mean"] is None:
        return "not run"
    bounds = (
        f" ({_number(case['lower bound'])} to {_number(case['upper bound'])})"
        if case["lower bound"] is not None
        else ""
    )
    return f"{MARKS[case['verdict']]}: {_number(case['mean'])}{bounds}, {case['n']} seed{'s' if case['n'] > 1 else ''}"


def article(column: str, arms: tuple[str, str]) -> str:
    """The article's difference of two arms."""
    first, second = (published("table1", "" if arm == "none" else "ResNet18", arm, column) for arm in arms)
    return "" if first is None or second is None else _number(first - second)


def claims() -> str:
    """Claims of table 1 by student, then the other experiments."""
    judged = {scale: cases(scale) for scale in SCALES}
    lines = [
        "| claim | student | article | `laptop`: all of CIFAR-10 | `small`: 4,000 images |",
        "|---|---|---:|---|---|",
    ]

    def row(claim: str, student: str, reported: str, experiment: str, text: str, column: str | None) -> str:
        found = [
            shown(
                next(
                    (
                        c
                        for c in judged[s]
                        if (c["experiment"], c["claim"]) == (experiment, text) and column in (None, c["column"])
                    ),
                    None,
                )
            )
            for s in SCALES
        ]
        return f"| {claim} | {student} | {reported} | {' | '.join(found)} |"

    for text, (claim, arms) in SHORT.items():
        for column in STUDENTS:
            name = "the teacher's own network ¹" if column == SELF else column
            lines.append(row(claim, name, article(column, arms), "table1", text, column))
            claim = ""
    seen = {(c["experiment"], c["claim"]) for scale in SCALES for c in judged[scale]} - {("table1", t) for t in SHORT}
    for experiment, text in sorted(seen):
        lines.append(row(f"`{experiment}`: {text}", "", "", experiment, text, None))
    return "\n".join(lines)


def table1() -> str:
    """Table 1 in the README: the article's difference and ours at `laptop`, by claim and student."""
    judged, students = cases("laptop"), STUDENTS[:-1]
    lines = [f"| points, paper → here (95 % bounds; seeds) | {' | '.join(students)} |", "|---|---|---|---|"]
    for text, (claim, arms) in SHORT.items():
        cells = []
        for column in students:
            case = next(
                (c for c in judged if (c["experiment"], c["claim"], c["column"]) == ("table1", text, column)), None
            )
            cells.append(f"{article(column, arms)} → {short(case)}")
        lines.append(f"| {claim} | {' | '.join(cells)} |")
    told = (
        f"At τ 20, with the pair in [`examples/cifar10`](examples/cifar10), the nasty teacher's CNN ends {apart(20.0)}: "
        "[cells](docs/reproduction.md#the-committed-pair-at-τ-20)."
    )
    return "\n".join([*lines, "", told])


def short(case: dict[str, Any] | None) -> str:
    """`1.62 ✓ (1.04 to 2.21; 3)`: a case where there is little room."""
    if case is None or case["mean"] is None:
        return "not run"
    mark = MARKS[case["verdict"]][0]
    bounds = (
        "" if case["lower bound"] is None else f"{_number(case['lower bound'])} to {_number(case['upper bound'])}; "
    )
    return f"**{_number(case['mean'])}**{' ' + mark if bounds else ''} ({bounds}{case['n']})"


def owner() -> str:
    """What ways of serving a converged classifier of CIFAR-10 give an attacker, in the README."""
    nasty = judged("owner")["nasty"]
    card = nasty.threat_models[0]
    before, after = (next(v.accuracy for v in nasty.victims if v.side == side) for side in ("undefended", "defended"))
    rows = [
        ("all probabilities", card.A_soft0, "–"),
        ("all probabilities of a nasty teacher", card.A_def, f"accuracy {before:.1f} → {after:.1f} %"),
        ("the predicted class only", card.A_label0, "the probabilities"),
        (f"nothing: the attacker trains on {card.images:,} labeled images", card.A_ref, "–"),
    ]
    lines = ["| you serve | best extracted model, % (95 %) | your users lose |", "|---|---|---|"]
    lines += [f"| {what} | {span(found)} | {lost} |" for what, found, lost in rows]
    taken, room = card.reduction, card.headroom
    assert taken is not None
    assert room is not None
    sure = f"95 %: {number(taken.low)} to {number(taken.high)}"
    lines.append(
        f"\nOf the {number(room.mean)} points that probabilities are worth over predicted classes here, nasty training took "
        f"{number(taken.mean)} ({sure}); returning the predicted class only takes all of them."
    )
    return "\n".join(lines)


def adaptive() -> str:
    """What the attack that knows an output defense got from it, beside plain distillation and the best of all."""
    lines = [
        "| output defense | plain `kd`, τ 4 | `inverse` | predicted classes | baseline | best attack of the undefended model |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in judged("adaptive").items():
        card = found.threat_models[0]
        ours = [
            attacker for attacker in card.attacks if attacker.side == "defended" and attacker.role in ("naive", "soft")
        ]
        got = {
            attacker.attack: attacker.accuracy
            for attacker in ours
            if attacker.role == "naive" or attacker.attack == "inverse"
        }
        shown = [got["kd"], got.get("inverse"), card.A_label, card.A_ref, card.A_soft0]
        lines.append(f"| {name} | {' | '.join('–' if one is None else span(one) for one in shown)} |")
    return "\n".join(lines)


def unqueried() -> str:
    """What a nasty teacher and its control give away to an attacker with more images than queries, and to one without."""
    lines = [
        "| more images | baseline | normal teacher | by | nasty teacher | by | its predicted classes | points removed | verdict |",
        "|---:|---:|---:|---|---:|---|---:|---:|---|",
    ]
    for name, found in judged("unqueried").items():
        card = found.threat_models[0]
        by = {a.name: f"`{a.attack}`" for a in card.attacks}
        levels = [span(one) for one in (card.A_ref, card.A_soft0, card.A_def, card.A_label)]
        row = [levels[0], levels[1], by[str(card.best_undefended)], levels[2], by[str(card.best)], levels[3]]
        removed = "–" if card.reduction is None else f"{card.reduction.mean:.1f}"
        verdict = words.shown(card.verdict or "inconclusive")
        lines.append(f"| {name.removeprefix('more-')} | {' | '.join(row)} | {removed} | {verdict} |")
    return "\n".join(lines)


def span(found: Any) -> str:
    """A mean with its interval."""
    return f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f})"


def compared(name: str) -> str:
    """A line an audit: what its best attack got from the main card's probabilities, and what users lose."""
    rows = [
        "| defense | best attack, % | its name | points removed | headroom | verdict | accuracy for users, % | Brier | flags |"
    ]
    rows.append("|---|---|---|---:|---:|---|---:|---:|---:|")
    for audit, found in judged(name).items():
        card, user = found.threat_models[0], next(v for v in found.victims if v.side == "defended")
        best = next(
            (attacker for attacker in card.attacks if attacker.name == card.best and attacker.side == "defended"), None
        )
        told = words.shown(card.verdict or "no verdict")
        if card.verdict is None and card.indication:
            told = f"indication: {words.shown(card.indication)}"
        cells = [
            audit,
            _span(card.A_def),
            best.name if best else "–",
            _estimate(card.reduction),
            _estimate(card.headroom),
        ]
        rows.append(
            "| "
            + " | ".join([*cells, told, f"{user.accuracy:.2f}", f"{user.brier or 0:.1f}", str(len(found.flags))])
            + " |"
        )
    one = next(iter(judged(name).values()))
    twin = next(v for v in one.victims if v.side == "undefended")
    soft, hard, ref = (
        _span(each)
        for each in (one.threat_models[0].A_soft0, one.threat_models[0].A_label0, one.threat_models[0].A_ref)
    )
    rows.append(
        f"\nThe undefended control has {twin.accuracy:.2f} %; its best attack on probabilities {soft}, on "
        f"predicted classes {hard}; baseline {ref}."
    )
    return "\n".join(rows)


def planted() -> str:
    """A line a planted victim: the verdict that was wanted, and what came."""
    wanted = {
        "decoy": "label-only level, and the flag hard-beats-soft",
        "undefended": "no effect",
        "labels-only": "label-only level",
        "no-headroom": "no soft-label advantage",
        "crash": "inconclusive",
    }
    rows = [
        "| planted | wanted | found | headroom | removed | soft − floor, at most | relative accuracy, % | its flags |"
    ]
    rows.append("|---|---|---|---:|---:|---:|---:|---|")
    found = judged("planted")
    for name, hope in wanted.items():
        if name not in found:
            continue
        card = found[name].threat_models[0]
        gap = next((c.estimate for c in card.contrasts if c.name == "A_soft − floor"), None)
        flags = ", ".join(dict.fromkeys(flag.name for flag in found[name].flags if flag.threat_model == card.id)) or "–"
        upper = "–" if gap is None or gap.upper is None else f"{gap.upper:.1f}"
        cells = [
            name,
            hope,
            words.shown(card.verdict or "–"),
            _estimate(card.headroom),
            _estimate(card.reduction),
            upper,
        ]
        rows.append("| " + " | ".join([*cells, f"{card.relative_accuracy or 0:.1f}", flags]) + " |")
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
            plan = planned.read(study(f"audits-{name}") / audit)
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


def _estimate(found: Estimate | None) -> str:
    return "–" if found is None else f"{found.mean:.1f}"


def students() -> list[dict[str, Any]]:
    """The cells of the committed teachers' students, by temperature, teacher and seed."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in study("cifar10-pair").rglob("cells/*.json")]
    found = [cell for cell in cells if cell["attack"] == "kd"]
    return sorted(found, key=lambda cell: (-tau_of(cell), cell["victim"] != "normal", cell["seeds"]["student"]))


def tau_of(cell: dict[str, Any]) -> float:
    """The temperature that a student was distilled at."""
    return float(cell["attack_settings"]["temperature"])


def apart(tau: float) -> str:
    """How far the nasty teacher's CNN ends below the normal one's at one temperature, with what its seeds separate."""
    got: dict[str, dict[int, float]] = {}
    for cell in students():
        if tau_of(cell) != tau:
            continue
        got.setdefault(cell["victim"], {})[cell["seeds"]["student"]] = cell["accuracy"]
    seeds = sorted(got["normal"].keys() & got["nasty"].keys())
    found = interval([got["normal"][seed] - got["nasty"][seed] for seed in seeds], least=ENOUGH)
    sure = f"95 %: {number(found.low)} to {number(found.high)}; " if found.finite else ""
    seeds_text = f"{plural(len(seeds), 'seed')} of the student, one pair of teachers"
    return f"**{number(found.mean)} points** below the normal one's ({sure}{seeds_text})"


def pair() -> str:
    """The committed teachers' students, a row each."""
    rows = ["| teacher | τ_S | student's accuracy, % | seed | commit | processor |", "|---|---:|---:|---:|---|---|"]
    for cell in students():
        env, tau = cell["env"], tau_of(cell)
        made = (
            f"`{env['commit']}` | {env['processor']}, {env['instructions']}, {env['precision']}, torch {env['torch']}"
        )
        rows.append(f"| {cell['victim']} | {tau:g} | {cell['accuracy']:.2f} | {cell['seeds']['student']} | {made} |")
    told = "; ".join(f"at τ {tau:g} {apart(tau)}" for tau in dict.fromkeys(map(tau_of, students())))
    return "\n".join([*rows, "", f"The nasty teacher's CNN ends, {told}."])


def faults() -> str:
    """What was broken, and what was left."""
    found = json.loads((EVIDENCE / "faults.json").read_text(encoding="utf-8"))
    columns = ("tried", "right", "clear", "lost", "executed")
    rows = [
        "| fault | at | tried | right result | clear error | lost | executed |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for fault in dict.fromkeys(row["fault"] for row in found["rows"]):
        group = [row for row in found["rows"] if row["fault"] == fault]
        counts = [sum(row[name] for row in group) for name in columns]
        rows.append(f"| {fault} | {'; '.join(row['at'] for row in group)} | {' | '.join(map(str, counts))} |")
    sums = [sum(row[name] for row in found["rows"]) for name in columns]
    rows.append(f"| **all** | | {' | '.join(f'**{each}**' for each in sums)} |")
    runs = "; ".join(
        f"`{run['command']}` at `{run['commit']}`, {round(run['seconds'] / 60)} minutes" for run in found["runs"]
    )
    return "\n".join([*rows, "", f"{runs}; {found['processor']}, torch {found['torch']}."])


def soak() -> str:
    """What executors cost, and what they lose."""
    found = json.loads((EVIDENCE / "soak.json").read_text(encoding="utf-8"))
    header = ("executor", "workers", "a cell that does nothing, ms", "of these the driver's", "cells an hour")
    rows = [f"| {' | '.join(header)} |", "|---|---:|---:|---:|---:|"]
    told = [""]
    for row in found["rows"]:
        if row["what"] != "soak":
            values = (row["executor"], row["workers"], row["wall_ms"], row["driver_ms"], f"{row['cells_an_hour']:,}")
            rows.append(f"| {' | '.join(map(str, values))} |")
            continue
        grown, (before, after) = row["memory_growth_mb_second_half"], row["open_files"]
        told.append(
            f"- **{row['executor']}**: {row['cells']:,} cells of {row['cell_seconds']} s on {row['workers']} workers, of which "
            f"{row['killed']} were killed: {row['lost']} lost; {100 * row['over_the_sum']:.0f} % longer than the cells themselves; "
            f"the driver's memory grew by {grown:g} MB in the second half, its open files went from {before} to {after}."
        )
    return "\n".join([*rows, *told, "", f"{_made(found)}."])


def memory() -> str:
    """What training from encoded images takes, against decoded ones."""
    found = json.loads((EVIDENCE / "memory.json").read_text(encoding="utf-8"))
    header = (
        "images",
        "memory limit",
        "peak memory, MB",
        "of the first use",
        "images/s",
        "seconds of a command",
        "of the first",
    )
    rows = [f"| {' | '.join(header)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name in ("encoded", "decoded"):
        row = found[name]
        values = (row["peak_mb"], row["first_peak_mb"], row["images_per_second"], row["seconds"], row["first_seconds"])
        rows.append(f"| {name} | {row['limit']} | {' | '.join(f'{value:,.0f}' for value in values)} |")
    same = (
        "The trained weights are the same to the bit" if found["same_bits"] else "The trained weights are not the same"
    )
    text = (
        f"{found['images']:,} JPEGs of {found['side']} × {found['side']} pixels ({found['encoded_mb'] / 1000:.2g} GB; "
        f"{found['decoded_mb'] / 1000:.2g} GB decoded), one epoch of a half-wide `cnn` on random crops of 64 × 64, 16 a batch, one "
        f"thread. {same}. "
        f"Encoded images arrive at {found['rate']:.2f} of the decoded ones' rate."
    )
    return "\n".join([*rows, "", text, "", f"{_made(found)}."])


def _made(found: dict[str, Any]) -> str:
    """Where a file of evidence comes from."""
    return f"`{found['command']}`; commit `{found['commit']}`, {found['processor']}, torch {found['torch']}"


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"demo": demo, "table1": table1, "owner": owner},
    "docs/reproduction.md": {
        "claims": claims,
        "pair": pair,
        **{name: partial(excerpt, name) for name in ("laptop", "laptop-resnet18", "small")},
    },
    "docs/reliability.md": {"faults": faults},
    "docs/clusters.md": {"soak": soak},
    "docs/data.md": {"memory": memory},
    "docs/audits.md": {
        "digits": lambda: compared("digits"),
        "cifar10": lambda: compared("cifar10"),
        "owner": lambda: compared("owner"),
        "adaptive": adaptive,
        "unqueried": unqueried,
        "planted": planted,
        "costs": costs,
    },
    "docs/performance.md": {"measured": measured, "bf16": effect},
    "docs/audit.md": {"judge": lambda: verdicts(json.loads((EVIDENCE / "verdicts.json").read_text(encoding="utf-8")))},
}


def made(page: str) -> str:
    """A page with its blocks as the evidence has them."""
    found = (ROOT / page).read_text(encoding="utf-8")
    for name, block in BLOCKS[page].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin not in found or end not in found:
            raise SystemExit(f"{page} has no block {name}")
        new = f"{begin}\n{block()}\n{end}"
        before, _, rest = found.partition(begin)
        found = before + new + rest.partition(end)[2]
    return found


def with_plugins(page: str) -> str:
    """docs/adding.md with the examples' files verbatim, each behind the link to it."""
    for path in sorted((ROOT / "examples" / "plugins").glob("*.py")):
        before, link, rest = page.partition(f"[`examples/plugins/{path.name}`](../examples/plugins/{path.name}):")
        _, fence, after = rest.partition("```python\n")[2].partition("\n```\n")
        page = f"{before}{link}\n\n```python\n{path.read_text(encoding='utf-8').rstrip()}{fence}{after}"
    return page


def main() -> None:
    """Write all pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="append", default=[], metavar="NAME=PAGE")
    parser.add_argument("--figures", action="append", default=[], metavar="STUDY")
    asked = parser.parse_args()
    for name in asked.figures:
        figures(name)
    for name, _, page in (text.partition("=") for text in asked.pictures):
        pictures(name, Path(page))
    for page in BLOCKS:
        (ROOT / page).write_text(made(page), encoding="utf-8")
    adding = ROOT / "docs" / "adding.md"
    adding.write_text(with_plugins(adding.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
