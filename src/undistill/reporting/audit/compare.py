"""Several judgements → one page that sets defenses side by side: what an attacker gets against what users lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.auditing.result import AuditResult
from undistill.reporting import export
from undistill.reporting.audit import scatter
from undistill.reporting.audit.contest import Audits, Contest, Entrant, contests, definition, lonely
from undistill.reporting.audit.words import digits_of, heading, measured, serving_text, verdict_entry
from undistill.reporting.document import Block as Shown
from undistill.reporting.document import (
    Chart,
    Columns,
    Details,
    Document,
    Entry,
    Facts,
    Format,
    Items,
    Note,
    Section,
    Table,
    Text,
    Value,
    filled,
    table,
)
from undistill.reporting.export import Report
from undistill.reporting.naming import listed, number, plural, signed
from undistill.reporting.render import text

TITLE = "Which defense leaves an attacker least, and what does it cost users?"
MOST_NAMED = 4
"""Defenses of one rank that the first sentence names."""
FILES = {"report.md": "report.md", "report.json": "report.json", "report.tex": "report.tex"}


@dataclass(frozen=True)
class Block:
    """One card: its table and charts."""

    contest: Contest
    grid: Table
    charts: list[Chart]


def named(found: Sequence[tuple[Path, AuditResult]]) -> list[tuple[str, AuditResult]]:
    """Each judgement by its defense; where two share one, by the model's own name, and then by its folder."""
    names = [_defense(judgement) for _, judgement in found]
    for other in (lambda folder, judgement: _model(judgement), lambda folder, judgement: folder.name):
        twice = {name for name in names if names.count(name) > 1}
        names = [
            f"{name} ({other(*pair)})" if name in twice and other(*pair) not in ("", name) else name
            for name, pair in zip(names, found, strict=True)
        ]
    return [(name, judgement) for name, (_, judgement) in zip(names, found, strict=True)]


def _defense(judgement: AuditResult) -> str:
    """`nasty`, `stingy then rounding (digits 1)`, or `no defense`."""
    ours = next((victim for victim in judgement.victims if victim.side == "defended"), None)
    parts = (
        [] if ours is None else [_component(item) for item in (ours.defense, *ours.output_defenses) if item.get("name")]
    )
    return " then ".join(parts) or "no defense"


def _component(item: Mapping[str, Any]) -> str:
    return str(item["name"])


def _model(judgement: AuditResult) -> str:
    return judgement.outlook.model if judgement.outlook else ""


def write_comparison(judgements: Sequence[tuple[str, AuditResult]], out: Path) -> Report:
    """Write the report of named judgements. Cards that only one of them has are listed and never mixed.

    Raises:
        UsageError: fewer than two, two of one name, different data, test images or δ, or no threat model in common.
        RunError: `out` cannot be written.
    """
    blocks = [_block(place, contest, judgements) for place, contest in enumerate(contests(judgements))]
    whole, values = document(blocks, judgements), as_values(blocks, judgements)
    return export.write(whole, out, as_text(blocks, judgements), values=values, tex=[block.grid for block in blocks])


def document(blocks: list[Block], audits: Audits) -> Document:
    """A ranking and its plot first; then every threat model, folded."""
    first = deciding(blocks)
    screen: list[Shown] = [Text(text, "lead") for text in lead(blocks, audits)]
    ranks = ranking(first, audits)
    parts: list[tuple[Shown, ...]] = [(ranks,)]
    if first.charts:
        parts.append((first.charts[0],))
    screen += [Note(text) for text in notes(audits)]
    screen.append(Columns(tuple(parts)))
    sections = [_section(place, block, shown=block is first) for place, block in enumerate(blocks)]
    if alone := lonely(audits):
        texts = tuple(f"`{card}`: {name}" for card, name in alone)
        body = (Text("Nothing on these threat models can be compared."), Items(texts))
        sections.append(Section("Threat models of one audit alone", "lonely", body, folded=True))
    facts = tuple(Details(name, (Facts(_facts(judgement)),)) for name, judgement in audits)
    sections.append(Section("Audits", "audits", (Text(definition(audits[0][1].delta), "quiet"), *facts), folded=True))
    return Document(TITLE, tuple(screen), tuple(sections), eyebrow="undistill comparison", files=FILES)


def _section(place: int, block: Block, *, shown: bool) -> Section:
    """A threat model, without the plot that is `shown` above."""
    absent = listed(list(block.contest.absent))
    body: list[Shown] = [Text(f"`{block.contest.card.threat_model}`", "quiet")]
    body += [Text(f"Not audited on this threat model: {absent}.")] if absent else []
    body += block.charts[int(shown) :]
    body += (
        []
        if block.charts
        else [
            Text(
                "Fewer than two rows have an accuracy and an undefended control, so there is nothing to draw.", "quiet"
            )
        ]
    )
    body.append(block.grid)
    return Section(heading(block.contest.card), f"card-{place}", tuple(body), folded=True)


