"""A judgement as a document: the page, and Markdown of the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from undistill.auditing.result import AuditResult, ThreatModelResult
from undistill.reporting.audit import curves, first, glossary, lanes, story, tables
from undistill.reporting.audit.words import digits_of, meanings, points_text, verdict_sentence
from undistill.reporting.document import (
    Block,
    Chart,
    Columns,
    Details,
    Document,
    Facts,
    Items,
    Note,
    Section,
    Table,
    Text,
)
from undistill.reporting.naming import listed, number, plural
from undistill.reporting.render import html
from undistill.reporting.theme import Spec

_QUESTIONS = "Dashed line: the model itself. Points at the same number may cover each other; the table has them all."
FILES = {"report.md": "report.md", "report.json": "report.json", "report.tex": "report.tex"}


@dataclass(frozen=True)
class Figure:
    """A chart under a name, with its legend; `numbers` is the table that says the same."""

    name: str
    title: str
    spec: Spec
    legend: lanes.Legend
    caption: str = ""
    numbers: Table | None = None

    def block(self) -> Chart:
        """For a document."""
        return Chart(self.name, self.title, self.spec, self.caption, self.legend, self.numbers)


@dataclass(frozen=True)
class Drawn:
    """All figures and tables of a judgement, made once for every output."""

    headline: Table
    exposure: Table
    users: Table
    answers: Table
    attackers: list[Table]
    behind: list[Table]
    questions: Figure | None
    accuracies: list[Figure | None]
    gains: list[Figure | None]
    temperatures: list[Figure | None]
    second: Figure | None

    @property
    def figures(self) -> list[Figure]:
        """All that are there."""
        every = [self.questions, self.second]
        for three in zip(self.accuracies, self.gains, self.temperatures, strict=True):
            every += three
        return [figure for figure in every if figure is not None]


def draw(judgement: AuditResult) -> Drawn:
    """Tables and figures of a judgement."""
    cards = list(enumerate(judgement.threat_models))
    own = [tables.attackers(card, judgement) for _, card in cards]
    return Drawn(
        tables.headline(judgement),
        tables.exposure(judgement),
        tables.users(judgement),
        tables.answers(judgement),
        own,
        [tables.behind(card, judgement) for _, card in cards],
        _curve("questions", curves.by_questions(judgement), judgement, _QUESTIONS),
        [_accuracies(place, card, judgement) for place, card in cards],
        [_gains(place, card, judgement) for place, card in cards],
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


def render(judgement: AuditResult, drawn: Drawn) -> str:
    """The page."""
    return html(document(judgement, drawn))


def _sections(judgement: AuditResult, drawn: Drawn) -> Iterator[Section]:
    about: list[Block] = [Text(text) for text in story.lead(judgement)]
    about += [Note(text) for text in story.notes(judgement)]
    about += [drawn.headline] if len(drawn.headline) else []
    about.append(Details(glossary.TITLE, (Facts(glossary.glossary(judgement)),)))
    yield Section("The numbers, and how sure they are", "numbers", tuple(about), folded=True)
    exposure: list[Block] = [drawn.exposure, Text(story.SHARE, "quiet")]
    exposure += [drawn.questions.block()] if drawn.questions else []
    yield Section("What each output access gives away", "exposure", tuple(exposure), folded=True)
    yield from _cards(judgement, drawn)
    users: list[Block] = [drawn.users]
    if len(drawn.answers):
        users.append(Details("How the outputs look", (drawn.answers, *_shown(drawn.second))))
    yield Section("What users get", "users", tuple(users), folded=True)
    count = plural(len(judgement.flags), "flag")
    yield Section(f"Reasons to doubt: {count}", "flags", tuple(_flags(judgement)), folded=True)
    yield Section("What was not tried", "not-tried", tuple(_not_tried(judgement)), folded=True)
    table = tables.cells(judgement) if judgement.lines else Text("The judgement lists none.")
    yield Section("All cells", "cells", (table,), folded=True)


def _cards(judgement: AuditResult, drawn: Drawn) -> Iterator[Section]:
    """Threat model by threat model."""
    intro: list[Block] = [
        Text(
            "A threat model says what the attacker holds, sees and may query. Each attack trains an extracted model; controls "
            "train the same network on true labels alone (the baseline), or on the outputs of the undefended control."
        )
    ]
    known = meanings(judgement)
    intro += [Details("What the verdicts mean", (Facts(known),))] if known else []
    searched = story.searched(judgement)
    intro += [Text(searched)] if searched else []
    parts = [_card(place, card, judgement, drawn) for place, card in enumerate(judgement.threat_models)]
    yield Section("Each threat model", "cards", (*intro, *parts), folded=True)


def _card(place: int, card: ThreatModelResult, judgement: AuditResult, drawn: Drawn) -> Details:
    removed = (
        f" Reduction: {number(card.reduction_share)} % of the headroom." if card.reduction_share is not None else ""
    )
    own = [flag.name for flag in judgement.flags if flag.threat_model == card.id]
    marked = f" Flags: {listed(own)}." if own else ""
    body: list[Block] = [Text(f"`{card.threat_model}`", "quiet"), Text(card.sentence)]
    body.append(Text(f"{verdict_sentence(card, judgement)} {story.sentence(card.why)}{removed}{marked}"))
    figures = [figure.block() for figure in (drawn.accuracies[place], drawn.gains[place]) if figure]
    body += [Columns(tuple((figure,) for figure in figures))] if figures else [_EMPTY]
    body += [drawn.behind[place]] if len(drawn.behind[place]) else []
    body.append(Details("Every attack and control", (drawn.attackers[place],)))
    body += (
        [Details("The search by temperature", _shown(drawn.temperatures[place]))] if drawn.temperatures[place] else []
    )
    return Details(story.heading(card), tuple(body), f"card-{place}")


_EMPTY = Text("No attack on this threat model has an accuracy, so there is nothing to draw.", "quiet")


def _shown(figure: Figure | None) -> tuple[Block, ...]:
    return () if figure is None else (figure.block(),)


def _flags(judgement: AuditResult) -> Iterator[Block]:
    """Each flag that is raised: what was seen where, when it is raised, why, and what to do."""
    if not judgement.flags:
        yield Text("No flag was raised. That is no promise: flags only cover the doubts that are written down.")
        return
    yield Text("A flag is no verdict: it says what could make these numbers mislead.")
    seen: dict[str, list[str]] = {}
    for anchor, heading, own in story.flags_by_card(judgement):
        for flag in own:
            place = f"{heading}: " if anchor else ""
            seen.setdefault(flag.name, []).append(f"{place}{story.ended(flag.about)}")
    for name, places in seen.items():
        meaning = glossary.explained(name)
        summary = f"`{name}`: {meaning.title}" if meaning else f"`{name}`"
        yield Text(summary)
        yield Items(tuple(places))
        if meaning:
            yield Details("When it is raised, why, and what to do", (Facts(meaning.facts),))


def _not_tried(judgement: AuditResult) -> Iterator[Block]:
    yield Text("Every accuracy is that of the best extracted model found. A better attack may exist.")
    if judgement.not_tried:
        yield Items(tuple(judgement.not_tried))


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


def _accuracies(place: int, card: ThreatModelResult, judgement: AuditResult) -> Figure | None:
    spec = lanes.accuracies(card, judgement)
    caption = "Bars: 95 % intervals. Dashed: the model itself. Dotted: the best attack of labels alone."
    lost = sum(attacker.accuracy is None for attacker in card.attacks)
    if lost:
        caption += f" {plural(lost, 'attack')} without an accuracy cannot be drawn."
    legend = lanes.legend(
        judgement, [s for s in lanes.sides_of(card) if any(t.side == s and t.accuracy for t in card.attacks)]
    )
    return Figure(f"dots-{place}", "What each attack got", spec, legend, caption) if spec else None


def _gains(place: int, card: ThreatModelResult, judgement: AuditResult) -> Figure | None:
    spec = lanes.gains(card, judgement)
    floor = lanes.label_floor(card)
    caption = f"Against “{floor.name if floor else ''}” on the audited model, seed by seed. Bars: 95 % intervals."
    others = [t for t in card.attacks if floor is not None and t is not floor and t.accuracy is not None]
    drawn = [t for t in others if t.gain]
    unit = "teachers" if judgement.question == "method" else "seeds"
    if floor is not None and any(t.gain and t.gain.n < max(len(t.each), len(floor.each)) for t in drawn):
        caption += f" Rows with fewer {unit} are compared on those {unit} alone."
    if len(drawn) < len(others):
        caption += f" Not drawn: {plural(len(others) - len(drawn), 'attack')} with lost cells."
    legend = lanes.legend(judgement, [s for s in lanes.sides_of(card) if any(t.side == s for t in drawn)])
    return Figure(f"gains-{place}", "What each gains over labels alone", spec, legend, caption) if spec else None


def _curve(name: str, curve: curves.Curve | None, judgement: AuditResult, caption: str = "") -> Figure | None:
    if curve is None:
        return None
    told = (
        f"{caption} Bars: 95 % intervals." if any(p.low is not None for _, own in curve.lines for p in own) else caption
    )
    digits = digits_of(judgement) if "%" in curve.y else 2
    numbers = tables.points(name, f"{curve.title}: the numbers", (curve.x, curve.y), curve.lines, digits)
    return Figure(name, curve.title, curves.spec(curve), curve.legend, told.strip(), numbers)
