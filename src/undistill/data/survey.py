"""What lies in a folder, before anything is decoded: how many images of which sizes, grey or not, of which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from undistill.data.decode import FULL, CorruptError, Header, Shape, header
from undistill.data.layout import class_name
from undistill.data.opening import Opened, Progress, Row, Wanted
from undistill.errors import UsageError

LARGEST = 4_000_000_000
"""Bytes of decoded images that are still held as one array; more would not fit beside a network on a common GPU."""
SIDE = 224
"""The largest side that is chosen without being asked for."""
USUAL = {"whole": (255.0, 65535.0), "float": (1.0, 255.0, 65535.0)}
"""The values of white that images beyond 8 bits usually have; black is 0."""
DARK = 8
"""If the brightest pixel of all images is below white by this factor, the range is another: 12 bits kept in 16, say."""
EACH = 100
"""Images between two reports of progress."""
NAMED = 20
"""Corrupt images that are named one by one."""


class Survey(BaseModel):
    """Kept as JSON beside the cache, so that a second reading opens no image.

    `counts` are readable rows a part, `corrupt` the others; `side` is that of all images if all are squares of one size,
    `short` the median of their short sides. `deep` has the lowest and highest value of images beyond 8 bits, whole or float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    splits: dict[str, str]
    remarks: list[str]
    skipped: dict[str, int]
    columns: list[str] = Field(min_length=2, max_length=2)
    classes: list[str]
    counts: dict[str, int]
    corrupt: dict[str, int]
    grey: bool
    deep: dict[str, list[float]]
    side: int | None
    short: int


class Labels:
    """Label values to class numbers. Declared classes are numbered as declared, other values in sorted order."""

    def __init__(self, opened: Opened, values: set[Any]) -> None:
        self.names = opened.names
        if opened.names is None:
            order = sorted(values)
            self.classes = tuple(str(value) for value in order)
            self.number = {value: number for number, value in enumerate(order)}
        else:
            self.classes = opened.names
            self.number = {number: number for number in range(len(opened.names))}
        first = {class_name(name): name for name in reversed(self.classes)}
        for name in self.classes:
            if (other := first[class_name(name)]) != name:
                raise UsageError(
                    f"the classes {other!r} and {name!r} differ only in spaces around them or in the Unicode form; make them one"
                )

    def __call__(self, row: Row) -> int:
        """The row's class number; UsageError where it is none."""
        if row.label not in self.number or (self.names is not None and isinstance(row.label, bool)):
            raise UsageError(
                f"{row.name} has the label {row.label!r}, which is out of range: "
                f"the data name {len(self.classes)} classes, 0 to {len(self.classes) - 1}"
            )
        return self.number[row.label]


def labelled(rows: Iterator[Row], where: str) -> Iterator[Row]:
    """The rows; UsageError names the first without a label (none, or −1 as test splits on the hub often have)."""
    for number, row in enumerate(rows):
        if row.label is None or row.label == -1:
            raise UsageError(
                f"row {number} of {where} has no label ({row.label}): use a copy of the data without such rows"
            )
        yield row


