"""A network that only answers: victims behind their door, adversaries that nasty teachers are pushed away from.

Legend: B batch, C classes or channels, H height, W width.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from functools import cached_property

import torch
from torch import Tensor, nn

from undistill.models import Classifier
from undistill.models import model_folder as models
from undistill.models.external import Wrapped
from undistill.seeds import generator
from undistill.training.precision import Precision, Wanted, arithmetic

CLOSE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""How far two answers of one network may lie apart by rounding, as a share of the largest of them."""
PROBE = 16
"""Images on which two ways to the same answers are compared."""
SMALL, KEPT = 4_000_000, 4
"""Weights of a network whose arrangement is worth keeping, and how many of them a process keeps."""
ARRANGED: dict[str, nn.Module] = {}
"""Small networks as they were arranged, by all that this depends on: an audit asks the same victim in every cell."""
FAMILIES = ("timm:", "torchvision:")
"""Foreign networks whose code has a version and a name."""


class Frozen:
    """A frozen copy in evaluation mode, arranged for speed: channels-last, batch normalisation folded into convolutions.

    Its answers are the network's to rounding. `precision` bf16 computes in it, auto does so where the device can, and answers are
    float32 all the same. A network of unknown code, or one with hooks, is asked as it is: what it does beside its layers would
    be lost.
    """

    def __init__(self, network: nn.Module, precision: Wanted = "fp32", *, whole: bool = True) -> None:
        """`whole` False lets go of the network itself once it is arranged, where no `copy` will be asked for."""
        self._whole = whole
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        self._folded: nn.Module | None = None
        self.precision = precision

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """B × C float32 logits of float images in [0, 1]; no gradient."""
        if self._folded is None:
            self._folded = self._arranged(images_BCHW) if self.known else self._network
            if not self._whole and self.id:  # which is the whole network's
                self._network = self._folded
        return self._answer(self._folded, images_BCHW)

    @torch.no_grad()
    def plainly(self, images_BCHW: Tensor) -> Tensor:
        """The answers without first arranging anything, for a few images."""
        return self._answer(self._folded or self._network, images_BCHW)

    def copy(self) -> nn.Module:
        """The network itself, whole, to look inside; only of one that was kept `whole`."""
        return copy.deepcopy(self._network)

    @cached_property
    def known(self) -> bool:
        """Whether weights, settings and names of its layers say all about its answers."""
        if not isinstance(self._network, Classifier):
            return False
        if isinstance(self._network, Wrapped) and not str(self._network.config["name"]).startswith(FAMILIES):
            return False
        return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in self._network.modules())

    @cached_property
    def id(self) -> str:
        """What tells networks apart: `models.weights_id`, and the modules of a foreign one, for some have no weights."""
        return identity(self._network)

    def arithmetic(self, device: torch.device) -> str:
        """What its answers are computed in there: bf16, fp32, or tf32 where CUDA rounds convolutions' factors."""
        precision: Precision = arithmetic(self.precision, device)
        tf32 = device.type == "cuda" and precision == "fp32" and torch.backends.cudnn.allow_tf32
        return "tf32" if tf32 else precision

    def alike(self, ours_BC: Tensor, theirs_BC: Tensor, device: torch.device) -> bool:
        """Whether two answers given on that device differ by no more than rounding; never if one is not finite."""
        if ours_BC.shape != theirs_BC.shape:
            return False
        furthest = (ours_BC - theirs_BC).abs().max()
        close = CLOSE[self.arithmetic(device)] * theirs_BC.abs().max().clamp_min(1e-6)
        return bool(furthest.isfinite()) and bool(furthest <= close)

    def _answer(self, network: nn.Module, images_BCHW: Tensor) -> Tensor:
        half = self.arithmetic(images_BCHW.device) == "bf16"
        with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=half):
            return network(images_BCHW.contiguous(memory_format=torch.channels_last)).float()

    def _arranged(self, images_BCHW: Tensor) -> nn.Module:
        """The network with fewer layers; a small one that was arranged before in this process, as for another attack, at once."""
        if sum(weights.numel() for weights in self._network.parameters()) > SMALL:
            return self._fold(images_BCHW)
        place = images_BCHW.device
        key = f"{self.id} {place} {self.arithmetic(place)} {tuple(images_BCHW.shape[1:])} {self._network.__class__}"
        if key not in ARRANGED:
            while len(ARRANGED) >= KEPT:
                ARRANGED.pop(next(iter(ARRANGED)))
            ARRANGED[key] = self._fold(images_BCHW)
        return ARRANGED[key]

    def _fold(self, images_BCHW: Tensor) -> nn.Module:
        """The network with fewer layers, if it can be followed and still answers alike to noise; else the network itself."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import brings parts of PyTorch along that warn of their age
            from torch.fx.experimental.optimization import fuse

        noise = torch.rand(PROBE, *images_BCHW.shape[1:], generator=generator(0, "oracle", "probe")).to(
            images_BCHW.device
        )
        whole = self._answer(self._network, noise)
        try:
            if isinstance(self._network, Wrapped):
                folded: nn.Module = copy.deepcopy(self._network)
                folded.inner = fuse(self._network.inner)
            else:
                folded = fuse(self._network)
            folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.alike(self._answer(folded, noise), whole, images_BCHW.device):
                return folded
        except Exception:  # noqa: BLE001  a foreign network may do anything when traced, and need not be
            return self._network
        return self._network


def sound(logits_BC: Tensor) -> Tensor:
    """B booleans: which answers hold neither NaN nor +∞, and not −∞ alone; −∞ for some classes is their probability 0."""
    return logits_BC.amax(dim=1).isfinite()


def not_finite(name: str, broken: int, images: int) -> str:
    """The sentence about a victim whose answers are not finite."""
    return (
        f"{name} answers with NaN or infinity for {broken} of {images} images: it cannot be attacked until it is mended"
    )


def identity(network: nn.Module) -> str:
    """16 hex digits: the network's weights, and of a foreign one what its modules are."""
    known = models.weights_id(network)
    if not isinstance(network, Wrapped):
        return known
    return hashlib.sha256(f"{known}/{network.inner!r}".encode()).hexdigest()[:16]
