"""Knowledge distillation, the paper's student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.data.image_set import ImageSet
from undistill.losses import distillation_loss
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class KD(Attack):
    """Ordinary distillation: match the softened outputs of the victim.

    α τ² KL(victim ‖ student) + (1 − α) CE(student, label).

    Source: Hinton et al. 2015; Ma et al. 2021, equation 1. On a card without labels the second term uses the victim's top class.
    """

    name: Literal["kd"] = "kd"
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)
    needs: ClassVar[Access | None] = Access.TOPK

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
        """Distil the oracle into `student`."""
        batches = image_batches(images, recipe, role="thief", device=str(device))
        questions = Questions(oracle, batches, recipe.training)
        objective = Distillation(questions, self.temperature, self.alpha, recipe.training.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class Distillation:
    """The objective; `agreement` is how often student and victim name the same class, percent of the training views."""

    questions: Callable[[Batch], Answer]
    temperature: float
    alpha: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `agreement`."""
        answer = self.questions(batch)
        logits_BC = model(batch.images_BCHW)
        labels_B = answer.labels_B if batch.labels_B is None else batch.labels_B
        loss = distillation_loss(
            logits_BC,
            answer.scores_BC,
            labels_B,
            temperature=self.temperature,
            alpha=self.alpha,
            smoothing=self.smoothing,
        )
        return {"loss": loss, "agreement": hits(logits_BC, answer.labels_B)}
