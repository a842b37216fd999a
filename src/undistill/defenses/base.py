"""What a defense is, and where it is found."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from undistill.data.images import ImageSet
from undistill.models import Classifier
from undistill.registry import Component, Registry
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe


class TrainedDefense(Component):
    """Hardens a network by training it."""

    def harden(
        self,
        network: Classifier,
        adversary: Classifier,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Iterator[EpochRecord]:
        """Train `network` in place, an epoch at a time.

        Args:
            network: to be hardened; fresh, or a copy of the teacher.
            adversary: frozen, normally trained; never changed.
            images: the training images.
            recipe: its training section, views and seed.
            device: of both networks.
            state: to go on from.
        """
        raise NotImplementedError


DEFENSES: Registry[TrainedDefense] = Registry("defense", "undistill.defenses")
