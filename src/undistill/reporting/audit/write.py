"""A judgement → a page, Markdown, JSON, LaTeX and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from undistill.auditing.judgement import Judgement
from undistill.files import write_text
from undistill.reporting.audit import cells, glossary, story
from undistill.reporting.audit.grid import Grid
from undistill.reporting.audit.page import Drawn, draw, provenance, render
from undistill.reporting.audit.words import verdict_sentence
from undistill.reporting.paper.export import printed, with_legend
from undistill.reporting.paper.sheet import latex
from undistill.reporting.table import inert
from undistill.reporting.theme import Spec
from undistill.reporting.written import Report

WIDTH = 460
"""Of a figure in a file, pixels."""


def write_audit(judgement: Judgement, out: Path) -> Report:
    """Write `out/index.html`, `report.md`, `report.json`, `report.tex` and `figures/*.svg`.

    A pure function of the judgement: the same one gives the same bytes.

    Raises:
        RunError: `out` cannot be written.
    """
    drawn = draw(judgement)
    page, values = out / "index.html", as_values(judgement, drawn)
    names = [write_svg(out / "figures" / f"{figure.name}.svg", figure.spec).name for figure in drawn.figures]
    write_text(page, render(judgement, drawn))
    write_text(out / "report.md", as_markdown(judgement, drawn, names))
    write_text(out / "report.json", as_json(values))
    write_text(out / "report.tex", as_tex(story.title(judgement), [drawn.exposure, *drawn.thieves, drawn.users]))
    return Report(f"{as_text(judgement, drawn)}\n\nPage: {page}", values, page)


def write_svg(path: Path, spec: Spec) -> Path:
    """The page's chart as a file, in its light colours and with a legend of its own."""
    whole = printed({**with_legend(spec, channels=("color", "shape")), "width": WIDTH})
    write_text(path, vl_convert.vegalite_to_svg(whole, allowed_base_urls=[]))
    return path


def as_json(values: dict[str, Any]) -> str:
    """As it lies on disk."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_values(judgement: Judgement, drawn: Drawn) -> dict[str, Any]:
    """For `report.json`: the judgement as it came, and the tables that the page shows."""
    thieves = [dict(record) for grid in drawn.thieves for record in grid.records]
    return {
        "schema": 1,
        "title": story.title(judgement),
        "lead": story.lead(judgement),
        "notes": story.notes(judgement),
        "tables": {
            "headline": [dict(record) for record in drawn.headline.records],
            "exposure": [dict(record) for record in drawn.exposure.records],
            "thieves": thieves,
            "contrasts": [dict(record) for grid in drawn.behind for record in grid.records],
            "users": [dict(record) for record in drawn.users.records],
        },
        "judgement": judgement.dump(),
    }


def as_tex(title: str, grids: Sequence[Grid]) -> str:
    r"""Tables one below the other; needs `\usepackage{booktabs}`."""
    parts = [f"% {latex(title)}", ""]
    for grid in grids:
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{latex(grid.caption)}}}", grid.sheet().tex().rstrip()]
        parts += [r"\end{table}", ""]
    return "\n".join(parts)


def as_text(judgement: Judgement, drawn: Drawn) -> str:
    """For a terminal."""
    blocks = [plain(story.title(judgement)), drawn.headline.text() if drawn.headline.rows else ""]
    blocks.append("\n".join(map(plain, story.lead(judgement))))
    blocks += [f"Note: {note}" for note in story.notes(judgement)]
    blocks.append(drawn.exposure.text())
    blocks.append("\n".join(map(plain, story.verdict_lines(judgement))))
    flags = [
        f"{flag.name} ({heading}): {story.ended(flag.about)}"
        for _, heading, own in story.flags_by_card(judgement)
        for flag in own
    ]
    blocks.append("\n".join(["Flags, explained in docs/flags.md:", *map(plain, flags)]) if flags else "No flags.")
    if judgement.not_tried:
        blocks.append("\n".join(["Not tried:", *(f"- {plain(text)}" for text in judgement.not_tried)]))
    return "\n\n".join(block for block in blocks if block)


def as_markdown(judgement: Judgement, drawn: Drawn, figures: list[str]) -> str:
    """`report.md`: the page without what needs a script, figures as links."""
    lines = [f"# {inert(story.title(judgement))}", ""]
    lines += [drawn.headline.sheet().md()] if drawn.headline.rows else []
    lines += [f"{inert(text)}\n" for text in story.lead(judgement)]
    words = glossary.glossary(judgement).items()
    lines += [f"{glossary.TITLE}:", "", *(f"- **{inert(word)}**: {inert(text)}" for word, text in words), ""]
    lines += [f"> {inert(note)}\n" for note in story.notes(judgement)]
    lines += ["## What each way of serving gives away", "", drawn.exposure.sheet().md(), inert(story.SHARE), ""]
    lines += _picture(drawn.questions.name if drawn.questions else "", figures)
    lines += [inert(story.searched(judgement)), ""] if judgement.lines else []
    for place, card in enumerate(judgement.cards):
        lines += [f"## {inert(story.heading(card))}", "", f"Card: {inert(card.card)}", "", inert(card.sentence), ""]
        lines += [f"**{inert(verdict_sentence(card, judgement))}** {inert(story.sentence(card.why))}".rstrip(), ""]
        for name in ("dots", "gains", "temperature"):
            lines += _picture(f"{name}-{place}", figures)
        lines += [grid.sheet().md() for grid in (drawn.behind[place], drawn.thieves[place]) if grid.rows]
    lines += ["## What users get", "", drawn.users.sheet().md()]
    lines += [drawn.answers.sheet().md()] if drawn.answers.rows else []
    lines += [*_picture("second", figures), "## Reasons to doubt", ""]
    for _, heading, own in story.flags_by_card(judgement):
        lines += [
            f"### {inert(heading)}",
            "",
            *(f"- **{inert(f.name)}**: {inert(story.ended(f.about))}" for f in own),
            "",
        ]
    lines += ["Each flag is explained in docs/flags.md." if judgement.flags else "No flag was raised.", ""]
    lines += ["## What was not tried", "", *(f"- {inert(text)}" for text in judgement.not_tried), ""]
    lines += ["## All cells", "", cells.grid(judgement).sheet().md(), "## Provenance", ""]
    lines += [f"- {inert(key)}: {inert(value)}" for key, value in provenance(judgement).items()]
    lines += ["", "```", *(plain(line).replace("`", "'") for line in judgement.commands), "```", ""]
    return "\n".join(lines)


def plain(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _picture(name: str, figures: list[str]) -> list[str]:
    return [f"![{name}](figures/{name}.svg)", ""] if f"{name}.svg" in figures else []
