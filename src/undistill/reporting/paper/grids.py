"""The paper's tables: what was measured and what the article reports, line under line."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from undistill.paper.experiments import Experiment
from undistill.paper.published import ITSELF
from undistill.reporting.naming import number, signed
from undistill.reporting.paper.entries import HEADS, Item, numbers, short, value_item
from undistill.reporting.paper.sheet import Sheet, Value
from undistill.reporting.paper.source import Measured, Source

Line = tuple[Source, Measured]
REPORTED = "article"


@dataclass(frozen=True)
class Row:
    """A line of a block; `style` is `measured`, `reported` or `apart`."""

    label: str
    items: tuple[Item, ...]
    style: str = "measured"


@dataclass(frozen=True)
class Block:
    """Lines of one teacher and arm."""

    teacher: str
    arm: str
    rows: tuple[Row, ...]

    @property
    def head(self) -> str:
        """`ResNet18 normal`."""
        return f"{self.teacher} {self.arm}".strip()


@dataclass(frozen=True)
class Grid:
    """One of the paper's tables."""

    experiment: Experiment
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    sheet: Sheet = field(repr=False)


def grid(experiment: Experiment, sources: list[Source], links: dict[str, str]) -> Grid:
    """The table of an experiment. `links` are addresses of cells by id."""
    held = [source for source in sources if source.of(experiment.name)]
    order = (ITSELF, *experiment.students)
    planned = {place[3] for source in held for place in source.of(experiment.name)}
    columns = tuple(column for column in order if column in planned)
    heads = [("", "none"), *((t, arm) for t in experiment.teachers for arm in ("normal", "nasty"))]
    ranges = {column: _range(experiment, held, column) for column in columns}
    blocks, records = [], []
    for teacher, arm in heads:
        rows = [_measured(experiment, source, teacher, arm, columns, links, ranges) for source in held]
        if all(source.at(experiment.name, teacher, arm, column) is None for source in held for column in columns):
            continue
        rows += _reported(experiment, held, teacher, arm, columns)
        blocks.append(Block(teacher, "no teacher" if arm == "none" else arm, tuple(rows)))
        records += [_record(experiment, s, teacher, arm, column) for s in held for column in columns]
        if arm == "nasty":
            blocks.append(Block(teacher, "nasty − normal", tuple(_gap(experiment, held, teacher, columns))))
            records += [_gap_record(experiment, s, teacher, column) for s in held for column in columns]
    kept = tuple(record for record in records if record)
    return Grid(experiment, columns, tuple(blocks), _sheet(experiment, columns, blocks, kept))


def paired(first: Measured | None, second: Measured | None) -> list[float]:
    """`first − second` for the seeds that both have."""
    if first is None or second is None:
        return []
    return [first.values[s] - second.values[s] for s in sorted(first.values.keys() & second.values.keys())]


def _range(experiment: Experiment, sources: list[Source], column: str) -> tuple[float, float]:
    values = [
        v
        for s in sources
        for place, m in s.of(experiment.name).items()
        if place[3] == column
        for v in m.values.values()
    ]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = max(0.5, 0.05 * (high - low))
    return low - room, high + room


def _measured(
    experiment: Experiment,
    source: Source,
    teacher: str,
    arm: str,
    columns: tuple[str, ...],
    links: dict[str, str],
    ranges: dict[str, tuple[float, float]],
) -> Row:
    digits = source.digits(experiment.name)
    items = [value_item(source.at(experiment.name, teacher, arm, c), digits, links, ranges[c]) for c in columns]
    return Row(source.title, tuple(items))


def _told(experiment: Experiment, sources: list[Source], teacher: str, arm: str, column: str) -> float | None:
    found = (source.at(experiment.name, teacher, arm, column) for source in sources)
    return next((measured.reported for measured in found if measured is not None), None)


