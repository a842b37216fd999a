"""A custom defense. Usage: undistill protect MODEL --plugin examples/plugins/toy_defense.py --defense toy-defense -o OUT"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from undistill.data import ImageSet
from undistill.defenses.base import DEFENSES, TrainedDefense
from undistill.models import Classifier
from undistill.oracle import LogitCache
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@DEFENSES.register
class ToyDefense(TrainedDefense):
    """CE(nasty, (1 − lie) · label + lie · next class): the true class first, and always the same wrong class second.

    The adversary is not used. Source: none, an unmeasured example.
    """

    name: Literal["toy-defense"] = "toy-defense"
    lie: float = Field(0.3, ge=0, lt=0.5)

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
        """Train `network` on the mixed targets; the adversary is not queried, so the logit cache is not used."""
        batches = image_batches(images, recipe, role="nasty", device=str(device))
        return fit(network, batches, LabelAndLie(self.lie), recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class LabelAndLie:
    """The objective; no other network is trained with it."""

    lie: float
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, and `accuracy` on the training views."""
        if batch.labels_B is None:
            raise ValueError("toy-defense needs labels")
        logits_BC = model(batch.images_BCHW)
        right_BC = F.one_hot(batch.labels_B, logits_BC.shape[1]).float()
        target_BC = (1 - self.lie) * right_BC + self.lie * right_BC.roll(1, dims=1)
        return {"loss": F.cross_entropy(logits_BC.float(), target_BC), "accuracy": hits(logits_BC, batch.labels_B)}