class Told:
    """Tells what is done, every hundredth and at the end, the end once."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.progress, self.what, self.last = progress, what, 0

    def __call__(self, done: int, total: int | None) -> None:
        """`done` of `total` are done."""
        if done % EACH == 0:
            self.progress(self.what, done, total)
            self.last = done if done == total else 0

    def end(self, done: int) -> None:
        """All is done."""
        if done != self.last:
            self.progress(self.what, done, done)


class Tally:
    """Counts the images of one split that are readable and those that are not."""

    def __init__(self, ours: str, where: str, wanted: Wanted, progress: Progress) -> None:
        self.ours, self.where, self.wanted, self.progress = ours, where, wanted, progress
        self.kept: Counter[Any] = Counter()
        self.lost: Counter[Any] = Counter()

    def keep(self, label: Any) -> None:
        """One image of this class can be read."""
        self.kept[label] += 1

    def leave_out(self, error: CorruptError, label: Any) -> None:
        """Go on without a corrupt image if that was asked for, else refuse it by name."""
        if not self.wanted.skip_corrupt:
            raise UsageError(f"{error}; {error.cure}, or leave such images out with --skip-corrupt") from error
        self.lost[label] += 1
        if self.corrupt <= NAMED:
            self.progress(f"left out: {error}", 1, 1)

    @property
    def count(self) -> int:
        """Readable images."""
        return self.kept.total()

    @property
    def corrupt(self) -> int:
        """Images left out."""
        return self.lost.total()

    def check(self, labels: Labels) -> None:
        """UsageError where nothing is left, of all or of a class, or less than was left out: then the reader is wrong."""
        if self.count + self.corrupt == 0:
            raise UsageError(f"{self.where} holds no images")
        if self.corrupt > self.count:
            raise UsageError(
                f"{self.where}: {self.corrupt:,} of {self.count + self.corrupt:,} images are corrupt, more than may be skipped"
            )
        gone = [label for label in self.lost if label not in self.kept]
        if gone and self.ours == "train":
            number = labels.number.get(gone[0])
            name = gone[0] if number is None else labels.classes[number]
            raise UsageError(
                f"{self.where}: all {self.lost[gone[0]]:,} images of the class {str(name)!r} are corrupt; "
                "repair them, or move the class out of the data"
            )


def survey(opened: Opened, folder: Path, wanted: Wanted, progress: Progress) -> tuple[Survey, Labels]:
    """One pass over headers and labels.

    Raises:
        UsageError: a missing label or one out of range; a corrupt image, unless `skip_corrupt`; a split or class without images.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    tallies = {ours: Tally(ours, f"{folder} {theirs}", wanted, progress) for ours, theirs in opened.splits.items()}
    deep: dict[str, list[float]] = {}
    grey = True
    fixed = Labels(opened, set()) if opened.names is not None else None
    for ours, theirs in opened.splits.items():
        tally, told = tallies[ours], Told(progress, f"looking at {theirs}")
        for row in labelled(opened.rows(theirs), tally.where):
            if fixed is not None:
                fixed(row)
            try:
                seen = header(row.image, row.name)
            except CorruptError as error:
                tally.leave_out(error, row.label)
                continue
            tally.keep(row.label)
            sizes[seen.width, seen.height] += 1
            grey = grey and seen.grey
            widen(deep, seen)
            told(tally.count, opened.totals.get(theirs))
        told.end(tally.count)
    labels = fixed or Labels(opened, set().union(*(tally.kept for tally in tallies.values())))
    for tally in tallies.values():
        tally.check(labels)
    width, height = next(iter(sizes))
    return Survey(
        splits=dict(opened.splits),
        remarks=list(opened.remarks),
        skipped=dict(opened.skipped),
        columns=list(opened.columns),
        classes=list(labels.classes),
        counts={ours: tally.count for ours, tally in tallies.items()},
        corrupt={ours: tally.corrupt for ours, tally in tallies.items()},
        grey=grey,
        deep=deep,
        side=width if len(sizes) == 1 and width == height else None,
        short=median_low([min(size) for size in sizes.elements()]),
    ), labels


def widen(deep: dict[str, list[float]], seen: Header) -> None:
    """Take the values of one more image into the ranges."""
    if seen.deep is not None:
        kind, low, high = seen.deep
        lowest, highest = deep.get(kind, [low, high])
        deep[kind] = [min(low, lowest), max(high, highest)]


def values_of(deep: dict[str, list[float]], wanted: Wanted, where: str) -> tuple[float, float]:
    """The values of black and white beyond 8 bits: those that were asked for, or the usual ones that the images fill.

    Raises:
        UsageError: values that fit none of the usual ranges, or fill so little of one that the images would be nearly black.
    """
    if wanted.value_range is not None or not deep:
        return wanted.value_range or FULL
    way = "say which values are black and white with data.value_range, as in -s 'data.value_range=[0, 4095]'"
    if len(deep) > 1:
        raise UsageError(
            f"{where} has images of whole numbers beyond 8 bits and images of floats; save all in one form, or {way}"
        )
    ((kind, (low, high)),) = deep.items()
    top = next((top for top in USUAL[kind] if high <= top), None)
    if low < 0 or top is None or high * DARK < top:
        raise UsageError(f"{where} has images of {kind} numbers from {low:g} to {high:g}; {way}")
    return 0.0, top


def resolve(found: Survey, wanted: Wanted, where: str) -> tuple[Shape, int]:
    """(how images are stored, the side that networks see).

    Raises:
        UsageError: `stored` below `size`, more than `LARGEST` bytes in all, or values beyond 8 bits of no usual range.
    """
    size = wanted.size or found.side or min(SIDE, found.short)
    if wanted.size is None and wanted.stored is not None:
        size = min(size, wanted.stored)
    stored = wanted.stored or size
    if stored < size:
        raise UsageError(
            f"data.stored {stored} is smaller than data.size {size}, which networks see; make it at least that"
        )
    shape = Shape(wanted.channels or (1 if found.grey else 3), stored, values_of(found.deep, wanted, where))
    count = sum(found.counts.values())
    if count * shape.bytes > LARGEST:
        fits = int((LARGEST / count / shape.channels) ** 0.5)
        raise UsageError(
            f"the {count:,} images of {where} would take {count * shape.bytes / 1e9:.1f} GB decoded to {stored} × {stored} pixels, "
            f"above the limit of {LARGEST / 1e9:g} GB: choose a smaller data.size (--size {fits} would fit) or fewer images"
        )
    return shape, size
