"""The nasty teacher: self-undermining knowledge distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from undistill.data.images import ImageSet
from undistill.defenses.base import DEFENSES, TrainedDefense
from undistill.losses import self_undermining_loss
from undistill.models import Classifier
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@DEFENSES.register
class Nasty(TrainedDefense):
    """CE(nasty, label) − ω τ² KL(nasty ‖ adversary): keep the right answer on top, spoil the rest.

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
    ) -> Iterator[EpochRecord]:
        """Train `network` away from `adversary`."""
        frozen = copy.deepcopy(adversary).eval().requires_grad_(False)
        objective = SelfUndermining(frozen, self.omega, self.temperature, recipe.training.smoothing)
        batches = image_batches(images, recipe, role="nasty", device=str(device))
        return fit(network, batches, objective, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class SelfUndermining:
    """The objective; the adversary answers in full precision and is not among the trained modules."""

    adversary: nn.Module
    omega: float
    temperature: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, and `accuracy` on the training views."""
        if batch.labels_B is None:
            raise ValueError("a nasty teacher is trained on labels")
        with torch.no_grad(), torch.autocast(batch.images_BCHW.device.type, enabled=False):
            adversary_logits_BC = self.adversary(batch.images_BCHW)
        logits_BC = model(batch.images_BCHW)
        loss = self_undermining_loss(
            logits_BC,
            adversary_logits_BC,
            batch.labels_B,
            omega=self.omega,
            temperature=self.temperature,
            smoothing=self.smoothing,
        )
        return {"loss": loss, "accuracy": hits(logits_BC, batch.labels_B)}
