"""The label alone. Legend: B batch, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense
from undistill.threat_model import Access


@ANSWER_DEFENSES.register
class AnswerTop1(AnswerDefense):
    """Shows the top class without its confidence: the least that a classifier can say.

    Of equal classes the first is named. Source: Tramèr et al. 2016, Stealing Machine Learning Models via Prediction APIs, where
    class labels alone are a countermeasure.
    """

    name: Literal["answer-top1"] = "answer-top1"
    shows: ClassVar[Access] = Access.LABEL

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C with 1 for the top class."""
        return F.one_hot(probs_BC.argmax(dim=1), probs_BC.shape[1]).to(probs_BC.dtype)
