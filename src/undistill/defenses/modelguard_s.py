"""Outputs from a code book. Legend: B batch, C classes, K entries of the book, M draws."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense
from undistill.seeds import generator

DRAWS = 10_000
"""Numbers of the draws around an output that nothing covers yet: 1,000 draws of ten classes, fewer of more."""
SPREAD = 10.0
"""Concentration of those draws, times the classes."""


@ANSWER_DEFENSES.register
class ModelGuardS(AnswerDefense):
    """Answers with the first entry of a code book that is near the output, so that many outputs share one answer.

    The first c of the book with ‖y − c‖₁ ≤ ε, of the same top class; the nearest where there is none.

    The book is made once, from `stream` outputs drawn at `seed`: one that no entry covers adds an entry, of the Dirichlet draws
    around it that are within ε and have its top class the one farthest from the entries so far. Then it is frozen, so that an
    answer does not depend on earlier queries, and one book, turned, serves every top class. In the source it grows with the
    queries themselves. With ε of 1 and few classes it tells little more than the top class does; far below ½ the stream covers
    little, and answers are farther than ε. ε = 0 changes nothing. Of 1,000 classes the book takes 10 seconds.

    Source: Tang et al., ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks, USENIX Security 2024, its
    ordered quantization.
    """

    name: Literal["modelguard-s"] = "modelguard-s"
    epsilon: float = Field(1.0, ge=0, le=2)
    stream: int = Field(2000, ge=1)
    seed: int = Field(0, ge=0)

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """B × C, rows sum to 1; as they were where ε is 0."""
        if self.epsilon == 0:
            return probs_BC
        turn_BC = turned(probs_BC.argmax(dim=1), probs_BC.shape[1])
        book_KC = book(self.epsilon, self.stream, self.seed, probs_BC.shape[1]).to(probs_BC)
        entry_B = entries(probs_BC.gather(1, turn_BC), book_KC, self.epsilon)[0]
        return torch.empty_like(probs_BC).scatter_(1, turn_BC, book_KC[entry_B])


def turned(top_B: Tensor, classes: int) -> Tensor:
    """B × C: the classes in their order, from the top one on and round."""
    return (top_B[:, None] + torch.arange(classes, device=top_B.device)) % classes


def entries(probs_BC: Tensor, book_KC: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(which entry answers each output, whether it is within ε) of outputs turned so that their top class is the first."""
    far_BK = torch.cdist(probs_BC, book_KC, p=1)
    near_BK = far_BK <= epsilon
    covered_B = near_BK.any(dim=1)
    return torch.where(covered_B, near_BK.long().argmax(dim=1), far_BK.argmin(dim=1)), covered_B


def outputs(stream: int, seed: int, classes: int) -> Tensor:
    """M × C float64, the top class first: softmax of s · normal numbers, s in [½, 16] evenly in log s."""
    rng = generator(seed, "victim", "modelguard-s/stream")
    sharp_M1 = (torch.rand(stream, 1, generator=rng, dtype=torch.float64) * math.log(32) + math.log(0.5)).exp()
    probs_MC = (torch.randn(stream, classes, generator=rng, dtype=torch.float64) * sharp_M1).softmax(dim=1)
    return probs_MC.gather(1, turned(probs_MC.argmax(dim=1), classes))


@lru_cache(maxsize=32)
def book(epsilon: float, stream: int, seed: int, classes: int) -> Tensor:
    """K × C float64 entries, the top class first."""
    rng, said_MC = generator(seed, "victim", "modelguard-s/draws"), outputs(stream, seed, classes)
    found_KC = said_MC[:0]
    for probs_1C in said_MC.split(1):
        if len(found_KC) and bool(entries(probs_1C, found_KC, epsilon)[1]):
            continue
        drawn_MC = torch._standard_gamma(
            (SPREAD * classes * probs_1C).clamp_min(1e-3).expand(max(1, DRAWS // classes), -1), generator=rng
        )
        drawn_MC = drawn_MC / drawn_MC.sum(dim=1, keepdim=True)
        fits_M = ((drawn_MC - probs_1C).abs().sum(dim=1) <= epsilon) & (drawn_MC.argmax(dim=1) == 0)
        choices_MC = torch.cat([probs_1C, drawn_MC[fits_M]])
        apart_M = torch.cdist(choices_MC, found_KC, p=1).amin(dim=1) if len(found_KC) else torch.zeros(len(choices_MC))
        found_KC = torch.cat([found_KC, choices_MC[apart_M.argmax()][None]])
    return found_KC
