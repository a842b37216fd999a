"""What the page's template is filled with: tables as entries, charts as JSON, both plain text until the template escapes them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from markupsafe import Markup

from undistill.reporting.theme import Spec


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
