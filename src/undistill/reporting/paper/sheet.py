"""A table as plain text, and its CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import escape

from undistill.files import write_text
from undistill.reporting.markup import inert, markdown

Value = str | float | int | None
FORMATS = ("csv", "md", "tex", "html")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line's end it would be taken for its option
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "→": r"$\to$",
    "α": r"$\alpha$",
    "τ": r"$\tau$",
    "ω": r"$\omega$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


@dataclass(frozen=True)
class Sheet:
    """A table for people (`heads`, `rows`) and the same, finer, for programs (`records`).

    `words` counts the leading columns that hold no numbers; before a row in `rules` stands a rule.
    """

    name: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Mapping[str, Value], ...]
    words: int = 1
    rules: frozenset[int] = frozenset()

    def csv(self) -> str:
        """The records. Text that a spreadsheet would compute is led by an apostrophe."""
        lines = io.StringIO()
        heads = list(dict.fromkeys(key for record in self.records for key in record))
        writer = csv.DictWriter(lines, heads, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _harmless(value) for key, value in record.items()} for record in self.records)
        return lines.getvalue()

    def md(self) -> str:
        """Caption and table."""
        head, _, *rows = markdown([self.heads, *self.rows])
        line = f"|{'---|' * self.words}{'---:|' * (len(self.heads) - self.words)}"
        return "\n".join([inert(self.caption), "", head, line, *rows, ""])

    def tex(self) -> str:
        r"""A `tabular`; needs `\usepackage{booktabs}`."""
        columns = "l" * self.words + "r" * (len(self.heads) - self.words)
        lines = [
            f"% {_line(self.caption)}",
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
        ]
        lines += [_row(self.heads), r"\midrule"]
        for place, row in enumerate(self.rows):
            lines += [r"\midrule"] * (place > 0 and place in self.rules)
            lines.append(_row(row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def html(self) -> str:
        """The table alone, to be put into another page."""
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.heads)
        rows = [
            "<tr>"
            + "".join(f'<th scope="row">{escape(text)}</th>' for text in row[: self.words])
            + "".join(f"<td>{escape(text)}</td>" for text in row[self.words :])
            + "</tr>"
            for row in self.rows
        ]
        body = "\n".join(rows)
        caption = f"<caption>{escape(self.caption)}</caption>"
        return f"<table>\n{caption}\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"

    def write(self, folder: Path) -> list[Path]:
        """All formats, as `folder/NAME.*`."""
        files = []
        for ending in FORMATS:
            path = folder / f"{self.name}.{ending}"
            write_text(path, getattr(self, ending)())
            files.append(path)
        return files


def latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in _line(text))


def _row(texts: tuple[str, ...]) -> str:
    return " & ".join(map(latex, texts)) + r" \\"


def _line(text: str) -> str:
    """On one line, so that no comment ends early."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _harmless(value: Value) -> Value:
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value
