"""Summary → one self-contained HTML page that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undistill.reporting import blocks, charts, findings, limits, shell, story, training
from undistill.reporting.naming import NORMAL, card_sentence, listed
from undistill.reporting.response import Response
from undistill.reporting.rows import Section, Summary
from undistill.reporting.theme import colour_variable

TITLE = "How hard is this classifier to copy?"


def render(summary: Summary, responses: list[Response], links: blocks.Links, commands: list[str]) -> str:
    """The page. `links` are addresses of cells by id, relative to it."""
    figure = responses[0] if responses else None
    return shell.page(
        "page.html.j2",
        title=TITLE,
        lead=story.lead(summary),
        doubts=findings.doubts(summary),
        keys=_keys(summary),
        teachers=blocks.teachers(summary) if summary.victims else None,
        of_victims=findings.of_victims(summary),
        sections=[_section(place, section, summary, links) for place, section in enumerate(summary.sections)],
        responses=[response_block(place, found, summary.names) for place, found in enumerate(responses)],
        training=_training(summary),
        shows=limits.shows(summary),
        does_not_show=limits.does_not_show(summary, figure),
        provenance=story.provenance(summary),
        commands=commands,
        files=blocks.files(summary, links),
    )


def _keys(summary: Summary) -> list[dict[str, Any]]:
    found = []
    for key in story.keys(summary):
        lines = [
            {
                "label": line.label,
                "colour": colour_variable(line.victim, summary.names),
                "value": blocks.value_entry(line.group, line.digits),
            }
            for line in key.lines
        ]
        found.append({"title": key.title, "lines": lines})
    return found


def _section(place: int, section: Section, summary: Summary, links: blocks.Links) -> dict[str, Any]:
    caption = "Every point is one seed, a tick their mean. The axis starts near the lowest point."
    lost = sum(sum(group.lost.values()) for group in section.groups.values())
    if lost:
        caption += f" {lost} without an accuracy cannot be drawn."
    drawable = any(group.n for group in section.groups.values())
    return {
        "id": f"section-{place}",
        "title": section.title,
        "card": section.card,
        "student": section.student,
        "about": section.about,
        "sentence": card_sentence(section.card, section.cells),
        "table": blocks.results(section, summary),
        "dots": blocks.chart(f"dots-{place}", charts.dots(section, summary.names), caption=caption)
        if drawable
        else None,
        "findings": findings.of_section(section),
        "others": findings.other_contrasts(section),
        "cells": blocks.every_cell(section, summary, links),
    }


def response_block(place: int | str, figure: Response, names: Sequence[str]) -> dict[str, Any]:
    """What the template's `response` is filled with; `names` are all victims of the page."""
    hot = listed([f"{t:g}" for t in figure.temperatures])
    seed = "" if figure.seed is None else f" of seed {figure.seed}"
    images = []
    for row, shown in enumerate(figure.images):
        drawn = [
            blocks.chart(f"answer-{place}-{row}-{n}", spec, title=title) for n, (title, spec) in enumerate(shown.charts)
        ]
        images.append(
            {"label": shown.label, "picture": shown.picture, "charts": drawn, "table": blocks.answers(figure, shown)}
        )
    return {
        "id": f"response-{place}",
        "title": f"What the {NORMAL} and the {figure.victim} teacher answer",
        "about": f"softmax(logits / τ) of both teachers{seed} at τ {hot}, for the first test image of each of the first classes: "
        "chosen by place, not by what is answered. High τ makes small answers visible, and a student trained at high τ learns "
        "from them.",
        "images": images,
        "marks": [(who, colour_variable(who, names)) for who in (NORMAL, figure.victim)],
    }


def _training(summary: Summary) -> dict[str, Any] | None:
    found = training.curve_blocks(summary)
    if not found:
        return None
    trained = [cell for cell in summary.cells if cell.kind != "figure"]
    silent = sum(not cell.curve for cell in trained)
    return {"blocks": found, "missing": f" {silent} of {len(trained)} cells kept no curve." if silent else ""}
