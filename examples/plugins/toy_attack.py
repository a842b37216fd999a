"""A custom attack. Usage: undistill attack MODEL --plugin examples/plugins/toy_attack.py --attack toy-attack -o OUT"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle, Questions
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class ToyAttack(Attack):
    """c^`power` · CE(student, argmax of the victim), c the probability of that class: weight by confidence.

    Source: none, an unmeasured example.
    """

    name: Literal["toy-attack"] = "toy-attack"
    power: float = Field(1.0, ge=0)
    needs: ClassVar[Access | None] = Access.TOPK
    reads: ClassVar[Access] = Access.PROBS

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
        """Train `student` on weighted outputs."""
        batches = image_batches(images, recipe, role="thief", device=str(device))
        objective = SureAnswers(Questions(oracle, batches, recipe.training), self.power)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class SureAnswers:
    """The objective; no other network is trained with it."""

    questions: Questions
    power: float
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `agreement`."""
        answer = self.questions(batch)
        logits_BC = model(batch.images_BCHW)
        sure_B = answer.scores_BC.softmax(dim=1).amax(dim=1) ** self.power
        each_B = F.cross_entropy(logits_BC.float(), answer.labels_B, reduction="none")
        return {"loss": (sure_B * each_B).mean(), "agreement": hits(logits_BC, answer.labels_B)}
