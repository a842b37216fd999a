"""Views against a slow twin that works image by image, and their address: (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undistill.data import load
from undistill.data.augment import VIEWS, Crop, Cutout, Flip, ResizedCrop, Rotation, View, Views, to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError

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
    return Views(views, seed, epoch, images.source_size, CPU)(images.images_NCHW[:], images.index_N)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [1, 4])
def test_crops_equal_the_slow_twin(make_images: Callable[..., ImageSet], channels: int, padding: int) -> None:
    images = make_images(channels=channels)
    views = Views((Crop(padding=padding),), 5, 0, len(images), CPU)
    seen = views(images.images_NCHW[:], images.index_N).numpy()
    for image, (top, left), view in zip(images.images_NCHW[:].numpy(), views.tables[0].tolist(), seen, strict=True):
        np.testing.assert_array_equal(view, slow_crop(image, padding, top, left).astype(np.float32) / np.float32(255))


def test_views_are_applied_in_order(images: ImageSet) -> None:
    views = Views(BOTH, 5, 0, len(images), CPU)
    seen = views(images.images_NCHW[:], images.index_N).numpy()
    tables = zip(*(table.tolist() for table in views.tables), strict=True)
    for image, (place, (mirrored,)), view in zip(images.images_NCHW[:].numpy(), tables, seen, strict=True):
        twin = slow_flip(slow_crop(image, 2, *place), mirrored)
        np.testing.assert_array_equal(view, twin.astype(np.float32) / np.float32(255))


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
    before = images.images_NCHW[:].clone()
    seen = see(images)
    assert torch.equal(images.images_NCHW[:], before)
    assert torch.equal(see(images, ()), before.float() / 255)
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
    assert seen.dtype == torch.float32
    assert seen.shape == images.images_NCHW.shape
    assert 0 <= seen.min() < seen.max() <= 1


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
    seen = view.apply(images.images_NCHW[:], choices)
    assert choices.dtype == torch.int64
    assert choices.shape[0] == 24
    assert (seen.shape, seen.dtype) == (images.images_NCHW.shape, torch.uint8)


# -- rotation -----------------------------------------------------------------------------------------------------------


def slow_bilinear(image_CHW: NDArray[Any], y: float, x: float) -> NDArray[Any]:
    """Black outside."""
    top, left = int(np.floor(y)), int(np.floor(x))
    value = np.zeros(len(image_CHW))
    for row, high in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, wide in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image_CHW.shape[1] and 0 <= column < image_CHW.shape[2]:
                value += high * wide * image_CHW[:, row, column]
    return value


def slow_rotation(image_CHW: NDArray[Any], cos: float, sin: float) -> NDArray[Any]:
    side = image_CHW.shape[1]
    middle = (side - 1) / 2
    turned = np.zeros(image_CHW.shape)
    for y in range(side):
        for x in range(side):
            from_y = cos * (y - middle) + sin * (x - middle) + middle
            from_x = cos * (x - middle) - sin * (y - middle) + middle
            turned[:, y, x] = slow_bilinear(image_CHW, from_y, from_x)
    return turned


def slow_crop_box(image_CHW: NDArray[Any], box: list[float], size: int) -> NDArray[Any]:
    side = image_CHW.shape[1]
    top, left, height, width = box
    cut = np.zeros((len(image_CHW), size, size))
    for y in range(size):
        for x in range(size):
            places = (top + (y + 0.5) / size * height, left + (x + 0.5) / size * width)
            from_y, from_x = (min(max(place * side - 0.5, 0), side - 1) for place in places)
            cut[:, y, x] = slow_bilinear(image_CHW, from_y, from_x)
    return cut


@pytest.mark.parametrize(("channels", "degrees"), [(1, 20), (3, 20), (3, 180)])
def test_rotations_equal_the_slow_twin(make_images: Callable[..., ImageSet], channels: int, degrees: float) -> None:
    images = make_images(channels=channels)
    views = Views((Rotation(degrees=degrees),), 5, 0, len(images), CPU)
    seen = views(images.images_NCHW[:], images.index_N).numpy() * 255
    for image, (cos, sin), view in zip(images.images_NCHW[:].numpy(), views.tables[0].tolist(), seen, strict=True):
        assert (
            abs(slow_rotation(image, cos / 2**20, sin / 2**20) - view).max() < 0.8
        )  # half a step, and weights of 11 bits


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (-90, -1), (360, 0)])
def test_a_quarter_turn_is_exact(make_images: Callable[..., ImageSet], size: int, degrees: float, turns: int) -> None:
    pixels = make_images(size=size).images_NCHW[:]
    table = Rotation.turn(torch.full((len(pixels), 1), float(degrees)))
    assert torch.equal(Rotation().apply(pixels, table), pixels.rot90(turns, (2, 3)))


def test_angles_are_drawn_evenly() -> None:
    table = Rotation(degrees=30).draw(torch.Generator().manual_seed(0), 20_000).double()
    angles = torch.atan2(table[:, 1], table[:, 0]).rad2deg()
    assert angles.abs().max() <= 30.001
    assert torch.histc(angles, 10, -30, 30).min() > 1800


@pytest.mark.parametrize(
    ("middle", "rows", "columns"), [((4, 4), (2, 6), (2, 6)), ((0, 7), (0, 2), (5, 8)), ((7, 1), (5, 8), (0, 3))]
)
def test_cutout_blackens_a_square_and_keeps_the_rest(
    make_images: Callable[..., ImageSet], middle: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    pixels = make_images(size=8).images_NCHW[:] | 1  # nothing is black before
    place = torch.tensor([[(2 * at + 1 << 20) // 16 for at in middle]]).expand(len(pixels), 2)
    wanted = pixels.clone()
    wanted[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(Cutout().apply(pixels, place), wanted)
    drawn = Cutout().draw(torch.Generator().manual_seed(0), 20_000)
    assert torch.histc(drawn.double(), 10, 0, 1 << 20).min() > 3700


# -- resized crops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 8, 11])
def test_resized_crops_equal_the_slow_twin(make_images: Callable[..., ImageSet], size: int) -> None:
    images = make_images()
    views = Views((ResizedCrop(),), 5, 0, len(images), CPU, size)
    seen = views(images.images_NCHW[:], images.index_N).numpy() * 255
    assert seen.shape == (24, 3, size, size)
    for image, box, view in zip(images.images_NCHW[:].numpy(), views.tables[0].tolist(), seen, strict=True):
        assert abs(slow_crop_box(image, [part / 2**20 for part in box], size) - view).max() < 0.8


@pytest.mark.parametrize("size", [1, 7, 8, 33])
def test_the_whole_square_of_equal_size_is_the_image(make_images: Callable[..., ImageSet], size: int) -> None:
    pixels = make_images(size=size).images_NCHW[:]
    whole = ResizedCrop(scale=(1, 1), ratio=(1, 1))
    assert torch.equal(whole.apply(pixels, whole.draw(torch.Generator().manual_seed(0), len(pixels))), pixels)


def test_boxes_keep_to_their_share_and_ratio() -> None:
    table = ResizedCrop(scale=(0.2, 0.9)).draw(torch.Generator().manual_seed(0), 20_000).double() / 2**20
    top, left, height, width = table.unbind(1)
    assert table.min() >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 2e-6
    assert (height * width).min() >= 0.2 - 1e-5
    assert (height * width).max() <= 0.9 + 1e-5
    assert ((width / height).log().abs() <= np.log(4 / 3) + 1e-4).all()


def test_a_box_that_never_fits_is_the_whole_square() -> None:
    table = ResizedCrop(scale=(1, 1), ratio=(4, 5)).draw(torch.Generator().manual_seed(0), 50)
    assert table.tolist() == [[0, 0, 2**20, 2**20]] * 50


@pytest.mark.parametrize(
    "wrong", [{"scale": [0, 1]}, {"scale": [0.5, 0.1]}, {"scale": [0.1, 2]}, {"ratio": [0, 1]}, {"ratio": [2, 1]}]
)
def test_wrong_shares_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^view resized-crop: [^\n]+ is two growing [^\n]+$"):
        VIEWS.make({"name": "resized-crop"} | wrong)


def test_a_resized_crop_comes_first(images: ImageSet) -> None:
    with pytest.raises(UsageError, match="resized-crop reads the stored images and must be the first"):
        Views((Flip(), ResizedCrop()), 5, 0, len(images), CPU)
    with pytest.raises(UsageError, match="must be the first"):
        ImageBatches(images, 8, (Flip(), ResizedCrop()), seed=0, role="teacher")
    with pytest.raises(UsageError, match="must be the first"):
        load("digits", views=("flip", "resized-crop"))


# -- stored larger than seen --------------------------------------------------------------------------------------------


def test_other_views_see_the_centre(make_images: Callable[..., ImageSet]) -> None:
    images = make_images(size=12)
    views = Views(BOTH, 5, 0, len(images), CPU, 8)
    centred = Views(BOTH, 5, 0, len(images), CPU)
    cut = images.images_NCHW[:][:, :, 2:10, 2:10]
    assert torch.equal(views(images.images_NCHW[:], images.index_N), centred(cut, images.index_N))


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_interpolated_views_do_not_follow_batch_order_or_subset(images: ImageSet, batch: int) -> None:
    views = Views((ResizedCrop(), Rotation(), Crop(padding=1), Flip()), 5, 3, len(images), CPU, 7)
    whole = views(images.images_NCHW[:], images.index_N)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    parts = [views(images.images_NCHW[rows], images.index_N[rows]) for rows in order.split(batch)]
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.gpu
def test_views_are_the_same_on_a_gpu(images: ImageSet) -> None:
    chain = (ResizedCrop(), Rotation(), Crop(padding=1), Flip())
    here, there = (Views(chain, 5, 3, len(images), torch.device(device), 7) for device in ("cpu", "cuda"))
    on_gpu = there(images.images_NCHW[:].cuda(), images.index_N.cuda()).cpu()
    assert torch.equal((on_gpu * 255).round(), (here(images.images_NCHW[:], images.index_N) * 255).round())


def test_a_reflecting_crop_pads_as_torch_does() -> None:
    images_BCHW = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images_BCHW.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    choices_BK = torch.tensor([[0, 0], [4, 4], [2, 1], [3, 0], [1, 4]])
    found = Crop(padding=2, fill="reflect").apply(images_BCHW, choices_BK)
    for image, (top, left), source in zip(found, choices_BK.tolist(), padded, strict=True):
        assert torch.equal(image, source[:, top : top + 6, left : left + 6])


def test_a_crop_that_fills_with_black_is_written_as_before() -> None:
    assert Crop().model_dump(mode="json") == {"name": "crop", "padding": 4}
    assert Crop(fill="reflect").model_dump(mode="json")["fill"] == "reflect"


def test_alternating_flips_show_each_image_both_ways_in_two_epochs() -> None:
    from undistill.data.augment import AlternatingFlip

    images_BCHW = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8)
    index_B = torch.arange(64)
    seen = [Views([AlternatingFlip()], 7, epoch, 64, torch.device("cpu"))(images_BCHW, index_B) for epoch in range(4)]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[0].flip(3))
    mirrored = (seen[0] == (images_BCHW / 255).flip(3)).flatten(1).all(dim=1).float().mean()
    assert 0.2 < mirrored < 0.8
