"""Heads hardened alone: the nasty teacher's loss on features that are computed once, and nothing but the head moves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.data.augment import Views, to_float
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses.base import DEFENSES, TrainedDefense
from undistill.defenses.nasty import SelfUndermining
from undistill.defenses.nasty_head import HeadSelfUndermining, NastyHead
from undistill.defenses.protect import protect
from undistill.errors import UsageError
from undistill.losses import self_undermining_loss, softened_kl
from undistill.models import Classifier
from undistill.models.external import Wrapped
from undistill.seeds import derive
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train, validation
from undistill.types import Batch

CPU = torch.device("cpu")
MakeModel = Callable[..., Classifier]


def defense(**settings: Any) -> TrainedDefense:
    made: TrainedDefense = DEFENSES.make({"name": "nasty-head", **settings})
    return made


def with_training(recipe: Recipe, views: Iterable[str] = (), **settings: Any) -> Recipe:
    values = recipe.dump()
    values["training"] |= settings
    values["data"]["views"] = [{"name": view} for view in views]
    return read(values)


@pytest.fixture
def teacher(make_model: MakeModel, images: ImageSet) -> Classifier:
    """A network whose batch norms have seen data."""
    model = make_model()
    model(to_float(images.images_NCHW[:]))
    return model.eval()


def hardened(
    teacher: Classifier, images: ImageSet, recipe: Recipe, adversary: Classifier | None = None, **settings: Any
) -> Classifier:
    network = copy.deepcopy(teacher)
    list(defense(**settings).harden(network, adversary or teacher, images, recipe, device=CPU))
    return network


def same(one: nn.Module, two: nn.Module) -> bool:
    ours, theirs = one.state_dict(), two.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# -- the loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("omega", [0.0, 0.04, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_those_of_self_undermining_on_the_same_logits(
    teacher: Classifier, make_model: MakeModel, images: ImageSet, omega: float, smoothing: float
) -> None:
    adversary, pixels = make_model(seed=5).eval(), to_float(images.images_NCHW[:])
    rows = torch.tensor([3, 1, 20])
    with torch.no_grad():
        features, answers = teacher.features(pixels), adversary(pixels)
    objective = HeadSelfUndermining(answers, omega, 4.0, smoothing)
    head, twin = copy.deepcopy(teacher.head), copy.deepcopy(teacher)
    terms = objective(head, Batch(features[rows], images.labels_N[rows], rows, 0))
    whole = SelfUndermining(lambda _: answers[rows], omega, 4.0, smoothing)(
        twin, Batch(pixels[rows], images.labels_N[rows], rows, 0)
    )
    assert terms["loss"].item() == pytest.approx(whole["loss"].item(), rel=1e-5)
    assert terms["accuracy"].item() == whole["accuracy"].item()
    terms["loss"].backward()
    whole["loss"].backward()
    for ours, theirs in zip(head.parameters(), twin.head.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_one_step_is_gradient_descent_on_the_loss(
    teacher: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    one_step = with_training(
        recipe, epochs=1, batch=24, optimizer={"name": "sgd", "lr": 0.5, "momentum": 0, "weight_decay": 0}
    )
    adversary, pixels = make_model(seed=5).eval(), to_float(images.images_NCHW[:])
    after = hardened(teacher, images, one_step, adversary, omega=0.1).head
    with torch.no_grad():
        features, answers = teacher.features(pixels), adversary(pixels)
    weights = [p.detach().clone().requires_grad_() for p in teacher.head.parameters()]
    loss = self_undermining_loss(
        features @ weights[0].T + weights[1], answers, images.labels_N, omega=0.1, temperature=4
    )
    loss.backward()
    for parameter, before in zip(after.parameters(), weights, strict=True):
        assert before.grad is not None
        assert torch.allclose(parameter, before - 0.5 * before.grad, atol=1e-6)
        assert before.grad.abs().max() > 1e-3


def test_omega_zero_is_cross_entropy_on_the_features(teacher: Classifier, images: ImageSet, recipe: Recipe) -> None:
    plain = with_training(
        recipe, epochs=3, batch=24, optimizer={"name": "sgd", "lr": 0.5, "momentum": 0, "weight_decay": 0}
    )
    found = hardened(teacher, images, plain, omega=0).head
    with torch.no_grad():
        features = teacher.features(to_float(images.images_NCHW[:]))
    head = copy.deepcopy(teacher.head)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), images.labels_N).backward()
        optimizer.step()
    for ours, theirs in zip(found.parameters(), head.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


# -- what moves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
def test_only_the_head_changes(teacher: Classifier, images: ImageSet, recipe: Recipe, copies: int) -> None:
    network = hardened(teacher, images, with_training(recipe, ["flip"]), copies=copies)
    before, after = teacher.state_dict(), network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.weight", "head.bias"}


def test_the_statistics_of_a_network_in_training_mode_stay(
    teacher: Classifier, images: ImageSet, recipe: Recipe
) -> None:
    network = copy.deepcopy(teacher).train()
    list(defense().harden(network, teacher, images, recipe, device=CPU))
    for name, value in teacher.state_dict().items():
        if "running" in name or "tracked" in name:
            assert torch.equal(network.state_dict()[name], value), name


def test_the_adversary_stays_as_it_is(
    teacher: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    adversary = make_model(seed=5)
    before = copy.deepcopy(adversary)
    hardened(teacher, images, recipe, adversary, omega=1)
    assert same(adversary, before)


def test_another_adversary_gives_other_answers(
    teacher: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    itself = hardened(teacher, images, recipe, omega=1)
    assert same(itself, hardened(teacher, images, recipe, copy.deepcopy(teacher), omega=1))
    assert not same(itself, hardened(teacher, images, recipe, make_model(seed=5), omega=1))


def test_copies_are_the_image_and_then_its_views(teacher: Classifier, images: ImageSet, recipe: Recipe) -> None:
    flipped = with_training(recipe, ["flip"], epochs=1)
    asked: list[Tensor] = []
    watched = copy.deepcopy(teacher)
    watched.normalise.register_forward_pre_hook(lambda _, given: asked.append(given[0].clone()))
    list(defense(copies=2).harden(watched, teacher, images, flipped, device=CPU))
    shown = [pixels for pixels in asked if len(pixels) == len(images)]
    seed = derive(flipped.seed, "nasty", "views")
    view = Views(flipped.data.views, seed, 0, images.source_size, CPU, images.image_size)
    assert torch.equal(shown[0], to_float(images.images_NCHW[:]))
    assert torch.equal(shown[1], view(images.images_NCHW[:], images.index_N))
    assert not torch.equal(shown[0], shown[1])


def test_views_matter_only_where_there_are_copies(teacher: Classifier, images: ImageSet, recipe: Recipe) -> None:
    flipped = with_training(recipe, ["flip"])
    assert same(hardened(teacher, images, flipped), hardened(teacher, images, recipe))
    assert not same(hardened(teacher, images, flipped, copies=2), hardened(teacher, images, recipe, copies=2))


def test_hardening_resumes_to_the_bit(teacher: Classifier, images: ImageSet, recipe: Recipe) -> None:
    longer = with_training(recipe, epochs=3)
    whole = hardened(teacher, images, longer, omega=0.2)
    network = copy.deepcopy(teacher)
    first = next(defense(omega=0.2).harden(network, teacher, images, longer, device=CPU))
    state, rest = copy.deepcopy(first.state), copy.deepcopy(teacher)
    list(defense(omega=0.2).harden(rest, teacher, images, longer, device=CPU, state=state))
    assert same(rest, whole)
    assert not same(network, whole)


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_omega_pushes_the_head_away_while_the_control_stays(
    make_model: MakeModel, images: ImageSet, recipe: Recipe, seed: int
) -> None:
    longer = with_training(recipe, epochs=40, batch=24, optimizer={"name": "adam", "lr": 0.05})
    pixels, teacher = to_float(images.images_NCHW[:]), make_model(seed=seed)
    teacher(pixels)
    teacher.eval()
    trained = hardened(teacher, images, longer, omega=0)
    answers = [hardened(trained, images, longer, omega=omega)(pixels) for omega in (0, 1)]
    control, pushed = (softened_kl(logits, trained(pixels), 4).item() for logits in answers)
    assert pushed > 10 * control


# -- refused ------------------------------------------------------------------------------------------------------------


class NoHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).flatten(1)


class Behind(NoHead):
    """Does something behind its last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.linear(super().forward(images)) + 1


