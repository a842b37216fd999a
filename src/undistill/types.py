"""The few shapes that every package shares. Legend: B batch, C classes, D features, H height, W width, N images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Terms = dict[str, Tensor]
"""Named scalars of one batch, each a sample mean; `loss` is the one that is minimized."""


class Batch(NamedTuple):
    """One batch as a network sees it."""

    images_BCHW: Tensor  # float in [0, 1]
    labels_B: Tensor | None  # int64, or None where labels are hidden
    index_B: Tensor  # int64, position in the source split
    epoch: int


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
