"""Networks that others wrote: timm's, torchvision's, and any callable that makes a module.

Nothing is imported because a file says so: the code behind `package.module:callable` runs only where the user named it
(`plugins.trust`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from undistill.errors import UsageError
from undistill.models.base import MODELS, Classifier, Network
from undistill.plugins import named

LOADING = frozenset(
    {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "weights_backbone"}
)
"""Arguments that would read or fetch weights past our own reader."""


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class External(Network):
    """A network that is not ours: `resize` is the side it wants its images at, `arguments` are handed to whatever makes it."""

    width: Literal[1] = 1
    resize: int | None = Field(None, ge=1, le=4096)
    arguments: dict[str, Any] = Field(default_factory=dict)
    foreign_keys: ClassVar[tuple[tuple[str, str], ...]] = ((r"(.+)", r"inner.\1"),)

    @field_validator("arguments")
    @classmethod
    def _nothing_is_fetched(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        refused = sorted(LOADING & arguments.keys())
        if refused:
            raise ValueError(f"arguments: {refused[0]!r} loads weights; give them with --weights instead")
        return arguments

    def network(self, config: dict[str, Any]) -> Classifier:
        """The module in its wrapping, tried on two empty images."""
        try:
            inner = self.make(config)
        except UsageError:
            raise
        except Exception as error:  # others' code may raise anything
            raise UsageError(f"{self.name} cannot be made: {_sentence(error)}") from error
        if not isinstance(inner, nn.Module):
            raise UsageError(
                f"{self.name} makes no nn.Module but a {type(inner).__name__}: is it a predict function? {DECLARE}"
            )
        network = Wrapped(inner, config)
        network.probe()
        return network

    def usual_moments(self, in_channels: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """(mean, std) that weights of this network were most likely trained with; (None, None) where nothing says so."""
        return None, None

    @abstractmethod
    def make(self, config: dict[str, Any]) -> nn.Module:
        """The bare module for this many classes, channels and pixels."""


@MODELS.register
class Timm(External):
    """A network of timm (Wightman) by its name there, with fresh weights; needs the extra `vision`."""

    name: str = Field("timm:", pattern=r"^timm:.+")
    shown = "timm:NAME"

    def make(self, config: dict[str, Any]) -> nn.Module:
        """timm.create_model."""
        timm, architecture = self._found()
        if not timm.is_model(architecture.partition(".")[0]):
            raise UsageError(f"timm has no network called {architecture!r}")
        return timm.create_model(
            architecture, num_classes=config["num_classes"], in_chans=config["in_channels"], **self.arguments
        )

    def usual_moments(self, in_channels: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """Those of timm's own weights; for grey images, their mean."""
        timm, architecture = self._found()
        known = timm.models.get_pretrained_cfg(architecture)
        return _grey(in_channels, *((known.mean, known.std) if known else IMAGENET))

    def _found(self) -> tuple[Any, str]:
        return _optional("timm"), self.name.partition(":")[2]


@MODELS.register
class TorchVision(External):
    """A classifier of torchvision by its name there, with fresh weights; needs the extra `vision`."""

    name: str = Field("torchvision:", pattern=r"^torchvision:.+")
    shown = "torchvision:NAME"

    def make(self, config: dict[str, Any]) -> nn.Module:
        """torchvision.models.get_model."""
        models = _optional("torchvision").models
        architecture = self.name.partition(":")[2]
        if architecture not in models.list_models(module=models):
            raise UsageError(f"torchvision has no classifier called {architecture!r}")
        return models.get_model(architecture, weights=None, num_classes=config["num_classes"], **self.arguments)

    def usual_moments(self, in_channels: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
        """ImageNet's, which all of torchvision's weights use."""
        return _grey(1 if in_channels == 1 else 3, *IMAGENET)


@MODELS.register
class Factory(External):
    """A callable that returns an nn.Module, `package.module:callable` or `FILE.py:callable`; told what it has parameters for."""

    name: str = Field(":", pattern=r"^[^:]+:\w+$")
    shown = "package.module:callable"

    def make(self, config: dict[str, Any]) -> nn.Module:
        """Call it with those of num_classes, in_channels and image_size that it takes."""
        factory = named(self.name)
        told = {key: config[key] for key in ("num_classes", "in_channels", "image_size")}
        if isinstance(factory, nn.Module):
            raise UsageError(f"{self.name} is a network already; name a function that returns it")
        try:
            takes = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.name} has no signature to read: {error}") from error
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
            told = {key: value for key, value in told.items() if key in {parameter.name for parameter in takes}}
        given = told.keys() | self.arguments.keys()
        wanted = next((p for p in takes if _needed(p) and (p.name not in given or p.kind is p.POSITIONAL_ONLY)), None)
        if wanted is not None:
            raise UsageError(
                f"{self.name} wants an argument {wanted.name!r}, which no factory of networks is given (num_classes, in_channels, "
                f"image_size): is it a predict function? {DECLARE}"
            )
        return factory(**told, **self.arguments)