def wrapped(inner: nn.Module) -> Wrapped:
    config = {
        "name": "theirs",
        "num_classes": 4,
        "in_channels": 3,
        "image_size": 8,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    return Wrapped(inner, config)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (NoHead(), "theirs ends in no linear layer, so it has no head"),
        (Behind(), "does something behind its last linear layer"),
    ],
)
def test_a_network_without_a_head_of_its_own_is_refused(
    images: ImageSet, recipe: Recipe, inner: nn.Module, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        list(defense().harden(wrapped(inner), wrapped(inner), images, recipe, device=CPU))


def test_a_foreign_network_with_a_head_is_hardened(images: ImageSet, recipe: Recipe) -> None:
    network = wrapped(nn.Sequential(nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 4))).eval()
    before = copy.deepcopy(network)
    list(defense(omega=1).harden(network, before, images, recipe, device=CPU))
    moved = {name for name, value in before.state_dict().items() if not torch.equal(value, network.state_dict()[name])}
    assert moved == {"inner.3.weight", "inner.3.bias"}


@pytest.mark.parametrize("settings", [{"omega": -1}, {"temperature": 0}, {"copies": 0}, {"copies": 65}, {"alpha": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^defense nasty-head: "):
        defense(**settings)


# -- as a verb ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(splits: Splits, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained teacher; never changed."""
    return train(None, splits, recipe, out=tmp_path_factory.mktemp("head") / "teacher", device="cpu")


def test_protect_writes_a_twin_with_the_teachers_body(run: Run, splits: Splits, tmp_path: Path) -> None:
    twin = protect(run, splits, "nasty-head", out=tmp_path / "twin", device="cpu")
    before, after = run.model().state_dict(), twin.model().state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert twin.config["start_from"] == "teacher"
    assert [set(line) >= {"accuracy_val", "loss"} for line in twin.metrics()] == [True, True]


def test_scratch_is_refused(run: Run, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nasty-head starts from teacher alone, not from scratch"):
        protect(run, splits, "nasty-head", start_from="scratch", out=tmp_path / "twin", device="cpu")
    assert not (tmp_path / "twin").exists()


def test_the_validator_measures_what_validation_does(run: Run, splits: Splits) -> None:
    network = run.model()
    measure = NastyHead().validator(network, splits)
    assert measure() == validation(network, splits)
    with torch.no_grad():
        network.head.weight.neg_()  # type: ignore[operator]
    assert measure() == validation(network, splits)


def test_the_validator_sees_a_head_in_training(run: Run, splits: Splits, recipe: Recipe) -> None:
    network = run.model()
    measure = NastyHead().validator(network, splits)
    for _ in defense(omega=5).harden(network, run.model(), splits.train, with_training(recipe, epochs=4), device=CPU):
        assert measure() == validation(copy.deepcopy(network), splits)
