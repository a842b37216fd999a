"""Image sets and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undistill.data.image_set import ImageSet, Splits
from undistill.data.load import split
from undistill.errors import UsageError

NAMES = ("a", "b")
LABELS = torch.tensor([0, 1])


def parts_of(splits: Splits) -> dict[str, list[int]]:
    parts = {"train": splits.train, "pool": splits.pool, "val": splits.val, "test": splits.test}
    return {name: part.index_N.tolist() for name, part in parts.items() if part is not None}


def distinct(count: int, first: int = 0) -> torch.Tensor:
    """Images of 2 × 2 pixels, no two alike."""
    numbers = torch.arange(first, first + count)
    return torch.stack([numbers % 251, numbers // 251, numbers % 7, numbers % 13], dim=1).view(-1, 1, 2, 2).byte()


def pixels(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


# -- image sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images_NCHW", "labels_N", "names", "sentence"),
    [
        (pixels(0, 3, 8, 8), LABELS, NAMES, "there are no images"),
        (pixels(2, 3, 8, 8).float(), LABELS, NAMES, "images must be uint8, N × 1 or 3 × H × W, not torch.float32"),
        (pixels(2, 2, 8, 8), LABELS, NAMES, "images must be uint8, N × 1 or 3 × H × W, not torch.uint8 (2, 2, 8, 8)"),
        (pixels(2, 8, 8), LABELS, NAMES, "images must be uint8, N × 1 or 3 × H × W"),
        (pixels(2, 3, 8, 9), LABELS, NAMES, "images must be square, not 8 × 9 pixels"),
        (pixels(3, 3, 8, 8), LABELS, NAMES, "there are 3 images but 2 labels"),
        (pixels(2, 3, 8, 8), LABELS, ("a",), "a classifier needs at least 2 classes; the data name 1"),
        (pixels(2, 3, 8, 8), torch.tensor([0, 2]), NAMES, "label 2 is out of range: the data name 2 classes, 0 to 1"),
        (pixels(2, 3, 8, 8), torch.tensor([-1, 1]), NAMES, "label -1 is out of range: the data name 2 classes"),
        (pixels(2, 3, 8, 8), torch.tensor([1, 1]), NAMES, "all 2 images are of one class, 'b'"),
    ],
)
def test_what_is_no_data_set_is_refused(
    images_NCHW: torch.Tensor, labels_N: torch.Tensor, names: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        ImageSet.of(images_NCHW, labels_N, names)
    assert str(refused.value).startswith(sentence)


def test_rows_keep_their_index(images: ImageSet) -> None:
    twice = images.take(torch.tensor([5, 3, 9])).take(torch.tensor([2, 0]))
    assert twice.index_N.tolist() == [9, 5]
    assert torch.equal(twice.images_NCHW[:], images.images_NCHW[:][[9, 5]])
    assert torch.equal(twice.labels_N, images.labels_N[[9, 5]])
    assert twice.source_size == 24


def test_an_unlabelled_set_holds_no_label(images: ImageSet) -> None:
    hidden = images.unlabelled()
    assert (hidden.labels_N == -1).all()
    assert not hidden.labelled
    assert images.labelled
    assert (images.labels_N >= 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_equal_numpy(make_images: Callable[..., ImageSet], channels: int) -> None:
    images = make_images(channels=channels)
    scaled = images.images_NCHW[:].numpy().astype(np.float64) / 255
    mean, std = images.moments()
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-9)
    assert all(value > 0 for value in ImageSet.of(pixels(2, 3, 4, 4), LABELS, NAMES).moments()[1])  # of a blank one too


def test_a_fingerprint_changes_with_a_pixel_a_label_a_name_and_the_order(make_images: Callable[..., ImageSet]) -> None:
    images, changed = make_images(), make_images()
    assert images.fingerprint == changed.__dict__.pop("fingerprint", changed.fingerprint)
    changed.__dict__.pop("fingerprint", None)
    changed.images_NCHW[:][7, 1, 2, 3] ^= 1
    swapped = images.labels_N.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        changed,
        ImageSet.of(images.images_NCHW, swapped, images.class_names),
        ImageSet.of(images.images_NCHW, images.labels_N, ("w", "x", "y", "z")),
        images.take(torch.arange(23, -1, -1)),
    ]
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 5


# -- splits -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(0, 5))
def test_parts_are_disjoint_and_complete(
    make_images: Callable[..., ImageSet], pool: int, val: int, test: int, seed: int
) -> None:
    parts = parts_of(split("x", make_images(80), None, pool=pool, val=val, test_size=test, seed=seed))
    assert {name: len(rows) for name, rows in parts.items()} == {
        name: size
        for name, size in (("train", 80 - pool - val - test), ("pool", pool), ("val", val), ("test", test))
        if size
    }
    assert sorted(row for rows in parts.values() for row in rows) == list(range(80))


def test_parts_hold_the_classes_in_proportion(make_images: Callable[..., ImageSet]) -> None:
    splits = split("x", make_images(80), None, pool=20, val=8, test_size=12)
    for part in (splits.train, splits.pool, splits.val, splits.test):
        assert part is not None
        counts = part.labels_N.bincount(minlength=4)
        assert counts.max() - counts.min() <= 1


def test_uneven_classes_stay_in_proportion() -> None:
    labels_N = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    images = ImageSet.of(distinct(100), labels_N, ("a", "b", "c"))
    val = split("x", images, ImageSet.of(distinct(100, 100), labels_N, ("a", "b", "c")), val=50).val
    assert val is not None
    assert val.labels_N.bincount().tolist() == [30, 15, 5]


def test_a_split_is_the_same_each_time_and_another_by_seed(images: ImageSet) -> None:
    first, again, other = (parts_of(split("x", images, None, pool=4, test_size=8, seed=s)) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_larger_val_leaves_test_and_pool(images: ImageSet) -> None:
    small, large = (split("x", images, None, pool=4, val=val, test_size=6) for val in (0, 8))
    assert parts_of(small)["test"] == parts_of(large)["test"]
    assert parts_of(small)["pool"] == parts_of(large)["pool"]
    assert parts_of(split("x", images, None, pool=8, test_size=6))["test"] == parts_of(small)["test"]
    assert set(parts_of(large)["train"]) < set(parts_of(small)["train"])


def test_fractions_are_of_the_images_used(images: ImageSet) -> None:
    sizes = {
        name: len(rows)
        for name, rows in parts_of(split("x", images, None, pool=0.25, val=0.1, test_size=0.25, limit=20)).items()
    }
    assert sizes == {"test": 5, "pool": 5, "val": 2, "train": 8}


def test_a_limit_keeps_every_class(images: ImageSet, make_images: Callable[..., ImageSet]) -> None:
    assert split("x", images, make_images(seed=1), limit=4).train.labels_N.sort().values.tolist() == [0, 1, 2, 3]


def test_a_source_with_a_test_split_keeps_it_whole(images: ImageSet, make_images: Callable[..., ImageSet]) -> None:
    test = make_images(12, seed=1)
    splits = split("x", images, test, test_size=0.5)
    assert splits.test is test
    assert len(splits.train) == 24


def test_moments_are_of_the_training_part_alone(images: ImageSet) -> None:
    splits = split("x", images, None, pool=4, val=4, test_size=8)
    assert (splits.mean, splits.std) == splits.train.moments()


def test_a_fingerprint_names_the_split(images: ImageSet, make_images: Callable[..., ImageSet]) -> None:
    test = make_images(seed=1)
    choices: list[dict[str, Any]] = [{}, {"val": 4}, {"pool": 4}, {"limit": 20}, {"seed": 1}]
    made = [split("x", images, test, **settings) for settings in choices]
    assert len({splits.fingerprint for splits in made}) == 5
    assert split("x", images, test).fingerprint == made[0].fingerprint


def test_a_summary_names_all_parts(splits: Splits) -> None:
    assert splits.summary() == (
        "synthetic: train 24, pool 12, val 8, test 20; 4 classes of 6 training images, 3 × 8 × 8 pixels; chance level 25.0 %"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"val": -1}, "data.val is a number of images or a fraction below 1, not -1"),
        ({"pool": -0.5}, "data.pool is a number of images or a fraction below 1, not -0.5"),
        ({"val": 21}, "test, pool and val take 21 of 24 images and leave too few to train on"),
        ({"val": 0.5, "pool": 0.5}, "test, pool and val take 24 of 24 images"),
        ({"limit": 3}, "data.limit 3 leaves no image for each of the 4 classes"),
    ],
)
def test_sizes_that_leave_nothing_are_refused(images: ImageSet, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        split("x", images, images, **settings)
    assert str(refused.value).startswith(sentence)


def test_a_source_without_a_test_split_needs_one(images: ImageSet) -> None:
    with pytest.raises(UsageError, match=r"x has no test split; set aside one with data.test"):
        split("x", images, None)


@pytest.mark.parametrize("settings", [{"val": 50}, {"limit": 10}])
def test_no_class_is_left_without_a_training_image(settings: dict[str, Any]) -> None:
    labels_N = torch.tensor([0] * 99 + [1])
    images, test = (ImageSet.of(distinct(100, first), labels_N, NAMES) for first in (0, 100))
    for seed in range(5):
        try:
            kept = split("x", images, test, seed=seed, **settings).train
        except UsageError:
            continue
        assert set(kept.labels_N.tolist()) == {0, 1}
