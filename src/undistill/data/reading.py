"""A folder to decoded splits: looked over, decoded once into the cache, memory-mapped after that."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from undistill.data import cache
from undistill.data.decode import FULL, CorruptError, Shape, decode
from undistill.data.folders import form_of, no_images, open_archives, open_folders, remark_on
from undistill.data.image_set import ImageSet
from undistill.data.layout import roles_in
from undistill.data.listing import Entry, Listing, kind_of, list_folder
from undistill.data.opening import CARDS, Opened, Progress, Wanted, open_table
from undistill.data.survey import Labels, Survey, Tally, Told, labelled, resolve, survey
from undistill.errors import UsageError
from undistill.files import cache_root

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


def read_folder(folder: Path, wanted: Wanted, progress: Progress) -> Found:
    """The splits of any folder of images, or of one archive or table; from the cache when no file has changed.

    Raises:
        UsageError: a folder, column, split, label or image that cannot be used (named), or more than 4 GB decoded.
        RunError: the cache cannot be written.
    """
    reading = _Reading(folder.expanduser(), wanted, progress)
    found = reading.survey()
    shape, size = resolve(found, wanted, str(folder))
    kept = reading.decoded(found, shape)
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
    remarks = [*found.remarks, *([said] if (said := remark_on(found.skipped)) else [])]
    if found.deep and wanted.value_range is None and shape.values != FULL:
        remarks.append(
            f"values beyond 8 bits are read as {shape.values[0]:g} to {shape.values[1]:g}; data.value_range sets others"
        )
    return Found(splits, kept.corrupt, settings, found.skipped, tuple(remarks))


def size_text(count: int) -> str:
    """Bytes for people, with a unit."""
    for unit, size, digits in (("GB", 1e9, 1), ("MB", 1e6, 0)):
        if count >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def check_place(place: Path) -> None:
    """UsageError where there is nothing that could be read as images: a cheap look at names, nothing is opened."""
    listing = _listing(place)
    if form_of(listing.files) == "nothing":
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
    return form_of(near) != "nothing" or "train" in roles_in({entry.parts[0] for entry in entries})


def _listing(place: Path) -> Listing:
    if place.is_file():
        return Listing((Entry((place.name,), kind_of(place.name), place),), ())
    return list_folder(place)


class _Reading:
    """One folder or file as its settings ask for it. It is opened only where the cache does not know it."""

    def __init__(self, folder: Path, wanted: Wanted, progress: Progress) -> None:
        self.folder, self.wanted, self.progress = folder, wanted, progress
        self.listing = _listing(folder)
        self.files = sorted(self.listing.files)
        self.stats = cache.stats_of(self.files)
        self.form = form_of(self.files)
        if self.form == "nothing":
            raise no_images(folder, self.listing)
        self.extra: dict[str, Any] = {"layout": self._layout()} if self.form == "folders" else {}
        if self.form == "archives":
            self.extra = {"archives": 1}
        if self.form == "table" and folder.is_dir():
            self.stats += cache.stats_of(
                hidden for card in CARDS if (hidden := folder / card).is_file() and hidden not in self.files
            )

    def _layout(self) -> str:
        """A digest of which name leads to which file, as class folders may be links, and of folders and links without files."""
        pairs: list[Any] = [
            (str(file.relative_to(self.folder)), stat[0]) for file, stat in zip(self.files, self.stats, strict=True)
        ]
        pairs += self.listing.empty + self.listing.unread
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]

    @cached_property
    def opened(self) -> Opened:
        """Splits, columns and rows."""
        if self.form == "folders":
            return open_folders(self.folder, self.listing, self.wanted)
        opened = open_archives(self.folder, self.files, self.wanted) if self.form == "archives" else None
        return opened or open_table(self.folder, self.files, self.wanted)

    @cached_property
    def fresh(self) -> tuple[Survey, Labels]:
        """What a look at every header and label says."""
        return survey(self.opened, self.folder, self.wanted, self.progress)

    def survey(self) -> Survey:
        """The same from the cache, where it is known."""
        note = self._note([self.wanted.image_column, self.wanted.label_column])
        found = _kept_survey(note)
        if found is None:
            found = self.fresh[0]
            # a run writes down the columns that were found, and asks for just those when it goes on
            for name in {note, self._note(found.columns)}:
                cache.write_note(name, found.model_dump_json().encode())
        return found

    def _note(self, columns: Sequence[str | None]) -> str:
        asked = {"columns": columns, "splits": self.wanted.splits, "survey": 2, "skip": self.wanted.skip_corrupt}
        return cache.key_from(self.stats, asked | self.extra)

    def decoded(self, found: Survey, shape: Shape) -> cache.Kept:
        """The pixels, from the cache or decoded into it."""
        usual = shape == Shape(1 if found.grey else 3, found.side or 0, shape.values)
        extra: dict[str, Any] = self.extra | ({} if usual else {"shape": [shape.channels, shape.stored]})
        extra |= {"skip_corrupt": True} if self.wanted.skip_corrupt else {}
        # floats of the full range are named too: earlier versions cut them off at 255 and kept that under the plain key
        extra |= {"values": shape.values} if found.deep and (shape.values != FULL or "float" in found.deep) else {}
        key = cache.key_from(self.stats, {"columns": found.columns, "splits": found.splits} | extra)
        fill = partial(self._decode, shape)

        return cache.read_or_make(key, str(self.folder), fill)

    def _decode(self, shape: Shape, store: cache.Store) -> None:
        found, labels = self.fresh
        store.meta["corrupt"] = 0
        for ours, theirs in self.opened.splits.items():
            tally = Tally(ours, f"{self.folder} {theirs}", self.wanted, self.progress)
            each = (shape.channels, shape.stored, shape.stored)
            told = Told(self.progress, f"decoding {theirs}")
            with store.split(ours, labels.classes, each, found.counts[ours]) as part:
                for row in labelled(self.opened.rows(theirs), tally.where):
                    try:
                        pixels = decode(row.image, row.name, shape)
                    except CorruptError as error:
                        tally.leave_out(error, row.label)
                        continue
                    tally.keep(row.label)
                    part.add(pixels, labels(row))
                    told(len(part.labels), found.counts[ours])
                tally.check(labels)
            told.end(len(part.labels))
            store.meta["corrupt"] += tally.corrupt
        count, size = (
            f"{sum(found.counts.values()):,}",
            size_text(sum(file.stat().st_size for file in store.folder.iterdir())),
        )
        log.info("decoded %s images into the cache at %s (%s)", count, cache_root(), size)


def _kept_survey(note: str) -> Survey | None:
    content = cache.read_note(note)
    if content is None:
        return None
    try:
        return Survey.model_validate_json(content)
    except ValidationError:
        return None
