"""A `Document` as a self-contained HTML page, Markdown, plain text, and JSON values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from undistill.reporting import shell
from undistill.reporting.document import (
    Block,
    Chart,
    Code,
    Columns,
    Details,
    Document,
    Dot,
    Facts,
    Format,
    Items,
    Note,
    Panels,
    Picture,
    PictureFile,
    Section,
    Statement,
    Table,
    Text,
    Value,
)
from undistill.reporting.naming import number, signed

WIDTH = 80
"""Of plain text, characters."""
NARROWEST = 7
"""Of a column of text before its table is written as records instead."""
SAFE = re.compile(r"(https://|#|\.{1,2}/|[\w-]+(/|\.\w+$|\.\w+#))")
"""Addresses that a page may link to."""


# HTML


def html(document: Document) -> str:
    """One page that loads nothing from anywhere."""
    return shell.page(
        title=document.title.replace("`", ""),
        document=document,
        kind=_kind,
        groups=_groups,
        numbers=lambda table: [numeric(table, name) for name in table.columns],
        linked=linked,
    )


def _kind(block: Block) -> str:
    return type(block).__name__


def _groups(table: Table) -> list[list[dict[str, Any]]]:
    """Rows for the template, those under one head together. A row holds its entries; `span` is how many rows one heads."""
    spans = {name: _span(dots) for name, dots in table.dots.items()}
    lines: list[dict[str, Any]] = [
        {
            "quiet": bool(table.quiet and record[table.quiet]),
            "color": record[table.swatch] if table.swatch else "",
            "entries": [
                _entry(table, name, place, row, record, spans.get(name)) for place, name in enumerate(table.columns)
            ],
        }
        for row, record in enumerate(table.records)
    ]
    if not table.grouped:
        return [lines]
    groups = [list(group) for _, group in groupby(lines, key=lambda line: line["entries"][0]["text"])]
    for group in groups:
        for place, line in enumerate(group):
            line["entries"][0]["span"] = 0 if place else len(group)
    return groups


def _entry(
    table: Table, name: str, place: int, row: int, record: Mapping[str, Value], span: tuple[float, float] | None
) -> dict[str, Any]:
    form, value = table.columns[name], record[name]
    low, high = span or (0.0, 1.0)
    heads = ("rowgroup", "row") if table.grouped else ("row",)
    return {
        "text": value_text(value, form),
        "spread": aside(record, form),
        "href": _address(record.get(form.link) if form.link else None),
        "number": value if isinstance(value, int | float) else "",
        "scope": heads[place] if place < len(heads) else "",
        "span": 1,
        "title": form.title,
        "numeric": numeric(table, name),
        "swatch": record[table.swatch] if table.swatch and not place else "",
        "verdict": str(value).replace(" ", "-") if form.verdict and value else "",
        "picture": value if form.picture else "",
        "dots": [
            (dot, None if dot.value is None else round(100 * (dot.value - low) / (high - low), 1))
            for dot in table.dots.get(name, [()] * len(table))[row]
        ],
    }


def _span(dots: Sequence[Sequence[Dot]]) -> tuple[float, float]:
    """The range that a column's dots are drawn over."""
    each = [dot.value for row in dots for dot in row if dot.value is not None] or [0.0, 1.0]
    room = max(0.5, 0.05 * (max(each) - min(each)))
    return min(each) - room, max(each) + room


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


def _file(href: Value) -> str:
    """An address that Markdown can follow: places of the page have none there."""
    return "" if str(href).startswith("#") else _address(href)


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


def _in_brackets(more: str) -> str:
    """`± 0.31 (3)` has brackets of its own."""
    own = more.startswith(("±", "(", "[")) and more.endswith((")", "]"))
    return more if own or not more else f"({more})"


def printed(table: Table) -> dict[str, Format]:
    """The columns of text and numbers."""
    return {name: form for name, form in table.columns.items() if not form.picture}


