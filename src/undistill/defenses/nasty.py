"""The nasty teacher: self-undermining knowledge distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill.data.image_set import ImageSet
from undistill.defenses.base import DEFENSES, TrainedDefense
from undistill.losses import self_undermining_loss
from undistill.models import Classifier
from undistill.oracle.inference import Frozen
from undistill.oracle.logit_cache import LogitCache, answers
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@DEFENSES.register
class Nasty(TrainedDefense):
    """The nasty teacher of the paper: correct top class, misleading probabilities for the others.

    CE(nasty, label) − ω τ² KL(nasty ‖ adversary): keep the right answer on top, spoil the rest.

    Source: Ma et al. 2021, equation 2. The adversary is frozen in evaluation mode; both see the same view of each image.
    """

    name: Literal["nasty"] = "nasty"
    omega: float = Field(0.04, ge=0)
    temperature: float = Field(4.0, gt=0)

    def harden(
        self,
        network: Classifier,
        adversary: Classifier,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
        bank: LogitCache | None = None,
    ) -> Iterator[EpochRecord]:
        """Train `network` away from `adversary`."""
        training = recipe.training
        batches = image_batches(images, recipe, role="nasty", device=str(device))
        frozen = Frozen(adversary, training.precision, whole=False)
        adversary_says = answers(frozen, batches, training.epochs * training.passes, bank)
        objective = SelfUndermining(adversary_says, self.omega, self.temperature, training.smoothing)
        return fit(network, batches, objective, training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class SelfUndermining:
    """The objective; the adversary's logits of a batch come from outside, so that no gradient reaches it."""

    adversary: Callable[[Batch], Tensor]
    omega: float
    temperature: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, and `accuracy` on the training views."""
        if batch.labels_B is None:
            raise ValueError("a nasty teacher is trained on labels")
        logits_BC = model(batch.images_BCHW)
        loss = self_undermining_loss(
            logits_BC,
            self.adversary(batch),
            batch.labels_B,
            omega=self.omega,
            temperature=self.temperature,
            smoothing=self.smoothing,
        )
        return {"loss": loss, "accuracy": hits(logits_BC, batch.labels_B)}
