"""An image is in one part only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from undistill.data import cache, load
from undistill.data.image_set import ImageSet
from undistill.data.load import split
from undistill.errors import UsageError

NAMES = ("a", "b")


def numbered(*numbers: int) -> ImageSet:
    """One-pixel images of these values, classes in turn."""
    pixels = torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet.of(pixels, torch.arange(len(numbers)) % 2, NAMES)


def values(images: ImageSet | None) -> list[int]:
    assert images is not None
    return images.images_NCHW[:].flatten().tolist()


def test_hashes_are_of_the_stored_pixels(images: ImageSet) -> None:
    expected = [hashlib.sha256(image.tobytes()).hexdigest()[:32].encode() for image in images.images_NCHW[:].numpy()]
    assert images.hashes_N.dtype == np.dtype("S32")
    assert images.hashes_N.tolist() == expected
    rows = torch.tensor([5, 2])
    assert images.take(rows).unlabelled().__dict__["hashes_N"].tolist() == [expected[5], expected[2]]
    assert images.seen_by(4).__dict__["hashes_N"].tolist() == expected


def test_training_images_that_are_in_test_go() -> None:
    splits = split("x", numbered(1, 2, 3, 4, 5, 6), numbered(9, 4, 8, 1))
    assert values(splits.train) == [2, 3, 5, 6]
    assert values(splits.test) == [9, 4, 8, 1]
    assert splits.dropped == {"duplicates": 2}
    assert splits.summary().endswith("; left out: 2 duplicates")
    assert splits.train.index_N.tolist() == [1, 2, 4, 5]


def test_own_validation_images_that_are_in_test_go() -> None:
    splits = split("x", numbered(1, 2, 3, 4), numbered(10, 11), numbered(1, 12, 10, 13))
    assert (values(splits.val), values(splits.train)) == ([1, 12, 13], [2, 3, 4])
    assert splits.dropped == {"duplicates": 2}


@pytest.mark.parametrize("seed", range(5))
def test_carved_parts_share_no_image_and_lose_none(seed: int) -> None:
    train = numbered(*(k % 23 for k in range(60)))
    splits = split("x", train, None, pool=10, val=10, test_size=10, seed=seed)
    parts = [set(values(part)) for part in (splits.test, splits.val, splits.pool, splits.train)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 23
    assert len(splits.test) == 10
    kept = sum(len(values(part)) for part in (splits.test, splits.val, splits.pool, splits.train))
    assert splits.dropped == {"duplicates": 60 - kept}


def test_duplicates_within_one_part_stay() -> None:
    splits = split("x", numbered(1, 1, 2, 2, 3), numbered(7, 7))
    assert (values(splits.train), values(splits.test), splits.dropped) == ([1, 1, 2, 2, 3], [7, 7], {})


def test_a_fingerprint_changes_only_where_something_is_dropped() -> None:
    train, test = numbered(1, 2, 3, 4), numbered(8, 9)
    old = repr(((train.fingerprint, test.fingerprint), None, 0, 0, 0, 0))
    assert split("x", train, test).fingerprint == hashlib.sha256(old.encode()).hexdigest()[:16]
    other = numbered(8, 1)
    old = repr(((train.fingerprint, other.fingerprint), None, 0, 0, 0, 0))
    assert split("x", train, other).fingerprint != hashlib.sha256(old.encode()).hexdigest()[:16]


def test_splits_that_are_the_same_are_refused() -> None:
    with pytest.raises(UsageError, match="every image of train is also in test, val or pool"):
        split("x", numbered(1, 2), numbered(2, 1))
    with pytest.raises(
        UsageError, match="without duplicates of test, val and pool there is no training image of class 'b'"
    ):
        split("x", numbered(1, 2, 3), numbered(2, 5))


def test_digits_hold_no_duplicate() -> None:
    assert load("digits").dropped == {}


def test_hashes_are_kept_beside_the_pixels(
    make_images: Callable[..., ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path))
    images = make_images()
    kept = cache.read_or_make("key", "made up", lambda store: store.add("train", images)).splits["train"]
    assert kept.__dict__["hashes_N"].tolist() == images.hashes_N.tolist()
    (tmp_path / "images" / "key" / "train.hashes.npy").unlink()  # as earlier versions left it
    found = cache.read("key")
    assert found is not None
    older = found.splits["train"]
    assert "hashes_N" not in older.__dict__
    assert older.hashes_N.tolist() == images.hashes_N.tolist()
    assert older.fingerprint == images.fingerprint
