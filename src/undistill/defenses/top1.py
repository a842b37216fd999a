"""The top class with its confidence. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense, keep_top
from undistill.threat_model import Access


@ANSWER_DEFENSES.register
class Top1(AnswerDefense):
    """Shows the top class with its probability and nothing of the others.

    The other classes get 0, and the probability stays as it is. Source: Orekondy et al. 2019, Knockoff Nets, where
    truncated posteriors are a countermeasure.
    """

    name: Literal["top1"] = "top1"
    shows: ClassVar[Access] = Access.TOPK

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C with one class above 0."""
        return keep_top(probs_BC, 1)
