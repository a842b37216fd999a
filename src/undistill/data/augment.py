"""Augmentation, per sample, on whole batches, on the device.

Every choice is addressed: one CPU generator for each (seed, epoch) draws a table for the whole source split, read at each image's
original index. A view is then the same on any batch size, subset, order, rank and device, and a resumed run sees what it
would have seen. Legend: B batch, C channels, H height, W width, N images of the source split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from undistill.errors import UsageError
from undistill.registry import Component, Registry
from undistill.seeds import generator


class View(Component):
    """One kind of augmentation: `draw` makes its random table, `apply` uses the rows that belong to a batch.

    Tables are whole numbers, angles and fractions among them in fixed point: sums of integers are the same on every device and
    in every order, those of floats are not.
    """

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """N × k int64 choices."""
        raise NotImplementedError

    def table(self, rng: torch.Generator, count: int, seed: int, epoch: int) -> Tensor:
        """N × k int64 choices of one epoch: drawn anew, but for a view that minds what other epochs saw."""
        return self.draw(rng, count)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The changed uint8 images, same shape."""
        raise NotImplementedError


VIEWS: Registry[View] = Registry("view", "undistill.data.augment")


@VIEWS.register
class Crop(View):
    """Pad by `padding` on each side, then cut the original size at a place drawn for each image.

    `fill`: the border is black, or mirrors the image around its outermost pixels.
    """

    name: Literal["crop"] = "crop"
    padding: int = Field(4, ge=1)
    fill: Literal["black", "reflect"] = "black"

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the usual fill, so that cells of earlier recipes keep their ids."""
        return {key: value for key, value in whole(self).items() if key != "fill" or value != "black"}

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """Top and left, each uniform in 0 … 2 · padding."""
        return torch.randint(0, 2 * self.padding + 1, (count, 2), generator=rng)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The cut images."""
        height, width = images_BCHW.shape[2:]
        padded = self._padded(images_BCHW)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: B, C, top, left, H, W
        each = torch.arange(len(images_BCHW), device=images_BCHW.device)
        return windows[each, :, choices_BK[:, 0], choices_BK[:, 1]]

    def _padded(self, images_BCHW: Tensor) -> Tensor:
        if self.fill == "black":
            return F.pad(images_BCHW, (self.padding,) * 4)
        height, width = images_BCHW.shape[2:]
        if self.padding >= min(height, width):
            raise UsageError(f"a crop that reflects pads by less than the image's {min(height, width)} pixels")
        y, x = (_reflected(side, self.padding, images_BCHW.device) for side in (height, width))
        return images_BCHW[:, :, y][:, :, :, x]


def _reflected(side: int, padding: int, device: torch.device) -> Tensor:
    """Which pixel of `side` stands at each place of a row padded on both ends: 2 1 0 1 2 … for a padding of 2."""
    place = torch.arange(-padding, side + padding, device=device).abs()
    return torch.where(place < side, place, 2 * (side - 1) - place)


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


@VIEWS.register
class AlternatingFlip(View):
    """Mirror left to right in every second epoch: half of the images, drawn once, in the even ones, the others in the odd ones.

    Each image is so seen both ways in any two epochs.
    Source: Jordan 2024 (94% on CIFAR-10 in 3.29 Seconds on a Single GPU), section 3.6.
    """

    name: Literal["alternating-flip"] = "alternating-flip"

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """0 or 1."""
        return torch.randint(0, 2, (count, 1), generator=rng)

    def table(self, rng: torch.Generator, count: int, seed: int, epoch: int) -> Tensor:
        """The draw of the first epoch, turned over in odd ones."""
        return self.draw(generator(seed, "views", "flip"), count) ^ (epoch & 1)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """Some images mirrored."""
        return Flip().apply(images_BCHW, choices_BK)


class FromStored(View):
    """A view that cuts what networks see out of the whole stored square, and so can only be the first."""

    def cut(self, images_BCHW: Tensor, choices_BK: Tensor, size: int) -> Tensor:
        """B × C × size × size uint8."""
        raise NotImplementedError

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """Out of squares of the very size that networks see."""
        return self.cut(images_BCHW, choices_BK, images_BCHW.shape[2])


