"""A folder to decoded splits: looked over, decoded once into the cache, memory-mapped after that."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from pydantic import Field, ValidationError

from undistill.data import cache
from undistill.data.class_folders import Opened, Row, class_name, open_archives, open_folders, roles_in
from undistill.data.decode import FULL, CorruptError, Form, Forms, Shape, Wanted, content_of, decode, header, resolve
from undistill.data.image_set import ImageSet
from undistill.data.listing import (
    ARCHIVES,
    COMPANIONS,
    METADATA,
    SAVED,
    TABLES,
    Listing,
    counted,
    kind_of,
    list_folder,
    no_images,
    way_out,
)
from undistill.data.tables import CARDS, open_table
from undistill.errors import UsageError
from undistill.files import cache_root

EACH = 100
"""Images between two reports of progress."""
FEW = 32
"""Images by which decoding is timed."""
NAMED = 20
"""Corrupt images that are named one by one."""
Progress = Callable[[str, int, int | None], None]
"""Called with (what, done, total or None)."""
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a source gives: `splits` train and, where it has them, test and val.

    `corrupt` images were left out, `skipped` counts other files by their kind; `settings` are how the images were read, to read
    them so again; `remarks` are sentences on what is left aside.
    """

    splits: dict[str, ImageSet]
    corrupt: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Survey(Form):
    """The content of a folder before anything is decoded. Kept as JSON beside the cache: a second reading opens no image.

    `counts` are readable rows a part, `corrupt` the others.
    """

    splits: dict[str, str]
    remarks: list[str]
    skipped: dict[str, int]
    columns: list[str] = Field(min_length=2, max_length=2)
    classes: list[str]
    counts: dict[str, int]
    corrupt: dict[str, int]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each class."""
        return {name: number for number, name in enumerate(self.classes)}


def read_folder(folder: Path, wanted: Wanted, progress: Progress) -> Found:
    """The splits of any folder of images, or of one archive or table; from the cache when no file has changed.

    Raises:
        UsageError: a folder, column, split, label or image that cannot be used (named).
        RunError: the cache cannot be written.
    """
    reading = _Reading(folder.expanduser(), wanted, progress)
    found = reading.survey()
    shape, size = resolve(found, wanted, str(folder))
    kept = reading.kept(found, shape)
    settings = {
        "image_column": found.columns[0],
        "label_column": found.columns[1],
        "size": size,
        "stored": None if shape.stored == size else shape.stored,
        "channels": shape.channels,
        "skip_corrupt": wanted.skip_corrupt,
        "value_range": wanted.value_range,
    }
    splits = {name: images.seen_by(size) if size != shape.stored else images for name, images in kept.splits.items()}
    remarks = list(found.remarks)
    if kinds := Counter({kind: count for kind, count in found.skipped.items() if kind not in COMPANIONS}):
        remarks.append(f"left out: {counted(kinds)}; to use them, {way_out(kinds)}")
    if found.deep and wanted.value_range is None and shape.values != FULL:
        remarks.append(
            f"values beyond 8 bits are read as {shape.values[0]:g} to {shape.values[1]:g}; data.value_range sets others"
        )
    return Found(splits, kept.corrupt, settings, found.skipped, tuple(remarks))


@dataclass(frozen=True)
class Outlook:
    """What a folder holds before any of it is decoded; bytes of all images `decoded`, and of its files as they are.

    `splits` counts images, `parts` those of train, pool, val and test as they will be carved. `seconds` is what decoding one
    takes here, on one thread.
    """

    splits: dict[str, int]
    classes: int
    shape: Shape
    size: int
    files: int
    decoded: int
    encoded: bool
    seconds: float
    parts: dict[str, int] = field(default_factory=dict)


def look(folder: Path, wanted: Wanted, progress: Progress) -> Outlook:
    """A look at every header and at the pixels of a few images; UsageError as `read_folder` has it."""
    reading = _Reading(folder.expanduser(), wanted, progress)
    found = reading.survey()
    shape, size = resolve(found, wanted, str(folder))
    taken = []
    for row in itertools.islice(reading.opened.rows(reading.opened.splits["train"]), FEW):
        began = time.perf_counter()
        with contextlib.suppress(CorruptError):
            decode(row.image, row.name, shape)
        taken.append(time.perf_counter() - began)
    seconds = sorted(taken)[len(taken) // 2] if taken else 0.0
    decoded = sum(found.counts.values()) * shape.bytes
    files = sum(size for _, size, _ in reading.stats)
    return Outlook(found.counts, len(found.classes), shape, size, files, decoded, decoded > wanted.memory, seconds)


def check_place(place: Path) -> None:
    """UsageError where there is nothing that could be read as images: a cheap look at names, nothing is opened."""
    listing = Listing.of(place)
    if _kind_of_data(listing.files) == "nothing":
        raise no_images(place, listing)


def is_set(folder: Path) -> bool:
    """Whether a folder may be that of a data set: images or tables in it or its folders, or folders for splits in it.

    The folder above that of another data set is none.
    """
    try:
        entries = list_folder(folder).entries
    except UsageError:
        return False
    near = [entry.path for entry in entries if len(entry.parts) <= 2]
    return _kind_of_data(near) != "nothing" or "train" in roles_in({entry.parts[0] for entry in entries})


def _kind_of_data(files: Iterable[Path]) -> str:
    """How files are read, as their names say: `table` (by `datasets`), `folders` of classes, `archives`, or `nothing`."""
    files = list(files)
    suffixes = {file.suffix.lower() for file in files}
    if suffixes & TABLES or any(file.name in SAVED or _lists_images(file) for file in files):
        return "table"
    if any(not kind_of(file.name) for file in files):
        return "folders"
    return "archives" if suffixes & ARCHIVES else "nothing"


def _lists_images(file: Path) -> bool:
    """Whether this is the table of images that `datasets` looks for; other files are called `metadata.csv` too."""
    if file.name not in METADATA:
        return False
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return b"file_name" in opened.read(4096)
    return False


class _Reading:
    """One folder or file as its settings ask for it. It is opened only where the cache does not know it."""

    def __init__(self, folder: Path, wanted: Wanted, progress: Progress) -> None:
        self.folder, self.wanted, self.progress = folder, wanted, progress
        self.listing = Listing.of(folder)
        self.files = self.listing.files
        self.stats = cache.stats_of(self.files)
        self.kind = _kind_of_data(self.files)
        self.corrupt: dict[str, int] = {}
        if self.kind == "nothing":
            raise no_images(folder, self.listing)
        self.extra: dict[str, Any] = {"archives": 1} if self.kind == "archives" else {}
        if self.kind == "folders":
            self.extra = {"layout": self._layout()}
        if self.kind == "table" and folder.is_dir():
            cards = (folder / card for card in CARDS)
            self.stats += cache.stats_of(card for card in cards if card.is_file() and card not in self.files)

    def _layout(self) -> str:
        """A digest of which name leads to which file, as class folders may be links, and of folders and links without files."""
        pairs: list[Any] = [
            (str(file.relative_to(self.folder)), stat[0]) for file, stat in zip(self.files, self.stats, strict=True)
        ]
        return hashlib.sha256(json.dumps(pairs + self.listing.without_content()).encode()).hexdigest()[:16]

    @cached_property
    def opened(self) -> Opened:
        """Splits, columns and rows."""
        if self.kind == "folders":
            return open_folders(self.folder, self.listing, self.wanted)
        opened = open_archives(self.folder, self.files, self.wanted) if self.kind == "archives" else None
        return opened or open_table(self.folder, self.files, self.wanted)

    def survey(self) -> Survey:
        """What a look at every header and label says; from the cache, where it is known."""
        usual = self.wanted.usual_columns or (None, None)
        note = self._note([self.wanted.image_column or usual[0], self.wanted.label_column or usual[1]])
        with contextlib.suppress(ValidationError):
            return Survey.model_validate_json(cache.read_note(note) or b"")
        found = self._look()
        # a run writes down the columns that were found, and asks for just those when it goes on
        for name in {note, self._note(found.columns)}:
            cache.write_note(name, found.model_dump_json().encode())
        return found

    def _note(self, columns: Sequence[str | None]) -> str:
        asked = {"columns": columns, "splits": None, "survey": 2, "skip": self.wanted.skip_corrupt}
        return cache.key_from(self.stats, asked | self.extra)

    def _look(self) -> Survey:
        """One pass over headers and labels."""
        forms, counts, labels = Forms(), dict.fromkeys(self.opened.splits, 0), set()
        for ours, theirs in self.opened.splits.items():
            read = lambda row: header(row.image, row.name)  # noqa: E731
            for row, seen in self._readable(ours, "looking at", read, self.opened.totals.get(theirs)):
                forms.add(seen)
                labels.add(row.label)
                counts[ours] += 1
        return Survey(
            **forms.common(),
            splits=dict(self.opened.splits),
            remarks=list(self.opened.remarks),
            skipped=dict(self.opened.skipped),
            columns=list(self.opened.columns),
            classes=_classes(self.opened.names or tuple(map(str, sorted(labels)))),
            counts=counts,
            corrupt=self.corrupt,
        )

    def kept(self, found: Survey, shape: Shape) -> cache.Kept:
        """The pixels, from the cache or decoded into it; where they are too many, the encoded images in their place."""
        usual = shape == Shape(1 if found.grey else 3, found.side or 0, shape.values)
        extra: dict[str, Any] = self.extra | ({} if usual else {"shape": [shape.channels, shape.stored]})
        extra |= {"skip_corrupt": True} if self.wanted.skip_corrupt else {}
        # floats of the full range are named too: earlier versions cut them off at 255 and kept that under the plain key
        extra |= {"values": shape.values} if found.deep and (shape.values != FULL or "float" in found.deep) else {}
        many = sum(found.counts.values()) * shape.bytes > self.wanted.memory
        extra |= {"encoded": [shape.channels, shape.stored, *shape.values]} if many else {}
        key = cache.key_from(self.stats, {"columns": found.columns, "splits": found.splits} | extra)
        return cache.read_or_make(key, str(self.folder), partial(self._keep if many else self._decode, found, shape))

    def _decode(self, found: Survey, shape: Shape, store: cache.Store) -> None:
        for ours in self.opened.splits:
            form = (shape.channels, shape.stored, shape.stored)
            read = lambda row: decode(row.image, row.name, shape)  # noqa: E731
            with store.split(ours, tuple(found.classes), form, found.counts[ours]) as part:
                for row, pixels in self._readable(ours, "decoding", read, found.counts[ours]):
                    part.add(pixels, self._class_of(row, found))
        self._told(found, store, "decoded %s images into the cache at %s (%.1f MB)")

    def _keep(self, found: Survey, shape: Shape, store: cache.Store) -> None:
        """As `_decode`, but what is kept is encoded."""

        def read(row: Row) -> tuple[bytes, NDArray[Any]]:
            content = content_of(row.image, row.name)
            return content, decode({"bytes": content}, row.name, shape)

        for ours in self.opened.splits:
            with store.encoded(ours, tuple(found.classes), shape, found.counts[ours]) as part:
                for row, (content, pixels) in self._readable(ours, "reading", read, found.counts[ours]):
                    part.add(content, pixels, self._class_of(row, found))
        decoded, limit = sum(found.counts.values()) * shape.bytes / 1e9, self.wanted.memory / 1e9
        why = f"decoded they take {decoded:.3g} GB, the memory limit is {limit:.3g} GB"
        self._told(found, store, f"kept %s images encoded in the cache at %s (%.1f MB): {why}")

    def _class_of(self, row: Row, found: Survey) -> int:
        """The number of a row's class."""
        return found.numbers[str(row.label)] if self.opened.names is None else int(row.label)

    def _told(self, found: Survey, store: cache.Store, line: str) -> None:
        store.meta["corrupt"] = sum(self.corrupt.values())
        size = sum(file.stat().st_size for file in store.folder.iterdir())
        log.info(line, f"{sum(found.counts.values()):,}", cache_root(), size / 1e6)

    def _readable(self, ours: str, verb: str, read: Callable[[Row], T], total: int | None) -> Iterator[tuple[Row, T]]:
        """Each row of a split with what `read` makes of it, corrupt ones left out where that was asked for.

        Raises:
            UsageError: a row without a label or with one out of range; a corrupt image; nothing left of the split or of a class.
        """
        theirs, names = self.opened.splits[ours], self.opened.names
        where = f"{self.folder} {theirs}"
        kept: Counter[Any] = Counter()
        lost: Counter[Any] = Counter()
        for number, row in enumerate(self.opened.rows(theirs)):
            _check_label(row, number, where, names)
            try:
                made = read(row)
            except CorruptError as error:
                if not self.wanted.skip_corrupt:
                    raise UsageError(f"{error}; {error.cure}, or leave such images out with --skip-corrupt") from error
                lost[row.label] += 1
                if lost.total() <= NAMED:
                    self.progress(f"left out: {error}", 1, 1)
                continue
            kept[row.label] += 1
            yield row, made
            if (done := kept.total()) % EACH == 0:
                self.progress(f"{verb} {theirs}", done, total)
        _check_rest(where, kept, lost, names, whole=ours == "train")
        self.corrupt[ours] = lost.total()
        if (done := kept.total()) % EACH or done != total:
            self.progress(f"{verb} {theirs}", done, done)


