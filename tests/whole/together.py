"""What two processes must get right together; `torchrun --nproc-per-node 2 together.py` fails where they do not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from undistill import ranks
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import Diverged, UsageError
from undistill.training import parallel
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Training
from undistill.types import Batch, Terms

MINE = [slice(0, 5), slice(5, 8)]
"""Of 8 images the first process has 5, the other 3."""


def told() -> None:
    """Every type and shape arrives; sums, minima and shares are those of all."""
    number = ranks.number()
    for value in (
        torch.randn(2, 3),
        torch.arange(4),
        torch.tensor(True),
        torch.empty(0, 5),
        torch.tensor(2.5).double(),
    ):
        sent = value.clone()
        got = ranks.once(lambda sent=sent: sent, source=1)  # type: ignore[misc]
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        assert torch.equal(ranks.once(lambda got=got: got), got)  # type: ignore[misc]
    value = torch.tensor([1.0, 10.0]) * (number + 1)
    assert ranks.total(value).tolist() == [3.0, 30.0]
    assert value.tolist() == [1.0 + number, 10.0 * (number + 1)]
    assert ranks.smallest(value).tolist() == [1.0, 10.0]
    assert ranks.shared(torch.arange(5), lambda rows: rows * 2 + 0 * number).tolist() == [0, 2, 4, 6, 8]
    with ranks.alone():
        assert ranks.total(value) is value
    ranks.meet()


class Active(nn.BatchNorm2d):
    """A layer that does more than its name says, as timm's do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


def normalization() -> None:
    """Outputs, gradients and running statistics of both processes together are those of one that has all images."""
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, 4, 4, generator=rng) * 2 + 5
    weights = torch.randn(8, 3, 4, 4, generator=rng)
    mine = MINE[ranks.number()]
    for momentum in (0.1, None):
        torch.manual_seed(2)
        layer = nn.BatchNorm2d(3, momentum=momentum)
        nn.init.uniform_(layer.weight)
        nn.init.uniform_(layer.bias)
        twin = nn.BatchNorm2d(3, momentum=momentum)
        twin.load_state_dict(layer.state_dict())
        own, whole = inputs[mine].clone().requires_grad_(), inputs.clone().requires_grad_()
        with parallel.together(layer, synced=True):
            for _ in range(2):
                out = layer(own)
        for _ in range(2):
            expected = twin(whole)
        (out * weights[mine]).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(out, expected[mine], rtol=1e-5, atol=1e-5)
        assert own.grad is not None and whole.grad is not None  # noqa: PT018
        torch.testing.assert_close(own.grad, whole.grad[mine], rtol=1e-4, atol=1e-5)
        parallel.add_up(list(layer.parameters()))
        torch.testing.assert_close(layer.weight.grad, twin.weight.grad, rtol=1e-4, atol=1e-4)
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value)
        assert "forward" not in vars(layer)
        assert torch.equal(
            layer.eval()(own), F.batch_norm(own, layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        half = nn.BatchNorm2d(3)
        with parallel.together(half, synced=True):
            assert half(own.detach().bfloat16()).dtype == torch.bfloat16
        with parallel.together(layer.train(), synced=False):
            assert "forward" not in vars(layer)
        with parallel.together(half, synced=True) as spread:
            spread.batch = False  # the same images in both processes
            half.reset_running_stats()
            half(whole.detach())
        alone = nn.BatchNorm2d(3)
        alone(whole.detach())
        assert torch.equal(half.running_var, alone.running_var)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="of the kind Active"), parallel.together(Active(3), synced=True):
            pass


def gradients() -> None:
    """One that only some layers have, in two kinds of numbers."""
    torch.manual_seed(ranks.number())
    one, unused, double = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1).double()
    layers = nn.ModuleList([one, unused, double])
    before = one.weight.detach().clone()
    parallel.agree(layers)
    assert torch.equal(one.weight, before) == (ranks.number() == 0)
    for weight in (one.weight, double.weight):
        weight.grad = torch.full_like(weight, 1.0 + ranks.number())
    parallel.add_up(list(layers.parameters()))
    for weight in (one.weight, double.weight):
        assert weight.grad is not None
        assert (weight.grad.tolist(), weight.grad.dtype) == ([[3.0, 3.0]], weight.dtype)
    assert unused.weight.grad is None


class Breaks(CrossEntropy):
    """A loss that is not finite in the second step of the other process."""

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        terms = super().__call__(model, batch)
        bad = ranks.number() == 1 and self.steps.append(0) is None and len(self.steps) == 2  # type: ignore[attr-defined]
        return {**terms, "loss": terms["loss"] * (torch.inf if bad else 1.0)}


def divergence() -> None:
    """Both processes end at the same step, wherever the loss was not finite."""
    pixels = torch.randint(0, 256, (24, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImageSet.of(pixels, torch.arange(24) % 2, ("a", "b"))
    objective = Breaks()
    object.__setattr__(objective, "steps", [])
    training = Training(epochs=2, batch=8, optimizer={"name": "sgd", "lr": 0.1})
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(Diverged, match="step 2 of epoch 1"):
        list(fit(model, ImageBatches(images, 8, seed=0, role="teacher"), objective, training, seed=0))


if __name__ == "__main__":
    ranks.join(torch.device("cpu"))
    assert ranks.count() == 2
    for check in (told, normalization, gradients, divergence):
        check()
    if ranks.first():
        print("all as it should be")
