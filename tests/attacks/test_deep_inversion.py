"""DeepInversion: images that a victim takes for a class and for its training images, and a student of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.attacks import deep_inversion as inversion
from undistill.attacks.deep_inversion import DeepInversion, invert
from undistill.attacks.insider import Inside, at_inputs, frozen
from undistill.data.image_set import ImageSet, Splits
from undistill.errors import Diverged, UsageError
from undistill.experiments.extraction import hold
from undistill.losses import mean_norm, statistics_distance, total_variation
from undistill.models import Classifier, build
from undistill.models.external import Wrapped
from undistill.oracle.oracle import Oracle
from undistill.seeds import derive
from undistill.threat_model import Access, ThreatModel
from undistill.training import checkpoint
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe
from undistill.types import Batch

from .conftest import Digits

CPU = torch.device("cpu")
SMALL = DeepInversion(iterations=2, batch=8, images=20)
MakeModel = Callable[..., Classifier]


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def made(
    victim: nn.Module, targets: Tensor, seed: int = 0, size: int = 8, channels: int = 3, **settings: Any
) -> Tensor:
    wanted = DeepInversion(**{"iterations": 2, **settings})
    return invert(victim, targets, wanted, size=size, channels=channels, seed=seed, device="cpu")[0]


@pytest.fixture
def victim(make_model: MakeModel) -> Classifier:
    return make_model(seed=11)


@pytest.fixture
def none(splits: Splits) -> ImageSet:
    return hold(splits, ThreatModel.parse("data-free"), SMALL, seed=0)


# -- images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 10, 32, 65, 66])
def test_images_are_pixels_of_any_size(channels: int, size: int) -> None:
    network = build("cnn", 4, channels, size, 0.125, mean=[0.4] * channels, std=[0.2] * channels, seed=0)
    images = made(network, torch.arange(3), size=size, channels=channels)
    assert images.shape == (3, channels, size, size)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert 0 <= float(images.min()) < float(images.max()) <= 1


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_large_images_begin_coarse(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "COARSE_ABOVE", 8)
    sides, kept = list[int](), inversion._sized

    def spy(x: Tensor, side: int) -> Tensor:
        sides.append(x.shape[2])
        return kept(x, side)

    monkeypatch.setattr(inversion, "_sized", spy)
    network = build("cnn", 4, 3, 11, 0.125, seed=0)
    images = made(network, torch.arange(3), size=11, iterations=iterations, flip=False)
    assert images.shape == (3, 3, 11, 11)
    assert sides.count(6) >= iterations // 2
    assert sides.count(11) >= 1


def test_images_are_drawn_at_their_seed_and_leave_the_global_state_alone(victim: Classifier) -> None:
    before = torch.get_rng_state()
    one, again, other = (made(victim, torch.arange(4), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_the_victim_is_not_touched(victim: Classifier, training: bool) -> None:
    victim.train(training)
    before = snapshot(victim)
    with torch.no_grad():  # whatever the caller's mode is
        made(victim, torch.arange(4))
    assert same(before, victim.state_dict())
    assert victim.training is training
    assert all(p.requires_grad and p.grad is None for p in victim.parameters())
    assert not any(m._forward_pre_hooks for m in victim.modules())


def test_one_step_follows_the_gradient_of_the_papers_loss(make_model: MakeModel) -> None:
    network = build("cnn", 4, 3, 8, 0.125, mean=[0.5] * 3, std=[0.25] * 3, seed=3).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    targets = torch.tensor([0, 1, 2, 3, 0])
    settings: dict[str, Any] = {"bn": 3.0, "tv": 0.2, "l2": 0.1, "lr": 0.01, "jitter": 0, "flip": False}
    still = made(network, targets, iterations=1, **{**settings, "lr": 1e-12})
    stepped = made(network, targets, iterations=1, **settings)
    x = ((still - 0.5) / 0.25).requires_grad_()
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with at_inputs(
        layers,
        lambda m, given: statistics_distance(given, m.running_mean, m.running_var),  # type: ignore[arg-type]
    ) as apart:
        logits = network(x * 0.25 + 0.5)
    assert len(apart) == 4  # three of maps, one of vectors
    loss = F.cross_entropy(logits, targets) + 3 * sum(apart) + 0.2 * total_variation(x) + 0.1 * mean_norm(x)
    (gradient,) = torch.autograd.grad(loss, x)
    inside = (still > 0.01) & (still < 0.99) & (gradient.abs() > 1e-4)
    assert bool(inside.any())
    moved = (stepped - still)[inside] / 0.25
    assert torch.allclose(moved, -0.01 * gradient[inside].sign(), atol=1e-4)  # Adam's first step is the sign


def test_a_victim_that_does_not_normalise_is_given_plausible_pixels() -> None:
    bare = Wrapped(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)), config_of())
    images = made(bare, torch.arange(4).repeat(8), iterations=1, lr=1e-9)
    assert images.mean().item() == pytest.approx(0.5, abs=0.02)
    assert images.std().item() == pytest.approx(0.24, abs=0.02)


def config_of() -> dict[str, Any]:
    config = {"name": "(foreign)", "num_classes": 4, "in_channels": 3, "image_size": 8}
    return {**config, "mean": [0.0] * 3, "std": [1.0] * 3}


@pytest.mark.parametrize(
    "layer", [nn.Identity(), nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3)]
)
def test_a_victim_without_running_moments_is_refused_in_a_sentence(layer: nn.Module) -> None:
    network = Wrapped(nn.Sequential(layer, nn.Flatten(), nn.Linear(192, 4)), config_of())
    with pytest.raises(
        UsageError, match=r"deep-inversion reads what batch normalisations remember.*the victim has none"
    ):
        made(network, torch.arange(4))


class Aside(nn.Module):
    """Has a batch normalisation that no image goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(192, 4)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.last(images_BCHW.flatten(1))