DECLARE = "attack and audit take one where --outputs declares what it returns: logits, probs, topk or label"
"""What to do with a function of images that was taken for a factory."""


def _needed(parameter: inspect.Parameter) -> bool:
    """Whether a call must give this parameter."""
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


class Wrapped(Classifier):
    """A foreign module behind normalisation and resizing.

    Its head is the last linear layer with as many outputs as there are classes, and its features what that layer reads; a module
    without one answers, but has neither. Grey images are given thrice to a module that takes colour alone.
    """

    head: nn.Module

    def __init__(self, inner: nn.Module, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.inner = inner
        self.resize: int | None = config.get("resize")
        self.grey_to_colour = config["in_channels"] == 1 and _input_channels(inner) == 3
        linear = [m for m in inner.modules() if isinstance(m, nn.Linear) and m.out_features == config["num_classes"]]
        # Not registered a second time: the weights keep one name, and a deep copy keeps the two the same layer.
        self.__dict__["head"] = linear[-1] if linear else None

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """B × C logits; UsageError for a module that answers with anything else, as some do only while they are trained."""
        logits = self._answer(images_BCHW)
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"{self.config['name']} answers with a {type(logits).__name__}{' in training' if self.training else ''}, not with "
                "logits alone; switch its other outputs off, as the argument aux_logits=False does in torchvision"
            )
        return logits

    def _answer(self, images_BCHW: Tensor) -> Any:
        hidden = self.normalise(images_BCHW)
        if self.resize is not None and hidden.shape[2:] != (self.resize, self.resize):
            hidden = F.interpolate(hidden, (self.resize, self.resize), mode="bilinear", antialias=True)
        return self.inner(hidden.expand(-1, 3, -1, -1) if self.grey_to_colour else hidden)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """B × D: what the linear head reads; UsageError for a module without one."""
        if self.head is None:
            raise UsageError(f"{self.config['name']} ends in no linear layer of {self.config['num_classes']} outputs")
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self(images_BCHW)
        finally:
            handle.remove()
        if not caught or caught[-1].ndim != 2:
            raise UsageError(f"the last linear layer of {self.config['name']} reads no B × D features")
        return caught[-1]

    def stages(self, images_BCHW: Tensor) -> list[Tensor]:
        """UsageError: a foreign module names no stages."""
        raise UsageError(f"{self.config['name']} names no stages; only networks of this package do")

    def probe(self) -> None:
        """UsageError where it does not turn two images into logits."""
        config, training = self.config, self.training
        size = (2, config["in_channels"], config["image_size"], config["image_size"])
        try:
            with torch.no_grad():
                answer = self.eval()._answer(torch.zeros(size))
        except Exception as error:
            raise UsageError(
                f"{config['name']} cannot take {size[1]} × {size[2]} × {size[3]} pixels ({_sentence(error)}); "
                "its setting resize gives them the size it wants"
            ) from error
        finally:
            self.train(training)
        if not isinstance(answer, Tensor) or answer.shape != (2, config["num_classes"]):
            found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise UsageError(
                f"{config['name']} answers two images with {found}, not with 2 × {config['num_classes']} logits"
            )
        if are_probabilities(answer):
            raise UsageError(
                f"{config['name']} returns probabilities (at least 0, each row 1 in all), and logits are needed: take its softmax "
                "off, or return the logarithm of the probabilities"
            )


def are_probabilities(values_BC: Tensor) -> bool:
    """Whether every row looks like probabilities: at least 0, and 1 in all to rounding. Logits never do by chance."""
    close = 1e-2 if values_BC.dtype in (torch.float16, torch.bfloat16) else 1e-3
    wide_BC = values_BC.detach().double()
    return len(wide_BC) > 0 and bool((wide_BC >= 0).all()) and bool(((wide_BC.sum(dim=1) - 1).abs() < close).all())


def _optional(package: str) -> Any:
    """Timm or torchvision; UsageError with the way to get it.

    torchvision's wheels for CUDA do not import next to a torch without it, for two of their operators are then never declared:
    they are declared here, and only then.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(f"{package} is not installed: pip install 'undistill[vision]'") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", package)]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)
    return importlib.import_module(package)


_declarations: list[torch.library.Library] = []
"""Kept alive: what a library declared goes when it does."""


def _grey(
    in_channels: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    if in_channels == len(mean):
        return mean, std
    return [sum(mean) / len(mean)] * in_channels, [sum(std) / len(std)] * in_channels


def _input_channels(module: nn.Module) -> int | None:
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def _sentence(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:300]
