"""Noisy answers. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense


@ANSWER_DEFENSES.register
class Noise(AnswerDefense):
    """Adds Gaussian noise of standard deviation `scale` to log-probabilities and takes the softmax; the top class stays on top.

    Where the noise puts another class first, the two exchange their values. A class of probability 0 keeps it. Each question is
    answered with noise of its own, so that many answers to one question can be averaged. Definition: ours, the plain form of noise
    on answers that keeps accuracy.
    """

    name: Literal["noise"] = "noise"
    scale: float = Field(1.0, gt=0)
    random: ClassVar[bool] = True

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1."""
        noise_BC = torch.randn(probs_BC.shape, generator=rng, dtype=probs_BC.dtype).to(probs_BC.device)
        return disturbed(probs_BC, self.scale * noise_BC)


def disturbed(probs_BC: Tensor, noise_BC: Tensor) -> Tensor:
    """softmax(log p + noise), where the top class of p (the first of equals) has changed places with the new top."""
    noisy_BC = (probs_BC.log() + noise_BC).softmax(dim=1)
    top_B1 = probs_BC.argmax(dim=1, keepdim=True)
    highest_B1, new_B1 = noisy_BC.max(dim=1, keepdim=True)
    lost_B1 = noisy_BC.gather(1, top_B1)
    return noisy_BC.scatter(1, new_B1, lost_B1).scatter(1, top_B1, highest_B1)
