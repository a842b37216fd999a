"""An entry of the bank: one network's answers about the views of one source of images, in a folder.

Legend: C classes, M images held.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from undistill.errors import RunError
from undistill.files import sweep, write_bytes, write_json, writing

TOLD = 10**6
"""Bytes from which on an entry is worth a line."""
log = logging.getLogger(__name__)


class Held(NamedTuple):
    """Answers about some images: their index in the source split, and a row of logits for each. M images, C classes."""

    index_M: Tensor
    logits_MC: Tensor


class Entry:
    """One network's answers about the views of one source, a file for each pass. Open for as long as it is referred to."""

    def __init__(self, folder: Path, classes: int, source_size: int) -> None:
        self.folder, self.classes, self.source_size = folder, classes, source_size
        self.writable = True
        self._damaged: set[int] = set()

    def prepare(self, about: dict[str, Any], size: int) -> bool:
        """Hold the entry against removal; False, with a word about why, on a disk that refuses. `size` in bytes is for people."""
        try:
            with writing(self.folder):
                while not self._held():  # somebody else may just have removed it to make room
                    continue
                write_json(self.folder / "about.json", about)  # its time says when the entry was last used
            kept = sum(1 for _ in self.folder.glob("*.safetensors"))
        except (RunError, OSError) as error:
            log.warning("logit cache: %s; outputs are computed each time", str(error).rstrip("."))
            return False
        if size >= TOLD:
            log.info("logit cache: up to %s in %s, %d passes found", in_bytes(size), self.folder.parent, kept)
        return True

    def _held(self) -> bool:
        """Keep others from removing the entry until nobody refers to it; False if one did so meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        use = os.open(self.folder / ".use", os.O_RDWR | os.O_CREAT, 0o644)
        let_go = weakref.finalize(self, os.close, use)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(self.folder)  # alone here: whatever is half-written was left by a killed process
        fcntl.flock(use, fcntl.LOCK_SH)
        if os.fstat(use).st_nlink:
            return True
        let_go()
        return False

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
            if number not in self._damaged:
                self._damaged.add(number)
                log.warning("logit cache: %s is damaged and is computed anew (%s)", path, error)
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
        if not self.writable:
            return
        index_M, logits_MC = held.index_M.int().contiguous(), held.logits_MC.contiguous()
        tensors = {"index": index_M, "logits": logits_MC, "sum": torch.tensor(_checksum(index_M, logits_MC))}
        try:
            write_bytes(self.file(number), safetensors.torch.save(tensors), lasting=False)
        except RunError as error:
            self.writable = False
            log.warning("logit cache: %s; outputs are computed each time", str(error).partition(";")[0])

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
            with contextlib.suppress(OSError):
                path.unlink()
        finally:
            os.close(handle)

    def forget(self) -> None:
        """Remove all passes: they are another network's."""
        for path in self.folder.glob("[0-9]*.safetensors"):
            with contextlib.suppress(OSError):
                path.unlink()


def in_bytes(size: float) -> str:
    """For people: 352 MB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _checksum(index_M: Tensor, logits_MC: Tensor) -> int:
    return zlib.crc32(logits_MC.numpy().data, zlib.crc32(index_M.numpy().data)) if len(index_M) else 0
