"""Tables and text that a terminal and Markdown show as they are."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: list[list[str]]) -> str:
    """Columns of a width, for a terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines; the first are its heads."""
    rows = [markdown_row(line) for line in lines]
    return [rows[0], f"|{'---|' * len(lines[0])}", *rows[1:]]


def markdown_row(line: Sequence[str]) -> str:
    """One line of a table."""
    cells = [inert(text).replace("|", "\\|") for text in line]
    return f"| {' | '.join(cells)} |"


def inert(text: str) -> str:
    """Text that Markdown renders as itself: no HTML, no line breaks."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
