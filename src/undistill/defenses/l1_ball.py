"""Outputs that point away from the model's, within a distance. Legend: B batch, C classes."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense

SMALLEST = 1e-6
"""Added to a probability before its logarithm."""
MARGIN = 1e-4
"""By how much the top class stays above every other."""
STEPS = 60
"""Of a search; each leaves at most two thirds of where the least may lie."""


@ANSWER_DEFENSES.register
class L1Ball(AnswerDefense):
    """Answers with what agrees least with the output, within ε of it and of its top class.

    min over the simplex of Σ log(y + 1e-6) · y′, with ‖y′ − y‖₁ ≤ ε and y′ of the top class above all others by 1e-4.

    A linear program, solved exactly for a whole batch. Where the output is so even that nothing satisfies this, it is left as it
    is. ε = 0 changes nothing. Source: the constraints of Orekondy et al., Prediction Poisoning (MAD), ICLR 2020, section 4; the
    objective of Tang et al., ModelGuard, USENIX Security 2024, its variant W.
    """

    name: Literal["l1-ball"] = "l1-ball"
    epsilon: float = Field(1.0, ge=0, le=2)

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1; as they were where ε is 0."""
        if self.epsilon == 0:
            return probs_BC
        return poisoned(probs_BC, self.epsilon)


def poisoned(probs_BC: Tensor, epsilon: float) -> Tensor:
    """B × C of the given dtype; computed in float64.

    Given the top class's probability t, the rest is greedy: mass goes from the likeliest of the others to the least likely, none of
    which may pass t − 1e-4, until ε is used or nothing is gained. A larger t can pay: the least likely may then have more. The
    value is convex in t, and a search finds its least.
    """
    total_B1 = probs_BC.double().sum(dim=1, keepdim=True)
    order_BC = probs_BC.argsort(dim=1, descending=True, stable=True)
    y_BC = (probs_BC.double() / total_B1).gather(1, order_BC)
    top_B1, others_BD, cost_BC = y_BC[:, :1], y_BC[:, 1:], (y_BC + SMALLEST).log()
    even = (1 + others_BD.shape[1] * MARGIN) / y_BC.shape[1]  # the least that a top class can have

    def spent(t_B1: Tensor) -> Tensor:
        """What the top class gives up, and what others lose that would pass it."""
        return (top_B1 - t_B1).clamp_min(0) + (others_BD - (t_B1 - MARGIN)).clamp_min(0).sum(1, keepdim=True)

    def rest(t_B1: Tensor) -> Tensor:
        """The others' best, with t left to the top class."""
        cap_BD = (t_B1 - MARGIN).expand_as(others_BD)
        held_BD = torch.minimum(others_BD, cap_BD)
        free_BD = filled(torch.zeros_like(cap_BD), cap_BD, 1 - t_B1)  # what would be best without a distance
        wanted_B1 = (held_BD - free_BD).clamp_min(0).sum(1, keepdim=True)
        moved_B1 = torch.minimum(wanted_B1, (epsilon / 2 - spent(t_B1)).clamp_min(0))
        before_BD = held_BD.cumsum(1) - held_BD
        left_BD = held_BD - torch.minimum((moved_B1 - before_BD).clamp_min(0), held_BD)
        return filled(left_BD, cap_BD, 1 - t_B1 - left_BD.sum(1, keepdim=True))

    def value(t_B1: Tensor) -> Tensor:
        return cost_BC[:, :1] * t_B1 + (cost_BC[:, 1:] * rest(t_B1)).sum(1, keepdim=True)

    high_B1 = (top_B1 + epsilon / 2).clamp_max(1)
    fits_B1 = (high_B1 >= even) & (spent(high_B1) <= epsilon / 2)
    first_B1, last_B1 = torch.full_like(top_B1, even).minimum(high_B1), high_B1
    for _ in range(STEPS):  # the least t that is near enough
        middle_B1 = (first_B1 + last_B1) / 2
        near_B1 = spent(middle_B1) <= epsilon / 2
        first_B1, last_B1 = torch.where(near_B1, first_B1, middle_B1), torch.where(near_B1, middle_B1, last_B1)
    low_B1 = last_B1
    for _ in range(STEPS):
        third_B1 = (high_B1 - low_B1) / 3
        left_B1, right_B1 = low_B1 + third_B1, high_B1 - third_B1
        falls_B1 = value(left_B1) > value(right_B1)
        low_B1, high_B1 = torch.where(falls_B1, left_B1, low_B1), torch.where(falls_B1, high_B1, right_B1)
    t_B1 = (low_B1 + high_B1) / 2
    found_BC = torch.where(fits_B1, torch.cat([t_B1, rest(t_B1)], dim=1), y_BC)
    return torch.empty_like(found_BC).scatter_(1, order_BC, found_BC).to(probs_BC.dtype)


def filled(held_BD: Tensor, cap_BD: Tensor, mass_B1: Tensor) -> Tensor:
    """So much more mass on the last classes that have room for it."""
    room_BD = cap_BD - held_BD
    after_BD = room_BD.flip(1).cumsum(1).flip(1) - room_BD
    return held_BD + torch.minimum((mass_B1 - after_BD).clamp_min(0), room_BD)
