"""The fairer floor: the victim's top class with label smoothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.label_only import VictimLabels
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches


@ATTACKS.register
class LabelSmooth(Attack):
    """Train on the top class that the victim returns, with label smoothing.

    CE against (1 − s) on the victim's top class and s / C everywhere; never the true label, also where the thief holds labels.

    Source: Szegedy et al. 2016, section 7. `smoothing` is s; that of the recipe is not used.
    """

    name: Literal["label-smooth"] = "label-smooth"
    smoothing: float = Field(0.1, gt=0, lt=1)
    needs: ClassVar[Access | None] = Access.LABEL
    reads: ClassVar[Access] = Access.LABEL

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
        """Train `student` on the victim's smoothed labels."""
        batches = image_batches(images.unlabelled(), recipe, role="thief", device=str(device))
        objective = VictimLabels(Questions(oracle, batches, recipe.training), self.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)
