"""The nasty teacher's loss on the last layer alone: seconds, however large the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill.data import ImageSet, Splits
from undistill.data.augment import Views
from undistill.defenses.base import DEFENSES, Start, TrainedDefense
from undistill.errors import UsageError
from undistill.losses import self_undermining_loss
from undistill.models import Classifier
from undistill.oracle.logit_cache import LogitCache
from undistill.seeds import derive
from undistill.training.evaluate import accuracy, batch_for
from undistill.training.features import FeatureBatches, read_out
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.types import Batch, Terms


@DEFENSES.register
class NastyHead(TrainedDefense):
    """Nasty training of the last layer alone; the features of the teacher are kept.

    CE(head, label) − ω τ² KL(head ‖ adversary) on frozen features: the teacher keeps all but its last linear layer.

    Features and the adversary's answers are computed once, `copies` times for each image: once as it is, then under the recipe's
    views. Source: the loss of Ma et al. 2021, equation 2, on the last layer alone; our own simplification.
    """

    name: Literal["nasty-head"] = "nasty-head"
    omega: float = Field(0.04, ge=0)
    temperature: float = Field(4.0, gt=0)
    copies: int = Field(1, ge=1, le=64)
    starts: ClassVar[tuple[Start, ...]] = ("teacher",)

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
        """Train `network.head` away from `adversary`; UsageError for a network without a linear head."""
        held = _held(network, adversary, images, recipe, self.copies, device)
        training = recipe.training
        order = derive(recipe.seed, "nasty", "order")
        batches = FeatureBatches(held.features_ND, held.labels_N, training.batch, training.passes, order)
        objective = HeadSelfUndermining(held.adversary_NC, self.omega, self.temperature, training.smoothing)
        return fit(network.head, batches, objective, training, seed=recipe.seed, state=state)

    def validator(self, network: Classifier, data: Splits) -> Callable[[], dict[str, float]]:
        """Accuracy on the validation split, from features that are computed once."""
        if data.val is None:
            return dict
        val, kept = data.val, list[Tensor]()

        def measure() -> dict[str, float]:
            device = next(network.parameters()).device
            kept.extend(
                read_out(network, val.seen(chunk, device))[0]
                for chunk in (val.chunks(batch_for(val, device)) if not kept else ())
            )
            with torch.no_grad():
                return {"accuracy_val": accuracy(network.head(torch.cat(kept)).cpu(), val.labels_N)}

        return measure


@dataclass(frozen=True)
class Held:
    """Features, labels and the adversary's logits, a row for each copy of each image, on the device."""

    features_ND: Tensor
    labels_N: Tensor
    adversary_NC: Tensor


@dataclass(frozen=True)
class HeadSelfUndermining:
    """The objective on features, against the adversary's stored answers."""

    adversary_NC: Tensor
    omega: float
    temperature: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, and `accuracy` on the features."""
        assert batch.labels_B is not None
        logits_BC = model(batch.images_BCHW)
        loss = self_undermining_loss(
            logits_BC,
            self.adversary_NC[batch.index_B],
            batch.labels_B,
            omega=self.omega,
            temperature=self.temperature,
            smoothing=self.smoothing,
        )
        return {"loss": loss, "accuracy": hits(logits_BC, batch.labels_B)}


def _held(
    network: Classifier, adversary: Classifier, images: ImageSet, recipe: Recipe, copies: int, device: torch.device
) -> Held:
    if not isinstance(network.head, nn.Linear):
        raise UsageError(f"{network.config['name']} ends in no linear layer, so it has no head to harden")
    itself = _same(network, adversary)  # the usual case: one pass gives the features and the adversary's answers
    seed = derive(recipe.seed, "nasty", "views")
    features, answers = [], []
    for copy in range(copies):
        shown = None
        if copy:
            shown = Views(recipe.data.views, seed, copy - 1, images.source_size, device, images.image_size)
        for chunk in images.chunks(batch_for(images, device)):
            pixels_BCHW = images.seen(chunk, device)
            if shown is not None:
                pixels_BCHW = shown(images.images_NCHW[chunk].to(device), images.index_N[chunk].to(device))
            features_BD, logits_BC = read_out(network, pixels_BCHW)
            features.append(features_BD)
            answers.append(logits_BC if itself else _logits(adversary, pixels_BCHW))
    labels_N = images.labels_N.to(device).repeat(copies)
    return Held(torch.cat(features), labels_N, torch.cat(answers))


@torch.no_grad()
def _logits(adversary: Classifier, images_BCHW: Tensor) -> Tensor:
    return adversary.eval()(images_BCHW).float()


def _same(network: Classifier, adversary: Classifier) -> bool:
    ours, theirs = network.state_dict(), adversary.state_dict()
    if network.config != adversary.config:  # the normalisation is there, and not among the weights
        return False
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
