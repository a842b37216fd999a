"""A custom data set. Usage: undistill train --plugin examples/plugins/toy_data.py --data toy-data -o OUT"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch

from undistill.data.image_set import ImageSet
from undistill.data.sources import SOURCES, Found, Progress, Source, Wanted
from undistill.errors import UsageError
from undistill.seeds import generator

NAMES = ("top", "bottom", "left", "right")


@SOURCES.register
class ToyData(Source):
    """1,800 gray images of 8 × 8 noise with one brighter side: top, bottom, left or right. Generated, not read."""

    name: Literal["toy-data"] = "toy-data"
    note = "synthetic noise with a brighter side"
    recipe = "digits"
    sizes: ClassVar[dict[str, float | int]] = {"test": 500, "pool": 400, "val": 90}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """One split, from which the settings carve test, pool and val; a `test` beside `train` would be kept."""
        if folder is not None or wanted != Wanted(skip_corrupt=wanted.skip_corrupt):
            raise UsageError("toy-data is generated, 8 × 8 gray: it reads no folder and takes no data.size")
        rng = generator(0, "toy-data", "pixels")
        labels_N = torch.arange(1800) % len(NAMES)
        images_NCHW = torch.randint(0, 200, (1800, 1, 8, 8), generator=rng, dtype=torch.uint8)
        halves = (slice(0, 4), slice(4, 8))
        for label in range(len(NAMES)):
            rows = labels_N == label
            side = halves[label % 2]
            half = (rows, slice(None), side) if label < 2 else (rows, slice(None), slice(None), side)
            images_NCHW[half] += 20
        return Found({"train": ImageSet.of(images_NCHW, labels_N, NAMES)})
