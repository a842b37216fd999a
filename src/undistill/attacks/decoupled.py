"""Decoupled distillation: how sure the victim is, and not what else it names. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.sanitise import completed
from undistill.losses import decoupled_kl, smoothed_cross_entropy
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


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

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, `kd` and `ce`."""
        scores_BC = completed(response.values).log() if response.access is Access.TOPK else response.scores_BC
        kd = decoupled_kl(
            *(scores_BC, logits_BC, response.labels_B),
            temperature=self.temperature,
            target=self.target,
            beta=self.beta,
        )
        ce = smoothed_cross_entropy(logits_BC, labels_B, smoothing)
        return {"loss": kd + self.hard * ce, "kd": kd, "ce": ce}
