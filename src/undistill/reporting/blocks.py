"""What the page's template is filled with: tables as entries, charts as JSON, both plain text until the template escapes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from undistill.experiments.cell import Cell
from undistill.reporting.findings import decimals
from undistill.reporting.naming import ALONE, NORMAL, arm_text, number, plural
from undistill.reporting.response import Response, Shown
from undistill.reporting.rows import Group, Section, Summary
from undistill.reporting.table import LEGEND
from undistill.reporting.theme import Spec, colour_variable

Links = Mapping[str, str]


@dataclass(frozen=True)
class Head:
    """A column's head; a colour ties it to the charts."""

    text: str
    colour: str = ""


@dataclass(frozen=True)
class Entry:
    """One table cell."""

    text: str
    spread: str = ""
    lost: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first entry of a row is its head."""

    caption: str
    heads: list[Head]
    rows: list[list[Entry]]
    style: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart; `about` stands for it where nothing can be drawn."""

    id: str
    json: Markup
    about: str
    caption: str = ""
    title: str = ""


def inline_json(values: object) -> Markup:
    """JSON that no script element can be left from: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def chart(name: str, spec: Spec, *, caption: str = "", title: str = "") -> Chart:
    """A chart of the page; `name` is its id there."""
    return Chart(name, inline_json(spec), spec["description"], caption, title)


def value_entry(group: Group | None, digits: int) -> Entry:
    """A mean, with its spread and what was lost below it."""
    if group is None:
        return Entry("–")
    spread = f"± {number(group.sd, digits)} ({group.n})" if group.sd is not None else f"({group.n})" if group.n else ""
    if group.reported is not None:
        spread += f" reported {number(group.reported, digits)}"
    return Entry(number(group.mean, digits), spread, group.lost_text)


def teachers(summary: Summary) -> Table:
    """The victims themselves."""
    rows = []
    for victim in summary.victims:
        digits = decimals(min(cell.n_test for cell in victim.group.cells))
        each = ", ".join(number(value, digits) for value in victim.group.values) or "–"
        rows.append([Entry(victim.name), Entry(victim.network), value_entry(victim.group, digits), Entry(each)])
    heads = [Head("teacher"), Head("network"), Head("accuracy, %"), Head("each seed")]
    return Table(f"Teachers: {LEGEND}.", heads, rows, "slim")


def results(section: Section, summary: Summary) -> Table:
    """The card's table: a line an arm, a column a victim."""
    digits = decimals(section.n_test)
    heads = [
        Head("student"),
        *(Head(v if v == ALONE else f"from {v}", colour_variable(v, summary.names)) for v in section.victims),
    ]
    rows = [
        [Entry(arm.name), *(value_entry(section.group(arm.name, v), digits) for v in section.victims)]
        for arm in section.arms
    ]
    return Table(f"Students, {section.n_test:,} test images: {LEGEND}.", heads, rows)


def every_cell(section: Section, summary: Summary, links: Links) -> Table:
    """Each cell of a card with all its numbers."""
    digits = decimals(section.n_test) + 1
    rows = []
    for cell in section.cells:
        arm = arm_text(cell.attack, cell.attack_settings, control=cell.kind == "control")
        numbers = [
            number(cell.accuracy, digits),
            number(cell.agreement, digits),
            number(cell.nll, 3),
            number(cell.ece, digits),
        ]
        texts = [
            summary.name_of[cell.id],
            _seeds(cell),
            *numbers,
            f"{cell.queries:,}",
            cell.status + (f": {cell.why}" if cell.why else ""),
        ]
        rows.append([Entry(arm), *map(Entry, texts), Entry(cell.id, href=links.get(cell.id, ""))])
    names = [
        "student",
        "victim",
        "seeds",
        "accuracy, %",
        "fidelity, %",
        "NLL, nats",
        "ECE, %",
        "queries",
        "status",
        "cell",
    ]
    about = "Fidelity: the share of test images on which student and victim name the same class."
    return Table(
        f"Every cell: {section.title}, student {section.student}. {about}", [Head(name) for name in names], rows, "long"
    )


def files(summary: Summary, links: Links) -> Table:
    """Where each cell lies."""
    kinds = {"victim": "teacher", "cell": "attack", "control": "control", "figure": "figure"}
    rows = [
        [
            Entry(cell.id, href=""),
            Entry(kinds[cell.kind]),
            Entry(summary.name_of[cell.id]),
            Entry(_seeds(cell)),
            _file(cell, links),
        ]
        for cell in summary.cells
    ]
    return Table(
        "Files of cells", [Head(name) for name in ("cell", "kind", "victim", "seeds", "file")], rows, "long text"
    )


def answers(figure: Response, shown: Shown) -> Table:
    """The numbers behind one image's bars, percent."""
    pairs = [(who, t) for t in figure.temperatures for who in (NORMAL, figure.victim)]
    heads = [Head("class"), *(Head(f"{who}, τ {t:g}") for who, t in pairs)]
    hidden = f" {plural(shown.hidden, 'class', 'classes')} with smaller outputs are left out." if shown.hidden else ""
    return Table(
        f"Outputs in percent for the image of class {shown.label}.{hidden}",
        heads,
        [[Entry(t) for t in row] for row in shown.rows],
    )


def _file(cell: Cell, links: Links) -> Entry:
    href = links.get(cell.id, "")
    return Entry(href or "not found", href=href)


def _seeds(cell: Cell) -> str:
    return ", ".join(f"{who} {seed}" for who, seed in sorted(cell.seeds.items())) or "–"
