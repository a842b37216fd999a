"""Optimisers and learning-rate schedules, as records.

A schedule is a pure function of the place in training, so there is no state to save: resuming cannot shift it.
"""

from __future__ import annotations

import math
from functools import cache
from inspect import unwrap
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from undistill.errors import UsageError
from undistill.registry import Component, Registry

Decay = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Component):
    """A PyTorch optimiser's settings."""

    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)

    def build(self, trained: nn.Module, batch: int) -> torch.optim.Optimizer:
        """The optimizer over what is trainable of a module, for steps on batches of this size. A group's `lr` is its peak rate."""
        raise NotImplementedError


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that ask for a gradient."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@cache
def lean(kind: type[Any]) -> type[Any]:
    """An optimiser of PyTorch whose steps do not begin with importing PyTorch's compiler, which is not used on them.

    The import takes longer than many a training of a small network. What is left out is what keeps the compiler's hands off.
    """
    own = {
        name: unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    return type(kind.__name__, (kind,), {**own, "step": torch.no_grad()(unwrap(kind.step))})


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "undistill.training.optim")


@OPTIMIZERS.register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise UsageError("optimizer sgd: nesterov needs a momentum above 0")
        return self

    def build(self, trained: nn.Module, batch: int) -> torch.optim.Optimizer:
        """torch.optim.SGD, fused."""
        rest = {"weight_decay": self.weight_decay, "nesterov": self.nesterov}
        return lean(torch.optim.SGD)(trainable(trained), self.lr, self.momentum, **rest, fused=True)


@OPTIMIZERS.register
class DecoupledSGD(Optimizer):
    """SGD with Nesterov momentum whose rate, momentum and weight decay can be changed apart from one another and from the batch.

    `lr` moves the weights per 1,024 images, at any momentum m: with B images a step, the rate of `torch.optim.SGD` on the mean
    gradient is lr · (B/1024) / (1 + 1/(1 − m)). `weight_decay` shrinks them per 1,024 images, at any rate. `norm_bias` multiplies
    the rate of batch normalization's biases, whose decay per step stays; `norm_scale` says whether its scales are trained.
    Source: Jordan 2024 (94% on CIFAR-10 in 3.29 Seconds on a Single GPU), section 3 and listing 4.
    """

    name: Literal["decoupled-sgd"] = "decoupled-sgd"
    weight_decay: float = Field(0.0153, ge=0)
    momentum: float = Field(0.85, gt=0, lt=1)
    norm_bias: float = Field(64.0, gt=0)
    norm_scale: Literal["fixed", "trained"] = "fixed"

    def build(self, trained: nn.Module, batch: int) -> torch.optim.Optimizer:
        """torch.optim.SGD, fused, over two groups: biases of batch normalization and the rest. Fixed scales lose their gradient."""
        norms = [m for m in trained.modules() if isinstance(m, _NORMS) and m.affine]
        if self.norm_scale == "fixed":
            for norm in norms:
                norm.weight.requires_grad_(False)
        share = batch / (1024 * (1 + 1 / (1 - self.momentum)))
        biases = {id(norm.bias) for norm in norms}
        groups = []
        for chosen, faster in ((True, self.norm_bias), (False, 1.0)):
            rate = self.lr * share * faster
            parameters = [p for p in trainable(trained) if (id(p) in biases) is chosen]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": self.weight_decay * share / rate})
        return lean(torch.optim.SGD)(groups, self.lr * share, self.momentum, nesterov=True, fused=True)


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@OPTIMIZERS.register
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    betas: tuple[Decay, Decay] = (0.9, 0.999)

    def build(self, trained: nn.Module, batch: int) -> torch.optim.Optimizer:
        """torch.optim.Adam, fused."""
        decay = self.weight_decay
        return lean(torch.optim.Adam)(trainable(trained), self.lr, self.betas, weight_decay=decay, fused=True)


@OPTIMIZERS.register
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)

    def build(self, trained: nn.Module, batch: int) -> torch.optim.Optimizer:
        """torch.optim.AdamW, fused."""
        decay = self.weight_decay
        return lean(torch.optim.AdamW)(trainable(trained), self.lr, self.betas, weight_decay=decay, fused=True)


class Schedule(Component):
    """A factor on the learning rate; `warmup` epochs of linear rise come before whatever follows."""

    warmup: float = Field(0.0, ge=0)

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor after `epoch` epochs (a fraction counts the steps within one) of `epochs`, warm-up included."""
        rise = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        return rise * self.shape(epoch, epochs)

    def shape(self, epoch: float, epochs: int) -> float:
        """The factor without warm-up."""
        raise NotImplementedError


SCHEDULES: Registry[Schedule] = Registry("schedule", "undistill.training.optim")


@SCHEDULES.register
class Constant(Schedule):
    """Always 1."""

    name: Literal["constant"] = "constant"

    def shape(self, epoch: float, epochs: int) -> float:
        """1."""
        return 1.0


@SCHEDULES.register
class Step(Schedule):
    """Times `factor` at each epoch of `at`."""

    name: Literal["step"] = "step"
    at: tuple[int, ...]
    times: float = Field(0.1, gt=0, alias="factor")

    def shape(self, epoch: float, epochs: int) -> float:
        """`factor` to the power of the steps that have passed."""
        return self.times ** sum(epoch >= at for at in self.at)


@SCHEDULES.register
class Cosine(Schedule):
    """From 1 to `last` along half a cosine."""

    name: Literal["cosine"] = "cosine"
    last: float = Field(0.0, ge=0, le=1)

    def shape(self, epoch: float, epochs: int) -> float:
        """Half a cosine behind the warm-up."""
        span = max(epochs - self.warmup, 1e-9)
        done = min(max((epoch - self.warmup) / span, 0.0), 1.0)
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2


@SCHEDULES.register
class OneCycle(Schedule):
    """Up from 1/`start` to 1 over the part `up` of training, then down to 1/`end`, both along cosines (Smith 2018)."""

    name: Literal["one-cycle"] = "one-cycle"
    up: float = Field(0.3, gt=0, lt=1)
    start: float = Field(25.0, ge=1)
    end: float = Field(1e4, ge=1)

    def shape(self, epoch: float, epochs: int) -> float:
        """Where the cycle stands."""
        done = min(epoch / epochs, 1.0)
        if done < self.up:
            return _between(1 / self.start, 1.0, done / self.up)
        return _between(1.0, 1 / self.end, (done - self.up) / (1 - self.up))


@SCHEDULES.register
class Triangle(Schedule):
    """In straight lines from `start` up to 1 over the part `up` of training, and down to `end` (Jordan 2024, listing 4)."""

    name: Literal["triangle"] = "triangle"
    up: float = Field(0.23, gt=0, lt=1)
    start: float = Field(0.2, ge=0, le=1)
    end: float = Field(0.07, ge=0, le=1)

    def shape(self, epoch: float, epochs: int) -> float:
        """Where the triangle stands."""
        done = min(epoch / epochs, 1.0)
        if done < self.up:
            return self.start + (1 - self.start) * done / self.up
        return 1 - (1 - self.end) * (done - self.up) / (1 - self.up)


def _between(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
