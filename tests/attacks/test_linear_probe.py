"""Linear probes: a head on public features, learned from a victim's answers."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.attacks.base import Lesson
from undistill.attacks.kd import KD
from undistill.attacks.linear_probe import LinearProbe
from undistill.data.image_set import ImageSet
from undistill.errors import Refused, UsageError
from undistill.models import Classifier
from undistill.models.external import Wrapped
from undistill.oracle.oracle import Answer, Oracle
from undistill.threat_model import Access
from undistill.training import checkpoint
from undistill.training.features import Scale, read_all
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch

from .conftest import ADAM, Digits, gain
from .test_inside_attacks import changed, same

CPU = torch.device("cpu")
MakeModel = Callable[..., Classifier]


def steal(
    oracle: Oracle, student: nn.Module, images: ImageSet, recipe: Recipe, state: State | None = None, **settings: Any
) -> tuple[list[EpochRecord], list[State]]:
    records, states = [], []
    for record in LinearProbe(**settings).steal(oracle, student, images, recipe, device=CPU, state=state):
        records.append(record)
        states.append(copy.deepcopy(record.state))
    return records, states


@pytest.fixture
def victim(make_model: MakeModel, images: ImageSet) -> Classifier:
    model = make_model(seed=11)
    model(images.seen())
    return model.eval()


# -- what it gets -------------------------------------------------------------------------------------------------------


SEEDS = 3


@pytest.fixture(scope="module")
def probed(digits: Digits) -> dict[str, list[float]]:
    """Accuracies of `SEEDS` students with 100 images, each asked about once, percent: from public and from random features."""
    assert digits.data.pool is not None
    held, rest = digits.data.pool.take(torch.arange(100)).unlabelled(), digits.data.pool.take(torch.arange(100, 400))
    found: dict[str, list[float]] = defaultdict(list)
    for seed, name in product(range(SEEDS), ("random", "public")):
        student = digits.student(0.25, seed)
        if name == "public":  # features of other classes: which third of them a digit belongs to
            other = replace(rest, labels_N=rest.labels_N // 3)
            recipe = changed(digits.recipe, epochs=15, optimizer=ADAM)
            batches = image_batches(other, recipe, role="public", device="cpu")
            list(fit(student, batches, CrossEntropy(), recipe.training, seed=0))
            student.head.reset_parameters()  # type: ignore[operator]
        found[f"{name} untrained"].append(digits.accuracy(student))
        body = {key: value.clone() for key, value in student.state_dict().items() if not key.startswith("head")}
        for access in (Access.LABEL, Access.PROBS):
            oracle = Oracle(digits.victim, access, budget=100)
            steal(oracle, student, held, changed(digits.recipe, epochs=60, batch=50, optimizer={**ADAM, "lr": 0.02}))
            found[f"{name} {access.label}"].append(digits.accuracy(student))
            assert oracle.queries == 100
        assert same(body, {key: value for key, value in student.state_dict().items() if not key.startswith("head")})
    return found


@pytest.mark.learning
@pytest.mark.parametrize("access", ["label", "probs"])
def test_public_features_are_worth_more_than_random_ones(probed: dict[str, list[float]], access: str) -> None:
    assert gain(probed[f"public {access}"], probed["public untrained"]) > 30
    assert gain(probed[f"public {access}"], probed[f"random {access}"]) > 3


# -- what it minimises --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels_B", [torch.tensor([3, 3, 1]), None])
def test_scores_are_distilled_as_kd_does(labels_B: Tensor | None) -> None:
    answer = Answer(Access.TOPK, torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6], [0.1, 0.8, 0.1, 0.0]]))
    batch = Batch(torch.eye(3), labels_B, torch.tensor([2, 0, 1]), 0)
    head = nn.Linear(3, 4)
    ours, theirs = (
        Lesson(kind(temperature=2.0, alpha=0.7).loss, lambda batch: answer.take(batch.index_B), 0.1)(head, batch)
        for kind in (LinearProbe, KD)
    )
    assert torch.equal(ours["loss"], theirs["loss"])
    assert torch.equal(ours["agreement"], theirs["agreement"])
    assert ours["loss"].isfinite()


def test_labels_are_learned_by_cross_entropy_whatever_the_attacker_holds() -> None:
    answer, head = Answer(Access.LABEL, torch.tensor([2, 0, 1])), nn.Linear(3, 4)
    rows = torch.tensor([1, 0, 2])
    expected = F.cross_entropy(head(torch.eye(3)), torch.tensor([0, 2, 1]), label_smoothing=0.1)
    for labels_B in (None, torch.tensor([3, 3, 3])):
        lesson = Lesson(LinearProbe().loss, lambda batch: answer.take(batch.index_B), 0.1)
        terms = lesson(head, Batch(torch.eye(3), labels_B, rows, 0))
        torch.testing.assert_close(terms["loss"], expected)


def test_one_step_is_gradient_descent_on_standardised_features(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    student = make_model(seed=1)
    with torch.no_grad():
        features, before = read_all(student, images, CPU)
    z = Scale.of(features)(features)
    head = nn.Linear(16, 4)
    with torch.no_grad():
        weight, bias = Scale.of(features).onto(student.head.weight, student.head.bias)  # type: ignore[arg-type]
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    torch.testing.assert_close(head(z), before, atol=1e-4, rtol=1e-4)  # it starts as the student's head
    F.cross_entropy(head(z), victim(images.seen()).argmax(1)).backward()
    with torch.no_grad():
        for parameter in head.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.5 * parameter.grad)
    one = changed(recipe, epochs=1, batch=24, optimizer={"name": "sgd", "lr": 0.5, "momentum": 0})
    steal(Oracle(victim, Access.LABEL), student, images, one)
    torch.testing.assert_close(student.eval()(images.seen()), head(z), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(head(z), before, atol=1e-2)


# -- what it knows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [Access.LABEL, Access.TOPK, Access.PROBS, Access.LOGITS])
def test_labels_that_the_card_withholds_change_nothing(
    access: Access, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    students = []
    for labels_N in (images.labels_N, (images.labels_N + 2) % 4):
        students.append(make_model(seed=1))
        steal(Oracle(victim, access), students[-1], replace(images, labels_N=labels_N, labelled=False), recipe)
    assert same(students[0].state_dict(), students[1].state_dict())
    held = make_model(seed=1)
    steal(Oracle(victim, access), held, replace(images, labels_N=(images.labels_N + 2) % 4), recipe)
    assert same(students[0].state_dict(), held.state_dict()) is (access is Access.LABEL)


def test_the_victim_and_the_students_body_stay_as_they_are(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    student, before = make_model(seed=1), copy.deepcopy(victim.state_dict())
    start = copy.deepcopy(student.state_dict())
    steal(Oracle(victim, Access.PROBS), student, images, recipe)
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"head.weight", "head.bias"}
    assert same(before, victim.state_dict())


def test_the_global_random_state_is_left_alone(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    before = torch.get_rng_state()
    steal(Oracle(victim, Access.PROBS), make_model(seed=1), images, recipe)
    assert torch.equal(before, torch.get_rng_state())


def test_a_budget_is_kept(victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe) -> None:
    with pytest.raises(Refused, match="exceed the budget of 23"):
        steal(Oracle(victim, Access.PROBS, budget=23), make_model(seed=1), images, recipe)


# -- going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "asked_again"), [(None, 0), (24, 24)])
@pytest.mark.parametrize("access", [Access.LABEL, Access.PROBS])
def test_a_run_resumed_from_disk_is_uninterrupted_to_the_bit(
    access: Access,
    budget: int | None,
    asked_again: int,
    victim: Classifier,
    make_model: MakeModel,
    images: ImageSet,
    recipe: Recipe,
    tmp_path: Path,
) -> None:
    whole, oracle = make_model(seed=1), Oracle(victim, access, budget=budget)
    records, states = steal(oracle, whole, images, recipe)
    assert (oracle.queries, oracle.forwards) == (24, 24)
    checkpoint.save(tmp_path, states[0], {})
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    rest, again = make_model(seed=5), Oracle(victim, access, budget=budget)
    resumed, _ = steal(again, rest, images, recipe, kept[0])
    assert same(whole.state_dict(), rest.state_dict())
    assert [record.terms for record in resumed] == [record.terms for record in records[1:]]
    assert again.queries == asked_again


# -- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), "linear-probe needs a student that ends in a linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False)), "whose last linear layer has a bias"),
    ],
)
def test_a_student_without_a_head_of_its_own_is_refused(
    inner: nn.Module, words: str, victim: Classifier, images: ImageSet, recipe: Recipe
) -> None:
    config: dict[str, Any] = {"name": "theirs", "num_classes": 4, "in_channels": 3, "image_size": 8}
    student = Wrapped(inner, {**config, "mean": [0.0] * 3, "std": [1.0] * 3})
    with pytest.raises(UsageError, match=words):
        steal(Oracle(victim, Access.PROBS), student, images, recipe)
