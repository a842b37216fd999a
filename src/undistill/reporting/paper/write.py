"""Folders of reproductions → a page, Markdown, JSON, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undistill.files import write_text
from undistill.paper.experiments import Experiment
from undistill.reporting.markup import aligned, inert
from undistill.reporting.paper import claims, embedding, story, sweeps
from undistill.reporting.paper.grids import grid
from undistill.reporting.paper.judge import Claim
from undistill.reporting.paper.judge import claims as judged
from undistill.reporting.paper.page import ORDER, Content, Part, render
from undistill.reporting.paper.pictures import pictures, write_pictures
from undistill.reporting.paper.source import Source, covered, open_sources
from undistill.reporting.written import Report, link


def write_reproduction(folders: Sequence[Path], out: Path) -> Report:
    """Draw reproductions side by side: `out/index.html`, `report.md`, `report.json`, `tables/`, `figures/`.

    A pure function of each folder's `reproduction.json` and cells; several folders become further lines of the same tables.

    Raises:
        UsageError: a folder does not exist or holds no reproduction.
        RunError: a damaged plan or cell, or `out` cannot be written.
    """
    sources = open_sources(folders)
    links = {
        cell.id: link(source.folder / "cells" / f"{cell.id}.json", out)
        for source in sources
        for cell in source.cells.values()
    }
    experiments = sorted(covered(sources), key=lambda experiment: ORDER[experiment.kind])
    found = [claim for experiment in experiments for source in sources for claim in judged([experiment], source)]
    found = _by_claim(found)
    content = Content(sources, [_part(e, sources, links) for e in experiments], found, claims.sheet(found), links)
    for part in content.parts:
        files = [path for sheet in part.sheets for path in sheet.write(out / "tables")]
        files += write_pictures(out / "figures", part.experiment, part.pictures)
        part.files += [link(path, out) for path in files]
    content.claim_sheet.write(out / "tables")
    page, values = out / "index.html", as_values(content)
    write_text(page, render(content))
    write_text(out / "report.md", as_markdown(content))
    write_text(out / "report.json", json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return Report(f"{as_text(content)}\n\nPage: {page}", values, page)


def _by_claim(found: list[Claim]) -> list[Claim]:
    """The same claim of several reproductions stands together."""
    order = {(c.experiment.name, c.direction.text): place for place, c in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda c: order[c.experiment.name, c.direction.text])


def _part(experiment: Experiment, sources: list[Source], links: dict[str, str]) -> Part:
    part = Part(experiment, pictures=pictures(experiment, sources))
    if experiment.kind == "table":
        part.grid = grid(experiment, sources, links)
        part.sheets.append(part.grid.sheet)
    elif experiment.kind == "sweep":
        part.sheets.append(sweeps.sheet(experiment, sources))
    elif experiment.figure == "embedding":
        part.sheets.append(embedding.sheet(experiment, sources))
    return part


def as_text(content: Content) -> str:
    """For a terminal."""
    blocks = [story.title(content.sources), *story.lead(content.sources, content.claims)]
    if content.claims:
        lines = [
            [claim.verdict, claim.source.title, claim.experiment.title, claim.direction.text]
            for claim in content.claims
        ]
        blocks.append(aligned(lines))
    for part in content.parts:
        blocks += [
            f"{sheet.caption}\n{aligned([list(row) for row in (sheet.heads, *sheet.rows)])}" for sheet in part.sheets
        ]
    return "\n\n".join(blocks)


def as_markdown(content: Content) -> str:
    """`report.md`: the page without what needs a script, pictures as links."""
    lines = [
        f"# {inert(story.title(content.sources))}",
        "",
        " ".join(map(inert, story.lead(content.sources, content.claims))),
    ]
    lines += ["", inert(story.ARTICLE), ""]
    for source in content.sources:
        lines += [f"> {inert(source.title)}: {inert(note)}\n" for note in source.plan.notes]
    lines += ["## Claims", "", inert(story.METHOD), "", inert(story.multiple(content.claims)), ""]
    lines += [
        f"- **{claim.verdict}** · {inert(claim.source.title)} · {inert(claim.experiment.title)}: {inert(claim.direction.text)}"
        for claim in content.claims
    ]
    lines += ["", content.claim_sheet.md()]
    for part in content.parts:
        lines += [f"## {inert(part.experiment.title)}", "", inert(part.experiment.about), ""]
        lines += [f"> {inert(doubt)}\n" for doubt in story.doubts(part.experiment.name, content.sources)]
        lines += [f"![{inert(part.experiment.title)}]({file})\n" for file in part.files if file.endswith(".png")]
        lines += [sheet.md() for sheet in part.sheets]
    for source in content.sources:
        lines += [f"## Provenance of {inert(source.title)}", ""]
        lines += [f"- {inert(key)}: {inert(value)}" for key, value in story.provenance(source).items()]
        lines += ["", "```", *source.plan.command.replace("`", "'").splitlines(), "```", ""]
    return "\n".join(lines)


def as_values(content: Content) -> dict[str, Any]:
    """For `report.json`: JSON values only."""
    return {
        "schema": 1,
        "title": story.title(content.sources),
        "lead": story.lead(content.sources, content.claims),
        "plans": [
            {
                **source.plan.model_dump(mode="json", by_alias=True, exclude={"points"}),
                "title": source.title,
                "provenance": story.provenance(source),
                "cells": len(source.keys),
                "missing": sum(key not in source.cells for key in source.keys),
            }
            for source in content.sources
        ],
        "claims": [
            {
                "experiment": claim.experiment.name,
                "claim": claim.direction.text,
                "plan": claim.source.title,
                "verdict": claim.verdict,
                "cases": len(claim.cases),
            }
            for claim in content.claims
        ],
        "cases": [dict(record) for record in content.claim_sheet.records],
        "tables": {sheet.name: [dict(r) for r in sheet.records] for part in content.parts for sheet in part.sheets},
        "doubts": {part.experiment.name: story.doubts(part.experiment.name, content.sources) for part in content.parts},
        "files": {part.experiment.name: part.files for part in content.parts},
    }
