"""From finished audits to what the repository keeps of them.

    python docs/make_audits.py AUDITS NAME [AUDIT …]     # a folder of audits that share cells, such as runs/audits/digits

Copies plans, markers and cells (without their training curves) to `results/audits/NAME/`, judges them there, and writes each one's
report and the comparison of all as Markdown, JSON and LaTeX. The pages themselves are drawn from these by `undistill audit judge`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from undistill.auditing import planned
from undistill.auditing.judge import judge
from undistill.files import read_json, write_json
from undistill.reporting.audit.compare import write_comparison
from undistill.reporting.audit.write import write_audit

ROOT = Path(__file__).parents[1]


def keep(audits: Path, results: Path, names: list[str]) -> None:
    """Replace what `results` holds by these audits, their cells and their reports."""
    scripts = {path: path.read_bytes() for path in results.glob("*.sh")}
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
    """Reports of each audit, and the comparison of those that belong together."""
    found = []
    for name in names:
        judgement = judge(results / name)
        write_audit(judgement, results / name / "report")
        (results / name / "report" / "index.html").unlink()
        found.append((name, judgement))
    if results.name != "planted":
        write_comparison(found, results / "comparison")
        (results / "comparison" / "index.html").unlink()


def main(audits: Path, name: str, names: list[str]) -> None:
    """Keep these audits, or all that the folder holds."""
    names = names or sorted(path.parent.name for path in audits.glob(f"*/{planned.FILE}"))
    results = ROOT / "results" / "audits" / name
    keep(audits, results, names)
    draw(results, names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