def _reported(
    experiment: Experiment, sources: list[Source], teacher: str, arm: str, columns: tuple[str, ...]
) -> list[Row]:
    """The article's line, and below it how far measurements at the paper's own scale are from it."""
    told = [_told(experiment, sources, teacher, arm, column) for column in columns]
    if all(value is None for value in told):
        return []
    rows = [Row(REPORTED, tuple(Item(number(value, 2)) for value in told), "reported")]
    for source in (s for s in sources if s.paper):
        items = []
        for column, value in zip(columns, told, strict=True):
            measured = source.at(experiment.name, teacher, arm, column)
            mean = None if measured is None else measured.mean
            items.append(Item() if mean is None or value is None else Item(signed(mean - value, 2)))
        rows.append(Row(f"{source.title} − {REPORTED}", tuple(items), "apart"))
    return rows


def _gap(experiment: Experiment, sources: list[Source], teacher: str, columns: tuple[str, ...]) -> list[Row]:
    """What the nasty teacher changes, paired by seed."""
    rows = []
    for source in sources:
        items = []
        for column in columns:
            first, second = (source.at(experiment.name, teacher, arm, column) for arm in ("nasty", "normal"))
            each, digits = paired(first, second), source.digits(experiment.name)
            spread = f"± {number(statistics.stdev(each), digits)} ({len(each)})" if len(each) > 1 else f"({len(each)})"
            items.append(Item(signed(statistics.fmean(each), digits), spread) if each else Item())
        rows.append(Row(source.title, tuple(items)))
    told = [[_told(experiment, sources, teacher, arm, c) for arm in ("nasty", "normal")] for c in columns]
    if any(None not in pair for pair in told):
        items = [Item() if a is None or b is None else Item(signed(a - b, 2)) for a, b in told]
        rows.append(Row(REPORTED, tuple(items), "reported"))
    return rows


def _record(experiment: Experiment, source: Source, teacher: str, arm: str, column: str) -> dict[str, Value]:
    measured = source.at(experiment.name, teacher, arm, column)
    if measured is None:
        return {}
    mean, told = measured.mean, measured.reported
    return {
        "table": experiment.name,
        "plan": source.title,
        "teacher": teacher,
        "arm": arm,
        "student": column,
        **numbers(measured),
        "reported": told,
        "difference": None if mean is None or told is None else short(mean - told),
    }


def _gap_record(experiment: Experiment, source: Source, teacher: str, column: str) -> dict[str, Value]:
    first, second = (source.at(experiment.name, teacher, arm, column) for arm in ("nasty", "normal"))
    each = paired(first, second)
    if first is None or second is None:
        return {}
    told = None if None in (first.reported, second.reported) else (first.reported or 0.0) - (second.reported or 0.0)
    return {
        "table": experiment.name,
        "plan": source.title,
        "teacher": teacher,
        "arm": "nasty minus normal",
        "student": column,
        "mean": short(statistics.fmean(each)) if each else None,
        "sd": short(statistics.stdev(each)) if len(each) > 1 else None,
        "n": len(each),
        "reported": short(told),
    }


def _sheet(
    experiment: Experiment, columns: tuple[str, ...], blocks: list[Block], records: tuple[dict[str, Value], ...]
) -> Sheet:
    rows: list[tuple[str, ...]] = []
    rules = set()
    for block in blocks:
        rules.add(len(rows))
        rows += [(block.teacher, block.arm, row.label, *map(_text, row.items)) for row in block.rows]
    heads = ("teacher", "arm", "from", *(HEADS.get(column, column) for column in columns))
    caption = f"{experiment.title}. Accuracy in percent, mean ± sample standard deviation (number of seeds)."
    return Sheet(experiment.name, caption, heads, tuple(rows), records, words=3, rules=frozenset(rules))


def _text(item: Item) -> str:
    gone = ", ".join(text for text in (item.lost, item.missing) if text)
    return f"{item.text} {item.spread}".strip() + (f" [{gone}]" if gone else "")
