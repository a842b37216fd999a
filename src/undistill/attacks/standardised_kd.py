"""Distillation of z-scores: what is left of an answer once its scale is taken away. Legend: B batch, C classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.data.image_set import ImageSet
from undistill.losses import smoothed_cross_entropy, standardised_kl
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class StandardisedKD(Attack):
    """Distillation on standardized logits, so that their scale does not matter.

    `weight` · τ² KL(z(victim) ‖ z(student)) + CE(student, label), z the z-scores of a row of logits.

    Source: Sun et al. 2024 (Logit Standardization in Knowledge Distillation), algorithm 1; τ 2 and weight 9 as in the authors'
    runs of it. Log-probabilities serve as well as logits, for z does not see their shift. Among the classes that an answer shows
    alone; where it shows one, the second term is all there is. On a card without labels that term uses the victim's top class.
    """

    name: Literal["standardised-kd"] = "standardised-kd"
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(9.0, gt=0)
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
        """Distil the oracle into `student`, both standardised."""
        batches = image_batches(images, recipe, role="thief", device=str(device))
        questions = Questions(oracle, batches, recipe.training)
        objective = Standardised(questions, self.temperature, self.weight, recipe.training.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class Standardised:
    """The objective."""

    questions: Callable[[Batch], Answer]
    temperature: float
    weight: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `agreement`."""
        answer = self.questions(batch)
        logits_BC = model(batch.images_BCHW)
        labels_B = answer.labels_B if batch.labels_B is None else batch.labels_B
        soft = standardised_kl(answer.scores_BC, logits_BC, self.temperature)
        hard = smoothed_cross_entropy(logits_BC, labels_B, self.smoothing)
        return {"loss": self.weight * soft + hard, "agreement": hits(logits_BC, answer.labels_B)}
