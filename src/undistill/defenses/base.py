"""What a defense is, and where it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch

from undistill.data import ImageSet, Splits
from undistill.models import Classifier
from undistill.oracle.bank import Bank
from undistill.registry import Component, Registry
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe
from undistill.training.train import validation

Start = Literal["scratch", "teacher"]


class TrainedDefense(Component):
    """Hardens a network by training it. `starts` names what it may start from, the default first."""

    starts: ClassVar[tuple[Start, ...]] = ("scratch", "teacher")

    def harden(
        self,
        network: Classifier,
        adversary: Classifier,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
        bank: Bank | None = None,
    ) -> Iterator[EpochRecord]:
        """Train `network` in place, an epoch at a time.

        Args:
            network: to be hardened; fresh, or a copy of the teacher.
            adversary: frozen, normally trained; never changed.
            images: the training images.
            recipe: its training section, views and seed.
            device: of both networks.
            state: to go on from.
            bank: keeps what the adversary answers about the views; None keeps nothing.
        """
        raise NotImplementedError

    def validator(self, network: Classifier, data: Splits) -> Callable[[], dict[str, float]]:
        """What measures `network` on the validation split behind each epoch."""
        return lambda: validation(network, data)


DEFENSES: Registry[TrainedDefense] = Registry("defense", "undistill.defenses")
