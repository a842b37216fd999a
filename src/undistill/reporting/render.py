"""A `Document` as a self-contained HTML page, Markdown, plain text, and JSON values."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup, escape

from undistill.files import write_text
from undistill.reporting import shell
from undistill.reporting.blocks import chart as drawn
from undistill.reporting.document import (
    Block,
    Chart,
    Code,
    Columns,
    Details,
    Document,
    Facts,
    Format,
    Items,
    Note,
    Picture,
    Section,
    Statement,
    Table,
    Text,
    Value,
    charts,
)
from undistill.reporting.markup import inert, markdown_row
from undistill.reporting.naming import number, signed
from undistill.reporting.paper.export import printed, with_legend

WIDTH = 80
"""Of plain text, characters."""
NARROWEST = 7
"""Of a column of text before its table is written as records instead."""
PICTURE = 460
"""Width of a figure in a file, pixels."""
SAFE = re.compile(r"(https://|#|\.{1,2}/|[\w-]+(/|\.\w+$|\.\w+#))")
"""Addresses that a page may link to."""


def write(document: Document, out: Path) -> Path:
    """Write `out/index.html`, `report.md`, `report.json` and `figures/*.svg`; returns the page. The same document, the same bytes.

    Raises:
        RunError: `out` cannot be written.
    """
    figures = {chart.name: write_svg(out / "figures" / f"{chart.name}.svg", chart) for chart in charts(document)}
    page = out / "index.html"
    write_text(page, html(document))
    write_text(out / "report.md", markdown(document, {name: f"figures/{path.name}" for name, path in figures.items()}))
    write_text(out / "report.json", json.dumps(values(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return page


def write_svg(path: Path, chart: Chart) -> Path:
    """A chart as a file, in its light colors and with a legend of its own."""
    spec = with_legend(dict(chart.spec), channels=("color", "shape")) if chart.legend else dict(chart.spec)
    write_text(path, vl_convert.vegalite_to_svg(printed({**spec, "width": PICTURE}), allowed_base_urls=[]))
    return path


# HTML


def html(document: Document) -> str:
    """One page that loads nothing from anywhere."""
    return shell.page(
        "document.html.j2",
        styles=("page.css", "audit/audit.css", "document.css"),
        scripts=("page.js", "audit/audit.js", "document.js"),
        title=document.title.replace("`", ""),
        document=document,
        kind=_kind,
        drawn=lambda chart: drawn(chart.name, dict(chart.spec), caption=chart.caption),
        entries=_entries,
        numbers=lambda table: [_numeric(table, name) for name in table.columns],
        linked=linked,
    )


def _kind(block: Block) -> str:
    return type(block).__name__


def _entries(table: Table) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "text": value_text(record[name], form),
                "spread": aside(record, form),
                "href": _address(record.get(form.link) if form.link else None),
                "number": record[name] if isinstance(record[name], int | float) else "",
            }
            for name, form in table.columns.items()
        ]
        for record in table.records
    ]


def linked(text: str, links: Mapping[str, str]) -> Markup:
    """Escaped text with `code`, and its phrases that have an address as links."""
    whole = str(shell.ticks(text))
    known = {str(shell.ticks(phrase)): href for phrase, href in links.items() if _address(href)}
    if known:
        phrases = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        whole = re.sub(phrases, lambda found: f'<a href="{escape(known[found[0]])}">{found[0]}</a>', whole)
    return Markup(whole)  # noqa: S704  escaped above


def _address(href: Value) -> str:
    return href if isinstance(href, str) and SAFE.match(href) else ""


# values


def value_text(value: Value, form: Format) -> str:
    """A value as its column prints it; `–` for one that is not there."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if form.digits is None and float(value).is_integer():
        return f"{int(value):,}".replace("-", "−")
    if form.digits is None:
        return f"{value:g}".replace("-", "−")
    return signed(float(value), form.digits) if form.signed else number(float(value), form.digits)


def interval_text(record: Mapping[str, Value], form: Format) -> str:
    """`81.2 to 84.0`, or "" without an interval."""
    if form.interval is None:
        return ""
    low, high = (record[name] for name in form.interval)
    return "" if low is None or high is None else f"{value_text(low, form)} to {value_text(high, form)}"


def aside(record: Mapping[str, Value], form: Format) -> str:
    """What is printed with a value: its interval and its note."""
    note = record[form.note] if form.note else None
    return "; ".join(part for part in (interval_text(record, form), str(note or "")) if part)


def head_text(name: str, form: Format) -> str:
    """`accuracy, %`."""
    return ", ".join(part for part in (form.title or name, form.unit) if part)


