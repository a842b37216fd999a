"""One source split to train, pool, val and test, without an image that is in two of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill.data.images import HASH, ImageSet, Splits
from undistill.errors import UsageError
from undistill.seeds import generator


def split(
    name: str,
    train: ImageSet,
    test: ImageSet | None = None,
    own_val: ImageSet | None = None,
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
    Then an image that is, pixel for pixel, in an earlier part (test, val, pool, train) is dropped and counted: a duplicate between
    train and test would be remembered, not recognised, and one between train and pool would not be fresh.

    Args:
        name: of the data.
        train: the source's training split.
        test: the source's test split, if it has one.
        own_val: the source's validation split, if it has one beside its test split; `val` is 0 then.
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
    sizes = {"test": 0 if test is not None else test_size, "pool": pool, "val": val}
    parts = _carve(train, sizes, _limited(train, limit, seed))
    parts |= {part: given for part, given in (("test", test), ("val", own_val)) if given is not None}
    if parts["test"] is None:
        raise UsageError(f"{name} has no test split; set aside one with data.test")
    parts, duplicates = _without_duplicates(parts)
    kept, final_test = parts["train"], parts["test"]
    assert kept is not None
    assert final_test is not None
    mean, std = kept.moments()
    sources = fingerprints or tuple(part.fingerprint for part in (train, test, own_val) if part is not None)
    fixed: tuple[Any, ...] = (sources, limit, pool, val, sizes["test"], seed)
    if train.image_size != train.stored_size:
        fixed += (("seen", train.image_size),)
    if duplicates:
        fixed += (("duplicates", duplicates),)
    digest = hashlib.sha256(repr(fixed).encode()).hexdigest()[:16]
    settings = {"name": name, "limit": limit, "pool": pool, "val": val if own_val is None else None, "split_seed": seed}
    settings |= {"test": test_size} if test is None else {}
    dropped = {"duplicates": duplicates} if duplicates else {}
    return Splits(name, kept, parts["pool"], parts["val"], final_test, digest, note, settings, mean, std, dropped)


def _limited(train: ImageSet, limit: int | None, seed: int) -> Tensor:
    order = _stratified_order(train.labels_N, seed)
    if limit is None:
        return order
    if limit < train.num_classes:
        raise UsageError(f"data.limit {limit} leaves no image for each of the {train.num_classes} classes")
    if limit > len(order):
        raise UsageError(f"data.limit {limit} is more than the {len(order)} images there are")
    return order[:limit]


def _carve(train: ImageSet, sizes: dict[str, float | int], order: Tensor) -> dict[str, ImageSet | None]:
    """The parts in the order of `sizes`, and what is left as `train`."""
    total, start = len(order), 0
    parts: dict[str, ImageSet | None] = {}
    for part, size in sizes.items():
        if size < 0 or (size >= 1 and size != int(size)):
            raise UsageError(f"data.{part} is a number of images or a fraction below 1, not {size}")
        count = int(size) if size >= 1 else round(size * total)
        parts[part] = train.take(order[start : start + count].sort().values) if count else None
        start += count
    if total - start < train.num_classes:
        raise UsageError(f"test, pool and val take {start} of {total} images and leave too few to train on")
    kept = train if start == 0 and total == len(train) else train.take(order[start:].sort().values)
    _check_classes(train, kept, "test, pool, val and limit leave")
    return parts | {"train": kept}


def _check_classes(before: ImageSet, after: ImageSet, what: str) -> None:
    lost = sorted(set(before.labels_N.unique().tolist()) - set(after.labels_N.unique().tolist()))
    if lost:
        raise UsageError(f"{what} no training image of class {before.class_names[lost[0]]!r}")


def _without_duplicates(parts: dict[str, ImageSet | None]) -> tuple[dict[str, ImageSet | None], int]:
    """(parts, how many were dropped): no image of a part is in an earlier one. Equal images within one part stay."""
    kept, dropped = dict(parts), 0
    earlier = np.empty(0, HASH)
    for part in ("test", "val", "pool", "train"):
        images = parts.get(part)
        if images is None:
            continue
        known = np.isin(images.hashes_N, earlier)
        earlier = np.union1d(earlier, images.hashes_N)
        if not known.any():
            continue
        dropped += int(known.sum())
        if known.all():
            raise UsageError(
                f"every image of {part} is also in test, val or pool; give data whose splits are different"
            )
        kept[part] = images.take(torch.from_numpy(np.flatnonzero(~known)))
        if part == "train":
            _check_classes(images, kept[part] or images, "without duplicates of test, val and pool there is")
    return kept, dropped


def _stratified_order(labels_N: Tensor, seed: int) -> Tensor:
    """A permutation whose every prefix holds the classes nearly in proportion."""
    shuffled = torch.randperm(len(labels_N), generator=generator(seed, "data", "split"))
    labels = labels_N[shuffled]
    place = torch.empty(len(labels), dtype=torch.float64)
    for value in labels.unique():
        rows = (labels == value).nonzero().squeeze(1)
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return shuffled[place.argsort(stable=True)]
