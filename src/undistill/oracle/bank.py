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
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from undistill.data.cache import cache_root
from undistill.data.images import ImageSet
from undistill.data.views import View
from undistill.errors import RunError, UsageError
from undistill.files import TEMPORARY, sweep, write_bytes, write_json, writing

SCHEMA = 1
LIMIT = 10 * 10**9
TOLD = 10**6
"""Bytes from which on an entry is worth a line."""
NAME = re.compile(r"[0-9a-f]{24}")
log = logging.getLogger(__name__)


class Held(NamedTuple):
    """Answers about some images: their index in the source split, and a row of logits for each. M images, C classes."""

    index_M: Tensor
    logits_MC: Tensor


@dataclass(frozen=True)
class Bank:
    """A folder of answers, `undistill/bank` in the user's cache if none is named, of at most `limit` bytes; 0 keeps none."""

    folder: Path | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, folder: str | Path | None = None, gigabytes: float = LIMIT / 10**9) -> Bank:
        """A bank as users name it; UsageError for a negative limit."""
        if not 0 <= gigabytes < float("inf"):
            raise UsageError(f"the bank's limit is a size in GB of at least 0, not {gigabytes:g}")
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
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        entry = Entry(self.place / key, classes, images.source_size)
        size = passes * len(images) * (4 * classes + 4)
        if not self.limit or not entry.prepare(about, size, self):
            return None
        return entry

    def make_room(self, size: int, but: Path) -> bool:
        """Whether `size` more bytes fit beside the entry `but`, once others were removed as far as needed and unused."""
        found = [path.parent for path in self.place.glob("*/about.json") if NAME.fullmatch(path.parent.name)]
        entries = sorted((entry for entry in found if entry != but), key=_last_used)
        used = {entry: sum(_size(file) for file in entry.iterdir()) for entry in entries}
        for entry in entries:
            if sum(used.values()) + size <= self.limit:
                break
            if _removed(entry):
                del used[entry]
        return sum(used.values()) + size <= self.limit


USUAL = Bank()
"""Where answers are kept unless somebody says otherwise."""


class Entry:
    """One network's answers about the views of one source, a file for each pass. Open for as long as it is referred to."""

    def __init__(self, folder: Path, classes: int, source_size: int) -> None:
        self.folder, self.classes, self.source_size = folder, classes, source_size
        self._writable = True
        self._use: Any = None

    def prepare(self, about: dict[str, Any], size: int, bank: Bank) -> bool:
        """Hold the entry against removal and make room; False, with a word about why, where there is none."""
        try:
            if not bank.make_room(size, self.folder):
                log.info(
                    "bank: %s of answers are more than its limit of %s, so they are computed each time",
                    in_bytes(size),
                    in_bytes(bank.limit),
                )
                return False
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._use = (self.folder / ".use").open("w")
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    sweep(self.folder)  # alone here: whatever is half-written was left by a killed process
                fcntl.flock(self._use, fcntl.LOCK_SH)
                write_json(self.folder / "about.json", about)  # its time says when the entry was last used
            kept = sum(1 for _ in self.folder.glob("*.safetensors"))
        except (RunError, OSError) as error:
            log.warning("bank: %s; answers are computed each time", str(error).rstrip("."))
            return False
        if size >= TOLD:
            log.info("bank: up to %s of answers in %s, %d passes kept before", in_bytes(size), self.folder, kept)
        return True

    def file(self, number: int) -> Path:
        """Where pass `number` lies."""
        return self.folder / f"{number:05d}.safetensors"

    def read(self, number: int) -> Held | None:
        """What is kept of pass `number`; None where there is nothing, or it is damaged."""
        path = self.file(number)
        try:
            return self._checked(safetensors.torch.load(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            log.warning("bank: %s is damaged and is computed anew (%s)", path, error)
            return None

    def _checked(self, found: dict[str, Tensor]) -> Held:
        """What a file says, or ValueError; read whole, for a mapped file that somebody cuts short kills its readers."""
        index_M, logits_MC, total = found["index"], found["logits"], found["sum"]
        if (index_M.dtype, logits_MC.dtype, total.dtype) != (
            torch.int32,
            torch.float32,
            torch.int64,
        ) or total.numel() != 1:
            raise ValueError("numbers of other types")
        if index_M.ndim != 1 or logits_MC.shape != (len(index_M), self.classes):
            raise ValueError("other shapes")
        if _checksum(index_M, logits_MC) != int(total):
            raise ValueError("another checksum")
        if len(index_M) and not 0 <= int(index_M.min()) <= int(index_M.max()) < self.source_size:
            raise ValueError("images that the source does not have")
        return Held(index_M.long(), logits_MC)

    def write(self, number: int, held: Held) -> None:
        """Keep a pass. A disk that refuses is told of once; the answers are then computed each time."""
        if not self._writable:
            return
        index_M, logits_MC = held.index_M.int().contiguous(), held.logits_MC.contiguous()
        tensors = {"index": index_M, "logits": logits_MC, "sum": torch.tensor(_checksum(index_M, logits_MC))}
        try:
            write_bytes(self.file(number), safetensors.torch.save(tensors), lasting=False)
        except RunError as error:
            self._writable = False
            log.warning("bank: %s; answers are computed each time", str(error).partition(";")[0])

    @contextlib.contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Whether pass `number` is this process's to fill: nobody else fills it. The system lets go when a process dies."""
        path = self.folder / f".{number:05d}.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # removed, or a disk that refuses: then everybody fills for himself
            yield True
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def forget(self) -> None:
        """Remove all passes: they are another network's."""
        for path in self.folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)


def in_bytes(size: float) -> str:
    """For people: 352 MB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _checksum(index_M: Tensor, logits_MC: Tensor) -> int:
    return zlib.crc32(logits_MC.numpy().data, zlib.crc32(index_M.numpy().data)) if len(index_M) else 0


def _last_used(entry: Path) -> float:
    with contextlib.suppress(OSError):
        return (entry / "about.json").stat().st_mtime
    return 0.0


def _size(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return 0


def _removed(entry: Path) -> bool:
    """Whether an entry is gone, for nobody uses it. Nothing but what a bank writes is ever removed."""
    try:
        with (entry / ".use").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in [*entry.glob("*.safetensors"), *entry.glob(".*.lock"), *entry.glob(f".*{TEMPORARY}")]:
                path.unlink()
            (entry / "about.json").unlink()
            (entry / ".use").unlink()
        entry.rmdir()
    except OSError:  # in use, or something else lies there
        return False
    return True