def test_a_normalisation_that_no_image_reaches_is_no_help() -> None:
    with pytest.raises(UsageError, match="the victim has none"):
        made(Wrapped(Aside(), config_of()), torch.arange(4))


# -- the attack ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def steal(
    victim: Classifier, make_model: MakeModel, none: ImageSet, recipe: Recipe
) -> Callable[..., tuple[Classifier, list[EpochRecord], list[State]]]:
    def call(seed: int = 0, state: State | None = None, **settings: Any) -> Any:
        student = make_model(seed=1 if state is None else 77)
        attacker, oracle = SMALL.model_copy(update=settings), Oracle(victim, Access.WEIGHTS)
        wanted = recipe.model_copy(update={"seed": seed})
        records, states = [], []
        for record in attacker.steal(oracle, student, none, wanted, device=CPU, state=state):
            records.append(record)
            states.append(copy.deepcopy(record.state))
        return student, records, states

    return call


def test_images_come_first_and_then_the_student(steal: Callable[..., Any]) -> None:
    _, records, states = steal()
    assert [record.phase for record in records] == ["invert"] * 3 + ["fit"] * 2
    assert [record.epoch for record in records] == [state["epoch"] for state in states] == [1, 2, 3, 4, 5]
    assert [record.epochs for record in records] == [3, 3, 3, 5, 5]
    assert [record.images for record in records] == [8, 8, 4, 20, 20]
    assert {"loss", "ce", "bn", "tv", "hit"} == records[0].terms.keys()
    assert [len(state["modules"]["inverted"]["images"]) for state in states] == [8, 16, 20, 20, 20]
    assert states[-1]["modules"]["inverted"]["images"].dtype == torch.uint8


def test_a_round_makes_what_invert_makes(steal: Callable[..., Any], victim: Classifier) -> None:
    kept = steal()[2][0]["modules"]["inverted"]["images"]
    seed = derive(0, "thief", "invert/0")
    images, _ = invert(victim, torch.arange(8) % 4, SMALL, size=8, channels=3, seed=seed, device="cpu")
    assert torch.equal(kept, (images * 255).round().to(torch.uint8))


