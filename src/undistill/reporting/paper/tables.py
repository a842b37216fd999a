"""The paper's tables: what was measured and what the article reports, line under line; and the numbers behind its figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undistill.paper.experiments import Experiment
from undistill.paper.published import ITSELF
from undistill.reporting.document import Dot, Format, Table, table
from undistill.reporting.naming import ALONE, NORMAL, number, signed
from undistill.reporting.paper.source import HEADS, Measured, Source, short, spread, symbol
from undistill.reporting.theme import colour_variable

ARMS = {"none": ALONE, "normal": NORMAL, "nasty": "nasty"}
"""What the arms are called in a legend, in its order."""
NAMES = tuple(ARMS.values())
REPORTED = "article"
LEGEND = "Accuracy in percent, mean ± sample standard deviation (number of seeds)"
PANELS = ("normal features", "nasty features", "normal logits", "nasty logits")
MEASURES = {"silhouette": ("silhouette, −1 to 1", 3), "knn": ("10 nearest neighbors right, %", 1)}
Record = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A number as text, what is printed with it, and the measurements behind it."""

    text: str = "–"
    note: str = ""
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row: its leading words, then its entries."""

    words: tuple[str, ...]
    entries: Sequence[Entry]
    quiet: bool = False
    color: str = ""


def table_of(
    name: str, caption: str, words: Sequence[str], heads: Sequence[str], lines: Sequence[Line], long: Iterable[Record]
) -> Table:
    """Lines as a table that is grouped by their first word."""
    rows: list[Record] = []
    for line in lines:
        row: Record = dict(zip(words, line.words, strict=True)) | {"quiet": int(line.quiet), "color": line.color}
        for head, entry in zip(heads, line.entries, strict=True):
            row |= {head: entry.text, f"{head}: note": entry.note}
        rows.append(row)
    columns = {word: Format() for word in words}
    columns |= {head: Format(note=f"{head}: note", right=True) for head in heads if rows}
    dots = {head: [line.entries[place].dots for line in lines] for place, head in enumerate(heads) if rows}
    looks: dict[str, Any] = {"quiet": "quiet", "swatch": "color"} if rows else {}
    return table(name, caption, rows, columns, long=list(long), grouped=True, dots=dots, **looks)


def entry(measured: Measured | None, digits: int, links: Mapping[str, str] | None = None) -> Entry:
    """Mean, spread and what is lost; with `links` to cells also each seed."""
    if measured is None:
        return Entry()
    dots = [
        Dot(
            cell.status if cell.accuracy is None else number(cell.accuracy, digits),
            cell.accuracy,
            f"seed {seed}",
            (links or {}).get(cell.id, ""),
        )
        for seed, cell in (measured.cells.items() if links is not None else ())
    ]
    note = " ".join(filter(None, (measured.spread(digits), measured.gone)))
    return Entry(number(measured.mean, digits), note, tuple(dots))


# a table of the paper


def grid(experiment: Experiment, sources: Sequence[Source], links: Mapping[str, str]) -> Table:
    """The table of an experiment. `links` are addresses of cells by id."""
    held = [source for source in sources if source.of(experiment.name)]
    planned = {place[3] for source in held for place in source.of(experiment.name)}
    columns = [column for column in (ITSELF, *experiment.students) if column in planned]
    lines: list[Line] = []
    long: list[Record | None] = []
    for teacher, arm in (("", "none"), *((t, arm) for t in experiment.teachers for arm in ("normal", "nasty"))):
        rows = [(s, [s.at(experiment.name, teacher, arm, column) for column in columns]) for s in held]
        if not any(measured for _, row in rows for measured in row):
            continue
        head = f"{teacher} {arm}" if teacher else "no teacher"
        color = colour_variable(ARMS[arm], NAMES)
        for source, row in rows:
            entries = [entry(measured, source.digits(experiment.name), links) for measured in row]
            lines.append(Line((head, source.title), entries, color=color))
            long += [_record(experiment, source, m) for m in row if m is not None]
        lines += _reported(head, rows, color)
        if arm == "nasty":
            gaps = [(s, [_pair(experiment, s, teacher, column) for column in columns]) for s in held]
            lines += _gap_lines(f"{teacher} nasty − normal", experiment, gaps)
            long += [_gap_record(experiment, s, *pair) for s, row in gaps for pair in row]
    heads = [HEADS.get(column, column) for column in columns]
    kept = [record for record in long if record is not None]
    return table_of(experiment.name, f"{experiment.title}. {LEGEND}.", ("teacher", "from"), heads, lines, kept)


def paired(first: Measured | None, second: Measured | None) -> list[float]:
    """`first − second` for the seeds that both have."""
    if first is None or second is None:
        return []
    return [first.values[s] - second.values[s] for s in sorted(first.values.keys() & second.values.keys())]


Pair = tuple[Measured | None, Measured | None]


def _pair(experiment: Experiment, source: Source, teacher: str, column: str) -> Pair:
    nasty, normal = (source.at(experiment.name, teacher, arm, column) for arm in ("nasty", "normal"))
    return nasty, normal


def _reported(head: str, rows: Sequence[tuple[Source, Sequence[Measured | None]]], color: str) -> list[Line]:
    """The article's line, and below it how far measurements at the paper's own scale are from it."""
    told = [next((m.reported for m in column if m), None) for column in zip(*(row for _, row in rows), strict=True)]
    if all(value is None for value in told):
        return []
    lines = [Line((head, REPORTED), [Entry(number(value, 2)) for value in told], quiet=True, color=color)]
    for source, row in rows:
        if source.paper:
            apart = [
                Entry() if m is None or m.mean is None or value is None else Entry(signed(m.mean - value, 2))
                for m, value in zip(row, told, strict=True)
            ]
            lines.append(Line((head, f"{source.title} − {REPORTED}"), apart, quiet=True, color=color))
    return lines


def _gap_lines(head: str, experiment: Experiment, gaps: Sequence[tuple[Source, Sequence[Pair]]]) -> list[Line]:
    """What the nasty teacher changes, paired by seed."""
    lines = []
    for source, row in gaps:
        digits, entries = source.digits(experiment.name), []
        for each in (paired(*pair) for pair in row):
            note = spread(statistics.stdev(each) if len(each) > 1 else None, len(each), digits)
            entries.append(Entry(signed(statistics.fmean(each), digits), note) if each else Entry())
        lines.append(Line((head, source.title), entries))
    told = [
        next((t for t in map(_told, column) if t is not None), None)
        for column in zip(*(row for _, row in gaps), strict=True)
    ]
    if any(value is not None for value in told):
        entries = [Entry() if value is None else Entry(signed(value, 2)) for value in told]
        lines.append(Line((head, REPORTED), entries, quiet=True))
    return lines


def _told(pair: Pair) -> float | None:
    """The article's difference."""
    first, second = (None if measured is None else measured.reported for measured in pair)
    return None if first is None or second is None else first - second


