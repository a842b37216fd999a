"""The fairer floor: the victim's top class with label smoothing."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.losses import smoothed_cross_entropy
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


@ATTACKS.register
class LabelSmooth(Attack):
    """Train on the top class that the victim returns, with label smoothing.

    CE against (1 − s) on the victim's top class and s / C everywhere; never the true label, also where the attacker holds labels.

    Source: Szegedy et al. 2016, section 7. `smoothing` is s; that of the recipe is not used.
    """

    name: Literal["label-smooth"] = "label-smooth"
    smoothing: float = Field(0.1, gt=0, lt=1)
    needs: ClassVar[Access | None] = Access.LABEL
    reads: ClassVar[Access] = Access.LABEL
    holds_labels: ClassVar[bool] = False

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`."""
        return {"loss": smoothed_cross_entropy(logits_BC, response.labels_B, self.smoothing)}