def deciding(blocks: list[Block]) -> Block:
    """The threat model that is ranked: the first on which more than labels is served, short of the weights."""
    soft = [block for block in blocks if block.contest.card.access not in ("label", "weights")]
    return (soft or blocks)[0]


def ranks(contest: Contest, delta: float) -> list[tuple[int, Entrant]]:
    """(rank, defense), the best for the owner first: the attacker's accuracy, lower is better; without an accuracy last.

    Those within δ of the first of a rank share it, and are ordered by what users lose.
    """
    there = sorted(
        (e for e in contest.entrants if e.attacker is not None), key=lambda e: e.attacker.mean if e.attacker else 0.0
    )
    found: list[tuple[int, Entrant]] = []
    while there:
        least = there[0].attacker.mean if there[0].attacker else 0.0
        alike = [e for e in there if e.attacker is not None and e.attacker.mean <= least + delta]
        rank = len(found) + 1
        found += [
            (rank, e) for e in sorted(alike, key=lambda e: (e.lost.get("brier") or 0.0, e.lost.get("accuracy") or 0.0))
        ]
        there = there[len(alike) :]
    return found + [(len(found) + 1, e) for e in contest.entrants if e.attacker is None]


def ranking(block: Block, audits: Audits) -> Table:
    """What an owner reads in ten seconds: rank, defense, what an attacker gets, what users lose."""
    digits = max(digits_of(judgement) for _, judgement in audits)
    rows: list[dict[str, Value]] = []
    for rank, entrant in ranks(block.contest, audits[0][1].delta):
        attacker = entrant.attacker
        rows.append(
            {
                "rank": rank,
                "defense": entrant.name if entrant.defended else f"({entrant.name})",
                "attacker": attacker.mean if attacker else None,
                "low": attacker.low if attacker else None,
                "high": attacker.high if attacker else None,
                "accuracy": entrant.lost.get("accuracy"),
                "brier": entrant.lost.get("brier"),
            }
        )
    columns = {
        "defense": Format(),
        "rank": Format(),
        "attacker": Format("best extracted model", digits=digits, unit="%", interval=("low", "high")),
        "accuracy": Format("users lose: accuracy", digits=digits, unit="points"),
        "brier": Format("Brier score", digits=digits, unit="points"),
    }
    delta = audits[0][1].delta
    caption = (
        f"{heading(block.contest.card)}. Lower is better in every column; within δ = {delta:g} points ranks are shared."
    )
    return table("ranking", caption, rows, columns)


def lead(blocks: list[Block], audits: Audits) -> list[str]:
    """Which defense leaves an attacker least, at which cost, and which are dominated."""
    block = deciding(blocks)
    found, digits = ranks(block.contest, audits[0][1].delta), max(digits_of(judgement) for _, judgement in audits)
    best = [e for rank, e in found if rank == 1 and e.attacker is not None]
    texts = []
    if best and best[0].attacker is not None:
        names = [entrant.name for entrant in best]
        shown = names if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
        means = [entrant.attacker.mean for entrant in best if entrant.attacker]
        reached = (
            number(means[0], digits)
            if len(means) == 1
            else f"{number(min(means), digits)} to {number(max(means), digits)}"
        )
        queries = block.contest.card.queries
        budget = "" if queries is None else f" with {plural(queries, 'query', 'queries')}"
        serving = serving_text(block.contest.card.access)
        controls = [e.attacker.mean for e in block.contest.entrants if not e.defended and e.attacker]
        beside = f"; undefended {number(min(controls), digits)} %" if controls else ""
        texts.append(f"Least for an attacker{budget} and {serving}: {listed(shown)} ({reached} %{beside}).")
    beaten = sorted({e.name for b in blocks for e in b.contest.entrants if e.defended and e.beaten})
    texts.append(
        f"Dominated on some threat model: {listed(beaten)}." if beaten else "No defense is dominated by another one."
    )
    return [*texts, "Each number is the best attack found; a better one may exist."]


def notes(audits: Audits) -> list[str]:
    """What makes rows less than comparable."""
    found = []
    suites = {judgement.suite for _, judgement in audits}
    if len(suites) > 1:
        each = "; ".join(f"{suite}: {listed([n for n, j in audits if j.suite == suite])}" for suite in sorted(suites))
        found.append(f"Not all were audited by the same suite ({each}). A larger one has looked harder for attacks.")
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
                "card": block.contest.card.threat_model,
                "title": heading(block.contest.card),
                "absent": list(block.contest.absent),
                "rows": [dict(record) for record in block.grid.long],
            }
            for block in blocks
        ],
        "only_one": [{"card": card, "audit": name} for card, name in lonely(audits)],
    }


