"""Data-free images by inverting the victim: what its batch normalisations remember of its training images, and a student of them.

Legend: B batch, C channels or classes, H height, W width, N images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.insider import Inside, frozen
from undistill.attacks.inversion import invert
from undistill.attacks.kd import Distillation
from undistill.data.augment import to_float
from undistill.data.image_set import ImageSet
from undistill.errors import Diverged
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches


@ATTACKS.register
class DeepInversion(Attack):
    """Data-free distillation from the weights: optimize images to fit batch-norm statistics (DeepInversion).

    CE(target class) + bn · Σ (‖Δμ‖₂ + ‖Δσ²‖₂) + tv · total variation + l2 · ‖x‖₂, minimised over the images.

    Δμ and Δσ² compare a batch's moments at the input of each batch normalisation with its running ones. `iterations` steps of Adam
    (`lr`) make `batch` images; at each, the images are rolled by up to ± `jitter` pixels and, if `flip`, mirrored half the time.
    `images` in all, their targets evenly over the classes. Then the student learns as the recipe says, from their views:
    α τ² KL(victim ‖ student) + (1 − α) CE(student, victim's top class). Source: Yin et al., Dreaming to Distill, CVPR 2020.
    """

    name: Literal["deep-inversion"] = "deep-inversion"
    iterations: int = Field(2000, ge=1)
    batch: int = Field(256, ge=2)
    images: int = Field(2560, ge=2)
    bn: float = Field(10.0, ge=0)
    tv: float = Field(2.5e-5, ge=0)
    l2: float = Field(3e-8, ge=0)
    lr: float = Field(0.1, gt=0)
    jitter: int = Field(2, ge=0)
    flip: bool = True
    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(0.9, ge=0, le=1)
    needs: ClassVar[Access | None] = Access.WEIGHTS
    reads: ClassVar[Access] = Access.WEIGHTS
    holds_images: ClassVar[bool] = False

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
        """Make images, a batch a record of phase `invert`, then train `student` on them; a batch that was kept is not made again.

        UsageError for a victim without batch normalisation or gradients.
        """
        victim = frozen(oracle.weights(), device)
        if state is not None:
            student.load_state_dict(state["model"])
        targets_N = torch.arange(self.images) % images.num_classes
        rounds = targets_N.split(self.batch)
        shape = (images.channels, images.image_size, images.image_size)
        made_NCHW = torch.empty(0, *shape, dtype=torch.uint8)
        if state is not None:
            made_NCHW = state["modules"]["inverted"]["images"].cpu()
        for number in range(-(-len(made_NCHW) // self.batch), len(rounds)):
            record, batch_BCHW = self._round(oracle, victim, rounds[number], shape, recipe.seed, number, device)
            made_NCHW = torch.cat([made_NCHW, batch_BCHW])
            before = {"epoch": number + 1, "model": student.state_dict(), "modules": _kept(made_NCHW)}
            yield replace(record, epochs=len(rounds), state={**before, "optimizer": {"state": {}, "param_groups": []}})
        held = ImageSet(made_NCHW, targets_N, images.class_names, torch.arange(self.images), self.images).unlabelled()
        lesson = Distillation(Inside(oracle, victim), self.temperature, self.alpha, recipe.training.smoothing)
        batches = image_batches(held, recipe, role="thief", device=str(device))
        past = None
        if state is not None and state["epoch"] > len(rounds):
            past = {**state, "epoch": state["epoch"] - len(rounds)}
        for record in fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=past):
            epoch = len(rounds) + record.epoch
            after = {**record.state, "epoch": epoch, "modules": _kept(made_NCHW)}
            yield replace(record, epoch=epoch, epochs=len(rounds) + record.epochs, state=after)

    def _round(
        self,
        oracle: Oracle,
        victim: nn.Module,
        targets_B: Tensor,
        shape: tuple[int, int, int],
        seed: int,
        number: int,
        device: torch.device,
    ) -> tuple[EpochRecord, Tensor]:
        """One batch of images as uint8 on the CPU, and what to log of it."""
        started = time.perf_counter()
        seed = derive(seed, "thief", f"invert/{number}")
        images_BCHW, terms = invert(victim, targets_B, self, size=shape[1], channels=shape[0], seed=seed, device=device)
        oracle.forwards += len(targets_B) * self.iterations
        values = {name: float(term) for name, term in terms.items()}
        if not all(math.isfinite(value) for value in values.values()) or not bool(images_BCHW.isfinite().all()):
            raise Diverged(number, self.iterations)
        bytes_BCHW = (images_BCHW * 255).round().to(torch.uint8)
        with torch.no_grad():
            values["hit"] = float(hits(victim(to_float(bytes_BCHW)), targets_B.to(device)))
        seconds = time.perf_counter() - started
        record = EpochRecord(number + 1, number + 1, values, len(targets_B), seconds, self.lr, {}, phase="invert")
        return record, bytes_BCHW.cpu()


def _kept(made_NCHW: Tensor) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds beside the student."""
    return {"inverted": {"images": made_NCHW}}
