"""An answer-side defense of one's own. Usage: undistill audit MODEL --plugin THIS_FILE --behind toy-answer-defense -o OUT"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.access import Access
from undistill.oracle.serving import ANSWER_DEFENSES, AnswerDefense


@ANSWER_DEFENSES.register
class ToyAnswerDefense(AnswerDefense):
    """p^`power`, divided by its sum: surer than the model is, the same classes in the same order.

    A student that distils at τ times `power` reads what it would have read at τ. Source: none, an example that nobody measured.
    """

    name: Literal["toy-answer-defense"] = "toy-answer-defense"
    power: float = Field(4.0, ge=1, le=16)
    shows: ClassVar[Access] = Access.PROBS
    random: ClassVar[bool] = False

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1; `rng` is left alone."""
        raised_BC = (probs_BC / probs_BC.amax(dim=1, keepdim=True)) ** self.power
        return raised_BC / raised_BC.sum(dim=1, keepdim=True)
