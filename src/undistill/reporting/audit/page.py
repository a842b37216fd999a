"""A judgement as a report: three answers and a chart, then all that they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undistill.auditing.result import AuditResult, ThreatModelResult
from undistill.reporting import export, render
from undistill.reporting.audit import curves, first, glossary, lanes, standards, tables
from undistill.reporting.audit.words import (
    decides_text,
    digits_of,
    ended,
    heading,
    meanings,
    points_text,
    sentence,
    verdict_sentence,
)
from undistill.reporting.document import (
    Block,
    Chart,
    Details,
    Document,
    Facts,
    Items,
    Section,
    Table,
    Text,
)
from undistill.reporting.export import Report
from undistill.reporting.naming import listed, number, plural

TITLE = "What does an attacker get?"
SHARE = (
    "Relative accuracy is that of the best extracted model over the model's own. The label-equivalent sample size is how many "
    "images with true labels give the baseline the same accuracy; “more than” means that even the largest number tried gives less."
)
FILES = {"report.md": "report.md", "report.json": "report.json", "report.tex": "report.tex"}


def write_audit(judgement: AuditResult, out: Path) -> Report:
    """Write the report of a judgement: the same one gives the same bytes. RunError where `out` cannot be written."""
    drawn = draw(judgement)
    own = (drawn.exposure, *drawn.attackers, drawn.users)
    terminal = render.text(first.terminal(judgement))
    return export.write(document(judgement, drawn), out, terminal, values=as_values(judgement, drawn), tex=own)


def as_values(judgement: AuditResult, drawn: Drawn) -> dict[str, Any]:
    """For `report.json`: the judgement as it came, and the tables that the page shows."""
    return {
        "schema": 1,
        "title": title(judgement),
        "answers": {statement.head: statement.text for statement in first.statements(judgement)},
        "notes": first.warnings(judgement),
        "tables": {
            "exposure": [dict(record) for record in drawn.exposure.long],
            "thieves": [dict(record) for grid in drawn.attackers for record in grid.long],
            "contrasts": [dict(record) for grid in drawn.behind for record in grid.long],
            "standards": [dict(record) for record in drawn.standards.records],
            "users": [dict(record) for record in drawn.users.long],
        },
        "judgement": judgement.dump(),
    }


@dataclass(frozen=True)
class Drawn:
    """All figures and tables of a judgement, made once for every output."""

    exposure: Table
    users: Table
    answers: Table
    standards: Table
    attackers: list[Table]
    behind: list[Table]
    accuracies: list[Chart | None]
    temperatures: list[Chart | None]
    second: Chart | None


def draw(judgement: AuditResult) -> Drawn:
    """Tables and figures of a judgement."""
    cards = list(enumerate(judgement.threat_models))
    own = [replace(tables.attackers(card, judgement), name=f"attacks-{place}") for place, card in cards]
    differences = [replace(tables.behind(card, judgement), name=f"contrasts-{place}") for place, card in cards]
    return Drawn(
        tables.exposure(judgement),
        tables.users(judgement),
        tables.answers(judgement),
        standards.findings(judgement),
        own,
        differences,
        [_accuracies(place, card, judgement) for place, card in cards],
        [_curve(f"temperature-{place}", curves.by_temperature(card, judgement), judgement) for place, card in cards],
        _curve("second", curves.runners_up(judgement), judgement),
    )


def document(judgement: AuditResult, drawn: Drawn) -> Document:
    """The whole page: three answers and a chart, then everything that they rest on, folded."""
    return Document(
        title=first.title(judgement),
        lead=first.lead(judgement),
        sections=tuple(_sections(judgement, drawn)),
        provenance=provenance(judgement),
        commands=tuple(judgement.commands),
        eyebrow=f"undistill audit, suite {judgement.suite}",
        files=FILES,
    )


def title(judgement: AuditResult) -> str:
    """The judgement's own, or the question it answers."""
    return judgement.title or TITLE


def sure(judgement: AuditResult) -> str:
    """On how many seeds the intervals rest, and what they leave open; "" without an attack."""
    counts = sorted({card.A_def.n for card in judgement.threat_models if card.A_def is not None}, reverse=True)
    if not counts:
        return ""
    unit = "teacher" if judgement.question == "method" else "seed"
    if counts[-1] < 2:
        return f"From {plural(counts[-1], unit)} there are no intervals: differences are hints only."
    fewer = f"; {listed([str(count) for count in counts[1:]])} where said so" if len(counts) > 1 else ""
    text = (
        f"Intervals are 95 % confidence intervals ({plural(counts[0], unit)}{fewer}). Differences paired by {unit}s and images "
        f"have their own, narrower intervals; up to {points_text(judgement.delta)} count as none."
    )
    half = judgement.measured_half_width
    if half is None or half <= judgement.delta:
        return text
    return f"{text} Differences are resolved to {half:.1f} points here, coarser than δ: a verdict that needs less is inconclusive."


def _sections(judgement: AuditResult, drawn: Drawn) -> Iterator[Section]:
    exposure: list[Block] = [drawn.exposure, *(Text(text, "quiet") for text in (SHARE, sure(judgement)) if text)]
    exposure.append(Details(glossary.TITLE, (Facts(glossary.glossary(judgement)),)))
    yield Section("What each output access gives away, and how sure that is", "exposure", tuple(exposure), folded=True)
    yield from _cards(judgement, drawn)
    users: list[Block] = [drawn.users]
    if len(drawn.answers):
        users.append(Details("How the outputs look", (drawn.answers, *_shown(drawn.second))))
    yield Section("What users get", "users", tuple(users), folded=True)
    count = plural(len(judgement.flags), "flag")
    yield Section(f"Reasons to doubt: {count}", "flags", tuple(_flags(judgement)), folded=True)
    yield Section("What was not tried", "not-tried", tuple(_not_tried(judgement)), folded=True)
    known = (drawn.standards, Facts(standards.FACTS))
    yield Section(standards.TITLE, "standards", known, folded=True)
    table = tables.cells(judgement) if judgement.lines else Text("The judgement lists none.")
    yield Section("All cells", "cells", (table,), folded=True)


