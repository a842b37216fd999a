"""Distillation of mean answers: what a victim adds at random goes, what it means stays. Legend: B batch, C classes, N images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.kd import Distills
from undistill.attacks.sanitise import counted_once, probabilities
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.oracle.oracle import Answer, Oracle
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch


@ATTACKS.register
class Average(Distills):
    """Query each image several times and distil the mean output.

    `kd` on the mean answer about each image: α τ² KL(mean ‖ student) + (1 − α) CE(student, label).

    The mean is of probabilities over `copies` views of the image, those of the first passes; without views the copies are the
    image itself, and only answers given at random differ. Each copy is a question, asked at the start: a budget Q pays for
    ⌊Q / copies⌋ images, and the attacker trains on those alone, in more passes: as many steps an epoch as the recipe takes on all
    of its images, to the nearest whole pass. Training on any view reads the mean of its image. On a card without labels the second
    term uses the mean's top class.

    Source: our own; `kd` as in Ma et al. 2021, equation 1.
    """

    name: Literal["average"] = "average"
    copies: int = Field(3, ge=2)
    needs: ClassVar[Access | None] = Access.TOPK
    knows: ClassVar[tuple[str, ...]] = ("noise",)

    def steal(
        self,
        oracle: Oracle,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Iterator[EpochRecord]:
        """Distil mean answers into `student`; UsageError for a budget that pays for fewer than two images."""
        held = self.affordable(images, oracle.budget, recipe.seed)
        recipe = as_many_steps(recipe, len(images), len(held))
        batches = image_batches(held, recipe, role="thief", device=str(device))
        with counted_once(oracle, resumed=state is not None):
            means = Noted.of(batches, self.mean(oracle, batches))
        objective = Lesson(self.loss, means, recipe.training.smoothing)
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)

    def affordable(self, images: ImageSet, budget: int | None, seed: int) -> ImageSet:
        """The images that a budget pays for: the first of an order drawn at (seed, "thief", "average"), all where there is none."""
        count = len(images) if budget is None else min(len(images), budget // self.copies)
        if count < 2:
            raise UsageError(
                f"average asks {self.copies} questions about an image: take a card with at least {2 * self.copies} of them, "
                f"not {budget}, and as many images as 2"
            )
        order_N = torch.randperm(len(images), generator=generator(seed, "thief", "average"))
        return images if count == len(images) else images.take(order_N[:count].sort().values)

    def mean(self, oracle: Oracle, batches: ImageBatches) -> Tensor:
        """N × C float32: the mean probabilities over the copies of each image, in the order of `batches.images`."""
        rows_N = torch.arange(len(batches.images), device=batches.device)
        chunks = rows_N.split(batch_for(batches.images, batches.device))
        passes = []
        for number in range(self.copies):
            views = batches.views_of(number)
            answers = [oracle.ask(views(batches.stored(rows), batches.index_N[rows])) for rows in chunks]
            passes.append(torch.cat([probabilities(answer) for answer in answers]))
        return torch.stack(passes).mean(dim=0)


def as_many_steps(recipe: Recipe, images: int, held: int) -> Recipe:
    """The recipe for `held` of the images, its passes multiplied so that an epoch has as many steps as on all, at least 1 pass."""
    training = recipe.training
    if held >= images:
        return recipe
    passes = max(1, round(training.passes * _steps(images, training.batch) / _steps(held, training.batch)))
    return recipe.model_copy(update={"training": training.model_copy(update={"passes": passes})})


def _steps(images: int, batch: int) -> int:
    """Steps of one pass; a last batch of one image is none."""
    full, rest = divmod(images, batch)
    return max(1, full + (rest > 1))


@dataclass(frozen=True)
class Noted:
    """What an attacker wrote down about its images."""

    answers: Answer
    row_N: Tensor

    @classmethod
    def of(cls, batches: ImageBatches, probs_NC: Tensor) -> Noted:
        """Probabilities in the order of `batches.images`."""
        row_N = torch.full((batches.source_size,), -1, device=batches.device)
        row_N[batches.index_N] = torch.arange(len(probs_NC), device=batches.device)
        return cls(Answer(Access.PROBS, probs_NC), row_N)

    def __call__(self, batch: Batch) -> Answer:
        """The answers that belong to a batch."""
        return self.answers.take(self.row_N[batch.index_B])
