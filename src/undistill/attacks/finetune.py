"""Some epochs of ordinary training on a copy of the victim, and a student of that copy. Legend: N images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.insider import PAST_ANSWERS, Inside, frozen, said
from undistill.attacks.kd import Distills
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.optim import SGD, Constant
from undistill.training.recipe import Recipe, Training
from undistill.training.train import image_batches


@ATTACKS.register
class Finetune(Distills):
    """Fine-tune a copy of the victim on labels first, then distil that copy; needs the weights.

    CE(copy of the victim, label) for `epochs` epochs, then α τ² KL(that copy ‖ student) + (1 − α) CE(student, label).

    The copy takes the recipe's batches and views, SGD at a constant `lr`, its batch normalisations in training mode. Labels are the
    true ones where the attacker holds them, else the victim's own top classes of the images as they are; the student's second term
    then uses the copy's top class. Source: our own; fine-tuning as it is done to any network, against a victim whose wrong answers
    were trained into it.
    """

    name: Literal["finetune"] = "finetune"
    epochs: int = Field(10, ge=1)
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    needs: ClassVar[Access | None] = Access.WEIGHTS
    reads: ClassVar[Access] = Access.WEIGHTS
    knows: ClassVar[tuple[str, ...]] = PAST_ANSWERS

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
        """Tune, an epoch a record of phase `finetune`, then train `student`; a copy that was tuned is not tuned again."""
        done = 0 if state is None else state["epoch"]
        copied = oracle.weights().to(device).requires_grad_()
        if state is not None:
            student.load_state_dict(state["model"])
            copied.load_state_dict(state["modules"]["tuned"])
        if done < self.epochs:
            yield from self._tune(oracle, copied, student, images, recipe, device, state)
        # A copy of the victim again, not the one that was trained: its memory layout is that of a resumed run.
        tuned = frozen(oracle.weights(), device)
        tuned.load_state_dict(copied.state_dict())
        lesson = Lesson(self.loss, Inside(oracle, tuned), recipe.training.smoothing)
        batches = image_batches(images, recipe, role="thief", device=str(device))
        past = {**state, "epoch": done - self.epochs} if state is not None and done > self.epochs else None
        for record in fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=past):
            epoch = self.epochs + record.epoch
            after = {**record.state, "epoch": epoch, "modules": {"tuned": tuned.state_dict()}}
            yield replace(record, epoch=epoch, epochs=self.epochs + record.epochs, state=after)

    def _tune(
        self,
        oracle: Oracle,
        copied: nn.Module,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        device: torch.device,
        state: State | None,
    ) -> Iterator[EpochRecord]:
        """Train `copied` in place; the records' states hold it beside the student, who waits."""
        if not images.labelled:
            labels_N = said(frozen(oracle.weights(), device), images, device)
            images = replace(images, labels_N=labels_N, labelled=True)
            if state is None:
                oracle.forwards += len(images)
        batches = image_batches(images, recipe, role="thief/finetune", device=str(device))
        past: dict[str, Any] | None = None
        if state is not None:
            past = {**state, "model": state["modules"]["tuned"], "modules": {}}
        training = self.training(recipe.training)
        seed = derive(recipe.seed, "thief", "finetune")
        for record in fit(copied, batches, CrossEntropy(training.smoothing), training, seed=seed, state=past):
            after = {**record.state, "model": student.state_dict(), "modules": {"tuned": copied.state_dict()}}
            yield replace(record, state=after, phase="finetune")

    def training(self, usual: Training) -> Training:
        """How the copy is tuned: as the recipe has it, but for epochs, optimiser and schedule."""
        optimizer = SGD(lr=self.lr, momentum=self.momentum)
        return usual.model_copy(update={"epochs": self.epochs, "optimizer": optimizer, "schedule": Constant()})
