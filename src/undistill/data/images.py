"""Decoded images and how they are split.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill.errors import UsageError
from undistill.seeds import generator


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes. `index_N` is each image's place in the source split, the address of its views."""

    images_NCHW: Tensor  # uint8, often memory-mapped
    labels_N: Tensor  # int64
    class_names: tuple[str, ...]
    index_N: Tensor
    source_size: int
    labelled: bool = True

    @classmethod
    def of(cls, images_NCHW: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> ImageSet:
        """A whole source split, checked: UsageError for no image, wrong shapes, one class or a label out of range."""
        if len(images_NCHW) == 0:
            raise UsageError("there are no images")
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
            raise UsageError(
                f"images must be uint8, N × 1 or 3 × H × W, not {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
            )
        if images_NCHW.shape[2] != images_NCHW.shape[3]:
            raise UsageError(f"images must be square, not {images_NCHW.shape[2]} × {images_NCHW.shape[3]} pixels")
        if len(labels_N) != len(images_NCHW):
            raise UsageError(f"there are {len(images_NCHW)} images but {len(labels_N)} labels")
        if len(class_names) < 2:
            raise UsageError(f"a classifier needs at least 2 classes; the data name {len(class_names)}")
        low, high = int(labels_N.min()), int(labels_N.max())
        if low < 0 or high >= len(class_names):
            wrong = low if low < 0 else high
            raise UsageError(
                f"label {wrong} is out of range: the data name {len(class_names)} classes, 0 to {len(class_names) - 1}"
            )
        if low == high:
            raise UsageError(f"all {len(labels_N)} images are of one class, {class_names[low]!r}")
        size = len(images_NCHW)
        return cls(images_NCHW, labels_N.long(), tuple(class_names), torch.arange(size), size)

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def num_classes(self) -> int:
        """How many classes the data name."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.images_NCHW.shape[1]

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        return self.images_NCHW.shape[2]

    def take(self, rows_M: Tensor) -> ImageSet:
        """These rows, in this order; they keep their index."""
        return replace(
            self,
            images_NCHW=self.images_NCHW.index_select(0, rows_M),
            labels_N=self.labels_N[rows_M],
            index_N=self.index_N[rows_M],
        )

    def unlabelled(self) -> ImageSet:
        """The same images with every label −1: what a thief without labels is handed."""
        return replace(self, labels_N=torch.full_like(self.labels_N, -1), labelled=False)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, standard deviation) of the pixels of each channel, in [0, 1]."""
        counts = torch.zeros(self.channels, 256, dtype=torch.int64)
        for chunk in self.images_NCHW.split(8192):
            for channel in range(self.channels):
                counts[channel] += chunk[:, channel].flatten().bincount(minlength=256)
        share = counts.double() / counts.sum(dim=1, keepdim=True)
        value = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ value
        std = (share @ value.square() - mean.square()).clamp_min(1e-6).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels, labels and class names, 16 hex digits: equal only for the same data in the same order."""
        digest = hashlib.sha256(repr((tuple(self.images_NCHW.shape), self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images_NCHW.numpy()).data)
        digest.update(np.ascontiguousarray(self.labels_N.numpy()).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Splits:
    """`train` for the victim, `pool` of fresh images that no victim sees, `val` to choose on, `test` to report.

    `settings` are what they were made with, for a run to write down.
    """

    name: str
    train: ImageSet
    pool: ImageSet | None
    val: ImageSet | None
    test: ImageSet
    fingerprint: str
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = field(default=())
    std: tuple[float, ...] = field(default=())

    @property
    def num_classes(self) -> int:
        """How many classes the data name."""
        return self.train.num_classes

    def summary(self) -> str:
        """One line: sizes of all parts."""
        parts = {"train": self.train, "pool": self.pool, "val": self.val, "test": self.test}
        sizes = ", ".join(f"{part} {len(images):,}" for part, images in parts.items() if images is not None)
        shape = f"{self.train.channels} × {self.train.image_size} × {self.train.image_size}"
        return f"{self.name}: {sizes}; {self.num_classes} classes, {shape} pixels"


def split(
    name: str,
    train: ImageSet,
    test: ImageSet | None,
    *,
    pool: float | int = 0,
    val: float | int = 0,
    test_size: float | int = 0,
    limit: int | None = None,
    seed: int = 0,
    fingerprints: tuple[str, ...] = (),
    note: str = "",
) -> Splits:
    """Carve `test` (only without one), `pool` and `val` off the source's training images, stratified by class.

    Sizes are counts (≥ 1) or fractions (< 1) of the source's training images, after `limit` cut them to a stratified part.
    The order in which parts are carved (test, pool, val) is fixed, so that a larger `val` leaves test and pool as they were.

    Args:
        name: of the data.
        train: the source's training split.
        test: the source's test split, if it has one.
        pool: fresh images that no victim sees.
        val: images to choose on.
        test_size: needed where the source has no test split.
        limit: number of training images used in all.
        seed: of the split; it belongs to the data, not to the run.
        fingerprints: of the source's splits, where they are known already.
        note: provenance, repeated beside every number.

    Raises:
        UsageError: parts that leave no class its training image.
    """
    order = _stratified_order(train.labels_N, seed)
    if limit is not None:
        if limit < train.num_classes:
            raise UsageError(f"data.limit {limit} leaves no image for each of the {train.num_classes} classes")
        if limit > len(order):
            raise UsageError(f"data.limit {limit} is more than the {len(order)} images there are")
        order = order[:limit]
    total, start = len(order), 0
    carved: dict[str, ImageSet | None] = {}
    for part, size in (("test", 0 if test is not None else test_size), ("pool", pool), ("val", val)):
        if size < 0 or (size >= 1 and size != int(size)):
            raise UsageError(f"data.{part} is a number of images or a fraction below 1, not {size}")
        count = int(size) if size >= 1 else round(size * total)
        carved[part] = train.take(order[start : start + count].sort().values) if count else None
        start += count
    if total - start < train.num_classes:
        raise UsageError(f"test, pool and val take {start} of {total} images and leave too few to train on")
    kept = train if start == 0 and total == len(train) else train.take(order[start:].sort().values)
    lost = sorted(set(train.labels_N.unique().tolist()) - set(kept.labels_N.unique().tolist()))
    if lost:
        raise UsageError(f"test, pool, val and limit leave no training image of class {train.class_names[lost[0]]!r}")
    final_test = test if test is not None else carved["test"]
    if final_test is None:
        raise UsageError(f"{name} has no test split; set aside one with data.test")
    mean, std = kept.moments()
    sources = fingerprints or tuple(part.fingerprint for part in (train, test) if part is not None)
    settings = repr((sources, limit, pool, val, test_size if test is None else 0, seed))
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    given = {"limit": limit, "pool": pool, "val": val, "split_seed": seed} | (
        {"test": test_size} if test is None else {}
    )
    return Splits(
        name, kept, carved["pool"], carved["val"], final_test, digest, note, {"name": name, **given}, mean, std
    )


def _stratified_order(labels_N: Tensor, seed: int) -> Tensor:
    """A permutation whose every prefix holds the classes nearly in proportion."""
    shuffled = torch.randperm(len(labels_N), generator=generator(seed, "data", "split"))
    labels = labels_N[shuffled]
    place = torch.empty(len(labels), dtype=torch.float64)
    for value in labels.unique():
        rows = (labels == value).nonzero().squeeze(1)
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return shuffled[place.argsort(stable=True)]
