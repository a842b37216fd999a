"""Decoupled distillation: how sure the victim is, and not what else it names. Legend: B batch, C classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.sanitise import completed
from undistill.data.image_set import ImageSet
from undistill.losses import decoupled_kl, smoothed_cross_entropy
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class Decoupled(Attack):
    """Distil the confidence of the top class apart from the other classes, where false peaks are.

    τ² (`target` · KL of the top class against all others + `beta` · KL among the others) + `hard` · CE(student, label).

    False peaks stand among the others, where the second term would read them: `beta` 0 leaves it out. The class that is told apart
    is the victim's top class, not the true one; `hard` uses the label, on a card without labels the victim's top class. An answer
    of some classes is first completed, so that its confidence counts.

    Source: Zhao et al. 2022 (Decoupled Knowledge Distillation), where `target` is α, `beta` β and the class the true one.
    """

    name: Literal["decoupled"] = "decoupled"
    temperature: float = Field(4.0, gt=0)
    target: float = Field(1.0, ge=0)
    beta: float = Field(0.0, ge=0)
    hard: float = Field(1.0, ge=0)
    needs: ClassVar[Access | None] = Access.TOPK
    knows: ClassVar[tuple[str, ...]] = ("nasty", "nasty-head")

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
        """Distil the oracle's confidence into `student`."""
        batches = image_batches(images, recipe, role="thief", device=str(device))
        questions = Questions(oracle, batches, recipe.training)
        return fit(
            student,
            batches,
            Confidence(questions, self, recipe.training.smoothing),
            recipe.training,
            seed=recipe.seed,
            state=state,
        )


@dataclass(frozen=True)
class Confidence:
    """The objective."""

    questions: Callable[[Batch], Answer]
    settings: Decoupled
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `agreement`."""
        answer, settings = self.questions(batch), self.settings
        logits_BC = model(batch.images_BCHW)
        labels_B = answer.labels_B if batch.labels_B is None else batch.labels_B
        some = answer.access is Access.TOPK
        soft = decoupled_kl(
            completed(answer.values).log() if some else answer.scores_BC,
            logits_BC,
            answer.labels_B,
            temperature=settings.temperature,
            target=settings.target,
            beta=settings.beta,
        )
        hard = smoothed_cross_entropy(logits_BC, labels_B, self.smoothing)
        return {"loss": soft + settings.hard * hard, "agreement": hits(logits_BC, answer.labels_B)}
