"""Data-free images by inverting the victim: what its batch normalisations remember of its training images, and a student of them.

Legend: B batch, C channels or classes, H height, W width, N images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, NoReturn

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from undistill import seeds
from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.insider import Inside, at_inputs, differentiable, frozen, scale_of
from undistill.attacks.kd import Distills
from undistill.data.augment import to_float
from undistill.data.image_set import ImageSet
from undistill.errors import Diverged, UsageError
from undistill.losses import mean_norm, statistics_distance, total_variation
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.optim import lean
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Terms

COARSE_ABOVE = 64
"""Images of more pixels a side are first made at half their resolution."""


@ATTACKS.register
class DeepInversion(Distills):
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
        lesson = Lesson(self.loss, Inside(oracle, victim), recipe.training.smoothing)
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


def invert(
    victim: nn.Module,
    targets_B: Tensor,
    settings: DeepInversion,
    *,
    size: int,
    channels: int,
    seed: int,
    device: torch.device | str,
) -> tuple[Tensor, Terms]:
    """Images that a victim takes for these classes and that move its batch normalisations as its training images did.

    The images are optimised in the space that the victim normalises to, from normal numbers, and clamped after each step to what a
    pixel can be; a victim that does not normalise by itself is given mean ½ and deviation ¼. Above 64 pixels a side the first half
    of the iterations moves images of half the resolution, shown to the victim enlarged. The victim itself is not touched.

    Args:
        victim: takes B × `channels` × `size` × `size` float images in [0, 1].
        targets_B: int64 classes, one for each image to make.
        settings: weights, iterations, step size; its `batch` and `images` play no part.
        size: side in pixels.
        channels: 1 or 3.
        seed: of the first images, rolls and flips, drawn at (seed, "thief", "invert"): the same on every device.
        device: where to work.

    Returns:
        (images, terms): B × `channels` × `size` × `size` float32 in [0, 1], and `loss`, `ce`, `bn`, `tv` of the last iteration as
        scalars, all on the device.

    Raises:
        UsageError: a victim without batch normalisation that keeps running moments, or without gradients.
    """
    victim, targets_B = frozen(victim, device), targets_B.to(device)
    layers = _normalisations(victim, settings.name)
    differentiable(victim, torch.zeros(2, channels, size, size, device=device), settings.name)
    mean_C11, std_C11 = (moment.to(device) for moment in scale_of(victim, channels))
    low_C11, high_C11 = -mean_C11 / std_C11, (1 - mean_C11) / std_C11
    rng = seeds.generator(seed, "thief", "invert")
    coarse = settings.iterations // 2 if size > COARSE_ABOVE else 0
    sides = [(size + 1) // 2] * coarse + [size] * (settings.iterations - coarse)
    x_BCHW = torch.randn(len(targets_B), channels, sides[0], sides[0], generator=rng).to(device)
    x_BCHW = x_BCHW.clamp(low_C11, high_C11).requires_grad_()
    optimizer = lean(torch.optim.Adam)([x_BCHW], settings.lr, fused=True)
    with torch.enable_grad(), at_inputs(layers, _moments_apart) as apart:
        for side in sides:
            if x_BCHW.shape[2] != side:
                x_BCHW = _sized(x_BCHW.detach(), side).requires_grad_()
                optimizer = lean(torch.optim.Adam)([x_BCHW], settings.lr, fused=True)
            apart.clear()
            shown_BCHW = _moved(_sized(x_BCHW, size), settings, rng)
            ce = F.cross_entropy(victim(shown_BCHW * std_C11 + mean_C11).float(), targets_B)
            bn, tv, l2 = _sum(apart, settings.name), total_variation(shown_BCHW), mean_norm(shown_BCHW)
            loss = ce + settings.bn * bn + settings.tv * tv + settings.l2 * l2
            terms = {"loss": loss, "ce": ce, "bn": bn, "tv": tv}
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                x_BCHW.clamp_(low_C11, high_C11)
    images_BCHW = (_sized(x_BCHW.detach(), size) * std_C11 + mean_C11).clamp_(0, 1)
    return images_BCHW, {name: term.detach() for name, term in terms.items()}


def _normalisations(victim: nn.Module, who: str) -> list[nn.modules.batchnorm._BatchNorm]:
    """All layers that keep running moments, of maps and of vectors alike; UsageError where there are none."""
    kind = nn.modules.batchnorm._BatchNorm
    layers = [m for m in victim.modules() if isinstance(m, kind) and m.running_mean is not None]
    return layers if layers else _none(who)


def _sum(apart: list[Tensor], who: str) -> Tensor:
    return torch.stack(apart).sum() if apart else _none(who)


def _none(who: str) -> NoReturn:
    raise UsageError(
        f"{who} reads what batch normalisations remember of the training images; the victim has none that keeps running moments"
    )


def _moments_apart(layer: nn.Module, inputs_BC: Tensor) -> Tensor:
    assert isinstance(layer.running_mean, Tensor)
    assert isinstance(layer.running_var, Tensor)
    return statistics_distance(inputs_BC, layer.running_mean, layer.running_var)


def _sized(x_BCHW: Tensor, side: int) -> Tensor:
    return x_BCHW if x_BCHW.shape[2] == side else F.interpolate(x_BCHW, size=(side, side), mode="bilinear")


def _moved(x_BCHW: Tensor, settings: DeepInversion, rng: torch.Generator) -> Tensor:
    """The whole batch rolled, and perhaps mirrored."""
    down, right = torch.randint(-settings.jitter, settings.jitter + 1, (2,), generator=rng).tolist()
    mirrored = settings.flip and bool(torch.randint(0, 2, (), generator=rng))
    moved_BCHW = x_BCHW.roll((down, right), dims=(2, 3)) if down or right else x_BCHW
    return moved_BCHW.flip(3) if mirrored else moved_BCHW
