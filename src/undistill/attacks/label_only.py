"""The floor of every defense that keeps its answers: train on the victim's top class alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.data.image_set import ImageSet
from undistill.losses import smoothed_cross_entropy
from undistill.oracle.oracle import Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class LabelOnly(Attack):
    """Train on the top class that the victim returns, as if it were the label.

    CE(student, argmax of the victim). The victim's label, never the true one, also where the thief holds labels.
    """

    name: Literal["label-only"] = "label-only"
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
        """Train `student` on the victim's labels."""
        batches = image_batches(images.unlabelled(), recipe, role="thief", device=str(device))
        objective = VictimLabels(Questions(oracle, batches, recipe.training), recipe.training.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class VictimLabels:
    """The objective."""

    questions: Questions
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `agreement`."""
        labels_B = self.questions(batch).labels_B
        logits_BC = model(batch.images_BCHW)
        loss = smoothed_cross_entropy(logits_BC, labels_B, self.smoothing)
        return {"loss": loss, "agreement": hits(logits_BC, labels_B)}
