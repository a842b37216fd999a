"""Folders of reproductions → a document of the paper's tables and figures, and its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from undistill.paper.experiments import EXPERIMENTS, Experiment
from undistill.paper.published import DOUBTS, ITSELF, SELF
from undistill.reporting import export, render
from undistill.reporting.document import (
    Block,
    Code,
    Details,
    Document,
    Facts,
    Format,
    Items,
    Note,
    Panels,
    PictureFile,
    Section,
    Table,
    Text,
    Value,
    blocks,
    table,
    tables,
)
from undistill.reporting.export import Report, link
from undistill.reporting.naming import ENVIRONMENT, listed, number, plural
from undistill.reporting.paper.claims import VERDICTS, Claim, cases, claims, overview
from undistill.reporting.paper.figures import figures
from undistill.reporting.paper.source import Source, covered, open_sources
from undistill.reporting.paper.tables import REPORTED, embedding, grid, sweep

ORDER = {"table": 0, "sweep": 1, "figure": 2}
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny-ImageNet"}
ARTICLE = (
    "The article is Ma et al., “Undistillable: Making A Nasty Teacher That CANNOT teach students”, ICLR 2021. Its numbers were "
    "carried over by hand; single ones may be off by 0.1."
)
METHOD = (
    "Each case is a number a seed (a difference between two students of that seed, a slope over the varied setting, or a "
    "difference of figures) that the claim says is above 0. It is seen where the one-sided 95 % t bound of the mean lies above 0, "
    "opposite where the other bound lies below, not shown in between, and not judged below three seeds. A claim of several cases "
    "is seen only where all of them are; one that is opposite makes it opposite; else one that cannot be judged leaves it not "
    "judged."
)


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
    found = judged(sources)
    whole = document(sources, found, links)
    return export.write(whole, out, terminal(whole, found), values=values(whole, sources, found))


def judged(sources: Sequence[Source]) -> list[Claim]:
    """Every claim, the same one of several reproductions together."""
    found = [claim for e in _experiments(sources) for source in sources for claim in claims([e], source)]
    order = {(c.experiment.name, c.direction.text): place for place, c in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda c: order[c.experiment.name, c.direction.text])


def _experiments(sources: Sequence[Source]) -> list[Experiment]:
    return sorted(covered(sources), key=lambda experiment: ORDER[experiment.kind])


def document(sources: Sequence[Source], found: Sequence[Claim], links: Mapping[str, str]) -> Document:
    """The report. `links` are addresses of cells by id."""
    several = len(sources) > 1
    sections = []
    if found:
        body = (
            overview(found, sources),
            Text(f"{METHOD} {multiple(found)}", "quiet"),
            Details("Every case with its bounds", (cases(found),)),
        )
        sections.append(Section("Claims", "claims", (*body, *_files(body))))
    sections += [_part(experiment, sources, links) for experiment in _experiments(sources)]
    sections += [
        Section(
            f"Provenance of {source.title}" if several else "Provenance",
            f"provenance-{place}" if several else "provenance",
            _provenance(source, links),
        )
        for place, source in enumerate(sources)
    ]
    notes = [
        Note(f"What was reduced{f' at {source.title}' if several else ''}. {' '.join(source.plan.notes)}")
        for source in sources
        if source.plan.notes
    ]
    return Document(
        f"“Undistillable” (ICLR 2021), reproduced: {listed([source.title for source in sources])}",
        (
            *(Text(sentence, "lead") for sentence in lead(sources, found)),
            *notes,
            Text(ARTICLE, "quiet"),
            *_roles(sources),
        ),
        tuple(sections),
        eyebrow="undistill reproduction",
        files={"report.md": "report.md", "report.json": "report.json"},
        contents=True,
    )


def _part(experiment: Experiment, sources: Sequence[Source], links: Mapping[str, str]) -> Section:
    """One experiment: what to doubt, its table, its figures and their files."""
    held = [source for source in sources if source.of(experiment.name)]
    body: list[Block] = [Text(experiment.about), *(Text(doubt, "doubt") for doubt in doubts(experiment.name, sources))]
    if experiment.kind == "table":
        shown = grid(experiment, sources, links)
        body.append(shown)
        dots = "Each seed is a dot over its column's range, and below it a link to its cell."
        note = _scale_note(sources) if REPORTED in shown.frame.get("from", ()) else ""
        body.append(Text(f"{dots} {note}".strip(), "quiet"))
    drawn = [(source, figures(experiment, source, experiment.name)) for source in held]
    drawn = [pair for pair in drawn if pair[1]]
    files = sum(any(isinstance(block, Panels | PictureFile) for block in each) for _, each in drawn)
    if files > 1:  # a number tells the files of several reproductions apart
        drawn = [(s, figures(experiment, s, f"{experiment.name}-{n}")) for n, (s, _) in enumerate(drawn, start=1)]
    whole = sweep(experiment, sources) if experiment.kind == "sweep" else None
    for place, (source, each) in enumerate(drawn):
        body += [Text(source.title, "head")] if len(drawn) > 1 else []
        last = whole if place == len(drawn) - 1 else None
        body += [replace(block, numbers=last) if whole and isinstance(block, Panels) else block for block in each]
    if whole and not any(isinstance(block, Panels) and block.numbers for block in body):
        body.append(Details("Numbers", (whole,)))
    if experiment.figure == "embedding":
        body.append(embedding(experiment, sources))
    return Section(experiment.title, experiment.name, (*body, *_files(body)))


def _files(body: Sequence[Block]) -> list[Text]:
    """Links to the files of a section's tables and figures."""
    found = files(body)
    names = {Path(address).name: address for address in found}
    return [Text(f"Files: {' · '.join(names)}", "quiet", names)] if names else []