def _cards(judgement: AuditResult, drawn: Drawn) -> Iterator[Section]:
    """Threat model by threat model."""
    intro: list[Block] = [
        Text(
            "A threat model says what the attacker holds, sees and may query. Each attack trains an extracted model; controls "
            "train the same network on true labels (the baseline), or on the outputs of the undefended control."
        )
    ]
    known = meanings(judgement)
    intro += [Details("What the verdicts mean", (Facts(known),))] if known else []
    parts = [_card(place, card, judgement, drawn) for place, card in enumerate(judgement.threat_models)]
    yield Section("Each threat model", "cards", (*intro, *parts), folded=True)


def _card(place: int, card: ThreatModelResult, judgement: AuditResult, drawn: Drawn) -> Details:
    removed = (
        f" Reduction: {number(card.reduction_share)} % of the headroom." if card.reduction_share is not None else ""
    )
    own = [flag.name for flag in judgement.flags if flag.threat_model == card.id]
    marked = f" Flags: {listed(own)}." if own else ""
    body: list[Block] = [Text(f"`{card.threat_model}`", "quiet"), Text(card.sentence)]
    body.append(Text(f"{verdict_sentence(card, judgement)} {sentence(card.why)}{removed}{marked}"))
    body += [Text(decides_text(card), "quiet")] if card.decides is not None else []
    body += _shown(drawn.accuracies[place]) or (_EMPTY,)
    body += [drawn.behind[place]] if len(drawn.behind[place]) else []
    body.append(Details("Every attack and control", (drawn.attackers[place],)))
    body += (
        [Details("The search by temperature", _shown(drawn.temperatures[place]))] if drawn.temperatures[place] else []
    )
    return Details(heading(card), tuple(body), f"card-{place}")


_EMPTY = Text("No attack on this threat model has an accuracy, so there is nothing to draw.", "quiet")


def _shown(chart: Chart | None) -> tuple[Block, ...]:
    return () if chart is None else (chart,)


def _flags(judgement: AuditResult) -> Iterator[Block]:
    """Each flag that is raised: what was seen where, when it is raised, why, and what to do."""
    if not judgement.flags:
        yield Text("No flag was raised. That is no promise: flags only cover the doubts that are written down.")
        return
    yield Text("A flag is no verdict: it says what could make these numbers mislead.")
    seen: dict[str, list[str]] = {}
    about = {card.id: f"{heading(card)}: " for card in judgement.threat_models}
    order = ["", *about]
    for flag in sorted(
        judgement.flags, key=lambda flag: order.index(flag.threat_model if flag.threat_model in about else "")
    ):
        seen.setdefault(flag.name, []).append(f"{about.get(flag.threat_model, '')}{ended(flag.about)}")
    for name, places in seen.items():
        meaning = glossary.explained(name)
        summary = f"`{name}`: {meaning.title}" if meaning else f"`{name}`"
        yield Text(summary)
        yield Items(tuple(places))
        if meaning:
            yield Details("When it is raised, why, and what to do", (Facts(meaning.facts),))


def _not_tried(judgement: AuditResult) -> Iterator[Block]:
    yield Text("Every accuracy is that of the best extracted model found. A better attack may exist.")
    known = [card.queries for card in judgement.threat_models if card.queries is not None]
    more = (f"More than {plural(max(known), 'query', 'queries')}.",) if known else ()
    if judgement.not_tried or more:
        yield Items((*judgement.not_tried, *more))


def provenance(judgement: AuditResult) -> dict[str, str]:
    """What fixes the numbers, and how much was computed."""
    own = {
        "suite": judgement.suite,
        "about": "this model" if judgement.question == "model" else "this method",
        "δ": points_text(judgement.delta),
        "cells": f"{judgement.done:,} of {judgement.planned:,} done, {judgement.failed:,} failed",
        "computing": f"{judgement.seconds:,.0f} seconds in all",
    }
    if judgement.resolves is not None:
        own["smallest difference the plan resolves"] = f"{judgement.resolves:.2g} points"
    return {**own, **judgement.provenance}


def _accuracies(place: int, card: ThreatModelResult, judgement: AuditResult) -> Chart | None:
    spec = lanes.accuracies(card, judgement)
    caption = "Bars: 95 % intervals. Dashed: the model itself. Dotted: the best attack with predicted classes only."
    lost = sum(attacker.accuracy is None for attacker in card.attacks)
    if lost:
        caption += f" {plural(lost, 'attack')} without an accuracy cannot be drawn."
    legend = lanes.legend(
        judgement, [s for s in lanes.sides_of(card) if any(t.side == s and t.accuracy for t in card.attacks)]
    )
    return Chart(f"dots-{place}", "What each attack got", spec, caption, legend) if spec else None


def _curve(name: str, curve: curves.Curve | None, judgement: AuditResult, caption: str = "") -> Chart | None:
    if curve is None:
        return None
    told = (
        f"{caption} Bars: 95 % intervals." if any(p.low is not None for _, own in curve.lines for p in own) else caption
    )
    digits = digits_of(judgement) if "%" in curve.y else 2
    numbers = tables.points(name, f"{curve.title}: the numbers", (curve.x, curve.y), curve.lines, digits)
    return Chart(name, curve.title, curves.spec(curve), told.strip(), curve.legend, numbers)
