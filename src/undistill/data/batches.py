"""Shuffled batches of one image set, held whole on the device, or decoded ahead of their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from undistill import ranks
from undistill.data.augment import View, Views, in_order
from undistill.data.encoded import Encoded
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.seeds import derive, generator
from undistill.types import Batch, Part

Pixels = Callable[[], Tensor]
AHEAD = 2
"""Batches that are decoded ahead of the one that is trained on."""


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

    def stored(self, rows_B: Tensor) -> Tensor:
        """These images as they are stored, uint8 on the device, for views to be taken of."""
        return self.images_NCHW[rows_B].to(self.device)

    def epoch(self, e: int) -> Iterator[Batch]:
        """The batches of epoch `e`, from 0."""
        for number in range(e * self.passes, (e + 1) * self.passes):
            views = self.views_of(number)
            for rows, part, pixels in self._ahead(self._divided(number)):
                index_B = self.index_N[rows]
                labels_B = None if self.labels_N is None else self.labels_N[rows]
                yield Batch(views(pixels(), index_B), labels_B, index_B, number, part)

    def _divided(self, number: int) -> Iterator[tuple[Tensor, Part | None]]:
        """The rows of each batch of a pass, or of this process's parts of it."""
        order = torch.randperm(self.size, generator=generator(self.order_seed, "order", str(number))).to(self.device)
        for whole in order.split(self.batch):
            if len(whole) < 2:
                continue
            yield from parts(whole, self.accumulate)

    def _ahead(self, divided: Iterable[tuple[Tensor, Part | None]]) -> Iterator[tuple[Tensor, Part | None, Pixels]]:
        """The same with what returns the pixels; those of encoded images are decoded while earlier ones are trained on."""
        source = self.images_NCHW
        if not isinstance(source, Encoded):
            yield from ((rows, part, partial(self.stored, rows)) for rows, part in divided)
            return
        waiting: deque[tuple[Tensor, Part | None, Pixels]] = deque()
        for rows, part in divided:
            waiting.append((rows, part, source.ahead(rows, self.device)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


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
