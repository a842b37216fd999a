"""Images that stay on disk, for sets that would not fit into memory: they stand where a tensor of pixels would.

Legend: N images, M rows, C channels, S side in pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill import ranks
from undistill.data.decode import LARGEST, Shape, decode
from undistill.errors import RunError, UsageError
from undistill.files import write_bytes
from undistill.threads import usable

VARIABLE = "UNDISTILL_MEMORY_LIMIT"
"""The environment variable by which a command tells the processes that it starts."""
CHUNK = 1024
"""Images that go to a device together."""
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def limit(text: str | None = None) -> int:
    """Bytes of a set's decoded images above which they stay encoded: `200MB`, `4GB`; None for the environment's, or 4 GB.

    UsageError for anything else.
    """
    asked = os.environ.get(VARIABLE) if text is None else text
    if not asked:
        return LARGEST
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]B)", asked.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"the memory limit is a size such as 200MB or 4GB, not {asked!r}")
    return int(float(found[1]) * UNITS[found[2].lower()])


class Lazy:
    """N × C × S × S uint8 pixels that are read when they are indexed, by a tensor of rows or a slice; a tensor comes out."""

    dtype, ndim = torch.uint8, 4

    def __init__(self, shape: tuple[int, ...], rows_M: Tensor) -> None:
        self._one, self.rows_M = shape, rows_M

    def __len__(self) -> int:
        return len(self.rows_M)

    @property
    def shape(self) -> torch.Size:
        """N × C × S × S."""
        return torch.Size((len(self), *self._one))

    def to(self, _: torch.device | str) -> Tensor | Lazy:
        """Itself: what is indexed goes to a device, not all of it."""
        return self

    def index_select(self, _: int, rows_M: Tensor) -> Lazy:
        """Some of the images, as lazy as all."""
        raise NotImplementedError

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        raise NotImplementedError


class Mapped(Lazy):
    """Some rows of decoded pixels that are mapped from a file: the file's pages are memory that the system may take back."""

    def __init__(self, whole_NCHW: Tensor, rows_M: Tensor) -> None:
        super().__init__(tuple(whole_NCHW.shape[1:]), rows_M)
        self.whole_NCHW = whole_NCHW

    def to(self, device: torch.device | str) -> Tensor | Lazy:
        """Itself on a CPU; all of it on a GPU, whose memory is its own."""
        if torch.device(device).type == "cpu":
            return self
        whole = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for rows in torch.arange(len(self)).split(CHUNK):
            whole[rows[0] : rows[-1] + 1] = self[rows].to(device)
        return whole

    def index_select(self, _: int, rows_M: Tensor) -> Mapped:
        """Some of these rows."""
        return Mapped(self.whole_NCHW, self.rows_M[rows_M])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.whole_NCHW[self.rows_M[rows.cpu() if isinstance(rows, Tensor) else rows]]


class Encoded(Lazy):
    """Pixels that are decoded when they are indexed, by threads of their own; rows of a file.

    They are those that `decode` makes for a set that is decoded once.
    """

    def __init__(self, file: Path, start_N1: Any, form: Shape, rows_M: Tensor | None = None) -> None:
        """`start_N1` says where each image begins in `file`, and where the last one ends."""
        self.file, self.start_N1, self.form = file, start_N1, form
        rows_M = torch.arange(len(start_N1) - 1) if rows_M is None else rows_M
        super().__init__((form.channels, form.stored, form.stored), rows_M)

    def index_select(self, _: int, rows_M: Tensor) -> Encoded:
        """Some of the images, still encoded."""
        return Encoded(self.file, self.start_N1, self.form, self.rows_M[rows_M])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.ahead(rows)()

    def ahead(self, rows: Tensor | slice, device: torch.device | str = "cpu") -> Callable[[], Tensor]:
        """Begin to decode these rows; what waits for them, and returns M × C × S × S uint8 on the device."""
        chosen = self.rows_M[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()
        pixels = torch.empty(len(chosen), *self.shape[1:], dtype=torch.uint8)
        array = pixels.numpy()

        def fill(place: int, row: int) -> None:
            array[place] = decode({"bytes": self._content(row)}, f"image {row} of {self.file}", self.form)

        warnings.filterwarnings("ignore", module=r"PIL\.")  # threads share their filters, so for good
        waiting = [_pool(os.getpid()).submit(fill, place, row) for place, row in enumerate(chosen)]

        def wait() -> Tensor:
            try:
                for future in waiting:
                    future.result()
            except (OSError, UsageError) as error:
                raise RunError(
                    f"{error}; the cache changed: `undistill cache --prune --kind images` and begin again"
                ) from error
            return pixels.to(device)

        return wait

    def histograms(self, count: Callable[[], Tensor]) -> Tensor:
        """What `count` counts of these pixels, C × 256 int64; kept beside the file, for it takes as long as to decode them all."""
        name = hashlib.sha256(self.rows_M.numpy().tobytes()).hexdigest()[:16]
        kept = self.file.with_name(f"{self.file.stem}.{name}.counts.npy")
        try:
            found = torch.from_numpy(np.load(kept, allow_pickle=False))
            if (found.dtype, found.shape) == (torch.int64, (self.form.channels, 256)):
                return found
        except (OSError, ValueError, TypeError):
            pass
        made = count()
        content = io.BytesIO()
        np.save(content, made.numpy(), allow_pickle=False)
        if self.file.exists():
            with contextlib.suppress(RunError):  # a cache that cannot be written to
                write_bytes(kept, content.getvalue(), lasting=False)
        return made

    def _content(self, row: int) -> bytes:
        start, end = int(self.start_N1[row]), int(self.start_N1[row + 1])
        with self.file.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(end - start)


@cache
def _pool(_: int) -> ThreadPoolExecutor:
    """This process's decoding threads, one for each core that it may use: decoders let go of Python's lock."""
    return ThreadPoolExecutor(max(1, usable() // ranks.beside()), thread_name_prefix="decode")


def starts(sizes: list[int]) -> Any:
    """Where each of these contents begins in a file that holds them one after another, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
