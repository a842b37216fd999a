"""The k top classes with their probabilities. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense, keep_top
from undistill.threat_model import Access


@ANSWER_DEFENSES.register
class TopK(AnswerDefense):
    """Shows the `k` largest probabilities as they are, the others as 0.

    Of equal classes the first is kept. Source: Orekondy et al. 2019, Knockoff Nets, where
    truncated posteriors are a countermeasure.
    """

    name: Literal["top-k"] = "top-k"
    k: int = Field(5, ge=1)
    shows: ClassVar[Access] = Access.TOPK

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C with at most k classes above 0."""
        return keep_top(probs_BC, self.k)
