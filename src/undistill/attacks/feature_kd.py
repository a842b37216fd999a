"""Students that learn the victim's features instead of its answers.

Legend: B batch, C classes, D features of the victim, S features of the student, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.head_refit import HeadRefit, refit
from undistill.attacks.insider import PAST_ANSWERS, frozen
from undistill.data.image_set import ImageSet
from undistill.losses import smoothed_cross_entropy
from undistill.models import Classifier
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive
from undistill.threat_model import Access
from undistill.training.features import Scale, check_head, linear_head, read_all, read_out, write_head
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms


@ATTACKS.register
class FeatureKD(Attack):
    """Match the features before the last layer instead of the outputs; needs the weights.

    weight · mean (A s + b − z)² over batch and features, s the student's features and z the victim's, A and b a trained adapter.

    z is standardised, each feature by its moments over the images held, so a victim whose features differ in scale gains nothing.
    `simkd` minimises that alone and reuses the victim's classifier: behind each epoch adapter and classifier, both linear, are
    written into the student's head as one layer. `simkd-refit` first fits that classifier again, as `head-refit` does by default,
    for a spoilt one that is reused spoils the student. `fitnet` adds CE(student, label), the label the true one or else the
    victim's top class; no answer is distilled. Source: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR
    2022 (simkd; their adapter is convolutional, ours linear, on pooled features); Romero et al., FitNets, ICLR 2015 (fitnet; their
    hint is a layer in the middle and is learned first, ours is the last one and is learned along). `simkd-refit` is our own.
    """

    name: Literal["feature-kd"] = "feature-kd"
    variant: Literal["fitnet", "simkd", "simkd-refit"] = "simkd"
    weight: float = Field(10.0, gt=0)
    needs: ClassVar[Access | None] = Access.WEIGHTS
    reads: ClassVar[Access] = Access.WEIGHTS
    knows: ClassVar[tuple[str, ...]] = PAST_ANSWERS

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError where victim or student does not end in a linear layer on features."""
        check_head(student, self.name, "student", biased=self.variant != "fitnet")
        if victim is not None:
            check_head(victim, self.name, "victim")

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
        """Train `student` and the adapter; UsageError where victim or student does not end in a linear layer on features."""
        victim, head = linear_head(frozen(oracle.weights(), device), self.name, "victim")
        attacker, own = linear_head(student, self.name, "student", biased=self.variant != "fitnet")
        read_out(attacker, images.seen(slice(0, 2), device))
        features_ND, logits_NC = read_all(victim, images, device)
        if state is None:
            oracle.forwards += len(images)
        if self.variant == "simkd-refit":
            refit(head, features_ND, logits_NC, images, HeadRefit().labels_per_class, HeadRefit().l2, recipe.seed)
        scale = Scale.of(features_ND)
        adapter = fresh_adapter(own.in_features, head.in_features, recipe.seed).to(device)
        kind = FitNet if self.variant == "fitnet" else SimKD
        lesson = kind(oracle, victim, scale, {"adapter": adapter}, self.weight, recipe.training.smoothing)
        batches = image_batches(images, recipe, role="thief", device=str(device))
        for record in fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=state):
            if self.variant != "fitnet":
                write_head(own, *folded(adapter, head, scale))
            yield record


@dataclass(frozen=True)
class SimKD:
    """The objective; `agreement` is how often the adapted features and the victim name the same class, percent of the views."""

    oracle: Oracle
    victim: Classifier
    scale: Scale
    modules: Mapping[str, nn.Module]
    weight: float
    smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, `match` (the mean squared error) and `agreement`."""
        z_BD, said_B = self.look(batch)
        adapted_BD = self.modules["adapter"](model.features(batch.images_BCHW)).float()  # type: ignore[operator]
        match = (adapted_BD - z_BD).square().mean()
        with torch.no_grad():
            logits_BC = self.victim.head(adapted_BD * self.scale.std_D + self.scale.mean_D)
        return {"loss": self.weight * match, "match": match, "agreement": hits(logits_BC, said_B)}

    @torch.no_grad()
    def look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B × D standardised features, the B top classes) of the victim, in float32; images computed are counted."""
        with torch.autocast(batch.images_BCHW.device.type, enabled=False):
            features_BD = self.victim.features(batch.images_BCHW).float()
            said_B = self.victim.head(features_BD).argmax(dim=1)
        self.oracle.forwards += batch.counted
        return self.scale(features_BD), said_B


@dataclass(frozen=True)
class FitNet(SimKD):
    """The objective with labels; `agreement` is the student's own."""

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, `match`, `ce` and `agreement`."""
        z_BD, said_B = self.look(batch)
        features_BS = model.features(batch.images_BCHW)  # type: ignore[operator]
        match = (self.modules["adapter"](features_BS).float() - z_BD).square().mean()
        logits_BC = model.head(features_BS)  # type: ignore[operator]
        labels_B = said_B if batch.labels_B is None else batch.labels_B
        ce = smoothed_cross_entropy(logits_BC, labels_B, self.smoothing)
        return {"loss": ce + self.weight * match, "match": match, "ce": ce, "agreement": hits(logits_BC, said_B)}


def fresh_adapter(features: int, wanted: int, seed: int) -> nn.Linear:
    """S × D, drawn at (seed, "thief", "adapter"); the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "thief", "adapter"))
        return nn.Linear(features, wanted)


@torch.no_grad()
def folded(adapter: nn.Linear, head: nn.Linear, scale: Scale) -> tuple[Tensor, Tensor]:
    """(C × S weights, C biases) of the one layer that adapter, the way back from standardised features, and head make together."""
    none_C = head.weight.new_zeros(head.out_features)
    weight_CD, bias_C = scale.onto(head.weight, none_C if head.bias is None else head.bias)
    return weight_CD @ adapter.weight, weight_CD @ adapter.bias + bias_C