@VIEWS.register
class Cutout(View):
    """Blacken a square of half the image's side about a pixel drawn for each image; what lies outside the image is cut off.

    Source: DeVries and Taylor 2017 (Improved Regularization of Convolutional Neural Networks with Cutout), section 3.
    """

    name: Literal["cutout"] = "cutout"
    share: float = Field(0.5, gt=0, lt=1)

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """The middle's row and column in units of 2⁻²⁰ of the side."""
        return torch.randint(0, 1 << FRACTION, (count, 2), generator=rng)

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The images, each with its square."""
        side = images_BCHW.shape[2]
        first_B2 = (choices_BK * side >> FRACTION) - (length := max(1, round(self.share * side))) // 2
        pixel_S = torch.arange(side, device=images_BCHW.device)
        inside_B2S = (pixel_S >= first_B2[:, :, None]) & (pixel_S < first_B2[:, :, None] + length)
        hole_B1HW = (inside_B2S[:, 0, :, None] & inside_B2S[:, 1, None, :])[:, None]
        return images_BCHW.masked_fill(hole_B1HW, 0)


FRACTION = 20
"""Bits behind the point of coordinates in pixels."""
WEIGHT = 11
"""Bits of an interpolation weight: two of them and a byte fit into 31 bits."""


@VIEWS.register
class Rotation(View):
    """Turn by an angle drawn evenly from ± `degrees` about the centre, bilinear; black comes in from outside."""

    name: Literal["rotation"] = "rotation"
    degrees: float = Field(20, gt=0, le=180)

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """Cosine and sine in units of 2⁻²⁰."""
        share = torch.rand(count, 1, generator=rng, dtype=torch.float64)
        return self.turn((2 * share - 1) * self.degrees)

    @staticmethod
    def turn(degrees_N1: Tensor) -> Tensor:
        """The row of the table for each angle, counter-clockwise."""
        angle = degrees_N1.double().deg2rad()
        return (torch.cat([angle.cos(), angle.sin()], dim=1) * (1 << FRACTION)).round().long()

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The turned images."""
        side = images_BCHW.shape[2]
        from_centre = 2 * torch.arange(side, device=images_BCHW.device) - (
            side - 1
        )  # in half pixels, so that it is whole
        y_B, x_B = from_centre[None, :, None], from_centre[None, None, :]
        cos, sin = (choices_BK[:, k, None, None] for k in (0, 1))
        middle = (side - 1) << FRACTION
        return bilinear(images_BCHW, (cos * y_B + sin * x_B + middle) >> 1, (cos * x_B - sin * y_B + middle) >> 1)


