"""Augmentation, per sample, on whole batches, on the device.

Every choice is addressed: one CPU generator for each (seed, epoch) draws a table for the whole source split, read at each image's
original index. A view is then the same on any batch size, subset, order, rank and device, and a resumed run sees what it
would have seen. Legend: B batch, C channels, H height, W width, N images of the source split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from undistill.registry import Component, Registry
from undistill.seeds import generator


class View(Component):
    """One kind of augmentation: `draw` makes its random table, `apply` uses the rows that belong to a batch."""

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """N × k int64 choices."""
        raise NotImplementedError

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The changed uint8 images, same shape."""
        raise NotImplementedError


VIEWS: Registry[View] = Registry("view", "undistill.data.views")


@VIEWS.register
class Crop(View):
    """Pad with black by `padding` on each side, then cut the original size at a place drawn for each image."""

    name: Literal["crop"] = "crop"
    padding: int = Field(4, ge=1)

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """Top and left, each uniform in 0 … 2 · padding."""
        return torch.randint(0, 2 * self.padding + 1, (count, 2), generator=rng)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The cut images."""
        height, width = images_BCHW.shape[2:]
        padded = F.pad(images_BCHW, (self.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: B, C, top, left, H, W
        each = torch.arange(len(images_BCHW), device=images_BCHW.device)
        return windows[each, :, choices_BK[:, 0], choices_BK[:, 1]]


@VIEWS.register
class Flip(View):
    """Mirror left to right with probability ½."""

    name: Literal["flip"] = "flip"

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """0 or 1."""
        return torch.randint(0, 2, (count, 1), generator=rng)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """Some images mirrored."""
        return torch.where(choices_BK[:, 0].bool()[:, None, None, None], images_BCHW.flip(3), images_BCHW)


class Views:
    """The views of one epoch. `seed` is already derived, so that a bank of answers may share it between thieves."""

    def __init__(self, views: Sequence[View], seed: int, epoch: int, source_size: int, device: torch.device) -> None:
        rng = generator(seed, "views", str(epoch))
        self.views = tuple(views)
        self.tables = [view.draw(rng, source_size).to(device) for view in self.views]

    def __call__(self, images_BCHW: Tensor, index_B: Tensor) -> Tensor:
        """uint8 images to float32 in [0, 1], each changed as its index says."""
        for view, table in zip(self.views, self.tables, strict=True):
            images_BCHW = view.apply(images_BCHW, table[index_B])
        return to_float(images_BCHW)


def to_float(images_BCHW: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images_BCHW.float().div_(255)