def files(body: Sequence[Block]) -> list[str]:
    """Addresses of the files of tables and figures."""
    found = []
    every = list(blocks(body))
    shown = [b for b in every if isinstance(b, Table)] + [
        b.numbers for b in every if isinstance(b, Panels) and b.numbers
    ]
    for each in shown:
        found += [f"tables/{each.name}.{ending}" for ending in export.TABLES] if each.long else []
    for block in every:
        if isinstance(block, Panels):
            found += [f"figures/{block.name}.{ending}" for ending in export.FIGURES]
        elif isinstance(block, PictureFile):
            found.append(f"figures/{block.name}.png")
    return found


# sentences


def lead(sources: Sequence[Source], found: Sequence[Claim]) -> list[str]:
    """How much is measured, and what became of the claims: two sentences a reproduction."""
    sentences = []
    for source in sources:
        who = f"{source.title}: " if len(sources) > 1 else ""
        sentences.append(f"{who}{_measured(source)}")
        own = Counter(claim.verdict for claim in found if claim.source is source)
        if own:
            parts = [f"{own[verdict]} {verdict}" for verdict in VERDICTS if own[verdict]]
            sentences.append(
                f"Of {plural(sum(own.values()), 'claim')} with a direction that the article makes about them, judged by code: "
                f"{listed(parts)}."
            )
    return sentences


def _measured(source: Source) -> str:
    status = Counter(source.cells[key].status if key in source.cells else "missing" for key in source.keys)
    total, each = len(source.keys), sorted({len(measured.points) for measured in source.places.values()})
    counts = f"{each[0]} to {each[-1]} seeds" if len(each) > 1 else plural(each[0], "seed") if each else "no seed"
    gone = [f"{status[what]:,} {what}" for what in ("missing", "diverged", "failed") if status[what]]
    rest = f"; {listed(gone)}" if gone else "; none is missing, diverged or failed"
    where = plural(len({point.experiment for point in source.plan.points}), "table or figure", "tables and figures")
    done = f"{status['ok']:,} of {plural(total, 'cell')}"
    return f"{done} of {where} are measured, with {counts}{' each' if each else ''}{rest}."


def multiple(found: Sequence[Claim]) -> str:
    """How many cases are judged, and what that means."""
    every = [case for claim in found for case in claim.cases]
    count = sum(case.verdict != "not judged" for case in every)
    return (
        f"Each case is judged at 5 % on its own: {count:,} of {len(every):,} cases are judged here. Were nothing true of any "
        f"of them, about {number(0.05 * count, 1)} would be called seen by chance, and as many opposite."
    )


def doubts(experiment: str, sources: Sequence[Source]) -> list[str]:
    """Reasons to doubt an experiment's numbers: the article's own, and those that the plans and cells give."""
    found = list(DOUBTS.get(experiment, ()))
    for source in sources:
        cells = {cell.id: cell for m in source.of(experiment).values() for cell in m.cells.values()}
        if any(cell.vouched for cell in cells.values()):
            found.append(f"{source.title}: that the attacker's images are fresh is asserted, not verified.")
        seeds = {point.seed for point in source.plan.of(experiment)}
        if seeds and len(seeds) < 3:
            found.append(f"{source.title}: nothing can be concluded from {plural(len(seeds), 'seed')}.")
    return found


def _scale_note(sources: Sequence[Source]) -> str:
    """Why the article's numbers have no difference beside them; empty where all are at its own scale."""
    small = [source.title for source in sources if not source.paper]
    if not small:
        return ""
    return (
        f"The article's numbers are shown for orientation: at {listed(small)} other networks were trained on fewer or other "
        "images, so their difference from the measured numbers means nothing and is left out here (the CSV files hold it)."
    )


# roles, provenance, cells


def _roles(sources: Sequence[Source]) -> list[Details]:
    """What plays each of the paper's parts, by data set; once where all reproductions agree."""
    shared = len({str(sorted(source.plan.networks.items())) for source in sources}) == 1
    found = [_roles_of(source, "" if shared else source.title) for source in (sources[:1] if shared else sources)]
    kept = tuple(each for each in found if each)
    return [Details("What plays each of the paper's parts", kept)] if kept else []