def as_text(blocks: list[Block], audits: Audits) -> str:
    """For a terminal: the ranking."""
    screen: list[Shown] = [Text(said) for said in lead(blocks, audits)]
    screen += [Note(said) for said in notes(audits)]
    return text(Document(TITLE, (*screen, ranking(deciding(blocks), audits))))


def _block(place: int, contest: Contest, audits: Audits) -> Block:
    charts = []
    for measure, (_, title) in scatter.ordered(contest):
        spec = scatter.spec(contest, measure)
        if spec is not None:
            gone = scatter.left_out(contest, measure)
            out = f" Not drawn, for want of a number: {listed(gone)}." if gone else ""
            caption = f"Lower and further left is better. Bars: 95 % intervals.{out}"
            charts.append(Chart(f"scatter-{place}-{measure}", title, spec, caption, scatter.legend(contest)))
    return Block(contest, standing(place, contest, dict(audits)), charts)


def _facts(judgement: AuditResult) -> dict[str, str]:
    return {"suite": judgement.suite, "δ": f"{judgement.delta:g}", **judgement.provenance}


def standing(place: int, contest: Contest, audits: dict[str, AuditResult]) -> Table:
    """The table of a threat model: a row a defense, then the undefended control; `audits` are by name."""
    digits = max(digits_of(judgement) for judgement in audits.values())
    rows = [_standing_row(entrant, contest, audits, digits) for entrant in contest.entrants]
    records = [_standing_record(entrant, contest) for entrant in contest.entrants]
    points = Format(digits=digits)
    columns = {"defense": Format(), "best extracted model, %": points, "relative accuracy, %": Format(digits=1)}
    columns |= {"removed of headroom, points": Format(right=True), "reduction, %": Format(digits=1)}
    columns |= {"users: accuracy, %": points, "top-5, %": points, "NLL, nats": Format(digits=3)}
    columns |= {"ECE, %": points, "Brier, %": points, "verdict": Format(), "flags": Format()}
    columns["dominated by"] = Format()
    caption = (
        f"{heading(contest.card)}, {serving_text(contest.card.access)}. Best attack found with its 95 % interval; "
        "for users the difference to the undefended control below each number. Lower is better for attacks, NLL, ECE and Brier."
    )
    return filled(f"card-{place}", caption, columns, rows, long=records)


def _standing_row(
    entrant: Entrant, contest: Contest, audits: dict[str, AuditResult], digits: int
) -> list[Value | Entry]:
    card, users = entrant.card, []
    took, headroom = (card.reduction, card.headroom) if card is not None else (None, None)
    for what, value in entrant.users.items():
        places, lost = 3 if what == "nll" else digits, entrant.lost[what]
        change = "" if lost is None or card is None else signed(-lost if what in ("accuracy", "top5") else lost, places)
        users.append(Entry(value, change))
    by = [other for other in contest.entrants if other.number in entrant.beaten]
    return [
        f"{entrant.number}. {entrant.name}",
        measured(entrant.attacker, digits),
        entrant.exposure,
        f"{number(took.mean, digits)} of {number(headroom.mean, digits)}" if took and headroom else "–",
        card.reduction_share if card is not None else None,
        *users,
        verdict_entry(card, audits[entrant.name]) if card is not None else "–",
        entrant.flags,
        ", ".join(str(other.number) for other in by) or "no",
    ]


def _standing_record(entrant: Entrant, contest: Contest) -> dict[str, Any]:
    card, attacker = entrant.card, entrant.attacker
    names = {other.number: other.name for other in contest.entrants}
    return {
        "card": contest.card.threat_model,
        "defense": entrant.name,
        "defended": entrant.defended,
        "thief": attacker.mean if attacker else None,
        "thief_low": attacker.low if attacker else None,
        "thief_high": attacker.high if attacker else None,
        "best": entrant.best,
        "exposure": entrant.exposure,
        "took": card.reduction.mean if card is not None and card.reduction else None,
        "headroom": card.headroom.mean if card is not None and card.headroom else None,
        "removed": card.reduction_share if card is not None else None,
        **entrant.users,
        **{f"{what}_lost": value for what, value in entrant.lost.items()},
        "verdict": card.verdict if card is not None else None,
        "indication": card.indication if card is not None else None,
        "flags": entrant.flags,
        "dominated_by": [names[place] for place in entrant.beaten],
    }
