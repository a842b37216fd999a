"""One table for all outputs: the page, Markdown, LaTeX, the terminal and programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from undistill.reporting.document import Format, Value
from undistill.reporting.document import Table as Block
from undistill.reporting.markup import aligned


@dataclass(frozen=True)
class Entry:
    """One table cell."""

    text: str
    spread: str = ""
    lost: str = ""
    href: str = ""


Row = tuple[Entry, ...]
NUMBER = re.compile(r"[−+]?[\d,]+(\.\d+)?")


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

    def block(self, *, sortable: bool = False) -> Block:
        """For a document: each entry with what is printed beside it, numbers as numbers."""
        frame: dict[str, list[Value]] = {}
        columns: dict[str, Format] = {}
        for place, head in enumerate(self.heads):
            entries = [row[place] for row in self.rows]
            numbers = place >= self.words and all(
                NUMBER.fullmatch(entry.text) or entry.text == "–" for entry in entries
            )
            digits = max((len(entry.text.partition(".")[2]) for entry in entries), default=0)
            frame[head] = [_value(entry.text) if numbers else entry.text for entry in entries]
            asides = ["; ".join(filter(None, (entry.spread, entry.lost))) for entry in entries]
            links = [entry.href for entry in entries]
            more: dict[str, str] = {}
            for what, values in (("note", asides), ("link", links)):
                if any(values):
                    frame[f"{head} ({what})"] = list(values)
                    more[what] = f"{head} ({what})"
            columns[head] = Format(
                digits=digits if numbers and digits else None, note=more.get("note", ""), link=more.get("link", "")
            )
        return Block(self.name, self.caption, frame, columns, sortable)

    def text(self) -> str:
        """For a terminal."""
        lines = [list(self.heads), *([" ".join(joined(entry).split()) for entry in row] for row in self.rows)]
        return f"{self.caption}\n{aligned(lines)}"


def _value(text: str) -> Value:
    return None if text == "–" else float(text.replace("−", "-").replace(",", ""))


def joined(entry: Entry) -> str:
    """`93.1 (92.7 to 93.5)`."""
    return entry.text + "".join(f" ({more})" for more in (entry.spread, entry.lost) if more)


def words(*texts: str) -> Row:
    """Entries of plain text."""
    return tuple(map(Entry, texts))
