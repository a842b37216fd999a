"""One table for all outputs: the page, Markdown, LaTeX, the terminal and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from undistill.reporting.blocks import Entry, Head, Table
from undistill.reporting.paper.sheet import Sheet, Value
from undistill.reporting.table import aligned

Row = tuple[Entry, ...]


@dataclass(frozen=True)
class Grid:
    """A table's rows for people and its `records` for programs. `words` counts the leading columns that hold no numbers."""

    name: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    records: tuple[Mapping[str, Value], ...]
    words: int = 1
    style: str = ""

    def table(self) -> Table:
        """For the page."""
        return Table(self.caption, [Head(head) for head in self.heads], [list(row) for row in self.rows], self.style)

    def sheet(self) -> Sheet:
        """For Markdown and LaTeX."""
        rows = tuple(tuple(map(joined, row)) for row in self.rows)
        return Sheet(self.name, self.caption, self.heads, rows, self.records, self.words)

    def text(self) -> str:
        """For a terminal."""
        lines = [list(self.heads), *([" ".join(joined(entry).split()) for entry in row] for row in self.rows)]
        return f"{self.caption}\n{aligned(lines)}"


def joined(entry: Entry) -> str:
    """`93.1 (92.7 to 93.5)`."""
    return entry.text + "".join(f" ({more})" for more in (entry.spread, entry.lost) if more)


def words(*texts: str) -> Row:
    """Entries of plain text."""
    return tuple(map(Entry, texts))
