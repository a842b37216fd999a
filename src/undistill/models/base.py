"""What every network of ours is: stages, a neck, a linear head; and how one is built from its name.

Legend: B batch, C classes (channels in BCHW), D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from undistill import plugins
from undistill.errors import UsageError
from undistill.registry import Component, Registry, problem
from undistill.seeds import derive


class Network(Component):
    """A network's name and free settings; a subclass a architecture. What the data fix comes with `build`."""

    width: float = Field(1.0, gt=0, le=16)
    foreign_keys: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(pattern, replacement) from the names that other code bases give the same weights to ours; the first whole match counts."""

    @property
    def smallest(self) -> int:
        """The smallest image side, in pixels, that the network can take."""
        return 1

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """(stages, neck to B × D, head) with PyTorch's default initialisation."""
        raise NotImplementedError

    def network(self, config: dict[str, Any]) -> Classifier:
        """The whole network, with PyTorch's default initialisation; `config` holds what the data fix."""
        return Staged(*self.assemble(config["num_classes"], config["in_channels"], config["image_size"]), config=config)

    def channels(self, count: int) -> int:
        """`count` channels at this width, at least 1."""
        return max(1, round(count * self.width))


FIXED = frozenset({"num_classes", "in_channels", "image_size", "mean", "std"})
"""What the data decide about a network; the rest of its config are its own settings."""


class Fixed(BaseModel):
    """What the data decide, as a file states it: no file makes us build what no memory holds."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True)

    num_classes: int = Field(ge=2, le=1_000_000)
    in_channels: Literal[1, 3]
    image_size: int = Field(ge=1, le=4096)
    mean: list[float]
    std: list[float]


MODELS: Registry[Network] = Registry("model", "undistill.models")


class Normalise(nn.Module):
    """(x − mean) / std for each channel. Constants of the network: in its config, not among its weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images."""
        return (images_BCHW - self.mean) / self.std


class Classifier(nn.Module):
    """Images to logits, normalisation first; `head` is the linear layer that turns `features` into logits. `config` rebuilds it."""

    head: nn.Module

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config["mean"], config["std"])

    def initialize(self, sample: Callable[[int], Tensor]) -> None:
        """Before training with fresh weights: set what is taken from training images. Most networks take nothing.

        `sample(n)` gives the first n training images (all, where there are fewer) as networks see them, without views.
        """

    def stages(self, images_BCHW: Tensor) -> list[Tensor]:
        """The feature maps behind each stage, first to last."""
        raise NotImplementedError

    def features(self, images_BCHW: Tensor) -> Tensor:
        """B × D: what the linear head reads."""
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """B × C logits."""
        return self.head(self.features(images_BCHW))


class Staged(Classifier):
    """A network of ours: stages, a neck to B × D, a linear head."""

    def __init__(self, body: Sequence[nn.Module], neck: nn.Module, head: nn.Linear, *, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.body, self.neck, self.head = nn.ModuleList(body), neck, head

    def stages(self, images_BCHW: Tensor) -> list[Tensor]:
        """The feature maps behind each stage, first to last."""
        maps = []
        hidden = self.normalise(images_BCHW)
        for stage in self.body:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    def features(self, images_BCHW: Tensor) -> Tensor:
        """B × D: what the linear head reads."""
        return self.neck(self.stages(images_BCHW)[-1])


def build(
    name: str | Network,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int | None = None,
    role: str = "teacher",
) -> Classifier:
    """A network with fresh weights.

    Args:
        name: `cnn`, `resnetc20`, … or a `Network` record, which brings its own width.
        num_classes: at least 2.
        in_channels: 1 (grey) or 3 (RGB).
        image_size: side in pixels of the square images.
        width: factor on every layer's channels.
        mean: of the training pixels a channel, in [0, 1]; no normalisation without.
        std: like `mean`.
        seed: draws the weights at the address (seed, role, "init") and leaves the global generator alone; None uses that one.
        role: whose weights these are; two roles never share them.

    Raises:
        UsageError: an unknown name, or sizes that the network cannot take.
    """
    if isinstance(name, str) and ":" in name:
        plugins.trust(name)
    network = name if isinstance(name, Network) else MODELS.make({"name": name, "width": width})
    if num_classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, not {num_classes}")
    if in_channels not in (1, 3):
        raise UsageError(f"images have 1 or 3 channels, not {in_channels}")
    if image_size < network.smallest:
        raise UsageError(f"{network.name} needs images of at least {network.smallest} pixels, not {image_size}")
    _check_moments(mean, std, in_channels)
    config = {
        **network.model_dump(),
        "num_classes": num_classes,
        "in_channels": in_channels,
        "image_size": image_size,
        "mean": [0.0] * in_channels if mean is None else [float(m) for m in mean],
        "std": [1.0] * in_channels if std is None else [float(s) for s in std],
    }
    if seed is None:
        return network.network(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, role, "init"))
        return network.network(config)


def _check_moments(mean: Sequence[float] | None, std: Sequence[float] | None, in_channels: int) -> None:
    for part, moments in (("mean", mean), ("std", std)):
        if moments is not None and len(moments) != in_channels:
            raise UsageError(f"{part} has {len(moments)} values for {in_channels} channels")
        for value in moments if moments is not None else ():
            if not abs(value) <= torch.finfo(torch.float32).max:  # NaN compares as False
                raise UsageError(f"{part} must be finite, not {value}; leave mean and std out for no normalisation")
    if std is not None and min(std) < torch.finfo(torch.float32).tiny:
        raise UsageError(f"std must be above 0, not {min(std)}")
    for part, value in (*(("mean", m) for m in mean or ()), *(("std", s) for s in std or ())):
        if not 0 <= value <= 1:
            raise UsageError(
                f"{part} {float(value):g} is outside [0, 1], where pixels are here"
                + (
                    f": divide mean and std by 255 ({float(value):g} becomes {value / 255:.3g})"
                    if 1 < value <= 255
                    else ""
                )
            )


def from_config(config: dict[str, Any]) -> Classifier:
    """The network that `config` describes, with fresh weights; UsageError if it describes none."""
    missing = FIXED - config.keys()
    if missing:
        raise UsageError(f"the model's config.json lacks {', '.join(sorted(missing))}")
    network = MODELS.make({key: value for key, value in config.items() if key not in FIXED})
    try:
        fixed = Fixed.model_validate({key: config[key] for key in FIXED})
    except ValidationError as error:
        raise UsageError(problem(error, Fixed)) from None
    return build(network, seed=0, **fixed.model_dump())
