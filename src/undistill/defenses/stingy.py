"""Sparse answers. Legend: B batch, C classes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense, keep_top


@ANSWER_DEFENSES.register
class Stingy(AnswerDefense):
    """Keeps a share of the classes, the largest, and divides them by their sum.

    ⌈share · C⌉ classes are kept: the softmax over their logits alone.

    The other classes get 0, as if their logit were −∞. Of equal classes the first is kept.

    Source: Ma et al. 2021, Stingy Teacher: Sparse Logits Suffice to Fail Knowledge Distillation.
    """

    name: Literal["stingy"] = "stingy"
    share: float = Field(0.2, gt=0, le=1)

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1."""
        kept_BC = keep_top(probs_BC, kept(self.share, probs_BC.shape[1]))
        return kept_BC / kept_BC.sum(dim=1, keepdim=True)


def kept(share: float, classes: int) -> int:
    """⌈share · classes⌉, at least 1; 7 of 100 for 0.07, whose product is a little above 7 in floating point."""
    return max(1, math.ceil(share * classes - 1e-9))
