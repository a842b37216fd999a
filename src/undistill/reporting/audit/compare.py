"""Several judgements → one page that sets defenses side by side: what a thief gets against what users lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.auditing.judgement import Judgement
from undistill.files import write_text
from undistill.reporting import shell
from undistill.reporting.audit import scatter, story
from undistill.reporting.audit.contest import Audits, Contest, contests, definition, lonely
from undistill.reporting.audit.grid import Grid
from undistill.reporting.audit.page import STYLES, Figure
from undistill.reporting.audit.standing import standing
from undistill.reporting.audit.write import as_json, as_tex, plain, write_svg
from undistill.reporting.naming import listed, plural
from undistill.reporting.table import inert
from undistill.reporting.written import Report

TITLE = "What does each defense take from a thief, and what from users?"


@dataclass(frozen=True)
class Block:
    """One card: its table and charts."""

    contest: Contest
    grid: Grid
    figures: list[Figure]


def write_comparison(judgements: Sequence[tuple[str, Judgement]], out: Path) -> Report:
    """Write `out/index.html`, `report.md`, `report.json`, `report.tex` and `figures/*.svg` from named judgements.

    A pure function of them: the same give the same bytes. Cards that only one of them has are listed and never mixed.

    Raises:
        UsageError: fewer than two, two of one name, different data, test images or δ, or no card in common.
        RunError: `out` cannot be written.
    """
    blocks = [_block(place, contest, judgements) for place, contest in enumerate(contests(judgements))]
    values, page = as_values(blocks, judgements), out / "index.html"
    pictures = {
        figure.name: write_svg(out / "figures" / f"{figure.name}.svg", figure.spec).name
        for block in blocks
        for figure in block.figures
    }
    write_text(page, render(blocks, judgements))
    write_text(out / "report.md", as_markdown(blocks, judgements, pictures))
    write_text(out / "report.json", as_json(values))
    write_text(out / "report.tex", as_tex(TITLE, [block.grid for block in blocks]))
    return Report(f"{as_text(blocks, judgements)}\n\nPage: {page}", values, page)


def render(blocks: list[Block], audits: Audits) -> str:
    """The page."""
    return shell.page(
        "audit/compare.html.j2",
        styles=STYLES,
        title=TITLE,
        lead=lead(blocks, audits),
        notes=notes(audits),
        definition=definition(audits[0][1].delta),
        blocks=[_filled(place, block) for place, block in enumerate(blocks)],
        lonely=lonely(audits),
        audits=[{"name": name, "facts": _facts(judgement)} for name, judgement in audits],
    )


def lead(blocks: list[Block], audits: Audits) -> list[str]:
    """What stands side by side, and who is dominated where."""
    named = listed([name for name, _ in audits])
    found = [f"Side by side, on {plural(len(blocks), 'card')} that their audits share: {named}."]
    for block in blocks:
        beaten = [entrant.name for entrant in block.contest.entrants if entrant.defended and entrant.beaten]
        title = story.heading(block.contest.card)
        text = f"dominated {'is' if len(beaten) == 1 else 'are'} {listed(beaten)}" if beaten else "none is dominated"
        found.append(f"{title}: {text}.")
    return [*found, "Each thief's number is the best one found: a better thief may exist."]


def notes(audits: Audits) -> list[str]:
    """What makes rows less than comparable."""
    found = []
    suites = {judgement.suite for _, judgement in audits}
    if len(suites) > 1:
        each = "; ".join(f"{suite}: {listed([n for n, j in audits if j.suite == suite])}" for suite in sorted(suites))
        found.append(f"Not all were audited by the same suite ({each}). A larger one has looked harder for thieves.")
    questions = {judgement.question for _, judgement in audits}
    if len(questions) > 1:
        found.append(
            "Some audits are about one model and some about a method on several: their intervals mean different things."
        )
    short = [
        f"{name} ({j.failed:,} failed, {j.planned - j.done:,} not done)"
        for name, j in audits
        if j.failed or j.done < j.planned
    ]
    if short:
        found.append(f"Not every planned cell gave a number: {listed(short)}.")
    return found


def as_values(blocks: list[Block], audits: Audits) -> dict[str, Any]:
    """For `report.json`: JSON values only."""
    return {
        "schema": 1,
        "title": TITLE,
        "lead": lead(blocks, audits),
        "notes": notes(audits),
        "definition": definition(audits[0][1].delta),
        "delta": audits[0][1].delta,
        "audits": [{"name": name, "title": judgement.title, **_facts(judgement)} for name, judgement in audits],
        "cards": [
            {
                "card": block.contest.card.card,
                "title": story.heading(block.contest.card),
                "absent": list(block.contest.absent),
                "rows": [dict(record) for record in block.grid.records],
            }
            for block in blocks
        ],
        "only_one": [{"card": card, "audit": name} for card, name in lonely(audits)],
    }


def as_text(blocks: list[Block], audits: Audits) -> str:
    """For a terminal."""
    parts = [TITLE, "\n".join(map(plain, lead(blocks, audits))), *(f"Note: {plain(note)}" for note in notes(audits))]
    parts += [block.grid.text() for block in blocks]
    alone = [f"Only {plain(name)} was audited on {plain(card)}." for card, name in lonely(audits)]
    return "\n\n".join([*parts, definition(audits[0][1].delta), *alone])


def as_markdown(blocks: list[Block], audits: Audits, pictures: dict[str, str]) -> str:
    """`report.md`: the page, with its charts as links."""
    lines = [f"# {TITLE}", "", *(f"{inert(text)}\n" for text in lead(blocks, audits))]
    lines += [f"> {inert(note)}\n" for note in notes(audits)]
    lines += [definition(audits[0][1].delta), ""]
    for block in blocks:
        lines += [f"## {inert(story.heading(block.contest.card))}", "", f"Card: {inert(block.contest.card.card)}", ""]
        lines += [block.grid.sheet().md()]
        lines += (
            [f"Not audited on this card: {inert(listed(list(block.contest.absent)))}.\n"]
            if block.contest.absent
            else []
        )
        lines += [f"![{inert(figure.title)}](figures/{pictures[figure.name]})\n" for figure in block.figures]
    lines += ["## Cards of one audit alone", ""] if lonely(audits) else []
    lines += [f"- {inert(card)}: {inert(name)}" for card, name in lonely(audits)]
    lines += ["", "## Audits", "", *(f"- {inert(name)}: {inert(str(_facts(j)))}" for name, j in audits), ""]
    return "\n".join(lines)


def _block(place: int, contest: Contest, audits: Audits) -> Block:
    figures = []
    for measure, (_, title) in scatter.MEASURES.items():
        spec = scatter.spec(contest, measure)
        if spec is not None:
            gone = scatter.left_out(contest, measure)
            out = f" Not drawn, for want of a number: {listed(gone)}." if gone else ""
            caption = f"Numbers are the table's. Lower and further left is better. Bars: 95 % intervals.{out}"
            figures.append(Figure(f"scatter-{place}-{measure}", title, spec, scatter.legend(contest), caption))
    return Block(contest, standing(place, contest, dict(audits)), figures)


def _facts(judgement: Judgement) -> dict[str, str]:
    return {"suite": judgement.suite, "δ": f"{judgement.delta:g}", **judgement.provenance}


def _filled(place: int, block: Block) -> dict[str, Any]:
    absent = listed(list(block.contest.absent))
    return {
        "id": f"card-{place}",
        "title": story.heading(block.contest.card),
        "code": block.contest.card.card,
        "absent": f"Not audited on this card: {absent}." if absent else "",
        "table": block.grid.table(),
        "first": block.figures[0].block() if block.figures else None,
        "others": [figure.block() for figure in block.figures[1:]],
    }