@pytest.mark.parametrize("after", range(5))
def test_a_run_resumed_from_disk_is_uninterrupted_to_the_bit(
    steal: Callable[..., Any], tmp_path: Path, after: int
) -> None:
    whole, _, states = steal()
    checkpoint.save(tmp_path, states[after], {})
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    rest, records, _ = steal(state=kept[0])
    assert same(whole.state_dict(), rest.state_dict())
    assert [record.epoch for record in records] == list(range(after + 2, 6))


def test_another_seed_makes_other_images(steal: Callable[..., Any]) -> None:
    one, again, other = (steal(seed)[2][2]["modules"]["inverted"]["images"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[:8], one[8:16])  # each batch has an address of its own


def test_answers_that_the_attacker_computes_are_counted_and_none_is_a_question(
    victim: Classifier, make_model: MakeModel, none: ImageSet, recipe: Recipe
) -> None:
    oracle = Oracle(victim, Access.WEIGHTS)
    list(SMALL.steal(oracle, make_model(seed=1), none, recipe, device=CPU))
    assert (oracle.queries, oracle.forwards) == (0, 2 * 20 + 2 * 20)


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_victim_is_a_copy_that_nothing_moves(victim: Classifier, images: ImageSet, training: bool) -> None:
    victim.train(training)
    copied, before = frozen(victim, "cpu"), snapshot(victim)
    seen = images.seen().requires_grad_()
    copied(seen).sum().backward()
    assert seen.grad is not None
    assert all(p.grad is None for p in copied.parameters())
    assert not any(module.training for module in copied.modules())
    assert same(before, copied.state_dict())
    assert not {id(p) for p in victim.parameters()} & {id(p) for p in copied.parameters()}
    assert victim.training is training


def test_an_answer_from_inside_is_the_victims_own_in_full_precision(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.WEIGHTS)
    batch = Batch(images.seen(), None, images.index_N, 1)
    with torch.autocast("cpu", torch.bfloat16):
        answer = Inside(oracle, victim.eval())(batch)
    torch.testing.assert_close(answer.scores_BC, Oracle(victim, Access.LOGITS).ask(batch.images_BCHW).scores_BC)
    assert (answer.values.dtype, answer.values.requires_grad) == (torch.float32, False)
    assert (oracle.queries, oracle.forwards) == (0, len(images))


def test_images_that_are_not_finite_end_it(make_model: MakeModel, none: ImageSet, recipe: Recipe) -> None:
    broken = make_model(seed=0)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged):
        next(SMALL.steal(Oracle(broken, Access.WEIGHTS), make_model(seed=1), none, recipe, device=CPU))


# -- learning -----------------------------------------------------------------------------------------------------------


def test_images_are_taken_for_their_targets_and_for_training_images(digits: Digits) -> None:
    targets = torch.arange(60) % 10
    layers = [m for m in digits.victim.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def apart(images: Tensor) -> float:
        def take(layer: Any, given: Tensor) -> Tensor:
            return statistics_distance(given, layer.running_mean, layer.running_var)

        with torch.no_grad(), at_inputs(layers, take) as distances:
            digits.victim(images)
        return float(sum(distances))

    settings: dict[str, Any] = {"channels": 1, "bn": 1.0, "jitter": 0, "flip": False}  # a digit mirrored is another
    first, last = (made(digits.victim, targets, iterations=n, **settings) for n in (1, 150))
    hit = (digits.victim(last).argmax(1) == targets).double().mean()
    assert hit >= 0.9
    assert apart(last) < apart(first) / 3


@pytest.mark.learning
def test_a_student_learns_digits_that_it_never_saw(digits: Digits) -> None:
    attacker = {
        "name": "deep-inversion",
        "iterations": 80,
        "batch": 128,
        "images": 256,
        "bn": 1.0,
        "jitter": 0,
        "flip": False,
    }
    student, records = digits.rob(attacker, epochs=12, batch=32)
    assert all(record.terms["hit"] >= 90 for record in records if record.phase == "invert")
    assert digits.accuracy(student) > digits.accuracy(digits.student()) + 10
