"""Fewer digits. Legend: B batch, C classes."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense, rounded


@ANSWER_DEFENSES.register
class Rounding(AnswerDefense):
    """Rounds probabilities to `digits` behind the point, half to even.

    Where every class would be 0, the top one (the first of equals) keeps 10^−digits. A rounded row may sum to a little more or less
    than 1. Source: Tramèr et al. 2016, Stealing Machine Learning Models via Prediction APIs, rounding confidences.
    """

    name: Literal["rounding"] = "rounding"
    digits: int = Field(2, ge=0, le=9)

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C multiples of 10^−digits."""
        return rounded(probs_BC, self.digits)