def rows(table: Table) -> list[list[str]]:
    """Heads, then rows, as text; intervals in parentheses."""
    heads = [head_text(name, form) for name, form in table.columns.items()]
    lines = []
    for record in table.records:
        line = []
        for name, form in table.columns.items():
            more = aside(record, form)
            line.append(value_text(record[name], form) + (f" ({more})" if more else ""))
        lines.append(line)
    return [heads, *lines]


# JSON


def values(document: Document) -> dict[str, Any]:
    """JSON values: all texts, and every column of every table."""
    return {
        "schema": 2,
        "title": document.title,
        "lead": [_block_values(block) for block in document.lead],
        "sections": [
            {"id": section.id, "title": section.title, "body": [_block_values(block) for block in section.body]}
            for section in document.sections
        ],
        "provenance": dict(document.provenance),
        "commands": list(document.commands),
    }


def _block_values(block: Block) -> dict[str, Any]:  # noqa: C901  one case a kind of block
    match block:
        case Table():
            return {"kind": "table", "name": block.name, "caption": block.caption, "rows": block.records}
        case Chart():
            numbers = {} if block.numbers is None else {"rows": block.numbers.records}
            return {"kind": "chart", "name": block.name, "title": block.title, "caption": block.caption, **numbers}
        case Statement():
            return {"kind": "statement", "head": block.head, "text": block.text, "commands": list(block.commands)}
        case Text() | Note():
            return {"kind": _kind(block).lower(), "text": block.text}
        case Items():
            return {"kind": "items", "texts": list(block.texts)}
        case Facts():
            return {"kind": "facts", "values": dict(block.values)}
        case Code():
            return {"kind": "code", "lines": list(block.lines)}
        case Picture():
            return {"kind": "picture", "about": block.about}
        case Details():
            return {"kind": "details", "summary": block.summary, "body": [_block_values(b) for b in block.body]}
        case Columns():
            return {"kind": "columns", "parts": [[_block_values(b) for b in part] for part in block.parts]}


# Markdown


def markdown(document: Document, figures: Mapping[str, str] | None = None) -> str:
    """Everything but what needs a script; `figures` are addresses of charts by name."""
    lines = [f"# {inert(document.title)}", ""]
    for block in document.lead:
        lines += _block_markdown(block, figures or {})
    for section in document.sections:
        lines += [f"## {inert(section.title)}", ""]
        for block in section.body:
            lines += _block_markdown(block, figures or {})
    if document.provenance:
        lines += ["## Provenance", "", *_facts_markdown(document.provenance)]
    if document.commands:
        lines += _block_markdown(Code(document.commands), {})
    return "\n".join(lines).rstrip() + "\n"


def _block_markdown(block: Block, figures: Mapping[str, str]) -> list[str]:  # noqa: C901  one case a kind of block
    match block:
        case Table():
            return [inert(block.caption), "", *_table_markdown(block), ""]
        case Chart():
            picture = [f"![{inert(block.title)}]({figures[block.name]})", ""] if block.name in figures else []
            return [f"**{inert(block.title)}**", "", *picture, *([inert(block.caption), ""] if block.caption else [])]
        case Statement():
            code = _block_markdown(Code(block.commands), {}) if block.commands else []
            return [f"**{inert(block.head)}** {inert(block.text)}", "", *code]
        case Text():
            text = inert(block.text)
            for phrase, href in block.links.items():
                text = text.replace(inert(phrase), f"[{inert(phrase)}]({href})", 1) if _address(href) else text
            return [text, ""]
        case Note():
            return [f"> {inert(block.text)}", ""]
        case Items():
            return [*(f"- {inert(text)}" for text in block.texts), ""]
        case Facts():
            return _facts_markdown(block.values)
        case Code():
            return ["```", *(one_line(line).replace("`", "'") for line in block.lines), "```", ""]
        case Picture():
            return []
        case Details():
            return [f"### {inert(block.summary)}", "", *(x for b in block.body for x in _block_markdown(b, figures))]
        case Columns():
            return [x for part in block.parts for b in part for x in _block_markdown(b, figures)]


def _facts_markdown(facts: Mapping[str, str]) -> list[str]:
    return [*(f"- **{inert(key)}**: {inert(value)}" for key, value in facts.items()), ""]


def _table_markdown(table: Table) -> list[str]:
    head, *body = rows(table)
    for place, form in enumerate(table.columns.values()):
        for row, line in enumerate(body):
            if form.link and (href := _address(table.frame[form.link][row])):
                line[place] = f"[{line[place]}]({href})"
    rule = "".join("---:|" if _numeric(table, name) else "---|" for name in table.columns)
    return [markdown_row(head), f"|{rule}", *map(markdown_row, body)]


def _numeric(table: Table, name: str) -> bool:
    return any(isinstance(value, int | float) for value in table.frame[name])


# plain text


