"""Knowledge distillation, the paper's student. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.losses import distillation_terms, smoothed_cross_entropy
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


class Distills(Attack):
    """α τ² KL(response ‖ student) + (1 − α) CE(student, label), for attacks that differ in the response that they distill."""

    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, `kd` and `ce`."""
        return distillation_terms(
            *(logits_BC, response.scores_BC, labels_B),
            temperature=self.temperature,
            alpha=self.alpha,
            smoothing=smoothing,
        )


class DistillsAnything(Distills):
    """The same, and CE(student, predicted class) where the threat model shows no more."""

    needs: ClassVar[Access | None] = Access.LABEL

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, `kd` and `ce`; of predicted classes `loss` alone."""
        if response.access is Access.LABEL:
            return {"loss": smoothed_cross_entropy(logits_BC, response.labels_B, smoothing)}
        return super().loss(logits_BC, response, labels_B, smoothing)


@ATTACKS.register
class KD(Distills):
    """Ordinary distillation: match the softened outputs of the victim.

    α τ² KL(victim ‖ student) + (1 − α) CE(student, label).

    Source: Hinton et al. 2015; Ma et al. 2021, equation 1. On a card without labels the second term uses the victim's top class.
    """

    name: Literal["kd"] = "kd"
    needs: ClassVar[Access | None] = Access.TOPK
