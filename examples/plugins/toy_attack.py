"""A custom attack. Usage: undistill attack MODEL --plugin examples/plugins/toy_attack.py --attack toy-attack -o OUT"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.oracle.oracle import Answer
from undistill.threat_model import Access
from undistill.types import Terms


@ATTACKS.register
class ToyAttack(Attack):
    """c^`power` · CE(student, argmax of the victim), c the probability of that class: weight by confidence.

    Source: none, an unmeasured example.
    """

    name: Literal["toy-attack"] = "toy-attack"
    power: float = Field(1.0, ge=0)
    needs: ClassVar[Access | None] = Access.TOPK
    reads: ClassVar[Access] = Access.PROBS

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`; the labels that the attacker may hold are not used."""
        sure_B = response.scores_BC.softmax(dim=1).amax(dim=1) ** self.power
        each_B = F.cross_entropy(logits_BC.float(), response.labels_B, reduction="none")
        return {"loss": (sure_B * each_B).mean()}