def rows(table: Table, *, spreads: bool = True) -> list[list[str]]:
    """Heads, then rows, as text; intervals in parentheses. Without `spreads`, numbers stand alone."""
    shown = printed(table)
    heads = [head_text(name, form) for name, form in shown.items()]
    lines = []
    for record in table.records:
        line = []
        for name, form in shown.items():
            more = aside(record, form) if spreads or not numeric(table, name) else ""
            line.append(" ".join(filter(None, (value_text(record[name], form), _in_brackets(more)))))
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
            return {
                "kind": "table",
                "name": block.name,
                "caption": block.caption,
                "rows": [*(block.long or block.records)],
            }
        case Chart() | Panels():
            title = {"title": block.title} if isinstance(block, Chart) else {}
            numbers = {} if block.numbers is None else {"rows": [*(block.numbers.long or block.numbers.records)]}
            return {"kind": _kind(block).lower(), "name": block.name, **title, "caption": block.caption, **numbers}
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
        case Picture() | PictureFile():
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
            return [inert(block.caption), "", *table_markdown(block), ""] if len(printed(block)) > 1 else []
        case Chart():
            picture = [f"![{inert(block.title)}]({figures[block.name]})", ""] if block.name in figures else []
            return [f"**{inert(block.title)}**", "", *picture, *([inert(block.caption), ""] if block.caption else [])]
        case Panels():
            picture = (
                [f"![{inert(block.caption or block.name)}]({figures[block.name]})", ""] if block.name in figures else []
            )
            numbers = [] if block.numbers is None else _block_markdown(block.numbers, figures)
            return [*([inert(block.caption), ""] if block.caption else []), *picture, *numbers]
        case PictureFile():
            return [f"![{inert(block.about)}]({figures[block.name]})", ""] if block.name in figures else []
        case Statement():
            code = _block_markdown(Code(block.commands), {}) if block.commands else []
            return [f"**{inert(block.head)}** {inert(block.text)}", "", *code]
        case Text():
            if block.style in ("doubt", "head"):
                return [f"{'>' if block.style == 'doubt' else '###'} {inert(block.text)}", ""]
            text = inert(block.text)
            for phrase, href in block.links.items():
                text = text.replace(inert(phrase), f"[{inert(phrase)}]({href})", 1) if _file(href) else text
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
        case Details(page_only=True):
            return []
        case Details():
            return [f"### {inert(block.summary)}", "", *(x for b in block.body for x in _block_markdown(b, figures))]
        case Columns():
            return [x for part in block.parts for b in part for x in _block_markdown(b, figures)]


def _facts_markdown(facts: Mapping[str, str]) -> list[str]:
    return [*(f"- **{inert(key)}**: {inert(value)}" for key, value in facts.items()), ""]


def table_markdown(table: Table) -> list[str]:
    """The lines of a table."""
    head, *body = rows(table)
    shown = printed(table)
    for place, form in enumerate(shown.values()):
        for row, line in enumerate(body):
            if form.link and (href := _file(table.frame[form.link][row])):
                line[place] = f"[{line[place]}]({href})"
    rule = "".join("---:|" if numeric(table, name) else "---|" for name in shown)
    return [markdown_row(head), f"|{rule}", *map(markdown_row, body)]


def numeric(table: Table, name: str) -> bool:
    """Whether a column is set to the right."""
    return table.columns[name].right or any(isinstance(value, int | float) for value in table.frame[name])


def markdown_row(line: Sequence[str]) -> str:
    """One line of a table."""
    cells = [inert(text).replace("|", "\\|") for text in line]
    return f"| {' | '.join(cells)} |"


def inert(text: str) -> str:
    """Text that Markdown renders as itself: no HTML, no line breaks."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
        case Chart() | Panels():
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
        case Picture() | PictureFile() | Details(page_only=True):
            return ""
        case Details():
            body = [_block_text(b, width) for b in block.body]
            return "\n\n".join([_wrapped(f"{block.summary}:", width), *(part for part in body if part)])
        case Columns():
            body = [_block_text(b, width) for part in block.parts for b in part]
            return "\n\n".join(part for part in body if part)


def table_text(table: Table, width: int = WIDTH) -> str:
    """Aligned columns within `width`, long text wrapped.

    A table with too many columns loses its spreads, or is turned, a row a column of numbers, or both; else it becomes records.
    """
    aligned = [numeric(table, name) for name in printed(table)]
    ways = ((True, False), (False, False), (True, True), (False, True))
    for spreads, turned in ways[:2] if all(aligned) else ways:
        lines = [[plain(entry) for entry in line] for line in rows(table, spreads=spreads)]
        right = aligned
        if turned:
            lines, right = _turned(lines, aligned)
        if widths := _widths(lines, right, width):
            said = [] if spreads else ["(numbers alone, for want of width)"]
            said += [
                row for place, line in enumerate(lines) for row in _row_text(line, widths, right, bottom=not place)
            ]
            return "\n".join(said)
    heads, *body = [[plain(entry) for entry in line] for line in rows(table)]
    return "\n\n".join(
        "\n".join(_wrapped(f"{head}: {entry}", width, "", "  ") for head, entry in zip(heads, line, strict=True))
        for line in body
    )


def _turned(lines: list[list[str]], numeric: Sequence[bool]) -> tuple[list[list[str]], list[bool]]:
    """Rows become columns, headed by what names them."""
    heads, *body = lines
    names = [" ".join(entry for entry, number_ in zip(line, numeric, strict=True) if not number_) for line in body]
    columns = [[heads[place], *(line[place] for line in body)] for place, number_ in enumerate(numeric) if number_]
    return [["", *names], *columns], [False, *(True for _ in body)]


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
