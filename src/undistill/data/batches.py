"""Shuffled batches of one image set, held whole on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from undistill import ranks
from undistill.data.augment import View, Views, in_order
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.seeds import derive, generator
from undistill.types import Batch, Part


class ImageBatches:
    """Batches of `images`: order drawn at (seed, role, "order"), views at (seed, role, "views").

    One epoch is `passes` passes, each with its own order and views: a set of 50 images is better counted in
    passes than in epochs. A last batch of one image is left out, for batch normalisation cannot train on it.

    A batch comes in `accumulate` parts one after another, and where several processes train together each has its own parts of
    it. One that is too small to be divided is had whole by each of them.
    """

    def __init__(
        self,
        images: ImageSet,
        batch: int,
        views: Sequence[View] = (),
        *,
        seed: int,
        role: str,
        passes: int = 1,
        device: torch.device | str = "cpu",
        views_seed: int | None = None,
        accumulate: int = 1,
    ) -> None:
        if batch < 2:
            raise UsageError(f"training.batch must be at least 2, not {batch}")
        if len(images) < 2:
            raise UsageError(f"training needs at least 2 images, not {len(images)}")
        self.device, self.images = torch.device(device), images
        in_order(views)
        self.size, self.source_size, self.image_size = len(images), images.source_size, images.image_size
        self.images_NCHW = images.images_NCHW.to(self.device)
        self.labels_N = images.labels_N.to(self.device) if images.labelled else None
        self.index_N = images.index_N.to(self.device)
        self.batch, self.views, self.passes, self.accumulate = batch, tuple(views), passes, accumulate
        self.order_seed = derive(seed, role, "order")
        self.views_seed = derive(seed, role, "views") if views_seed is None else views_seed

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch)
        return self.passes * (full + (rest > 1))

    def views_of(self, number: int) -> Views:
        """The views of pass `number`, from 0."""
        return Views(self.views, self.views_seed, number, self.source_size, self.device, self.image_size)

    def epoch(self, e: int) -> Iterator[Batch]:
        """The batches of epoch `e`, from 0."""
        for number in range(e * self.passes, (e + 1) * self.passes):
            views = self.views_of(number)
            order = torch.randperm(self.size, generator=generator(self.order_seed, "order", str(number))).to(
                self.device
            )
            for whole in order.split(self.batch):
                if len(whole) < 2:
                    continue
                for rows, part in parts(whole, self.accumulate):
                    index_B = self.index_N[rows]
                    labels_B = None if self.labels_N is None else self.labels_N[rows]
                    yield Batch(views(self.images_NCHW[rows], index_B), labels_B, index_B, number, part)


def parts(rows_B: Tensor, accumulate: int = 1) -> list[tuple[Tensor, Part | None]]:
    """This process's parts of a batch, one after another; None instead of a part where it is all of it."""
    size, processes = len(rows_B), ranks.count()
    if processes * accumulate == 1:
        return [(rows_B, None)]
    if size < ranks.SMALLEST * processes:
        return [(rows_B, Part(ranks.number(), 1 / processes, size, last=True))]
    turns = min(accumulate, size // (ranks.SMALLEST * processes))
    all_parts = rows_B.tensor_split(turns * processes)
    mine = range(ranks.number(), len(all_parts), processes)
    return [(all_parts[n], Part(n, len(all_parts[n]) / size, size, last=n + processes >= len(all_parts))) for n in mine]