@VIEWS.register
class ResizedCrop(FromStored):
    """Cut a box (a share `scale` of the stored square, of an aspect ratio from `ratio`) and stretch it to what networks see.

    Source: Szegedy et al. 2015 (Inception); ratio log-uniform, ten tries, then the whole square, as torchvision does. Bilinear,
    without antialias: store images at most about twice as large as networks see them.
    """

    name: Literal["resized-crop"] = "resized-crop"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is two growing shares of the area, above 0 and up to 1, not {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise ValueError(f"ratio is two growing numbers above 0, not {list(self.ratio)}")
        return self

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """Top, left, height and width in units of 2⁻²⁰ of the stored side."""
        draws = torch.rand(count, 22, generator=rng, dtype=torch.float64)
        area = self.scale[0] + draws[:, :10] * (self.scale[1] - self.scale[0])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = (low + draws[:, 10:20] * (high - low)).exp()
        height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
        fits = (height <= 1) & (width <= 1)
        first = fits.long().argmax(dim=1, keepdim=True)
        box = torch.cat([height.gather(1, first), width.gather(1, first)], dim=1)
        box = torch.where(fits.any(dim=1, keepdim=True), box, torch.ones_like(box))
        corner = draws[:, 20:] * (1 - box)
        return (torch.cat([corner, box], dim=1) * (1 << FRACTION)).round().long()

    def cut(self, images_BCHW: Tensor, choices_BK: Tensor, size: int) -> Tensor:
        """The stretched boxes."""
        side = images_BCHW.shape[2]
        middles = 2 * torch.arange(size, device=images_BCHW.device) + 1

        def places(corner_B: Tensor, length_B: Tensor) -> Tensor:
            scaled = (2 * size * corner_B[:, None] + length_B[:, None] * middles) * side
            place = scaled.div(2 * size, rounding_mode="floor") - (1 << (FRACTION - 1))
            return place.clamp(0, (side - 1) << FRACTION)

        top, left, height, width = choices_BK.unbind(1)
        return bilinear(images_BCHW, places(top, height)[:, :, None], places(left, width)[:, None, :])


def bilinear(images_BCHW: Tensor, y_BHW: Tensor, x_BHW: Tensor) -> Tensor:
    """uint8 images read at places in units of 2⁻²⁰ pixels, in whole numbers throughout; outside is black.

    `y_BHW` and `x_BHW` may be of one row or column, to be spread.
    """
    height, width = images_BCHW.shape[2:]
    y_BHW, x_BHW = torch.broadcast_tensors(y_BHW, x_BHW)
    flat_BCP = images_BCHW.flatten(2)
    one = 1 << WEIGHT
    top, left = y_BHW >> FRACTION, x_BHW >> FRACTION
    down, right = ((at >> (FRACTION - WEIGHT)) & (one - 1) for at in (y_BHW, x_BHW))
    total = torch.full(
        (*images_BCHW.shape[:2], *y_BHW.shape[1:]), one * one // 2, dtype=torch.int32, device=y_BHW.device
    )
    for row, high in ((top, one - down), (top + 1, down)):
        for column, wide in ((left, one - right), (left + 1, right)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)[:, None]
            values = flat_BCP.gather(2, place.expand(-1, flat_BCP.shape[1], -1)).view(total.shape)
            total += values.int() * (high * wide * inside).int()[:, None]
    return (total >> (2 * WEIGHT)).to(torch.uint8)


class Views:
    """The views of one epoch. `seed` is already derived, so that attackers may share views and the logit cache.

    `size` is the side of what networks see, where the images are stored larger. UsageError for a view out of place.
    """

    def __init__(
        self,
        views: Sequence[View],
        seed: int,
        epoch: int,
        source_size: int,
        device: torch.device,
        size: int | None = None,
    ) -> None:
        in_order(views)
        rng = generator(seed, "views", str(epoch))
        self.views, self.size = tuple(views), size
        self.tables = [view.table(rng, source_size, seed, epoch).to(device) for view in self.views]

    def __call__(self, images_BCHW: Tensor, index_B: Tensor) -> Tensor:
        """Stored uint8 images to float32 in [0, 1], each changed as its index says."""
        size = self.size or images_BCHW.shape[2]
        if not self.views or not isinstance(self.views[0], FromStored):
            images_BCHW = centre(images_BCHW, size)
        for view, table in zip(self.views, self.tables, strict=True):
            choices_BK = table[index_B]
            if isinstance(view, FromStored):
                images_BCHW = view.cut(images_BCHW, choices_BK, size)
            else:
                images_BCHW = view.apply(images_BCHW, choices_BK)
        return to_float(images_BCHW)


def in_order(views: Sequence[View]) -> None:
    """UsageError where a view that reads the stored square is not the first."""
    for view in views[1:]:
        if isinstance(view, FromStored):
            raise UsageError(f"the view {view.name} reads the stored images and must be the first in data.views")


def centre(images_BCHW: Tensor, size: int) -> Tensor:
    """The middle `size` × `size` pixels, a view of the same memory."""
    start = (images_BCHW.shape[2] - size) // 2
    return images_BCHW[:, :, start : start + size, start : start + size]


def to_float(images_BCHW: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return images_BCHW.float().div_(255)
