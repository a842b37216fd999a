"""Distillation of z-scores: what is left of an answer once its scale is taken away. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.losses import smoothed_cross_entropy, standardised_kl
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


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

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, `kd` and `ce`."""
        kd = standardised_kl(response.scores_BC, logits_BC, self.temperature)
        ce = smoothed_cross_entropy(logits_BC, labels_B, smoothing)
        return {"loss": self.weight * kd + ce, "kd": kd, "ce": ce}
