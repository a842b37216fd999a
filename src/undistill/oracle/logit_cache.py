"""The logit cache: raw logits of frozen networks on disk, so that no network is asked twice about the same view.

An entry belongs to one network, one set of source images and one seed of views. It is a folder with a file for each pass over the
images: their logits, float32, and the index of each image. Output defenses and access cuts apply after it. A file is written whole
or not at all, by the process that holds its lock; a damaged or missing one is computed.

Legend: B batch, C classes, M images of a pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from undistill import ranks
from undistill.data.batches import ImageBatches
from undistill.errors import RunError, UsageError
from undistill.files import TEMPORARY, cache_root, exclusive, write_bytes, write_json
from undistill.oracle.inference import PROBE, Frozen
from undistill.training.evaluate import batch_for
from undistill.types import Batch

SCHEMA = 1
LIMIT = 10 * 10**9
MARGIN = 10**8
"""Bytes of the disk that are left to others."""
IN_USE = 3600.0
"""Seconds for which an entry counts as in use after a pass was read or written."""
TOLD = 10**6
"""Bytes from which on an entry is worth a line."""
WRITTEN = re.compile(rf"about\.json|\d{{5,}}\.safetensors|\.(\d{{5,}}\.safetensors|use).*|\..*{re.escape(TEMPORARY)}")
"""What lies in an entry; nothing else is ever removed."""
log = logging.getLogger(__name__)
Count = Callable[[int], None]


class Held(NamedTuple):
    """Logits of some images: their index in the source split, and a row for each."""

    index_M: Tensor
    logits_MC: Tensor


@dataclass(frozen=True)
class LogitCache:
    """A folder of logits, `undistill/bank` in the user's cache if none is named, of at most `limit` bytes; 0 keeps none."""

    folder: Path | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, folder: str | Path | None = None, gigabytes: float = LIMIT / 10**9) -> LogitCache:
        """A cache as users name it; UsageError for a negative limit."""
        if not 0 <= gigabytes < float("inf"):
            raise UsageError(f"the limit of the logit cache is a size in GB of at least 0, not {gigabytes:g}")
        return cls(None if folder is None else Path(folder).expanduser(), int(gigabytes * 10**9))

    @property
    def place(self) -> Path:
        """Its folder."""
        return cache_root() / "bank" if self.folder is None else self.folder

    def open(self, network: Frozen, batches: ImageBatches, classes: int, passes: int) -> Entry | None:
        """The entry of a network's logits for the views of `batches`, or None where so many passes do not fit.

        Entries that were not used for an hour make room, the one that was used longest ago first.
        """
        images = batches.images
        about = {
            "schema": SCHEMA,
            "network": network.id,
            "classes": classes,
            "source": images.origin,  # subsets of one source share an entry
            "source_size": images.source_size,
            "image_size": images.image_size,
            "views": [view.model_dump(mode="json", by_alias=True) for view in batches.views],
            "views_seed": batches.views_seed if batches.views else 0,
            "precision": network.arithmetic(batches.device),
        }
        entry = Entry(self.place / _key(about), about)
        size = passes * len(images) * (4 * classes + 4)
        if not self.limit or not self._make_room(size, entry.folder):
            return None
        try:
            entry.begin()
        except RunError as error:
            log.warning("logit cache: %s; outputs are computed each time", str(error).rstrip("."))
            return None
        if size >= TOLD:
            kept = sum(1 for _ in entry.folder.glob("*.safetensors"))
            log.info("logit cache: up to %s in %s, %d passes found", in_bytes(size), self.place, kept)
        return entry

    def entries(self) -> dict[Path, int]:
        """Bytes of each entry, by its folder; the one that was used longest ago comes first."""
        found = [path.parent for path in self.place.glob("*/about.json") if _is_ours(path)]
        return {entry: _size(entry) for entry in sorted(found, key=_last_used)}

    def remove(self, entry: Path) -> None:
        """Remove an entry, and nothing that this cache did not write; a process that uses it computes its logits again."""
        for path in sorted(entry.iterdir(), key=lambda path: path.name == "about.json"):  # which marks the entry
            if WRITTEN.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()
        with contextlib.suppress(OSError):  # something else lies there
            entry.rmdir()

    def _make_room(self, size: int, but: Path) -> bool:
        """Whether `size` bytes fit beside the other entries, once unused ones were removed. Nothing is removed in vain."""
        free = shutil.disk_usage(next(p for p in (self.place, *self.place.absolute().parents) if p.exists())).free
        if size > self.limit or size - _size(but) > free - MARGIN:
            left = (
                f"the limit of {in_bytes(self.limit)}"
                if size > self.limit
                else f"the {in_bytes(free)} left on the disk"
            )
            log.info(
                "logit cache: %s of outputs are more than %s, so they are computed each time", in_bytes(size), left
            )
            return False
        used = {entry: bytes_ for entry, bytes_ in self.entries().items() if entry != but}
        idle = [entry for entry in used if time.time() - _last_used(entry) > IN_USE]
        kept = sum(bytes_ for entry, bytes_ in used.items() if entry not in idle)
        if kept + size > self.limit:
            log.info(
                "logit cache: others use what %s of outputs would need, so they are computed each time", in_bytes(size)
            )
            return False
        for entry in idle:
            if sum(used.values()) + size > self.limit:
                self.remove(entry)
                del used[entry]
        return True


