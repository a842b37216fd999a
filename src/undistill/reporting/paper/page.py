"""A reproduction as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from undistill.paper.experiments import Experiment
from undistill.paper.published import ITSELF, SELF
from undistill.reporting import shell
from undistill.reporting.blocks import Entry, Head, Table
from undistill.reporting.paper import claims, story
from undistill.reporting.paper.entries import HEADS
from undistill.reporting.paper.grids import Grid
from undistill.reporting.paper.judge import Claim
from undistill.reporting.paper.pictures import Picture
from undistill.reporting.paper.sheet import Sheet
from undistill.reporting.paper.source import Source
from undistill.reporting.paper.sweeps import NAMES
from undistill.reporting.theme import colour_variable

ORDER = {"table": 0, "sweep": 1, "figure": 2}
COLOURS = {"no teacher": NAMES[0], "normal": NAMES[1], "nasty": NAMES[2]}


@dataclass
class Part:
    """One experiment of the page."""

    experiment: Experiment
    grid: Grid | None = None
    sheets: list[Sheet] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Addresses of its tables and figures, relative to the page."""


@dataclass(frozen=True)
class Content:
    """All that the page, the Markdown and the JSON file are made of."""

    sources: list[Source]
    parts: list[Part]
    claims: list[Claim]
    claim_sheet: Sheet
    links: dict[str, str]


def render(content: Content) -> str:
    """The page."""
    sources = content.sources
    told = claims.overview(content.claims, sources)
    shared = len({str(sorted(source.plan.networks.items())) for source in sources}) == 1
    tables = [
        story.roles(source, "What plays each role" + ("" if shared else f": {source.title}"))
        for source in (sources[:1] if shared else sources)
    ]
    return shell.page(
        "paper/paper.html.j2",
        styles=("page.css", "paper/paper.css"),
        title=story.title(sources),
        lead=story.lead(sources, content.claims),
        article=story.ARTICLE,
        notes=[(source.title if len(sources) > 1 else "", source.plan.notes) for source in sources],
        roles=[table for table in tables if table],
        sources=[source.title for source in sources],
        claims=told,
        claim_groups=[(title, list(rows)) for title, rows in groupby(told, key=lambda row: row["title"])],
        claim_files=[f"tables/claims.{ending}" for ending in ("csv", "md", "tex", "html")],
        method=story.METHOD,
        multiple=story.multiple(content.claims),
        parts=[_part(part, sources) for part in content.parts],
        provenance=[_provenance(source, content.links) for source in sources],
    )


def table_of(sheet: Sheet, style: str = "long") -> Table:
    """A sheet for the page; its leading words become one head."""
    heads = [Head(", ".join(sheet.heads[: sheet.words])), *map(Head, sheet.heads[sheet.words :])]
    rows = [[Entry(", ".join(t for t in r[: sheet.words] if t)), *map(Entry, r[sheet.words :])] for r in sheet.rows]
    return Table(sheet.caption, heads, rows, style)


def _part(part: Part, sources: list[Source]) -> dict[str, Any]:
    experiment = part.experiment
    return {
        "id": experiment.name,
        "title": experiment.title,
        "about": experiment.about,
        "doubts": story.doubts(experiment.name, sources),
        "note": story.scale_note(sources) if part.grid and _has_reported(part.grid) else "",
        "grid": _grid(part.grid, sources) if part.grid else None,
        "pictures": part.pictures,
        "several": len(part.pictures) > 1,
        "numbers": [table_of(sheet) for sheet in part.sheets if part.grid is None or sheet is not part.grid.sheet],
        "opened": experiment.kind == "figure",
        "files": [(Path(file).name, file) for file in part.files],
    }


def _grid(grid: Grid, sources: list[Source]) -> dict[str, Any]:
    heads = [{"text": HEADS.get(c, c), "about": _network(grid.experiment, c, sources)} for c in grid.columns]
    blocks = []
    teacher = None
    for block in grid.blocks:
        colour = colour_variable(COLOURS[block.arm], NAMES) if block.arm in COLOURS else ""
        new = teacher is not None and block.teacher != teacher
        teacher = block.teacher
        blocks.append({"head": block.head, "rows": block.rows, "colour": colour, "new": new})
    return {
        "caption": "Accuracy in percent: mean ± sample standard deviation (number of seeds), each seed as a dot over the column's "
        "range, and below it as a link to its cell.",
        "heads": heads,
        "blocks": blocks,
    }


def _network(experiment: Experiment, column: str, sources: list[Source]) -> str:
    """What plays a column's role, where all reproductions agree on it."""
    said = set()
    for source in sources:
        networks: Mapping[str, str] = source.plan.networks.get(experiment.data, {})
        if column in (ITSELF, SELF):
            return ""
        said.add(networks.get(f"{column} as a student", networks.get(column, "")))
    return said.pop() if len(said) == 1 else ""


def _has_reported(grid: Grid) -> bool:
    return any(row.style == "reported" for block in grid.blocks for row in block.rows)


def _provenance(source: Source, links: dict[str, str]) -> dict[str, Any]:
    return {
        "title": source.title,
        "facts": story.provenance(source),
        "commands": source.plan.command.splitlines(),
        "cells": story.every_cell(source, links),
    }
