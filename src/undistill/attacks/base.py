"""What an attack is, and where it is found. An attack sees an oracle and the attacker's images, never a defense.

An attack is its settings, its equation and its promise: most define `loss` alone. Legend: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.registry import Component, Registry
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch, Terms

Responses = Callable[[Batch], Answer]


class Attack(Component):
    """Trains a student with an oracle's help.

    `needs` is the least access it can work with, None for a control that queries nothing; `reads` the most it makes use of.
    A `control` is handed true labels under any threat model: attackers are measured against it.
    `holds_images` False is data-free: it makes its own images. `holds_labels` False leaves out true labels that it holds.
    `uses_unqueried` is handed, as `held`, all images that the attacker has, those beyond its budget too; a control with labels.
    `knows` names the defenses that it was written against, so that an audit can say whether an adaptive attack was tried.
    """

    needs: ClassVar[Access | None]
    reads: ClassVar[Access] = Access.LOGITS
    control: ClassVar[bool] = False
    holds_images: ClassVar[bool] = True
    holds_labels: ClassVar[bool] = True
    uses_unqueried: ClassVar[bool] = False
    knows: ClassVar[tuple[str, ...]] = ()

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError if the attack cannot work with these networks; a victim of None is not looked at."""

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, which is minimized, and the terms that it weighs, each a mean over the batch.

        Args:
            logits_BC: of the student.
            response: of the victim to the same views, with as much as the threat model shows.
            labels_B: the true ones where the attacker holds them, else the victim's top classes.
            smoothing: of labels, as the recipe has it.
        """
        raise NotImplementedError

    def responses(self, oracle: Oracle, batches: ImageBatches, recipe: Recipe, *, resumed: bool) -> Responses:
        """What the student learns from: by default the victim's response to each batch. `resumed` after an interruption."""
        return Questions(oracle, batches, recipe.training)

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
        """Train `student` in place, an epoch at a time.

        Args:
            oracle: the only way to the victim.
            student: fresh weights.
            images: what the attacker holds; without labels where the threat model has none. None at all (0 rows, but of known
                classes, channels and size) for an attack that is data-free.
            recipe: how the student is trained; its seed is the attacker's.
            device: of the student and the victim.
            state: to go on from.
        """
        held = images if self.holds_labels else images.unlabelled()
        batches = image_batches(held, recipe, role="thief", device=str(device))
        responses = self.responses(oracle, batches, recipe, resumed=state is not None)
        lesson = Lesson(self.loss, responses, recipe.training.smoothing)
        return fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=state)


@dataclass(frozen=True)
class Lesson:
    """The objective of an attack: its loss on the victim's responses to each batch.

    `agreement` is how often student and victim name the same class, percent of the training views.
    """

    loss: Callable[[Tensor, Answer, Tensor, float], Terms]
    responses: Responses
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """The attack's terms and `agreement`."""
        response = self.responses(batch)
        logits_BC = model(batch.images_BCHW)
        labels_B = response.labels_B if batch.labels_B is None else batch.labels_B
        terms = self.loss(logits_BC, response, labels_B, self.smoothing)
        return {**terms, "agreement": hits(logits_BC, response.labels_B)}


ATTACKS: Registry[Attack] = Registry("attack", "undistill.attacks")
