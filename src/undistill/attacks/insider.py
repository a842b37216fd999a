"""How attackers who hold the weights look inside the victim, without ever changing it.

Legend: B batch, C channels or classes, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.oracle.oracle import Answer, Oracle
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for
from undistill.types import Batch

PAST_ANSWERS = (
    "nasty",
    "nasty-head",
    "stingy",
    "reverse-sigmoid",
    "noise",
    "rounding",
    "top-k",
    "top1",
    "answer-top1",
)
"""Defenses of outputs, which attackers with the weights bypass."""


def frozen(victim: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy in evaluation mode that gradients flow through and never change, on the device."""
    return copy.deepcopy(victim).eval().requires_grad_(False).to(device)


@dataclass(frozen=True)
class Inside:
    """A frozen victim that the attacker holds: no query, but the oracle counts the images computed."""

    oracle: Oracle
    victim: nn.Module

    def __call__(self, batch: Batch) -> Answer:
        """B × C float32 logits, without a gradient."""
        with torch.no_grad(), torch.autocast(batch.images_BCHW.device.type, enabled=False):
            logits_BC = self.victim(batch.images_BCHW).float()
        self.oracle.forwards += batch.counted
        return Answer(Access.LOGITS, logits_BC)


@torch.no_grad()
def said(victim: nn.Module, images: ImageSet, device: torch.device | str) -> Tensor:
    """The victim's top class of each image as it is, N int64 on the CPU; nothing is counted."""
    chunks = images.chunks(batch_for(images, device))
    return torch.cat([victim(images.seen(rows, device)).argmax(dim=1).cpu() for rows in chunks])


def differentiable(victim: nn.Module, images_BCHW: Tensor, who: str) -> None:
    """UsageError where a frozen victim gives no gradient with respect to its images; `who` asks."""
    with torch.enable_grad():
        answer = victim(images_BCHW.detach().requires_grad_())
    if not answer.requires_grad:
        raise UsageError(f"{who} needs the gradient of the victim's answers with respect to its images; there is none")


def head_of(victim: nn.Module, images_BCHW: Tensor, who: str) -> nn.Module:
    """The layer that reads the victim's features; UsageError for one without features, which `who` needs."""
    if not isinstance(victim, Classifier):
        raise UsageError(f"{who} needs a victim's features; {type(victim).__name__} has none")
    try:
        with torch.no_grad():
            victim.features(images_BCHW)
    except UsageError as error:
        raise UsageError(f"{who} needs the victim's features, what its last linear layer reads: {error}") from error
    return victim.head


def scale_of(victim: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of pixels as the victim itself normalises, C × 1 × 1; ½ and ¼ for one that does not."""
    config = victim.config if isinstance(victim, Classifier) else {"mean": [0.0] * channels, "std": [1.0] * channels}
    mean, std = config["mean"], config["std"]
    if not any(mean) and set(std) == {1.0}:
        mean, std = [0.5] * channels, [0.25] * channels
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


@contextmanager
def at_inputs(layers: Iterable[nn.Module], take: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Within it, each forward pass adds `take(layer, its input)` to the list, in the order in which the layers are reached."""
    taken: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: taken.append(take(layer, inputs[0]))) for layer in layers
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