@dataclass
class Entry:
    """One network's logits for the views of one source, a file for each pass."""

    folder: Path
    about: dict[str, Any]
    writable: bool = True
    damaged: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """Say what it is about, and that it is in use; RunError on a disk that refuses."""
        write_json(self.folder / "about.json", self.about)

    def file(self, number: int) -> Path:
        """The file of pass `number`."""
        return self.folder / f"{number:05d}.safetensors"

    def read(self, number: int) -> Held | None:
        """What is kept of pass `number`; None where there is nothing, or it is damaged."""
        path = self.file(number)
        try:
            held = self._checked(
                safetensors.torch.load(path.read_bytes())
            )  # whole: a mapped file cut short kills its reader
            os.utime(self.folder / "about.json")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            if number not in self.damaged:
                self.damaged.add(number)
                log.warning("logit cache: %s is damaged and is computed anew (%s)", path, error)
            return None
        return held

    def _checked(self, found: dict[str, Tensor]) -> Held:
        """The content of a file; ValueError where it is not what `write` writes."""
        index_M, logits_MC, total = found["index"], found["logits"], found["sum"]
        types = (index_M.dtype, logits_MC.dtype, total.dtype)
        if types != (torch.int32, torch.float32, torch.int64) or total.numel() != 1:
            raise ValueError("numbers of other types")
        if index_M.ndim != 1 or logits_MC.shape != (len(index_M), self.about["classes"]):
            raise ValueError("other shapes")
        if _checksum(index_M, logits_MC) != int(total):
            raise ValueError("another checksum")
        if len(index_M) and not 0 <= int(index_M.min()) <= int(index_M.max()) < self.about["source_size"]:
            raise ValueError("images that the source does not have")
        return Held(index_M.long(), logits_MC)

    def write(self, number: int, held: Held) -> None:
        """Keep a pass. A disk that refuses is told of once; logits are then computed each time."""
        if not self.writable:
            return
        index_M, logits_MC = held.index_M.int().contiguous(), held.logits_MC.contiguous()
        tensors = {"index": index_M, "logits": logits_MC, "sum": torch.tensor(_checksum(index_M, logits_MC))}
        try:
            if not (self.folder / "about.json").exists():  # removed meanwhile
                self.begin()
            write_bytes(self.file(number), safetensors.torch.save(tensors), lasting=False)
        except RunError as error:
            self.writable = False
            log.warning("logit cache: %s; outputs are computed each time", str(error).partition(";")[0])

    @contextlib.contextmanager
    def filling(self, number: int) -> Any:
        """Hold pass `number`, once no other process does; on a disk that refuses, every process fills it for itself."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(RunError):
                stack.enter_context(exclusive(self.file(number)))
                for left in self.folder.glob(f".{self.file(number).name}.*{TEMPORARY}"):  # of a killed process
                    left.unlink()
            yield

    def forget(self) -> None:
        """Remove all passes: they are another network's."""
        for path in self.folder.glob("[0-9]*.safetensors"):
            with contextlib.suppress(OSError):
                path.unlink()


def answers(
    network: Frozen, batches: ImageBatches, passes: int, bank: LogitCache | None, computed: Count = lambda _: None
) -> Callable[[Batch], Tensor]:
    """A function from a batch of `batches` to its B × C float32 logits: cached where they fit, else computed each time.

    Args:
        network: which computes them.
        batches: the images and views.
        passes: how many passes over the images there will be.
        bank: None for none.
        computed: told how many images the network computed.
    """

    def plainly(batch: Batch) -> Tensor:
        computed(batch.counted)
        return network(batch.images_BCHW)

    return recalled(network, batches, passes, bank, computed) or plainly


def recalled(
    network: Frozen, batches: ImageBatches, passes: int, bank: LogitCache | None, computed: Count = lambda _: None
) -> Recall | None:
    """`answers` out of the cache; None without one, without room in it, and for a network that answers at random."""
    if bank is None or not bank.limit or not network.known:
        return None
    probe_BCHW = batches.views_of(0)(batches.stored(torch.arange(2)), batches.index_N[:2])
    entry: Entry | None = None

    def opened() -> Tensor:
        nonlocal entry
        once, again = network.plainly(probe_BCHW), network.plainly(probe_BCHW)
        if not network.alike(once, again, batches.device):
            log.info("logit cache: the model answers the same image differently, so nothing is kept")
            return torch.tensor(False)
        entry = bank.open(network, batches, once.shape[1], passes if batches.views else 1)
        return torch.tensor(entry is not None)

    return Recall(network, batches, entry, computed) if bool(ranks.once(opened)) else None