def _roles_of(source: Source, who: str) -> Table | None:
    rows: dict[str, dict[str, Value]] = {}
    for experiment in covered([source]):
        networks = source.plan.networks.get(experiment.data, {})
        for role in _roles_in(source, experiment.name):
            if role in networks:
                student = networks.get(f"{role} as a student", networks[role])
                text = networks[role] + (f"; as a student {student}" if student != networks[role] else "")
                rows.setdefault(role, {"the paper's": role})[experiment.data] = text
    data = dict.fromkeys(experiment.data for experiment in covered([source]))
    columns = {"the paper's": Format()} | {name: Format(DATA.get(name, name)) for name in data}
    caption = "What plays each role" + (f": {who}" if who else "")
    return table("roles", caption, list(rows.values()), columns) if rows else None


def _roles_in(source: Source, experiment: str) -> list[str]:
    points = source.plan.of(experiment)
    found = [role for point in points for role in (point.teacher, point.column, point.x) if isinstance(role, str)]
    known = (*EXPERIMENTS[experiment].teachers, *(role for role in EXPERIMENTS[experiment].students if role in found))
    return [role for role in dict.fromkeys((*known, *found)) if role not in ("", SELF, ITSELF)]


def _provenance(source: Source, links: Mapping[str, str]) -> tuple[Block, ...]:
    cells = every_cell(source, links)
    command = [Code(tuple(source.plan.command.splitlines()))] if source.plan.command else []
    return (Facts(provenance(source)), *command, Details(f"All {len(cells)} cells", (cells,), page_only=True))


def provenance(source: Source) -> dict[str, str]:
    """What fixes a reproduction's numbers, and what computed them."""
    cells = [source.cells[key] for key in source.keys if key in source.cells]
    data = sorted({f"{cell.data_note or 'unnamed'} (fingerprint {cell.data})" for cell in cells if cell.data})
    facts = {
        "folder": source.folder.name or ".",
        "scale": source.plan.title,
        "seeds": ", ".join(map(str, source.plan.seeds)),
        "data": listed(data),
        "training time": f"{sum(cell.seconds for cell in cells):,.0f} seconds in all",
    }
    for key, name in ENVIRONMENT.items():
        said = {"unknown" if cell.env.get(key) is None else str(cell.env[key]) for cell in cells}
        facts[name] = listed(sorted(said), "or")
    return {key: value for key, value in facts.items() if value}


def every_cell(source: Source, links: Mapping[str, str]) -> Table:
    """All cells that the plan asks for."""
    rows: list[dict[str, Value]] = []
    for key, points in source.keys.items():
        cell = source.cells.get(key)
        also = f" and {plural(len(points) - 1, 'other place')}" if len(points) > 1 else ""
        row: dict[str, Value] = {"place": points[0].name + also, "seed": points[0].seed, "key": key}
        if cell:
            status = cell.status + (f": {cell.why}" if cell.why else "")
            row |= {"accuracy": cell.accuracy, "cell": cell.id, "at": links.get(cell.id, ""), "status": status}
        rows.append({"status": "not measured", "at": "", **row})
    columns = {name: Format() for name in ("place", "seed", "accuracy", "status", "key", "cell")}
    columns |= {"accuracy": Format(unit="%", digits=2), "cell": Format(link="at")}
    return table("cells", f"Every cell of {source.title}", rows, columns if rows else {}, sortable=True)


# for a terminal and for programs


def terminal(whole: Document, found: Sequence[Claim]) -> str:
    """The lead, a line a claim, and every table."""
    first = tuple(block for block in whole.lead if isinstance(block, Text) and block.style == "lead")
    lines = tuple(f"{c.verdict}: {c.source.title}, {c.experiment.title}: {c.direction.text}" for c in found)
    parts = [render.text(Document(whole.title, (*first, *([Items(lines)] if lines else []))))]
    shown = [each for each in tables(whole) if each.long and each.name != "claims"]
    parts += [render.text(Document("", (each,))) for each in shown]
    return "\n\n".join(parts)


def values(whole: Document, sources: Sequence[Source], found: Sequence[Claim]) -> dict[str, Any]:
    """For `report.json`: JSON values only."""
    long = {each.name: [dict(record) for record in each.long] for each in tables(whole) if each.long}
    parts = {section.id: section.body for section in whole.sections if section.id in EXPERIMENTS}
    return {
        "schema": 1,
        "title": whole.title,
        "lead": lead(sources, found),
        "plans": [
            {
                **source.plan.model_dump(mode="json", by_alias=True, exclude={"points"}),
                "title": source.title,
                "provenance": provenance(source),
                "cells": len(source.keys),
                "missing": sum(key not in source.cells for key in source.keys),
            }
            for source in sources
        ],
        "claims": [
            {
                "experiment": claim.experiment.name,
                "claim": claim.direction.text,
                "plan": claim.source.title,
                "verdict": claim.verdict,
                "cases": len(claim.cases),
            }
            for claim in found
        ],
        "cases": long.pop("claims", []),
        "tables": long,
        "doubts": {name: doubts(name, sources) for name in parts},
        "files": {name: files(body) for name, body in parts.items()},
    }
