"""Images out of a torch-like data set. Legend: C channels, H height, W width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill.data.decode import header_of, pixels
from undistill.data.image_set import ImageSet
from undistill.data.opening import Wanted
from undistill.data.survey import Survey, resolve, widen
from undistill.errors import UsageError


def from_items(
    dataset: Any, class_names: Sequence[str] | None = None, size: int | None = None, channels: int | None = None
) -> ImageSet:
    """`ImageSet.from_torch`: two passes, one for sizes and labels, one to fill the array."""
    if size is not None and not 1 <= size <= 4096:
        raise UsageError(f"size is a side in pixels from 1 to 4096, not {size}")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is 1, 3 or None, not {channels}")
    count = _length(dataset)
    found, labels = _look(dataset, count)
    shape, _ = resolve(found, Wanted(size=size, channels=channels), "this data set")
    images_NCHW = torch.empty(count, shape.channels, shape.stored, shape.stored, dtype=torch.uint8)
    for number in range(count):
        opened, again = _item(dataset, number)
        if again != labels[number]:
            raise UsageError(
                f"item {number} has the label {labels[number]} at first and {again} later; data must not change"
            )
        images_NCHW[number] = torch.from_numpy(pixels(opened, shape).copy())  # Pillow's memory is not writable
    names = class_names if class_names is not None else getattr(dataset, "classes", None)
    names = [str(c) for c in range(max([*labels, 1]) + 1)] if names is None else [str(name) for name in names]
    return ImageSet.of(images_NCHW, torch.tensor(labels), tuple(names))


def _look(dataset: Any, count: int) -> tuple[Survey, list[int]]:
    sizes: Counter[tuple[int, int]] = Counter()
    deep: dict[str, list[float]] = {}
    labels, grey = [], True
    for number in range(count):
        opened, label = _item(dataset, number)
        try:
            seen = header_of(opened)
        except ValueError as error:
            raise UsageError(f"item {number} cannot be used: {error}") from error
        labels.append(label)
        grey = grey and seen.grey
        widen(deep, seen)
        sizes[opened.size] += 1
    width, height = next(iter(sizes))
    found = Survey(
        splits={},
        remarks=[],
        skipped={},
        columns=["image", "label"],
        classes=[],
        counts={"train": count},
        corrupt={},
        grey=grey,
        deep=deep,
        side=width if len(sizes) == 1 and width == height else None,
        short=median_low([min(each) for each in sizes.elements()]),
    )
    return found, labels


def _length(dataset: Any) -> int:
    try:
        count = len(dataset)
    except TypeError:
        raise UsageError(
            f"{type(dataset).__name__} has no length: give a map-style data set, or a list of its items"
        ) from None
    if count == 0:
        raise UsageError("there are no images")
    return count


def _item(dataset: Any, number: int) -> tuple[Any, int]:
    """(Pillow image, class number) of one item; UsageError names an item that is no such pair."""
    item = dataset[number]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UsageError(f"item {number} is no pair of an image and a class number, but {type(item).__name__}")
    image, label = item
    try:
        whole = int(label)
    except (TypeError, ValueError, RuntimeError):
        whole = -1
    if whole < 0 or isinstance(label, bool | float | str) or whole != label:
        raise UsageError(f"item {number} has the label {label!r}, which is no class number from 0")
    return _image(image, number), whole


def _image(image: Any, number: int) -> Any:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    array = _bytes_CHW(image, number).permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(image).__name__)
        raise UsageError(
            f"item {number} holds {kind}; an image is a Pillow image, a uint8 H × W × C array or a uint8 or float C × H × W tensor"
        )
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        order = "C × H × W" if isinstance(image, Tensor) else "H × W × C"
        raise UsageError(f"item {number} is of the shape {tuple(image.shape)}, not {order} with 1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(array))


def _bytes_CHW(image: Tensor, number: int) -> Tensor:
    """uint8 of a tensor; floats are rounded to the nearest of 256 steps."""
    image = image.detach().cpu()
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise UsageError(f"item {number} is of the shape {tuple(image.shape)}, not C × H × W with 1 or 3 channels")
    if not image.is_floating_point():
        return image
    low, high = (float(image.min()), float(image.max())) if image.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"item {number} holds floats from {low:.3g} to {high:.3g}, not in [0, 1]: "
            "leave normalisation out of its transforms, for the network does it"
        )
    return (image.float() * 255).round().to(torch.uint8)
