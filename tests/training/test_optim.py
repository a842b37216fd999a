"""Schedules against closed forms and PyTorch's own; optimisers as their records say."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from undistill.errors import UsageError
from undistill.training.optim import OPTIMIZERS, SCHEDULES

EPOCHS, STEPS = 10, 7


def factors(settings: dict[str, Any], steps: int = STEPS) -> list[float]:
    schedule = SCHEDULES.make(settings)
    return [schedule.factor(k / steps, EPOCHS) for k in range(EPOCHS * steps)]


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], count: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# -- schedules ----------------------------------------------------------------------------------------------------------


def test_constant_is_one() -> None:
    assert set(factors({"name": "constant"})) == {1.0}


def test_steps_come_at_the_beginning_of_their_epochs() -> None:
    step = SCHEDULES.make({"name": "step", "at": [80, 120], "factor": 0.1})
    places = [0, 79.99, 80, 119.99, 120, 159.99]
    assert [step.factor(place, 160) for place in places] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_steps_equal_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.MultiStepLR(o, [3, 6], gamma=0.2), EPOCHS)
    assert factors({"name": "step", "at": [3, 6], "factor": 0.2}, steps=1) == pytest.approx(expected)


def test_cosine_falls_from_one_to_its_last_value() -> None:
    cosine = SCHEDULES.make({"name": "cosine", "last": 0.2})
    assert [cosine.factor(epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([1, 0.6, 0.2])


def test_cosine_equals_torchs() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS, eta_min=0.01), EPOCHS * STEPS)
    assert factors({"name": "cosine", "last": 0.01}) == pytest.approx(expected, abs=1e-9)


def test_one_cycle_rises_to_one_and_falls() -> None:
    cycle = SCHEDULES.make({"name": "one-cycle", "up": 0.25, "start": 10, "end": 100})
    places = [cycle.factor(epoch, 8) for epoch in (0, 1, 2, 5, 8)]
    assert places == pytest.approx([0.1, 0.55, 1, 0.505, 0.01])


def test_one_cycle_equals_torchs() -> None:
    # torch places the last step at the end of the cycle, we place it one step before, and counts `end` from the start
    count = EPOCHS * STEPS + 1
    made = lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=count, pct_start=(0.3 * (count - 1) + 1) / count)  # noqa: E731
    settings = {"name": "one-cycle", "up": 0.3, "start": 25, "end": 25e4}
    assert factors(settings) == pytest.approx(torchs(made, count)[:-1], abs=1e-9)


def test_warm_up_rises_in_a_line_to_what_follows() -> None:
    rates = factors({"name": "constant", "warmup": 2}, steps=4)
    assert rates[:10] == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1])


def test_cosine_begins_behind_its_warm_up() -> None:
    cosine = SCHEDULES.make({"name": "cosine", "warmup": 2})
    assert [cosine.factor(epoch, 10) for epoch in (1, 2, 6, 10)] == pytest.approx([0.5, 1, 0.5, 0])


@pytest.mark.parametrize("name", SCHEDULES.classes())
@given(place=st.floats(0, 1), epochs=st.integers(1, 300), warmup=st.floats(0, 400))
def test_factors_lie_between_0_and_1(name: str, place: float, epochs: int, warmup: float) -> None:
    settings: dict[str, Any] = {"at": [3, 6]} if name == "step" else {}
    factor = SCHEDULES.make({"name": name, "warmup": warmup, **settings}).factor(place * epochs, epochs)
    assert 0 <= factor <= 1
    assert math.isfinite(factor)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "step"},
        {"name": "step", "at": 80},
        {"name": "step", "at": [80], "factor": 0},
        {"name": "cosine", "last": 2},
        {"name": "one-cycle", "up": 1},
        {"name": "one-cycle", "start": 0.5},
        {"name": "constant", "warmup": -1},
    ],
)
def test_a_schedule_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^schedule {settings['name']}: [^\n]+$"):
        SCHEDULES.make(settings)


# -- optimisers ---------------------------------------------------------------------------------------------------------


def test_sgd_takes_the_papers_step() -> None:
    weight = nn.Parameter(torch.tensor(2.0))
    optimizer = OPTIMIZERS.make({"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}).build(
        nn.ParameterList([weight]), 2
    )
    expected, velocity = 2.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (weight * 3).backward()
        optimizer.step()
        velocity = 0.9 * velocity + 3 + 0.01 * expected
        expected -= 0.1 * velocity
    assert weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"name": "sgd", "nesterov": True}, lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01)),
        ({"name": "sgd", "momentum": 0}, lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
        ({"name": "adam"}, lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01)),
        ({"name": "adam", "betas": [0.5, 0.9]}, lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), weight_decay=0.01)),
        ({"name": "adamw"}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01)),
    ],
)
def test_optimisers_are_torchs(settings: dict[str, Any], reference: Callable[[Any], torch.optim.Optimizer]) -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 2, 7)) for _ in range(2))
    record = OPTIMIZERS.make({**settings, "lr": 0.1, "weight_decay": 0.01})
    for weight, optimizer in ((ours, record.build(nn.ParameterList([ours]), 2)), (theirs, reference([theirs]))):
        for _ in range(5):
            optimizer.zero_grad()
            weight.square().sin().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", OPTIMIZERS.classes())
@pytest.mark.parametrize("settings", [{}, {"lr": 0}, {"lr": -1}, {"lr": 0.1, "weight_decay": -1}, {"lr": "fast"}])
def test_an_optimiser_out_of_range_is_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^optimizer {name}: [^\n]+$"):
        OPTIMIZERS.make({"name": name, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "sgd", "momentum": 0, "nesterov": True},
        {"name": "adam", "betas": [1, 0.9]},
        {"name": "adamw", "betas": [0.9, -1]},
    ],
)
def test_what_torch_cannot_take_is_refused_by_the_record(settings: dict[str, Any]) -> None:
    try:
        record = OPTIMIZERS.make({**settings, "lr": 0.1})
    except UsageError:
        return
    record.build(nn.ParameterList([nn.Parameter(torch.zeros(()))]), 2)


# -- lean optimisers ----------------------------------------------------------------------------------------------------

LEAN: list[tuple[dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ({"name": "sgd", "momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0}),
    ({"name": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    ({"name": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ({"name": "adam", "betas": [0.8, 0.9]}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
    ({"name": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999)}),
]
each_optimiser = pytest.mark.parametrize(
    ("settings", "kind", "arguments"), LEAN, ids=["sgd", "momentum", "nesterov", "adam", "adamw"]
)


def weights() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((3, 5), (7,))]


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        rng = torch.Generator().manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        for parameter in parameters:
            (parameter.square() * torch.randn(parameter.shape, generator=rng)).sum().backward()
        optimizer.step()


@each_optimiser
def test_lean_steps_are_torchs_to_the_bit(
    settings: dict[str, Any], kind: type[torch.optim.Optimizer], arguments: dict[str, Any]
) -> None:
    ours, theirs = weights(), weights()
    one = OPTIMIZERS.make({**settings, "lr": 0.05, "weight_decay": 0.01}).build(nn.ParameterList(ours), 2)
    make: Any = kind
    two = make(theirs, lr=0.05, weight_decay=0.01, fused=True, **arguments)
    assert isinstance(one, kind)
    assert type(one) is not kind  # the control: it is the lean one
    stepped(one, ours, 5)
    stepped(two, theirs, 5)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(ours, weights(), strict=True))
    mine, other = one.state_dict(), two.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    assert mine["state"].keys() == other["state"].keys()
    for index, kept in mine["state"].items():
        for name, value in kept.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["state"][index][name])), name


@each_optimiser
@pytest.mark.parametrize("saved_by", ["lean", "torch"])
def test_a_lean_state_goes_back_and_forth(
    settings: dict[str, Any], kind: type[torch.optim.Optimizer], arguments: dict[str, Any], saved_by: str
) -> None:
    make: Any = kind

    def lean(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = OPTIMIZERS.make({**settings, "lr": 0.05}).build(nn.ParameterList(parameters), 2)
        return made

    def torchs_own(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = make(parameters, lr=0.05, weight_decay=0, fused=True, **arguments)
        return made

    before, after = (lean, torchs_own) if saved_by == "lean" else (torchs_own, lean)
    whole, parts = weights(), weights()
    stepped(lean(whole), whole, 5)
    first = before(parts)
    stepped(first, parts, 3)
    second = after(parts)
    second.load_state_dict(first.state_dict())
    stepped(second, parts, 2, start=3)
    assert all(torch.equal(*pair) for pair in zip(whole, parts, strict=True))


@pytest.mark.e2e
def test_training_never_imports_the_compiler() -> None:
    code = """
import sys, torch
from torch import nn
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Training
images = ImageSet.of(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
for name in ("sgd", "adam", "adamw"):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    training = Training(epochs=1, batch=4, optimizer={"name": name, "lr": 0.1})
    records = list(fit(network, ImageBatches(images, 4, seed=0, role="t"), CrossEntropy(), training, seed=0))
    assert records[0].images == 8
assert "torch._dynamo" not in sys.modules
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
optimizer.zero_grad()
optimizer.step()
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "True\n"  # the control: PyTorch's own optimisers import it
