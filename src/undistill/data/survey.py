"""What lies in a folder, before anything is decoded: how many images of which sizes, grey or not, of which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from undistill.data.decode import CorruptError, Shape, header
from undistill.data.opening import Opened, Progress, Row, Wanted
from undistill.errors import UsageError

LARGEST = 4_000_000_000
"""Bytes of decoded images that are still held as one array; more would not fit beside a network on a common GPU."""
SIDE = 224
"""The largest side that is chosen without being asked for."""
NAMED = 20
"""Corrupt images that are named one by one."""


class Survey(BaseModel):
    """Kept as JSON beside the cache, so that a second reading opens no image.

    `counts` are readable rows a part, `corrupt` the others; `side` is that of all images if all are squares of one size,
    `short` the median of their short sides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    splits: dict[str, str]
    ignored: list[str]
    columns: list[str] = Field(min_length=2, max_length=2)
    classes: list[str]
    counts: dict[str, int]
    corrupt: dict[str, int]
    grey: bool
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


def survey(opened: Opened, folder: Path, wanted: Wanted, progress: Progress) -> tuple[Survey, Labels]:
    """One pass over headers and labels.

    Raises:
        UsageError: a missing label or one out of range; a corrupt image, unless `skip_corrupt`; a split without images.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    values: set[Any] = set()
    counts, corrupt, grey = dict.fromkeys(opened.splits, 0), dict.fromkeys(opened.splits, 0), True
    fixed = Labels(opened, set()) if opened.names is not None else None
    if opened.ignored:
        progress(f"left alone: the splits {', '.join(opened.ignored)}", 1, 1)
    for ours, theirs in opened.splits.items():
        for number, row in enumerate(labelled(opened.rows(theirs), f"{folder} {theirs}"), start=1):
            if fixed is not None:
                fixed(row)
            try:
                one_channel, width, height = header(row.image, row.name)
            except CorruptError as error:
                corrupt[ours] += 1
                leave_out(error, corrupt[ours], wanted, progress)
                continue
            values.add(row.label)
            counts[ours] += 1
            sizes[width, height] += 1
            grey = grey and one_channel
            if number % 1000 == 0:
                progress(f"looking at {theirs}", number, opened.totals.get(theirs))
        check_rest(counts[ours], corrupt[ours], f"{folder} {theirs}")
        progress(f"looking at {theirs}", counts[ours], counts[ours])
    labels = fixed or Labels(opened, values)
    width, height = next(iter(sizes))
    return Survey(
        splits=dict(opened.splits),
        ignored=list(opened.ignored),
        columns=list(opened.columns),
        classes=list(labels.classes),
        counts=counts,
        corrupt=corrupt,
        grey=grey,
        side=width if len(sizes) == 1 and width == height else None,
        short=median_low([min(size) for size in sizes.elements()]),
    ), labels


def leave_out(error: CorruptError, count: int, wanted: Wanted, progress: Progress) -> None:
    """Go on without a corrupt image if that was asked for, else refuse it by name."""
    if not wanted.skip_corrupt:
        raise UsageError(f"{error}; repair it, or leave such images out with --skip-corrupt") from error
    if count <= NAMED:
        progress(f"left out: {error}", 1, 1)


def check_rest(kept: int, corrupt: int, where: str) -> None:
    """UsageError where nothing is left, or less than was left out: then the reader is wrong, not the images."""
    if kept == 0 and corrupt == 0:
        raise UsageError(f"{where} holds no images")
    if corrupt > kept:
        raise UsageError(f"{where}: {corrupt:,} of {kept + corrupt:,} images are corrupt, more than may be skipped")


def resolve(found: Survey, wanted: Wanted, where: str) -> tuple[Shape, int]:
    """(how images are stored, the side that networks see).

    Raises:
        UsageError: `stored` below `size`, or more than `LARGEST` bytes in all.
    """
    size = wanted.size or found.side or min(SIDE, found.short)
    if wanted.size is None and wanted.stored is not None:
        size = min(size, wanted.stored)
    stored = wanted.stored or size
    if stored < size:
        raise UsageError(
            f"data.stored {stored} is smaller than data.size {size}, which networks see; make it at least that"
        )
    shape = Shape(wanted.channels or (1 if found.grey else 3), stored)
    count = sum(found.counts.values())
    if count * shape.bytes > LARGEST:
        fits = int((LARGEST / count / shape.channels) ** 0.5)
        raise UsageError(
            f"the {count:,} images of {where} would take {count * shape.bytes / 1e9:.1f} GB decoded to {stored} × {stored} pixels, "
            f"above the limit of {LARGEST / 1e9:g} GB: choose a smaller data.size (--size {fits} would fit) or fewer images"
        )
    return shape, size
