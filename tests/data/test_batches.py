"""Batches: each image once a pass, order and views by address."""

from __future__ import annotations

import pytest
import torch

from undistill.data.augment import Crop, Flip
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.types import Batch, Batches

VIEWS = (Crop(padding=2), Flip())


def order(batches: ImageBatches, epoch: int = 0) -> list[int]:
    return [index for batch in batches.epoch(epoch) for index in batch.index_B.tolist()]


def seen(batches: ImageBatches, epoch: int = 0) -> dict[int, torch.Tensor]:
    return {
        int(i): image
        for batch in batches.epoch(epoch)
        for i, image in zip(batch.index_B, batch.images_BCHW, strict=True)
    }


@pytest.mark.parametrize("batch", [2, 5, 8, 24, 100])
def test_each_image_comes_once_an_epoch(images: ImageSet, batch: int) -> None:
    batches = ImageBatches(images, batch, seed=0, role="teacher")
    assert isinstance(batches, Batches)
    assert sorted(order(batches)) == list(range(24))
    assert len(list(batches.epoch(0))) == len(batches)


def test_a_last_batch_of_one_image_is_left_out(images: ImageSet) -> None:
    batches = ImageBatches(images, 23, seed=0, role="teacher")
    assert [len(batch.index_B) for batch in batches.epoch(0)] == [23]
    assert len(batches) == 1


def test_labels_and_pixels_belong_to_the_index(images: ImageSet) -> None:
    subset = images.take(torch.tensor([9, 3, 20, 7, 1]))
    for batch in ImageBatches(subset, 2, seed=0, role="teacher").epoch(0):
        assert torch.equal(batch.labels_B, images.labels_N[batch.index_B])  # type: ignore[arg-type]
        assert torch.equal(batch.images_BCHW, images.images_NCHW[batch.index_B].float() / 255)


def test_unlabelled_images_come_without_labels(images: ImageSet) -> None:
    assert all(batch.labels_B is None for batch in ImageBatches(images.unlabelled(), 8, seed=0, role="thief").epoch(0))


def test_an_epoch_is_the_same_for_every_call_and_object(images: ImageSet) -> None:
    def draw(batches: ImageBatches) -> list[Batch]:
        return list(batches.epoch(4))

    first = ImageBatches(images, 7, VIEWS, seed=0, role="thief")
    again = ImageBatches(images, 7, VIEWS, seed=0, role="thief")
    list(first.epoch(0))
    for one, two in zip(draw(first), draw(again), strict=True):
        assert torch.equal(one.index_B, two.index_B)
        assert torch.equal(one.images_BCHW, two.images_BCHW)


def test_epochs_seeds_and_roles_have_their_own_order(images: ImageSet) -> None:
    first = ImageBatches(images, 8, seed=0, role="thief")
    others = [ImageBatches(images, 8, seed=1, role="thief"), ImageBatches(images, 8, seed=0, role="teacher")]
    assert len({tuple(order(first)), tuple(order(first, 1)), *(tuple(order(other)) for other in others)}) == 4


def test_passes_have_their_own_order_and_number(images: ImageSet) -> None:
    batches = ImageBatches(images, 8, seed=0, role="thief", passes=3)
    rows = order(batches, 1)
    assert len(batches) == 9
    assert [batch.epoch for batch in batches.epoch(1)] == [3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert len({tuple(rows[k : k + 24]) for k in (0, 24, 48)}) == 3


def test_passes_only_change_how_epochs_are_counted(images: ImageSet) -> None:
    by_one, by_two = (ImageBatches(images, 8, VIEWS, seed=0, role="thief", passes=passes) for passes in (1, 2))
    assert order(by_one, 2) + order(by_one, 3) == order(by_two, 1)


def test_a_view_does_not_depend_on_order_batch_or_subset(images: ImageSet) -> None:
    whole = seen(ImageBatches(images, 8, VIEWS, seed=0, role="thief"))
    part = seen(ImageBatches(images.take(torch.tensor([20, 3, 11])), 2, VIEWS, seed=0, role="thief"))
    assert all(torch.equal(view, whole[index]) for index, view in part.items())


def test_attackers_of_one_views_seed_see_the_same_views(images: ImageSet) -> None:
    one, two = (seen(ImageBatches(images, 8, VIEWS, seed=seed, role="thief", views_seed=9)) for seed in (0, 1))
    assert all(torch.equal(view, two[index]) for index, view in one.items())


def test_what_cannot_be_trained_on_is_refused(images: ImageSet) -> None:
    with pytest.raises(UsageError, match="training needs at least 2 images, not 1"):
        ImageBatches(images.take(torch.tensor([0])), 2, seed=0, role="teacher")
    with pytest.raises(UsageError, match="batch must be at least 2, not 1"):
        ImageBatches(images, 1, seed=0, role="teacher")
