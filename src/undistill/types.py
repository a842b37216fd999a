"""The few shapes that every package shares. Legend: B batch, C classes, D features, H height, W width, N images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Terms = dict[str, Tensor]
"""Named scalars of one batch, each a sample mean; `loss` is the one that is minimized."""


class Part(NamedTuple):
    """Which part of a step's images a batch is, where one process, or one batch, does not take them all."""

    number: int  # among the parts of the step
    share: float  # of the step's images; those of all parts in all processes sum to 1
    whole: int  # images of the step
    last: bool  # whether this process has no further part of the step


class Batch(NamedTuple):
    """One batch as a network sees it."""

    images_BCHW: Tensor  # float in [0, 1]
    labels_B: Tensor | None  # int64, or None where labels are hidden
    index_B: Tensor  # int64, position in the source split
    epoch: int
    part: Part | None = None  # None for all images of a step

    @property
    def counted(self) -> int:
        """Images to be counted when this one is done: those of its step, in whichever process, once all its parts are."""
        return len(self.index_B) if self.part is None else self.part.whole * self.part.last


@runtime_checkable
class Batches(Protocol):
    """A source of batches: a data set, or a generator that trains itself."""

    def __len__(self) -> int:
        """Batches in one epoch."""
        ...

    def epoch(self, e: int) -> Iterator[Batch]:
        """The batches of epoch `e`, the same for every call with that `e`."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What is minimized. `modules` are trained and checkpointed along with the model: exits, adapters."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Networks trained along, by name."""
        ...

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """Named terms of one batch, `loss` among them."""
        ...
