"""Distillation of cleaned answers: false peaks are cut away before the student sees them.

Legend: B batch, C classes, N images. Answers are B × C probabilities; a row may hold less than 1 in all where some classes are not
shown. Whatever cleans them returns rows that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from undistill.attacks.base import ATTACKS, Responses
from undistill.attacks.kd import Distills
from undistill.data.batches import ImageBatches
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for
from undistill.training.recipe import Recipe
from undistill.types import Batch


@ATTACKS.register
class Sanitise(Distills):
    """Remove false peaks from the outputs, then distil them.

    `kd` on cleaned answers: α τ² KL(cleaned ‖ student) + (1 − α) CE(student, label); the top class keeps its place.

    `clip`: no other class has more than their mean, and the row is scaled to 1. `top1`: the top class keeps its probability, all
    others share the rest evenly. `second`: the second class is dropped, and the row is scaled to 1. `class-means`: the mean answer
    of all images with the same top class; without a budget each image is asked once more for it, as it is, before training.
    An answer of some classes is completed first. On a card without labels the second term uses the victim's top class.

    Source: our own, against the false peaks of Ma et al. 2021; `kd` as there, equation 1.
    """

    name: Literal["sanitise"] = "sanitise"
    variant: Literal["clip", "top1", "class-means", "second"] = "top1"
    needs: ClassVar[Access | None] = Access.TOPK
    knows: ClassVar[tuple[str, ...]] = ("nasty", "nasty-head")

    def responses(self, oracle: Oracle, batches: ImageBatches, recipe: Recipe, *, resumed: bool) -> Responses:
        """Cleaned responses."""
        questions = Questions(oracle, batches, recipe.training)
        if self.variant != "class-means":
            return Cleaned(questions, CLEAN[self.variant])
        means_CC = class_means(first_answers(oracle, batches, questions, resumed=resumed))
        return Cleaned(questions, lambda probs_BC: by_class(probs_BC, means_CC))


@dataclass(frozen=True)
class Cleaned:
    """Answers as the student sees them."""

    questions: Callable[[Batch], Answer]
    clean: Callable[[Tensor], Tensor]

    def __call__(self, batch: Batch) -> Answer:
        """B × C probabilities."""
        return Answer(Access.PROBS, self.clean(completed(probabilities(self.questions(batch)))))


def first_answers(oracle: Oracle, batches: ImageBatches, questions: Questions, *, resumed: bool) -> Tensor:
    """N × C completed probabilities for the images as they are: the stored answers, or a question each where there is no budget.

    A `resumed` attacker repeats those questions, which the oracle has counted already.
    """
    images, device = batches.images, batches.device
    if oracle.budget is not None:
        nothing = batches.images_NCHW[:0].float()
        return completed(probabilities(questions(Batch(nothing, None, batches.index_N, 0))))
    with counted_once(oracle, resumed=resumed):
        answers = [oracle.ask(images.seen(rows, device)) for rows in images.chunks(batch_for(images, device))]
    return completed(torch.cat([probabilities(answer) for answer in answers]))


@contextmanager
def counted_once(oracle: Oracle, *, resumed: bool) -> Iterator[None]:
    """For the queries that an attacker begins with: a `resumed` one repeats them, counted already without a budget."""
    counted = oracle.queries
    if resumed and oracle.budget is None:
        oracle.queries = 0
    try:
        yield
    finally:
        oracle.queries = max(counted, oracle.queries)


def probabilities(answer: Answer) -> Tensor:
    """B × C float32 probabilities as an answer shows them: at most 1 in all, 0 for a class that it leaves out."""
    return answer.values if answer.access in (Access.TOPK, Access.PROBS) else answer.scores_BC.softmax(dim=1)


def completed(probs_BC: Tensor) -> Tensor:
    """What a row lacks to 1, spread evenly over its classes of 0, none of which gets more than the least that is shown.

    Rows that sum to 1; one that shows nothing becomes even.
    """
    absent_BC = probs_BC == 0
    lack_B1 = (1 - probs_BC.sum(dim=1, keepdim=True)).clamp_min(0)
    least_B1 = probs_BC.masked_fill(absent_BC, torch.inf).amin(dim=1, keepdim=True)
    share_B1 = torch.minimum(lack_B1 / absent_BC.sum(dim=1, keepdim=True).clamp_min(1), least_B1)
    return _to_one(torch.where(absent_BC, share_B1, probs_BC))


def clip(probs_BC: Tensor) -> Tensor:
    """No class but the top one has more than the mean of those; rows are scaled to 1."""
    top_BC, mean_B1 = _top(probs_BC)
    return _to_one(torch.where(top_BC, probs_BC, torch.minimum(probs_BC, mean_B1)))


def top1(probs_BC: Tensor) -> Tensor:
    """The top class keeps its probability, all others have the same."""
    top_BC, mean_B1 = _top(probs_BC)
    return _to_one(torch.where(top_BC, probs_BC, mean_B1))


def second(probs_BC: Tensor) -> Tensor:
    """The second class has nothing; rows are scaled to 1."""
    top_BC, _ = _top(probs_BC)
    dropped_B1 = probs_BC.masked_fill(top_BC, -1).argmax(dim=1, keepdim=True)
    return _to_one(probs_BC.scatter(1, dropped_B1, 0))


CLEAN: dict[str, Callable[[Tensor], Tensor]] = {"clip": clip, "top1": top1, "second": second}
"""The variants that need one answer alone."""


def class_means(probs_NC: Tensor) -> Tensor:
    """C × C: row c is the mean of the answers whose top class is c; zeros where there is none."""
    classes = probs_NC.shape[1]
    named_NC = F.one_hot(probs_NC.argmax(dim=1), classes).double()
    sums_CC = named_NC.T @ probs_NC.double()
    return (sums_CC / named_NC.sum(dim=0).clamp_min(1)[:, None]).to(probs_NC.dtype)


def by_class(probs_BC: Tensor, means_CC: Tensor) -> Tensor:
    """The row of `class_means` for each answer's top class; an answer whose class has none stays."""
    means_BC = means_CC[probs_BC.argmax(dim=1)]
    return torch.where(means_BC.sum(dim=1, keepdim=True) > 0, means_BC, probs_BC)


def _top(probs_BC: Tensor) -> tuple[Tensor, Tensor]:
    """(B × C, where the top class is; B × 1, the mean of all others, which is never above it)."""
    highest_B1, place_B1 = probs_BC.max(dim=1, keepdim=True)
    top_BC = torch.zeros_like(probs_BC, dtype=torch.bool).scatter(1, place_B1, value=True)
    others_B1 = probs_BC.masked_fill(top_BC, 0).sum(dim=1, keepdim=True)
    return top_BC, torch.minimum(others_B1 / (probs_BC.shape[1] - 1), highest_B1)


def _to_one(probs_BC: Tensor) -> Tensor:
    return probs_BC / probs_BC.sum(dim=1, keepdim=True)
