"""What a defense is, and where it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch

from undistill.data import ImageSet, Splits
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.oracle.logit_cache import LogitCache
from undistill.oracle.output_defense import ANSWER_DEFENSES
from undistill.registry import Component, Registry
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe
from undistill.training.train import validation

Start = Literal["scratch", "teacher"]


class TrainedDefense(Component):
    """Hardens a network by training it. `starts` names what it may start from, the default first."""

    starts: ClassVar[tuple[Start, ...]] = ("scratch", "teacher")

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
        """Train `network` in place, an epoch at a time.

        Args:
            network: to be hardened; fresh, or a copy of the teacher.
            adversary: frozen, normally trained; never changed.
            images: the training images.
            recipe: its training section, views and seed.
            device: of both networks.
            state: to go on from.
            bank: keeps what the adversary answers about the views; None keeps nothing.
        """
        raise NotImplementedError

    def validator(self, network: Classifier, data: Splits) -> Callable[[], dict[str, float]]:
        """What measures `network` on the validation split behind each epoch."""
        return lambda: validation(network, data)


class Trained(Registry[TrainedDefense]):
    """Defenses that train, apart from those of the same package that change answers only: no name is of both kinds."""

    def find(self, name: object) -> type[TrainedDefense]:
        """The class that answers for a name; UsageError if none does, or one that trains nothing."""
        answers: dict[str, Any] = ANSWER_DEFENSES.everything()
        if both := sorted(self.everything().keys() & answers.keys()):
            raise TypeError(f"a defense and an answer-defense are called {both[0]!r}")
        if isinstance(name, str) and name in answers:
            raise UsageError(
                f"{name} changes answers only and trains nothing: put it in front of a model with --output-defense {name}"
            )
        return super().find(name)


DEFENSES: Registry[TrainedDefense] = Trained("defense", "undistill.defenses")
