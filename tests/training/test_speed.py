"""The parts of a fast recipe, each against an independent twin: decoupled rates, averaged weights, triangle, precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from undistill.data import ImageBatches, ImageSet
from undistill.models import build
from undistill.training import checkpoint
from undistill.training.averaging import Average, Averaging
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.optim import DecoupledSGD, Triangle
from undistill.training.precision import arithmetic
from undistill.training.recipe import Training, read


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


def images(count: int = 48) -> ImageSet:
    rng = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def test_decoupled_rates_are_those_of_a_summed_loss() -> None:
    """As Jordan's listing has it: SGD on the sum over the batch, at lr / (1024 · (1 + 1/(1 − m))), decay coupled to the rate."""
    ours, theirs, batch, momentum = network(), network(), 12, 0.85
    kilo = 1024 * (1 + 1 / (1 - momentum))
    lr, decay = 11.5 / kilo, 0.0153 * batch / kilo
    theirs[1].weight.requires_grad_(False)
    rest = [theirs[0].weight, theirs[0].bias, theirs[3].weight, theirs[3].bias]
    groups = [
        {"params": [theirs[1].bias], "lr": lr * 64, "weight_decay": decay / (lr * 64)},
        {"params": rest, "lr": lr, "weight_decay": decay / lr},
    ]
    plain = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True)
    mine = DecoupledSGD(lr=11.5).build(ours, batch)
    x, y = torch.randn(batch, 1, 8, 8, dtype=torch.float64), torch.arange(batch) % 3
    for _ in range(4):
        for net, optimizer, reduction in ((theirs, plain, "sum"), (ours, mine, "mean")):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y, reduction=reduction).backward()
            optimizer.step()
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(ours.state_dict()["1.weight"], torch.ones(4, dtype=torch.float64))


def test_trained_scales_are_trained() -> None:
    net = network()
    groups = DecoupledSGD(lr=11.5, norm_scale="trained").build(net, 12).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    assert groups[0]["lr"] == pytest.approx(64 * groups[1]["lr"])


def test_averages_are_those_of_a_plain_loop() -> None:
    net, settings, total = network(), Averaging(every=2, decay=0.9, power=3), 7
    average = Average(net, settings, total)
    expected = {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}
    for done in range(1, total + 1):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        live = {name: value.clone() for name, value in net.state_dict().items()}
        average.step(done)
        if done % 2 == 0 or done == total:
            memory = 1.0 if done == total else 0.9**2 * (done / total) ** 3
            expected = {name: memory * kept + (1 - memory) * live[name] for name, kept in expected.items()}
            live = live | expected
        for name, value in net.state_dict().items():
            torch.testing.assert_close(value, live[name])


TRAINING = Training.model_validate(
    {
        "epochs": 4,
        "batch": 16,
        "optimizer": {"name": "decoupled-sgd", "lr": 1.0},
        "schedule": "triangle",
        "average": {"every": 2},
    }
)


def test_a_run_with_averaged_weights_resumes_exactly(tmp_path: Path) -> None:
    def batches() -> ImageBatches:
        return ImageBatches(images(), 16, seed=0, role="teacher")

    whole = build("cnn", 3, 1, 8, 0.1, seed=1)
    list(fit(whole, batches(), CrossEntropy(), TRAINING, seed=0))
    first = build("cnn", 3, 1, 8, 0.1, seed=1)
    for record in fit(first, batches(), CrossEntropy(), TRAINING, seed=0):
        checkpoint.save(tmp_path, record.state, {})
        if record.epoch == 2:
            break
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    again = build("cnn", 3, 1, 8, 0.1, seed=2)
    list(fit(again, batches(), CrossEntropy(), TRAINING, seed=0, state=loaded[0]))
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_the_triangle_rises_and_falls_in_straight_lines() -> None:
    shape = Triangle(up=0.25, start=0.2, end=0.1)
    found = [shape.factor(epoch, 8) for epoch in (0, 1, 2, 5, 8)]
    assert found == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1])


def test_recipes_without_averaging_are_written_as_before() -> None:
    assert "average" not in read("digits").dump()["training"]
    assert read("speed-cifar10").dump()["training"]["average"] == {"every": 5, "decay": 0.95, "power": 3.0}
    assert read(read("speed-cifar10").dump()) == read("speed-cifar10")


def test_auto_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert arithmetic("auto", cpu) == "fp32"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert arithmetic("auto", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert arithmetic("auto", cpu) == "fp32"
    assert arithmetic("bf16", cpu) == "bf16"
