"""Views against a slow twin that works image by image, and their address: (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undistill.data.images import ImageSet
from undistill.data.views import VIEWS, Crop, Flip, View, Views, to_float

CPU = torch.device("cpu")
BOTH = (Crop(padding=2), Flip())


def slow_crop(image_CHW: NDArray[Any], padding: int, top: int, left: int) -> NDArray[Any]:
    channels, height, width = image_CHW.shape
    cut = np.zeros_like(image_CHW)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + top - padding, x + left - padding
                if 0 <= from_y < height and 0 <= from_x < width:
                    cut[c, y, x] = image_CHW[c, from_y, from_x]
    return cut


def slow_flip(image_CHW: NDArray[Any], mirrored: int) -> NDArray[Any]:
    return image_CHW[:, :, ::-1] if mirrored else image_CHW


def see(images: ImageSet, views: tuple[View, ...] = BOTH, seed: int = 5, epoch: int = 0) -> torch.Tensor:
    return Views(views, seed, epoch, images.source_size, CPU)(images.images_NCHW, images.index_N)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [1, 4])
def test_crops_equal_the_slow_twin(make_images: Callable[..., ImageSet], channels: int, padding: int) -> None:
    images = make_images(channels=channels)
    views = Views((Crop(padding=padding),), 5, 0, len(images), CPU)
    seen = views(images.images_NCHW, images.index_N).numpy()
    for image, (top, left), view in zip(images.images_NCHW.numpy(), views.tables[0].tolist(), seen, strict=True):
        np.testing.assert_array_equal(view, slow_crop(image, padding, top, left).astype(np.float32) / np.float32(255))


def test_flips_equal_the_slow_twin(images: ImageSet) -> None:
    views = Views((Flip(),), 5, 0, len(images), CPU)
    seen = views(images.images_NCHW, images.index_N).numpy()
    for image, (mirrored,), view in zip(images.images_NCHW.numpy(), views.tables[0].tolist(), seen, strict=True):
        np.testing.assert_array_equal(view, slow_flip(image, mirrored).astype(np.float32) / np.float32(255))


def test_views_are_applied_in_order(images: ImageSet) -> None:
    views = Views(BOTH, 5, 0, len(images), CPU)
    seen = views(images.images_NCHW, images.index_N).numpy()
    tables = zip(*(table.tolist() for table in views.tables), strict=True)
    for image, (place, (mirrored,)), view in zip(images.images_NCHW.numpy(), tables, seen, strict=True):
        twin = slow_flip(slow_crop(image, 2, *place), mirrored)
        np.testing.assert_array_equal(view, twin.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("batch", [1, 2, 7, 24])
def test_a_view_is_the_same_for_any_batch_size(images: ImageSet, batch: int) -> None:
    views = Views(BOTH, 5, 3, len(images), CPU)
    chunks = zip(images.images_NCHW.split(batch), images.index_N.split(batch), strict=True)
    assert torch.equal(torch.cat([views(*chunk) for chunk in chunks]), see(images, epoch=3))


def test_a_view_is_the_same_in_any_order(images: ImageSet) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(see(images.take(order)), see(images)[order])


def test_a_view_is_the_same_in_any_subset(images: ImageSet) -> None:
    rows = torch.tensor([3, 20, 21])
    assert torch.equal(see(images.take(rows)), see(images)[rows])


def test_a_view_does_not_depend_on_earlier_epochs_or_random_state(images: ImageSet) -> None:
    for epoch in range(3):
        see(images, epoch=epoch)
    before = see(images, epoch=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(see(images, epoch=3), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_epochs_and_seeds_differ(images: ImageSet) -> None:
    first, next_epoch, other_seed = see(images), see(images, epoch=1), see(images, seed=6)
    assert not torch.equal(first, next_epoch)
    assert not torch.equal(first, other_seed)


def test_views_are_float32_between_0_and_1(images: ImageSet) -> None:
    seen = see(images)
    assert seen.dtype == torch.float32
    assert seen.shape == images.images_NCHW.shape
    assert 0 <= seen.min() < seen.max() <= 1


def test_no_view_shows_the_image_itself(images: ImageSet) -> None:
    assert torch.equal(see(images, ()), images.images_NCHW.float() / 255)


def test_views_leave_the_images_alone(images: ImageSet) -> None:
    before = images.images_NCHW.clone()
    see(images)
    assert torch.equal(images.images_NCHW, before)


def test_black_is_0_and_white_is_1() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]


def test_crops_are_drawn_evenly_from_all_places() -> None:
    places = Crop(padding=2).draw(torch.Generator().manual_seed(0), 25_000)
    counts = (places[:, 0] * 5 + places[:, 1]).bincount(minlength=25)
    assert len(counts) == 25
    assert counts.min() > 850
    assert counts.max() < 1150


def test_half_of_the_images_are_mirrored() -> None:
    assert Flip().draw(torch.Generator().manual_seed(0), 10_000).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", VIEWS.classes())
def test_every_view_keeps_shape_and_type(images: ImageSet, name: str) -> None:
    view = VIEWS.make(name)
    choices = view.draw(torch.Generator().manual_seed(0), 24)
    seen = view.apply(images.images_NCHW, choices)
    assert choices.dtype == torch.int64
    assert choices.shape[0] == 24
    assert (seen.shape, seen.dtype) == (images.images_NCHW.shape, torch.uint8)