def text(document: Document, *, width: int = WIDTH, whole: bool = True) -> str:
    """For a terminal, lines of at most `width`; without `whole`, the title and the first screen alone."""
    parts = [_wrapped(document.title, width), *(_block_text(block, width) for block in document.lead)]
    parts += [_section_text(section, width) for section in document.sections] if whole else []
    return "\n\n".join(part for part in parts if part)


def _section_text(section: Section, width: int) -> str:
    body = [_block_text(block, width) for block in section.body]
    return "\n\n".join([plain(section.title).upper(), *(part for part in body if part)])


def _block_text(block: Block, width: int) -> str:  # noqa: C901  one case a kind of block
    match block:
        case Table():
            return "\n".join(part for part in (_wrapped(block.caption, width), table_text(block, width)) if part)
        case Chart():
            return "" if block.numbers is None else _block_text(block.numbers, width)
        case Statement():
            said = _wrapped(f"{block.head}{'' if block.head.endswith('?') else ':'} {block.text}", width)
            return "\n".join([said, *(f"    {one_line(command)}" for command in block.commands)])
        case Text():
            return _wrapped(block.text, width)
        case Note():
            return _wrapped(f"Note: {block.text}", width)
        case Items():
            return "\n".join(_wrapped(f"- {item}", width, "", "  ") for item in block.texts)
        case Facts():
            return "\n".join(_wrapped(f"{key}: {value}", width, "", "  ") for key, value in block.values.items())
        case Code():
            return "\n".join(f"    {one_line(line)}" for line in block.lines)
        case Picture():
            return ""
        case Details():
            body = [_block_text(b, width) for b in block.body]
            return "\n\n".join([_wrapped(f"{block.summary}:", width), *(part for part in body if part)])
        case Columns():
            body = [_block_text(b, width) for part in block.parts for b in part]
            return "\n\n".join(part for part in body if part)


def table_text(table: Table, width: int = WIDTH) -> str:
    """Aligned columns within `width`; long text is wrapped, and a table with too many columns becomes records."""
    lines = [[plain(entry) for entry in line] for line in rows(table)]
    numeric = [_numeric(table, name) for name in table.columns]
    widths = _widths(lines, numeric, width)
    if widths is None:
        heads, *body = lines
        return "\n\n".join(
            "\n".join(_wrapped(f"{head}: {entry}", width, "", "  ") for head, entry in zip(heads, line, strict=True))
            for line in body
        )
    return "\n".join(
        row for number_, line in enumerate(lines) for row in _row_text(line, widths, numeric, bottom=number_ == 0)
    )


def _widths(lines: list[list[str]], numeric: Sequence[bool], width: int) -> list[int] | None:
    """A width for each column so that a row fits; None where text would have to be narrower than is readable."""
    heads, *body = lines
    room = width - 2 * (len(heads) - 1)
    entries = [max((len(line[place]) for line in body), default=0) for place in range(len(heads))]
    words = [max((len(word) for word in head.split()), default=1) for head in heads]
    full = [max(entry, len(head)) for entry, head in zip(entries, heads, strict=True)]
    least = [max(entry if number_ else 0, word) for entry, word, number_ in zip(entries, words, numeric, strict=True)]
    least = [max(one, min(NARROWEST, whole)) for one, whole in zip(least, full, strict=True)]
    if sum(least) > room:
        return None
    while sum(full) > room:
        place = max((p for p in range(len(full)) if full[p] > least[p]), key=lambda p: full[p])
        full[place] -= 1
    return full


def _row_text(line: list[str], widths: list[int], numeric: Sequence[bool], *, bottom: bool) -> list[str]:
    """The lines that a row takes; heads stand at the bottom of theirs."""
    parts = [textwrap.wrap(entry, wide) or [""] for entry, wide in zip(line, widths, strict=True)]
    height = max(map(len, parts))
    parts = [[""] * (height - len(p)) + p if bottom else p + [""] * (height - len(p)) for p in parts]
    return [
        "  ".join(
            part[row].rjust(wide) if number_ else part[row].ljust(wide)
            for part, wide, number_ in zip(parts, widths, numeric, strict=True)
        ).rstrip()
        for row in range(height)
    ]


def _wrapped(words: str, width: int, first: str = "", later: str | None = None) -> str:
    """Lines of at most `width`, not broken between a number and its %; commands lose their back-ticks and keep their hyphens."""
    filled = textwrap.fill(
        plain(words).replace(" %", "\u00a0%"),
        width,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return filled.replace("\u00a0", " ")


def plain(words: str) -> str:
    """On one line, without back-ticks and what a terminal would obey."""
    return one_line(words.replace("`", ""))


def one_line(words: str) -> str:
    """Without line breaks and what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
