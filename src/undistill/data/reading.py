"""A folder to decoded splits: looked over, decoded once into the cache, memory-mapped after that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from undistill.data import cache
from undistill.data.decode import CorruptError, Shape, decode
from undistill.data.folders import are_class_folders, files_below, open_folders
from undistill.data.images import ImageSet
from undistill.data.opening import CARDS, Opened, Progress, Wanted, open_table
from undistill.data.survey import Labels, Survey, check_rest, labelled, leave_out, resolve, survey
from undistill.errors import RunError


@dataclass(frozen=True)
class Found:
    """What a source gives: `splits` train and, where it has them, test and val.

    `corrupt` images were left out; `settings` are how the images were read, to read them so again.
    """

    splits: dict[str, ImageSet]
    corrupt: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path, wanted: Wanted, progress: Progress) -> Found:
    """The splits of any folder of images; from the cache when no file has changed.

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
    }
    splits = {name: images.seen_by(size) if size != shape.stored else images for name, images in kept.splits.items()}
    return Found(splits, kept.corrupt, settings)


class _Reading:
    """One folder as its settings ask for it. It is opened only where the cache does not know it."""

    def __init__(self, folder: Path, wanted: Wanted, progress: Progress) -> None:
        self.folder, self.wanted, self.progress = folder, wanted, progress
        self.files = sorted(files_below(folder))
        self.stats = cache.stats_of(self.files)
        self.plain = are_class_folders(self.files)
        self.extra = {"layout": self._layout()} if self.plain else {}
        if not self.plain:
            self.stats += cache.stats_of(
                hidden for card in CARDS if (hidden := folder / card).is_file() and hidden not in self.files
            )

    def _layout(self) -> str:
        """A digest of which name leads to which file: class folders may be links."""
        pairs = (
            (str(file.relative_to(self.folder)), stat[0]) for file, stat in zip(self.files, self.stats, strict=True)
        )
        return hashlib.sha256(json.dumps(list(pairs)).encode()).hexdigest()[:16]

    @cached_property
    def opened(self) -> Opened:
        """Splits, columns and rows."""
        if self.plain:
            return open_folders(self.folder, self.files, self.wanted)
        return open_table(self.folder, self.files, self.wanted)

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
        asked = {"columns": columns, "splits": self.wanted.splits, "survey": 1, "skip": self.wanted.skip_corrupt}
        return cache.key_from(self.stats, asked | self.extra)

    def decoded(self, found: Survey, shape: Shape) -> cache.Kept:
        """The pixels, from the cache or decoded into it."""
        usual = shape == Shape(1 if found.grey else 3, found.side or 0)
        extra: dict[str, Any] = self.extra | ({} if usual else {"shape": [shape.channels, shape.stored]})
        extra |= {"skip_corrupt": True} if self.wanted.skip_corrupt else {}
        key = cache.key_from(self.stats, {"columns": found.columns, "splits": found.splits} | extra)
        kept = cache.read_kept(key)
        if kept is None:
            self._decode(key, shape)
            kept = cache.read_kept(key)
        if kept is None:
            raise RunError(
                f"the images just decoded into {cache.cache_root()} cannot be read back; free some space and try again"
            )
        return kept

    def _decode(self, key: str, shape: Shape) -> None:
        found, labels = self.fresh
        with cache.storing(key, str(self.folder)) as store:
            store.meta["corrupt"] = 0
            for ours, theirs in self.opened.splits.items():
                where, corrupt = f"{self.folder} {theirs}", 0
                each = (shape.channels, shape.stored, shape.stored)
                with store.split(ours, labels.classes, each, found.counts[ours]) as part:
                    for row in labelled(self.opened.rows(theirs), where):
                        try:
                            pixels = decode(row.image, row.name, shape)
                        except CorruptError as error:
                            corrupt += 1
                            leave_out(error, corrupt, self.wanted, self.progress)
                            continue
                        part.add(pixels, labels(row))
                        if len(part.labels) % 1000 == 0:
                            self.progress(f"decoding {theirs}", len(part.labels), found.counts[ours])
                    check_rest(len(part.labels), corrupt, where)
                self.progress(f"decoding {theirs}", len(part.labels), len(part.labels))
                store.meta["corrupt"] += corrupt


def _kept_survey(note: str) -> Survey | None:
    content = cache.read_note(note)
    if content is None:
        return None
    try:
        return Survey.model_validate_json(content)
    except ValidationError:
        return None
