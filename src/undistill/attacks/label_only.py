"""The floor of every defense that keeps the predicted class: train on the victim's top class alone."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.losses import smoothed_cross_entropy
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


@ATTACKS.register
class LabelOnly(Attack):
    """Train on the top class that the victim returns, as if it were the label.

    CE(student, argmax of the victim). The victim's label, never the true one, also where the attacker holds labels.
    """

    name: Literal["label-only"] = "label-only"
    needs: ClassVar[Access | None] = Access.LABEL
    reads: ClassVar[Access] = Access.LABEL
    holds_labels: ClassVar[bool] = False

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`."""
        return {"loss": smoothed_cross_entropy(logits_BC, response.labels_B, smoothing)}
