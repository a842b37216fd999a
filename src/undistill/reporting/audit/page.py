"""A judgement as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undistill.auditing.judgement import CardResult, Judgement
from undistill.reporting import shell
from undistill.reporting.audit import cells, curves, glossary, headline, lanes, story, tables
from undistill.reporting.audit.grid import Grid
from undistill.reporting.audit.words import digits_of, meanings, points_text, verdict_sentence
from undistill.reporting.blocks import chart
from undistill.reporting.naming import number, plural
from undistill.reporting.theme import Spec

STYLES = ("page.css", "audit/audit.css")
SCRIPTS = ("page.js", "audit/audit.js")
_QUESTIONS = (
    "Dashed line across: the model itself. Points at the same number may cover each other; the table has them all."
)


@dataclass(frozen=True)
class Figure:
    """A chart under a name, with its legend; `numbers` is the table that says the same."""

    name: str
    title: str
    spec: Spec
    legend: lanes.Legend
    caption: str = ""
    numbers: Grid | None = None

    def block(self) -> dict[str, Any]:
        """For the template."""
        return {
            "title": self.title,
            "legend": self.legend,
            "chart": chart(self.name, self.spec, caption=self.caption),
            "numbers": self.numbers.table() if self.numbers else None,
        }


@dataclass(frozen=True)
class Drawn:
    """All figures and tables of a judgement, made once for every output."""

    headline: Grid
    exposure: Grid
    users: Grid
    answers: Grid
    thieves: list[Grid]
    behind: list[Grid]
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


def draw(judgement: Judgement) -> Drawn:
    """Tables and figures of a judgement."""
    cards = list(enumerate(judgement.cards))
    own = [tables.thieves(card, judgement) for _, card in cards]
    return Drawn(
        headline.headline(judgement),
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


def render(judgement: Judgement, drawn: Drawn) -> str:
    """The page."""
    grouped = story.flags_by_card(judgement)
    return shell.page(
        "audit/audit.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        title=story.title(judgement),
        suite=judgement.suite,
        lead=story.lead(judgement),
        headline=drawn.headline.table() if drawn.headline.rows else None,
        words=glossary.glossary(judgement),
        words_head=glossary.TITLE,
        searched=story.searched(judgement),
        notes=story.notes(judgement),
        exposure=drawn.exposure.table(),
        share=story.SHARE,
        questions=drawn.questions.block() if drawn.questions else None,
        meanings=meanings(judgement),
        cards=[_card(place, card, judgement, drawn) for place, card in enumerate(judgement.cards)],
        answers=drawn.answers.table() if drawn.answers.rows else None,
        second=drawn.second.block() if drawn.second else None,
        users=drawn.users.table(),
        flags=[
            (anchor, heading, [(flag, story.ended(flag.about)) for flag in own]) for anchor, heading, own in grouped
        ],
        flag_count=plural(len(judgement.flags), "flag"),
        not_tried=judgement.not_tried,
        columns=cells.columns(),
        lines=cells.rows(judgement),
        provenance=provenance(judgement),
        commands=judgement.commands,
    )


def provenance(judgement: Judgement) -> dict[str, str]:
    """What fixes the numbers, and how much was computed."""
    own = {
        "suite": judgement.suite,
        "question": "this model" if judgement.question == "model" else "this method",
        "δ": points_text(judgement.delta),
        "cells": f"{judgement.done:,} of {judgement.planned:,} done, {judgement.failed:,} failed",
        "computing": f"{judgement.seconds:,.0f} seconds in all",
    }
    if judgement.resolves is not None:
        own["smallest difference the plan resolves"] = f"{judgement.resolves:.2g} points"
    return {**own, **judgement.provenance}


def _card(place: int, card: CardResult, judgement: Judgement, drawn: Drawn) -> dict[str, Any]:
    flags = sum(flag.card == card.id for flag in judgement.flags)
    figures = (drawn.accuracies[place], drawn.gains[place])
    removed = f"The defense removed {number(card.removed)} % of the headroom." if card.removed is not None else ""
    return {
        "id": f"card-{place}",
        "title": story.heading(card),
        "code": card.card,
        "sentence": card.sentence,
        "verdict": verdict_sentence(card, judgement),
        "word": (card.verdict or card.indication or "none").replace(" ", "-"),
        "why": story.sentence(card.why),
        "removed": removed,
        "figures": [figure.block() for figure in figures if figure],
        "behind": drawn.behind[place].table() if drawn.behind[place].rows else None,
        "temperature": figure.block() if (figure := drawn.temperatures[place]) else None,
        "thieves": drawn.thieves[place].table(),
        "flags": plural(flags, "flag") if flags else "",
    }


def _accuracies(place: int, card: CardResult, judgement: Judgement) -> Figure | None:
    spec = lanes.accuracies(card, judgement)
    caption = "Bars: 95 % intervals. Dashed: the model itself. Dotted: the best thief of labels alone."
    lost = sum(thief.accuracy is None for thief in card.thieves)
    if lost:
        caption += f" {plural(lost, 'thief', 'thieves')} without an accuracy cannot be drawn."
    legend = lanes.legend(
        judgement, [s for s in lanes.sides_of(card) if any(t.side == s and t.accuracy for t in card.thieves)]
    )
    return Figure(f"dots-{place}", "What each thief got", spec, legend, caption) if spec else None


def _gains(place: int, card: CardResult, judgement: Judgement) -> Figure | None:
    spec = lanes.gains(card, judgement)
    floor = lanes.label_floor(card)
    caption = (
        f"Against “{floor.name if floor else ''}” on the audited model, seed by seed. Bars: 95 % intervals over the seeds alone; "
        "the error from having few test images comes on top and is in the table of differences."
    )
    others = [t for t in card.thieves if floor is not None and t is not floor and t.accuracy is not None]
    pairs = {id(t): lanes.paired(t, floor) for t in others if floor is not None}
    drawn = [t for t in others if pairs[id(t)]]
    unit = "teachers" if judgement.question == "method" else "seeds"
    if floor is not None and any(pairs[id(t)] < max(len(t.each), len(floor.each)) for t in drawn):
        caption += f" Rows with fewer {unit} are compared on those {unit} alone."
    if len(drawn) < len(others):
        caption += f" Not drawn: {plural(len(others) - len(drawn), 'thief', 'thieves')} with lost cells."
    legend = lanes.legend(judgement, [s for s in lanes.sides_of(card) if any(t.side == s for t in drawn)])
    return Figure(f"gains-{place}", "What each gains over labels alone", spec, legend, caption) if spec else None


def _curve(name: str, curve: curves.Curve | None, judgement: Judgement, caption: str = "") -> Figure | None:
    if curve is None:
        return None
    told = (
        f"{caption} Bars: 95 % intervals." if any(p.low is not None for _, own in curve.lines for p in own) else caption
    )
    lines = [(who, own) for who, own in curve.lines]
    numbers = tables.points(name, f"{curve.title}: the numbers", curve.x, lines, digits_of(judgement))
    return Figure(name, curve.title, curves.spec(curve), curve.legend, told.strip(), numbers)
