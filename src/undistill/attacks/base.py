"""What an attack is, and where it is found. An attack sees an oracle and the thief's images, never a defense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn

from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle
from undistill.registry import Component, Registry
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe


class Attack(Component):
    """Trains a student with an oracle's help.

    `needs` is the least access it can work with, None for a control that asks nothing; `reads` the most it makes use of.
    A `control` is handed true labels on any card: it is what the thief is measured against, no thief itself.
    `holds_images` False is data-free: it makes its own images, and plays cards without data alone.
    `knows` names the defenses that it was written against, for an audit to say whether anybody tried.
    """

    needs: ClassVar[Access | None]
    reads: ClassVar[Access] = Access.LOGITS
    control: ClassVar[bool] = False
    holds_images: ClassVar[bool] = True
    knows: ClassVar[tuple[str, ...]] = ()

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError if the attack cannot work with these networks; a victim of None is not looked at."""

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
            oracle: the only door to the victim.
            student: fresh weights.
            images: what the thief holds; without labels where the card has none. None at all (0 rows, but of known classes,
                channels and size) for an attack that is data-free.
            recipe: how the student is trained; its seed is the thief's.
            device: of the student and the victim.
            state: to go on from.
        """
        raise NotImplementedError


ATTACKS: Registry[Attack] = Registry("attack", "undistill.attacks")
