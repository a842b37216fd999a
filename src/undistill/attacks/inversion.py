"""Images out of a network's weights: pixels moved until the network takes them for a class and for its training images.

Legend: B batch, C channels or classes, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill import seeds
from undistill.attacks.insider import at_inputs, differentiable, frozen, scale_of
from undistill.errors import UsageError
from undistill.losses import mean_norm, statistics_distance, total_variation
from undistill.training.optim import lean
from undistill.types import Terms

if TYPE_CHECKING:
    from undistill.attacks.deep_inversion import DeepInversion

COARSE_ABOVE = 64
"""Images of more pixels a side are first made at half their resolution."""


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
