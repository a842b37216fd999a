"""What a report says, in no format: a content module returns a `Document`, and `render` writes it four ways.

    Document(
        title="An audit of `resnet18`",
        lead=(Text("An attacker with 500 queries reaches 81.2 %.", "lead"),),
        sections=(Section("Users", "users", (Table("users", "What users get.", frame, columns),)),),
        provenance={"suite": "quick-v1"},
    )

In every text, `words in back-ticks` are set as code; nothing else is markup, so names and numbers of any origin are safe in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Value = str | int | float | None
Frame = Mapping[str, Sequence[Value]]
"""Columns of one length by name; of a pandas frame its `to_dict("list")`."""
Legend = Sequence[tuple[str, str, str]]
"""(name, color, shape) of each series, as `theme` gives them out."""


@dataclass(frozen=True)
class Format:
    """How a column is printed. Its values stay as they are in JSON.

    Attributes:
        title: the head; "" for the column's own name.
        digits: behind the point; None for text, and for whole numbers, which get thousands separators.
        unit: goes into the head: `accuracy, %`.
        interval: names of the columns that hold the lower and the upper end; printed with the value.
        link: name of the column that holds an address for each value, "" for none.
        note: name of the column that holds a few words for each value, printed with it, "" for none.
        signed: a plus before positive numbers.
        color: ties the head to a chart's series.
        right: text that holds numbers, set to the right like them.
        verdict: one of a few words, printed with a symbol of its own.
        picture: `data:` addresses of images, on the page alone.
    """

    title: str = ""
    digits: int | None = None
    unit: str = ""
    interval: tuple[str, str] | None = None
    link: str = ""
    note: str = ""
    signed: bool = False
    color: str = ""
    right: bool = False
    verdict: bool = False
    picture: bool = False


TEXT = Format()


@dataclass(frozen=True)
class Dot:
    """One measurement behind an entry: a point over its column's range, and its text with a link."""

    text: str
    value: float | None = None
    about: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """Typed columns and how those that are shown are printed, in the order of `columns`; the first one heads its row.

    Attributes:
        long: the same numbers, finer, for programs: JSON and CSV hold them instead of the columns. A table that has them is
            also written as files of its own.
        grouped: rows in sequence with one value in the first column are a group under that head.
        stacked: on a narrow screen each row becomes a block.
        quiet: name of the column that says which rows are set in muted color, "" for none.
        swatch: name of the column that holds the color of a row's head, "" for none.
        dots: measurements behind the entries of a column, one sequence a row.

    Raises:
        ValueError: columns of different lengths, or a format that names a column that is not there.
    """

    name: str
    caption: str
    frame: Frame
    columns: Mapping[str, Format]
    sortable: bool = False
    long: Sequence[Mapping[str, Value]] = ()
    grouped: bool = False
    stacked: bool = False
    quiet: str = ""
    swatch: str = ""
    dots: Mapping[str, Sequence[Sequence[Dot]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({len(values) for values in self.frame.values()}) > 1:
            raise ValueError(f"columns of {self.name} have different lengths")
        named = [*self.columns, *self.dots, *filter(None, (self.quiet, self.swatch))]
        for given in self.columns.values():
            named += [*(given.interval or ()), *filter(None, (given.link, given.note))]
        if missing := [name for name in named if name not in self.frame]:
            raise ValueError(f"{self.name} has no column {missing[0]!r}; there are {', '.join(self.frame) or 'none'}")

    def __len__(self) -> int:
        return len(next(iter(self.frame.values()), ()))

    @property
    def records(self) -> list[dict[str, Value]]:
        """A row a dict: every column, also those that are not shown."""
        return [{name: values[row] for name, values in self.frame.items()} for row in range(len(self))]


def table(
    name: str,
    caption: str,
    records: Sequence[Mapping[str, Value]],
    columns: Mapping[str, Format],
    *,
    sortable: bool = False,
    **more: Any,
) -> Table:
    """A table of rows; what a row lacks is None. `more` are further fields of the table."""
    beside = (n for form in columns.values() for n in (*(form.interval or ()), form.link, form.note) if n)
    heads = dict.fromkeys([*columns, *beside, *(key for record in records for key in record)])
    frame = {head: [record.get(head) for record in records] for head in heads}
    return Table(name, caption, frame, columns, sortable, **more)


class Entry(NamedTuple):
    """A value with a few words and an address beside it, "" for none."""

    value: Value
    note: str = ""
    link: str = ""


def filled(
    name: str, caption: str, columns: Mapping[str, Format], rows: Sequence[Sequence[Value | Entry]], **more: Any
) -> Table:
    """A table of rows in the order of `columns`; notes and links become columns beside theirs. `more`: further fields."""
    entries = [[one if isinstance(one, Entry) else Entry(one) for one in row] for row in rows]
    frame: dict[str, list[Value]] = {}
    shown: dict[str, Format] = {}
    for place, (head, form) in enumerate(columns.items()):
        own = [row[place] for row in entries]
        frame[head] = [one.value for one in own]
        note, link = (f"{head} ({what})" if any(texts) else "" for what, texts in _beside(own).items())
        frame |= {f"{head} ({what})": texts for what, texts in _beside(own).items() if any(texts)}
        shown[head] = replace(form, note=note, link=link)
    return Table(name, caption, frame, shown, **more)


def _beside(entries: Sequence[Entry]) -> dict[str, list[Value]]:
    return {"note": [one.note for one in entries], "link": [one.link for one in entries]}


@dataclass(frozen=True)
class Text:
    """A paragraph. `links` gives addresses to phrases of it; only https, files beside the page, and places on it."""

    text: str
    style: Literal["", "lead", "quiet", "doubt", "head"] = ""
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A warning that must be read before any number."""

    text: str


@dataclass(frozen=True)
class Statement:
    """One answer of the first screen: a question of a few words, the answer, and the commands that follow from it."""

    head: str
    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms with what they mean, or names with values."""

    values: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """Command lines, to be copied."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An image as a `data:` address."""

    source: str
    about: str
    width: int = 80


@dataclass(frozen=True)
class PictureFile:
    """A picture beside the page, `figures/NAME.png`: Markdown shows it, the page has the same images in a table."""

    name: str
    about: str
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with a `description`, as `theme.finished` makes it; `numbers` says the same as a table."""

    name: str
    title: str
    spec: Mapping[str, Any]
    caption: str = ""
    legend: Legend = ()
    numbers: Table | None = None
    picture: Picture | None = None
    """Shown beside the title."""


@dataclass(frozen=True)
class Panels:
    """Small charts side by side under one legend, `columns` in a row; one figure. `size` is that of a panel in a file, pixels."""

    name: str
    charts: tuple[Chart, ...]
    caption: str = ""
    legend: Legend = ()
    numbers: Table | None = None
    columns: int = 3
    size: tuple[int, int] = (230, 170)


@dataclass(frozen=True)
class Details:
    """Content that is folded until its summary, or a link to its `id`, is opened."""

    summary: str
    body: tuple[Block, ...]
    id: str = ""
    page_only: bool = False
    """Left out of Markdown and plain text: long lists of links."""


@dataclass(frozen=True)
class Columns:
    """Parts side by side where the width allows it, otherwise one below the other."""

    parts: tuple[tuple[Block, ...], ...]


Block = (
    Text | Note | Statement | Items | Facts | Code | Picture | PictureFile | Chart | Panels | Table | Details | Columns
)


@dataclass(frozen=True)
class Section:
    """A part with a heading and an address, `#id`; folded, the heading opens it."""

    title: str
    id: str
    body: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """A report. `lead` is its first screen; `provenance` and `commands` say what the numbers follow from."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    eyebrow: str = "undistill"
    files: Mapping[str, str] = field(default_factory=dict)
    """Names and addresses of the same numbers in other formats, for the foot of the page."""
    contents: bool = False
    """Whether the page begins with links to its sections."""


def blocks(body: Sequence[Block]) -> Iterator[Block]:
    """All blocks, also those inside others, in reading order."""
    for block in body:
        yield block
        if isinstance(block, Details):
            yield from blocks(block.body)
        elif isinstance(block, Columns):
            for part in block.parts:
                yield from blocks(part)


def every_block(document: Document) -> Iterator[Block]:
    """All blocks of a document in reading order."""
    yield from blocks(document.lead)
    for section in document.sections:
        yield from blocks(section.body)


def tables(document: Document) -> list[Table]:
    """All tables, also those behind charts."""
    found: list[Table] = []
    for block in every_block(document):
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Chart | Panels) and block.numbers is not None:
            found.append(block.numbers)
    return found


def charts(document: Document) -> list[Chart]:
    """All charts that are figures of their own, so without those in panels."""
    return [block for block in every_block(document) if isinstance(block, Chart)]
