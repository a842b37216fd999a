"""A custom output defense. Usage: undistill audit MODEL --plugin THIS_FILE --output-defense toy-answer-defense -o OUT"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense
from undistill.threat_model import Access


@ANSWER_DEFENSES.register
class ToyAnswerDefense(AnswerDefense):
    """p^`power`, divided by its sum: more confident than the model, with the classes in the same order.

    Distilling at τ times `power` undoes it. Source: none, an unmeasured example.
    """

    name: Literal["toy-answer-defense"] = "toy-answer-defense"
    power: float = Field(4.0, ge=1, le=16)
    shows: ClassVar[Access] = Access.PROBS
    random: ClassVar[bool] = False

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1; `rng` is not used."""
        raised_BC = (probs_BC / probs_BC.amax(dim=1, keepdim=True)) ** self.power
        return raised_BC / raised_BC.sum(dim=1, keepdim=True)
