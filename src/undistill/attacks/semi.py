"""Distillation that also learns from the images that were not queried. Legend: B batch, C classes, U of the unqueried images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from undistill import ranks
from undistill.attacks.base import ATTACKS, Attack, Lesson
from undistill.attacks.kd import DistillsAnything
from undistill.data.augment import Cutout, Rotation, Views
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive, generator
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Objective, Terms

STRONG = (Rotation(degrees=20), Cutout())
"""What strong views have beside the recipe's own."""


class FixMatch(Attack):
    """What unqueried images add: weight · 1[max s(weak) ≥ threshold] · CE(s(strong), argmax s(weak)), s the student.

    The mean over `ratio` unqueried images to each queried one, in a common forward pass. Source: Sohn et al. 2020 (FixMatch,
    NeurIPS), equation 4; strong views turn and cut out, and leave out that paper's changes of color.
    """

    threshold: float = Field(0.95, ge=0, lt=1)
    weight: float = Field(1.0, ge=0)
    ratio: int = Field(3, ge=1)
    uses_unqueried: ClassVar[bool] = True

    def plain(self, oracle: Oracle, batches: ImageBatches, recipe: Recipe, *, resumed: bool) -> Objective:
        """What the queried images are learned by."""
        return Lesson(self.loss, self.responses(oracle, batches, recipe, resumed=resumed), recipe.training.smoothing)

    def steal(
        self,
        oracle: Oracle,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
        held: ImageSet | None = None,
    ) -> Iterator[EpochRecord]:
        """Train `student`; where no more images are `held`, by the plain objective alone. UsageError under torchrun."""
        if ranks.count() > 1:
            raise UsageError(f"{self.name} learns from two sets of images at once: run it without torchrun")
        batches = image_batches(images, recipe, role="thief", device=str(device))
        objective = self.plain(oracle, batches, recipe, resumed=state is not None)
        others = images if held is None else held
        others = others.take((~torch.isin(others.index_N, images.index_N)).nonzero().squeeze(1))
        if len(others) >= 2:
            objective = Consistent(objective, self, Unqueried(others, batches, recipe, self.ratio))
        return fit(student, batches, objective, recipe.training, seed=recipe.seed, state=state)

    def consistency(self, weak_UC: Tensor, strong_UC: Tensor) -> tuple[Tensor, Tensor]:
        """(the term before its weight, percent of the images that count) of logits on weak and on strong views."""
        sure_U, class_U = weak_UC.detach().float().softmax(dim=1).max(dim=1)
        counts_U = sure_U >= self.threshold
        each_U = F.cross_entropy(strong_UC.float(), class_U, reduction="none")
        return (each_U * counts_U).mean(), counts_U.float().mean() * 100


@ATTACKS.register
class Semi(FixMatch, DistillsAnything):
    """Distil, and learn from the images that were not queried, too.

    `kd`, α τ² KL(response ‖ student) + (1 − α) CE(student, label), or CE against predicted classes, on the queried images; on
    the others of the threat model (`+1000` behind its budget), the student's own sure classes on weak views are what it learns on
    strong ones. Its baseline is `semi-scratch`, with the same images. Source: FixMatch (Sohn et al. 2020), equation 4; that
    attackers use it: Jagielski et al. 2020, High Accuracy and High Fidelity Extraction, section 4.
    """

    name: Literal["semi"] = "semi"


@ATTACKS.register
class SemiScratch(FixMatch):
    """The baseline of `semi`: true labels of the images that it may query, and the others without.

    CE(student, true label), and what FixMatch adds. Queries nothing; a control, and no attacker.
    """

    name: Literal["semi-scratch"] = "semi-scratch"
    needs: ClassVar[Access | None] = None
    control: ClassVar[bool] = True

    def plain(self, oracle: Oracle, batches: ImageBatches, recipe: Recipe, *, resumed: bool) -> Objective:
        """Cross-entropy on true labels."""
        return CrossEntropy(recipe.training.smoothing)


class Unqueried:
    """Weak and strong views of images that nothing is asked about.

    Each round shows every one of them once, in an order drawn at (seed, "thief", "unqueried/ROUND"); a pass begins with a new
    round, so that a run that goes on at an epoch sees what it would have seen.
    """

    def __init__(self, images: ImageSet, batches: ImageBatches, recipe: Recipe, ratio: int) -> None:
        self.ratio, self.seed, views = ratio, recipe.seed, recipe.data.views
        self.weak = ImageBatches(images, 2, views, seed=recipe.seed, role="unqueried/weak", device=batches.device)
        self.strong = (*views, *STRONG)
        self.rounds = math.ceil(ratio * batches.size / len(images)) + 1
        self.turn = (-1, 0)  # a pass, and how many it has shown
        self.round: tuple[int, Tensor, Views, Views] | None = None

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The next (weak, strong) ones, U × channels × H × W each."""
        shown = self.turn[1] if self.turn[0] == batch.epoch else 0
        wanted, found = self.ratio * len(batch.index_B), []
        self.turn = (batch.epoch, shown + wanted)
        while wanted:
            number, at = divmod(shown, self.weak.size)
            rows_U, weak, strong = self._round(batch.epoch * self.rounds + number)
            rows_U = rows_U[at : at + wanted]
            stored, index_U = self.weak.stored(rows_U), self.weak.index_N[rows_U]
            found.append((weak(stored, index_U), strong(stored, index_U)))
            shown, wanted = shown + len(rows_U), wanted - len(rows_U)
        weak_UCHW, strong_UCHW = (torch.cat(parts) for parts in zip(*found, strict=True))
        return weak_UCHW, strong_UCHW

    def _round(self, number: int) -> tuple[Tensor, Views, Views]:
        if self.round is None or self.round[0] != number:
            rng, weak = generator(self.seed, "thief", f"unqueried/{number}"), self.weak
            rows_N = torch.randperm(weak.size, generator=rng).to(weak.device)
            seed = derive(self.seed, "unqueried/strong", "views")
            strong = Views(self.strong, seed, number, weak.source_size, weak.device, weak.image_size)
            self.round = (number, rows_N, weak.views_of(number), strong)
        return self.round[1:]


@dataclass(frozen=True)
class Consistent:
    """An objective, and what FixMatch adds to it; `sure` is the percentage of unqueried images that count."""

    plain: Objective
    settings: FixMatch
    unqueried: Unqueried

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Those of the plain objective."""
        return self.plain.modules

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """The plain terms, `semi` and `sure`."""
        weak_UCHW, strong_UCHW = self.unqueried.views(batch)
        logits_BC = model(torch.cat([batch.images_BCHW, weak_UCHW, strong_UCHW]))
        queried_BC, weak_UC, strong_UC = logits_BC.split([len(batch.index_B), len(weak_UCHW), len(strong_UCHW)])
        terms = self.plain(Said(queried_BC), batch)
        semi, sure = self.settings.consistency(weak_UC, strong_UC)
        return {**terms, "loss": terms["loss"] + self.settings.weight * semi, "semi": semi, "sure": sure}


class Said(nn.Module):
    """A network that has said already what it is asked."""

    def __init__(self, logits_BC: Tensor) -> None:
        super().__init__()
        self.logits_BC = logits_BC

    def forward(self, _: Tensor) -> Tensor:
        """Those logits."""
        return self.logits_BC
