"""What a training over several processes needs beside its loop: gradients that are summed, and batch normalization by the
moments of all their images.

Legend: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from undistill import ranks
from undistill.errors import UsageError


@torch.no_grad()
def agree(trained: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if ranks.count() > 1:
        for value in trained.state_dict().values():
            value.copy_(ranks.once(value.clone))


@torch.no_grad()
def add_up(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the sum of all gradients, each kind of number in one message."""
    if ranks.count() == 1:
        return
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for _, alike in groupby(sorted(found, key=lambda gradient: str(gradient.dtype)), lambda gradient: gradient.dtype):
        gradients = list(alike)
        flat = ranks.total(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
        )


@dataclass
class Spread:
    """Whether the batch that is computed is spread over the processes, or the same in all of them."""

    batch: bool = True


@contextmanager
def together(trained: nn.Module, *, synced: bool) -> Iterator[Spread]:
    """While the block runs, batch normalization in training uses the moments of all processes' images, if it is to be `synced`.

    PyTorch's own such layer refuses a CPU. UsageError for a kind of layer that does more than normalize.
    """
    layers = [layer for layer in trained.modules() if isinstance(layer, _BatchNorm)]
    layers = layers if synced and ranks.count() > 1 else []
    for layer in layers:
        if type(layer).forward is not _BatchNorm.forward:
            raise UsageError(
                f"batch normalization of the kind {type(layer).__name__} cannot use the images of several processes; let each use "
                "its own with -s training.sync_batch_norm=false"
            )
    spread = Spread()
    for layer in layers:
        layer.forward = partial(normalized, layer, spread)  # type: ignore[method-assign]
    try:
        yield spread
    finally:
        for layer in layers:
            del layer.forward


def normalized(layer: _BatchNorm, spread: Spread, inputs_BC: Tensor) -> Tensor:
    """Batch normalization over the images of all processes, computed in float32. B × C × any further dimensions.

    Two sums travel, of values and of squared distances from their mean, and their gradients on the way back.
    Source: Ioffe and Szegedy 2015, algorithm 1, with the batch spread over processes.
    """
    if not layer.training or not spread.batch or ranks.count() == 1:
        return type(layer).forward(layer, inputs_BC)
    x = inputs_BC.float()
    others = [0, *range(2, x.ndim)]
    shape = (1, -1, *(1 for _ in others[1:]))
    sums = _summed(torch.cat([x.sum(dim=others), x.new_tensor([x.numel() // x.shape[1]])]))
    number = sums[-1].detach()
    mean_C = sums[:-1] / number
    centred = x - mean_C.view(shape)
    variance_C = _summed(centred.square().sum(dim=others)) / number
    if layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            rate = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean_C.detach(), rate)
            layer.running_var.lerp_(variance_C.detach() * (number / (number - 1)), rate)
    normal = centred * (variance_C + layer.eps).rsqrt().view(shape)
    if layer.affine:
        normal = normal * layer.weight.view(shape) + layer.bias.view(shape)
    return normal.to(inputs_BC.dtype)


class _Summed(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: object, value: Tensor) -> Tensor:
        return ranks.total(value)

    @staticmethod
    def backward(_: object, *gradient: Tensor) -> Tensor:
        return ranks.total(gradient[0])


def _summed(value: Tensor) -> Tensor:
    return _Summed.apply(value)