def _check_label(row: Row, number: int, where: str, names: tuple[str, ...] | None) -> None:
    """UsageError for a row without a label (none, or −1 as test splits on the hub often have), or with one out of range."""
    if row.label is None or row.label == -1:
        raise UsageError(
            f"row {number} of {where} has no label ({row.label}): use a copy of the data without such rows"
        )
    if names is not None and (isinstance(row.label, bool) or row.label not in range(len(names))):
        raise UsageError(
            f"{row.name} has the label {row.label!r}, which is out of range: "
            f"the data name {len(names)} classes, 0 to {len(names) - 1}"
        )


def _check_rest(
    where: str, kept: Counter[Any], lost: Counter[Any], names: tuple[str, ...] | None, *, whole: bool
) -> None:
    """UsageError where no image is left, fewer than were left out, or (`whole`) none of a class: then the reader is wrong."""
    if not kept and not lost:
        raise UsageError(f"{where} holds no images")
    if lost.total() > kept.total():
        raise UsageError(
            f"{where}: {lost.total():,} of {kept.total() + lost.total():,} images are corrupt, more than may be skipped"
        )
    gone = next((label for label in lost if label not in kept), None) if whole else None
    if gone is not None:
        name = gone if names is None else names[gone]
        raise UsageError(
            f"{where}: all {lost[gone]:,} images of the class {str(name)!r} are corrupt; "
            "repair them, or move the class out of the data"
        )


def _classes(names: Sequence[str]) -> list[str]:
    """The names; UsageError for two that would be one class elsewhere."""
    first = {class_name(name): name for name in reversed(names)}
    for name in names:
        if (other := first[class_name(name)]) != name:
            raise UsageError(
                f"the classes {other!r} and {name!r} differ only in spaces around them or in the Unicode form; make them one"
            )
    return list(names)
