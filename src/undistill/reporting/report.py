"""Folders of cells → a page, a Markdown file and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from undistill.auditing.analyze import analyze
from undistill.errors import UsageError
from undistill.experiments.cell import Cell, collect, read_arrays
from undistill.experiments.plan import FILE as AUDIT
from undistill.files import write_text
from undistill.paper.demo_result import is_demo
from undistill.paper.plan import FILE
from undistill.reporting import limits, story, table
from undistill.reporting.audit.write import write_audit
from undistill.reporting.demo import write_demo
from undistill.reporting.page import render
from undistill.reporting.paper.page import write_reproduction
from undistill.reporting.response import Response, response
from undistill.reporting.rows import Summary
from undistill.reporting.summary import summarise
from undistill.reporting.written import Report, link

__all__ = ["Report", "write_report"]


def write_report(folders: Sequence[Path], out: Path) -> Report:
    """Draw all cells below `folders` into `out/index.html`, `report.md` and `report.json`; the same cells give the same bytes.

    Folders of reproductions become the page of the paper's tables and figures, the folder of an audit its own page.

    Raises:
        UsageError: a folder does not exist, none holds a cell, or reproductions and other folders are mixed.
        RunError: a damaged cell, or `out` cannot be written.
    """
    audits = [folder for folder in folders if (folder / AUDIT).is_file()]
    if audits:
        if len(folders) > 1:
            raise UsageError(
                f"{audits[0]} holds an audit, which has a page of its own; `undistill compare` sets several side by side"
            )
        return write_audit(analyze(audits[0]), out)
    plans = [folder for folder in folders if (folder / FILE).is_file()]
    if plans:
        others = [str(folder) for folder in folders if folder not in plans]
        if others:
            raise UsageError(
                f"{plans[0]} holds a reproduction and {others[0]} does not; draw them into two reports, one of each kind"
            )
        return write_reproduction(folders, out)
    if len(folders) == 1 and is_demo(folders[0]):
        return write_demo(folders[0], out)
    found = _find(folders)
    summary = summarise(cell for _, cell in found)
    responses = _responses(summary, {cell.id: folder for folder, cell in found})
    files = {cell.id: folder / f"{cell.id}.json" for folder, cell in found}
    links = {name: link(file, out) for name, file in files.items() if file.is_file()}
    commands = story.commands(summary)
    facts = story.provenance(summary)
    shows, does_not = limits.shows(summary), limits.does_not_show(summary, responses[0] if responses else None)
    more = {"shows": shows, "does_not_show": does_not, "provenance": facts, "commands": commands}
    values = {**table.as_values(summary), **more}
    page = out / "index.html"
    write_text(page, render(summary, responses, links, commands))
    write_text(out / "report.md", table.as_markdown(summary, shows, does_not, facts))
    write_text(out / "report.json", json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Report(f"{table.as_text(summary)}\n\nPage: {page}", values, page)


def _find(folders: Sequence[Path]) -> list[tuple[Path, Cell]]:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder; name one that holds cells, such as a demo's or the output of `undistill attack`"
            )
    found = list(collect(folders))
    if not found:
        raise UsageError(
            f"no cells below {', '.join(map(str, folders)) or 'no folder'}; the demo and `undistill attack` write them"
        )
    return found


def _responses(summary: Summary, places: dict[str, Path]) -> list[Response]:
    """One figure a pair of victims: that of the lowest seed, for the others look much alike and the choice is not ours."""
    chosen: dict[str, Cell] = {}
    for cell in summary.figures:
        if cell.attack == "logit-response" and cell.arrays is not None:
            chosen.setdefault(f"{cell.experiment} {cell.data} {summary.name_of[cell.id]}", cell)
    return [
        response(cell, read_arrays(places[cell.id], cell), summary.name_of[cell.id], list(summary.names))
        for cell in chosen.values()
    ]
