"""The table of all cells: sortable, with the command that computes each again."""

from __future__ import annotations

from dataclasses import dataclass

from undistill.auditing.result import AuditResult, Line
from undistill.reporting.audit.grid import Grid, words
from undistill.reporting.audit.words import digits_of
from undistill.reporting.naming import number

HEADS = (
    "cell",
    "trained on outputs of",
    "role",
    "victim",
    "attack",
    "settings",
    "student",
    "threat model",
    "seed",
    "phase",
    "accuracy, %",
    "search score, %",
    "queries",
    "seconds",
    "status",
    "command",
)


@dataclass(frozen=True)
class Field:
    """One entry: what is shown, and the number it is sorted by, "" for text or for what is not there."""

    text: str
    number: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A head, and whether its entries are numbers."""

    text: str
    numeric: bool


def columns() -> list[Column]:
    """The heads, in order."""
    numeric = {"seed", "accuracy, %", "search score, %", "queries", "seconds"}
    return [Column(head, head in numeric) for head in HEADS]


def rows(judgement: AuditResult) -> list[list[Field]]:
    """A row a planned cell."""
    digits = digits_of(judgement)
    return [_row(line, digits) for line in judgement.lines]


def grid(judgement: AuditResult) -> Grid:
    """The same as plain text."""
    texts = [words(*(field.text for field in row)) for row in rows(judgement)]
    records = tuple(line.model_dump(mode="json") for line in judgement.lines)
    caption = f"All {len(texts):,} planned cells, with the command that computes each again."
    return Grid("cells", caption, HEADS, tuple(texts), records, 1, "long")


def _row(line: Line, digits: int) -> list[Field]:
    status = line.status + (f": {line.why}" if line.why else "")
    return [
        Field(line.key, code=True),
        Field(line.side),
        Field(line.role),
        Field(line.victim or "–"),
        Field(line.attack or "–"),
        Field(line.settings or "–"),
        Field(line.student or "–"),
        Field(line.threat_model or "–", code=True),
        Field(str(line.seed), str(line.seed)),
        Field(line.phase or "–"),
        _number(line.accuracy, digits),
        _number(line.held_out, digits),
        _number(line.queries, 0),
        _number(line.seconds, 1),
        Field(status),
        Field(line.command, code=True),
    ]


def _number(value: float | None, digits: int) -> Field:
    if value is None:
        return Field("–")
    return Field(f"{value:,.0f}" if digits == 0 else number(value, digits), repr(float(value)))
