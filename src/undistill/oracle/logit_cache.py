"""The bank: raw answers of frozen networks on disk, so that no network is asked twice about the same view.

An entry belongs to one network, one set of source images and one seed of views, and holds a file for each pass over them: the
logits, float32, and the index of the image that each belongs to. What is shown of an answer is cut from it later, by the oracle.
A file is written whole or not at all, by whoever holds its lock; one that is damaged counts as missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.data.augment import View
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.files import TEMPORARY, cache_root
from undistill.oracle.entry import Entry, in_bytes

SCHEMA = 1
LIMIT = 10 * 10**9
MARGIN = 10**8
"""Bytes of the disk that are left to others."""
WRITTEN = re.compile(rf"\d{{5,}}\.safetensors|\.\d{{5,}}\.lock|\..*{re.escape(TEMPORARY)}")
"""What lies in an entry beside `about.json` and `.use`."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bank:
    """A folder of answers, `undistill/bank` in the user's cache if none is named, of at most `limit` bytes; 0 keeps none."""

    folder: Path | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, folder: str | Path | None = None, gigabytes: float = LIMIT / 10**9) -> Bank:
        """A bank as users name it; UsageError for a negative limit."""
        if not 0 <= gigabytes < float("inf"):
            raise UsageError(f"the limit of the logit cache is a size in GB of at least 0, not {gigabytes:g}")
        return cls(None if folder is None else Path(folder).expanduser(), int(gigabytes * 10**9))

    @property
    def place(self) -> Path:
        """Where it lies."""
        return cache_root() / "bank" if self.folder is None else self.folder

    def open(
        self,
        network: str,
        classes: int,
        images: ImageSet,
        *,
        views: Sequence[View],
        views_seed: int,
        precision: str,
        passes: int,
    ) -> Entry | None:
        """The entry of a network's answers about these images, or None where they are more than the limit allows.

        Entries that nobody uses make room, the one that was used longest ago first.

        Args:
            network: its id.
            classes: how many logits an answer has.
            images: those that it will be asked about; subsets of one source share an entry.
            views: what is done to the images.
            views_seed: of the views; it does not matter where there are none.
            precision: of the answers, such as fp32.
            passes: how many passes over the images there will be.
        """
        about = {
            "schema": SCHEMA,
            "network": network,
            "classes": classes,
            "source": images.origin,
            "source_size": images.source_size,
            "image_size": images.image_size,
            "views": [view.model_dump(mode="json", by_alias=True) for view in views],
            "views_seed": views_seed if views else 0,
            "precision": precision,
        }
        entry = Entry(self.place / _key(about), classes, images.source_size)
        estimate = passes * len(images) * (4 * classes + 4)
        size = max(estimate, min(self.limit, _size(entry.folder)))  # what it holds already is not in its own way
        if not self.limit or not self.make_room(size, entry.folder):
            return None
        return entry if entry.prepare({**about, "reserved": size}, size) else None

    def entries(self) -> dict[Path, int]:
        """Bytes that each entry takes on the disk, by its folder."""
        found = sorted(path.parent for path in self.place.glob("*/about.json") if _about(path) is not None)
        return {entry: _written(entry) for entry in found}

    def remove(self, entry: Path) -> bool:
        """Whether an entry is gone: one that another process uses stays. Nothing that a bank did not write is removed."""
        return entry in self.entries() and _removed(entry)

    def make_room(self, size: int, but: Path) -> bool:
        """Whether `size` bytes fit beside all entries but one, once unused ones were removed as far as needed.

        Nothing is removed in vain: not for what is larger than the limit or than the disk.
        """
        free = shutil.disk_usage(next(p for p in (self.place, *self.place.absolute().parents) if p.exists())).free
        missing = size - _written(but)
        if size > self.limit or missing > free - MARGIN:
            left = (
                f"the limit of {in_bytes(self.limit)}"
                if size > self.limit
                else f"the {in_bytes(free)} left on the disk"
            )
            log.info(
                "logit cache: %s of outputs are more than %s, so they are computed each time", in_bytes(size), left
            )
            return False
        found = [path.parent for path in self.place.glob("*/about.json") if _about(path) is not None]
        entries = sorted((entry for entry in found if entry != but), key=_last_used)
        used = {entry: _size(entry) for entry in entries}
        for entry in entries:
            if sum(used.values()) + size <= self.limit:
                break
            if _removed(entry):
                del used[entry]
        fits = sum(used.values()) + size <= self.limit
        if not fits:
            log.info(
                "logit cache: others use what %s of outputs would need, so they are computed each time", in_bytes(size)
            )
        return fits


USUAL = Bank()
"""Where answers are kept unless somebody says otherwise."""


def _key(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def _about(file: Path) -> dict[str, Any] | None:
    """What an entry's `about.json` says; None if its folder is not named after that, for then no bank wrote it."""
    try:
        about = json.loads(file.read_text())
        fixed = {name: value for name, value in about.items() if name != "reserved"}
        return about if _key(fixed) == file.parent.name else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _last_used(entry: Path) -> float:
    with contextlib.suppress(OSError):
        return (entry / "about.json").stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    """Bytes that an entry takes, or will when those who fill it are done."""
    reserved = (_about(entry / "about.json") or {}).get("reserved", 0)
    return max(_written(entry), reserved if isinstance(reserved, int) else 0)


def _written(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0  # not there, or just removed by somebody else


def _removed(entry: Path) -> bool:
    """Whether an entry is gone, for nobody uses it. Nothing but what a bank writes is ever removed."""
    try:
        with (entry / ".use").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(handle.fileno()).st_nlink:
                return False  # somebody else removed it just now, and what lies there is a newer entry
            for path in entry.iterdir():
                if WRITTEN.fullmatch(path.name):
                    path.unlink()
            (entry / "about.json").unlink()
            (entry / ".use").unlink()
    except OSError:  # in use
        return False
    with contextlib.suppress(OSError):  # something else lies there
        entry.rmdir()
    return True