class Recall:
    """Logits from an entry of the cache, which is filled on the way, a pass at a time.

    Where processes train together the first one alone has the `entry`, and each computes its share of what is missing.
    """

    def __init__(self, network: Frozen, batches: ImageBatches, entry: Entry | None, computed: Count) -> None:
        self._network, self._batches, self._entry, self._computed = network, batches, entry, computed
        self._index_M = batches.index_N.cpu()
        self._row = _rows(self._index_M, batches.source_size).to(batches.device)
        self._number = -1
        self._logits_MC = torch.empty(0)
        self._trusted = False

    def __call__(self, batch: Batch) -> Tensor:
        """B × C logits of a batch."""
        number = batch.epoch if self._batches.views else 0
        if number != self._number:
            self._number, self._logits_MC = number, self.of(number).to(self._batches.device)
        return self._logits_MC[self._row[batch.index_B]]

    def of(self, number: int) -> Tensor:
        """M × C logits of pass `number` in the order of the images, on the CPU."""
        if self._entry is None:
            return self._help(number)
        held, row_M = self._held(self._entry, number)
        if bool(ranks.once(lambda: (row_M >= 0).all())):
            return ranks.once(lambda: held.logits_MC[row_M])
        with self._entry.filling(number):
            return self._fill(self._entry, number)

    def _help(self, number: int) -> Tensor:
        """`of` in the processes beside the first, which compute their share."""
        if not bool(ranks.once(lambda: torch.empty(0))):
            self._fresh(number, torch.empty(0))
        return ranks.once(lambda: torch.empty(0))

    def _held(self, entry: Entry, number: int) -> tuple[Held, Tensor]:
        """What is kept of a pass, and the row of each image in it; −1 for those that are not kept."""
        size = self._batches.source_size
        nothing = Held(torch.empty(0, dtype=torch.int64), torch.empty(0, entry.about["classes"]))
        held = entry.read(number) or nothing
        row_M = _rows(held.index_M, size)[self._index_M]
        if self._trusted or bool((row_M < 0).all()) or self._trust(entry, number, held, row_M):
            return held, row_M
        return nothing, torch.full_like(row_M, -1)

    def _trust(self, entry: Entry, number: int, held: Held, row_M: Tensor) -> bool:
        """Whether some logits of an entry are still this network's; if not, the entry is emptied."""
        known = (row_M >= 0).nonzero().squeeze(1)
        picked = known[:: max(1, len(known) // PROBE)][:PROBE]
        said = self._compute(number, picked, self._network.plainly)
        self._computed(len(picked))
        self._trusted = self._network.alike(held.logits_MC[row_M[picked]], said, self._batches.device)
        if not self._trusted:
            log.warning(
                "logit cache: %s holds outputs that the network does not give; they are computed anew",
                entry.folder,
            )
            entry.forget()
        return self._trusted

    def _fill(self, entry: Entry, number: int) -> Tensor:
        """Compute what is missing of a pass, keep it, and return all of it."""
        held, row_M = self._held(entry, number)  # another process may just have filled it
        missing = (row_M < 0).nonzero().squeeze(1)
        fresh_MC = self._fresh(number, missing)
        if len(missing):
            held = Held(torch.cat([held.index_M, self._index_M[missing]]), torch.cat([held.logits_MC, fresh_MC]))
            entry.write(number, held)
        return ranks.once(lambda: held.logits_MC[_rows(held.index_M, self._batches.source_size)[self._index_M]])

    def _fresh(self, number: int, missing_M: Tensor) -> Tensor:
        """M × C logits of the images that the first process misses, computed by all of them."""
        rows_M = ranks.once(lambda: missing_M)
        self._computed(len(rows_M))
        if not len(rows_M):
            return torch.empty(0)
        return ranks.shared(rows_M, lambda rows: self._compute(number, rows, self._network))

    def _compute(self, number: int, rows: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of some of the images in pass `number`, on the CPU."""
        batches = self._batches
        if not len(rows):  # fewer are missing than there are processes
            return torch.empty(0)
        views = batches.views_of(number)
        chunks = rows.to(batches.device).split(batch_for(batches.images, batches.device))
        return torch.cat([ask(views(batches.stored(c), batches.index_N[c])) for c in chunks]).cpu()


def in_bytes(size: float) -> str:
    """For people: 352 MB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _rows(index_M: Tensor, size: int) -> Tensor:
    """The row of each image of the source among these; −1 for those that are not among them."""
    row_N = torch.full((size,), -1)
    row_N[index_M] = torch.arange(len(index_M))
    return row_N


def _key(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def _is_ours(file: Path) -> bool:
    """Whether an entry's `about.json` is what its folder is named after; otherwise this cache did not write it."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        about.pop("reserved", None)  # of earlier versions
        return _key(about) == file.parent.name
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _last_used(entry: Path) -> float:
    with contextlib.suppress(OSError):
        return (entry / "about.json").stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0  # not there, or just removed by another process


def _checksum(index_M: Tensor, logits_MC: Tensor) -> int:
    return zlib.crc32(logits_MC.numpy().data, zlib.crc32(index_M.numpy().data)) if len(index_M) else 0
