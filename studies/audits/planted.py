"""A plugin with what is planted: a defense whose soft answers are all false, and an attack that crashes.

Both are made to be found out by an audit, not to be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from undistill.attacks.base import ATTACKS, Attack
from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord


@ANSWER_DEFENSES.register
class Decoy(AnswerDefense):
    """p(y) = .51 and p(y + 1 mod C) = .49, y the victim's top class: hard answers are right, soft ones teach a confusion."""

    name: Literal["decoy"] = "decoy"

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C: two classes of each row, whatever the victim was unsure of."""
        top_B1 = probs_BC.argmax(dim=1, keepdim=True)
        decoyed_BC = torch.zeros_like(probs_BC).scatter_(1, top_B1, 0.51)
        return decoyed_BC.scatter_(1, (top_B1 + 1) % probs_BC.shape[1], 0.49)


@ATTACKS.register
class Crash(Attack):
    """Fails as soon as it has asked its questions."""

    name: Literal["crash"] = "crash"
    needs: ClassVar[Access | None] = Access.TOPK

    def steal(self, *_: Any, **__: Any) -> Iterator[EpochRecord]:
        """Raise."""
        raise RuntimeError("this attack was planted to crash")
