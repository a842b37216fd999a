"""The reverse sigmoid. Legend: B batch, C classes."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense

CLIP = 1e-7
"""How near to 0 and 1 a probability may come before its logit is taken."""


@ANSWER_DEFENSES.register
class ReverseSigmoid(AnswerDefense):
    """Lowers probabilities above one half and raises those below.

    y − β (σ(γ logit(y)) − ½), divided by its sum.

    At the usual settings the curve falls near 0 and near 1, so that different probabilities lead to one answer and the order of
    the lesser classes is turned round. The top class is usually kept, but nothing enforces it. What falls below 0 is set to 0.

    A probability is kept off 0 and 1 before its logit is taken. The usual trap is to do that to the odds y / (1 − y) instead:
    they become 1 for every y above one half, and the term vanishes there.

    Source: Lee et al. 2019, Defending Against Neural Network Model Stealing Attacks Using Deceptive Perturbations, its reverse
    sigmoid perturbation.
    """

    name: Literal["reverse-sigmoid"] = "reverse-sigmoid"
    beta: float = Field(0.7, ge=0)
    gamma: float = Field(0.2, gt=0)

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1."""
        return reverse_sigmoid(probs_BC, self.beta, self.gamma)


def reverse_sigmoid(probs_BC: Tensor, beta: float, gamma: float) -> Tensor:
    """B × C of the given dtype, rows sum to 1; computed in float64."""
    wide_BC = probs_BC.double()
    logits_BC = wide_BC.clamp(CLIP, 1 - CLIP).logit()
    moved_BC = (wide_BC - beta * ((gamma * logits_BC).sigmoid() - 0.5)).clamp_min(0)
    return (moved_BC / moved_BC.sum(dim=1, keepdim=True)).to(probs_BC.dtype)