def _record(experiment: Experiment, source: Source, measured: Measured) -> Record:
    mean, told, point = measured.mean, measured.reported, measured.points[0]
    return {
        "table": experiment.name,
        "plan": source.title,
        "teacher": point.teacher,
        "arm": point.arm,
        "student": point.column,
        **measured.numbers,
        "reported": told,
        "difference": None if mean is None or told is None else short(mean - told),
    }


def _gap_record(
    experiment: Experiment, source: Source, nasty: Measured | None, normal: Measured | None
) -> Record | None:
    if nasty is None or normal is None:
        return None
    each = paired(nasty, normal)
    return {
        "table": experiment.name,
        "plan": source.title,
        "teacher": nasty.points[0].teacher,
        "arm": "nasty minus normal",
        "student": nasty.points[0].column,
        "mean": short(statistics.fmean(each)) if each else None,
        "sd": short(statistics.stdev(each)) if len(each) > 1 else None,
        "n": len(each),
        "reported": short(_told((nasty, normal))),
    }


# numbers behind figures


def sweep(experiment: Experiment, sources: Sequence[Source]) -> Table:
    """A row a student and arm, a column a value of the varied setting."""
    values = [x for x in experiment.values if any(place[4] == x for s in sources for place in s.of(experiment.name))]
    lines, long = [], []
    for column in (ITSELF, *experiment.students):
        for arm in ARMS:
            for source in sources:
                own = {p[4]: m for p, m in source.of(experiment.name).items() if p[2:4] == (arm, column)}
                if own:
                    entries = [entry(own.get(x), source.digits(experiment.name)) for x in (*values, None)]
                    lines.append(Line((HEADS.get(column, column), ARMS[arm], source.title), entries))
                    about = {"figure": experiment.name, "plan": source.title, "arm": arm, "student": column}
                    long += [{**about, experiment.vary: x, **measured.numbers} for x, measured in own.items()]
    heads = [f"{symbol(experiment)} {x if isinstance(x, str) else f'{x:g}'}" for x in values]
    heads.append(f"any {symbol(experiment)}")
    if all(line.entries[-1].text == "–" for line in lines):
        heads, lines = heads[:-1], [Line(line.words, line.entries[:-1]) for line in lines]
    caption = f"{experiment.title}. {LEGEND}."
    return table_of(experiment.name, caption, ("student", "taught by", "from"), heads, lines, long)


def embedding(experiment: Experiment, sources: Sequence[Source]) -> Table:
    """Silhouette and neighbors of each panel, over seeds."""
    lines, long = [], []
    for source in sources:
        measured = next(iter(source.of(experiment.name).values()), None)
        found = [cell.numbers for cell in measured.cells.values()] if measured else []
        for panel in PANELS:
            who, what = panel.split()
            entries = []
            record: Record = {"plan": source.title, "teacher": who, "values": what}
            for key, (_, digits) in MEASURES.items():
                each = [numbers[f"{panel} {key}"] for numbers in found if f"{panel} {key}" in numbers]
                mean = statistics.fmean(each) if each else None
                sd = statistics.stdev(each) if len(each) > 1 else None
                entries.append(Entry(number(mean, digits), spread(sd, len(each), digits)))
                record |= {key: mean, f"{key} sd": sd, f"{key} n": len(each)}
            lines.append(Line((who, what, source.title), entries))
            long.append(record)
    caption = "How well classes lie apart, in the full space: mean ± sample standard deviation (number of seeds)."
    heads = [head for head, _ in MEASURES.values()]
    return table_of(experiment.name, caption, ("teacher", "values", "from"), heads, lines, long)
