"""The control: the same student, images and schedule, on true labels, without any victim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches


@ATTACKS.register
class Scratch(Attack):
    """The baseline: train on true labels, without the victim.

    CE(student, true label). Asks nothing; labels are handed to it on any card, because it is a control and no attacker.
    """

    name: Literal["scratch"] = "scratch"
    needs: ClassVar[Access | None] = None
    control: ClassVar[bool] = True

    def steal(
        self,
        oracle: Oracle,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Iterator[EpochRecord]:
        """Train `student` on true labels."""
        batches = image_batches(images, recipe, role="thief", device=str(device))
        objective = CrossEntropy(recipe.training.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)
