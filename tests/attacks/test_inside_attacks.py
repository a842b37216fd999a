"""Attackers who hold the weights: a new head, a tuned copy, features instead of answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS
from undistill.attacks.insider import said
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.defenses.base import DEFENSES
from undistill.models import Classifier, build
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access
from undistill.training import checkpoint
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe, Training, read

from .conftest import ADAM, Digits, gain

CPU = torch.device("cpu")
MakeModel = Callable[..., Classifier]
INSIDE: dict[str, dict[str, Any]] = {
    "head-refit": {"name": "head-refit"},
    "finetune": {"name": "finetune", "epochs": 2},
    "simkd": {"name": "feature-kd", "variant": "simkd"},
    "simkd-refit": {"name": "feature-kd", "variant": "simkd-refit"},
    "fitnet": {"name": "feature-kd", "variant": "fitnet"},
}
each = pytest.mark.parametrize("name", INSIDE)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def steal(
    victim: nn.Module,
    name: str,
    student: Classifier,
    images: ImageSet,
    recipe: Recipe,
    state: State | None = None,
    **settings: Any,
) -> tuple[list[EpochRecord], list[State], Oracle]:
    """(records, their states, the oracle)."""
    oracle, records, states = Oracle(victim, Access.WEIGHTS), [], []
    attacker = ATTACKS.make({**INSIDE[name], **settings})
    for record in attacker.steal(oracle, student, images, recipe, device=CPU, state=state):
        records.append(record)
        states.append(copy.deepcopy(record.state))
    return records, states, oracle


@pytest.fixture(scope="module")
def victim(make_model: MakeModel, images: ImageSet) -> Classifier:
    """Sure of itself, and always wrong."""
    model = make_model(seed=11)
    wrong = ImageSet.of(images.images_NCHW, (images.labels_N + 1) % 4, images.class_names)
    settings = Training.model_validate({"epochs": 12, "optimizer": {"name": "adam", "lr": 0.02}})
    list(fit(model, ImageBatches(wrong, 24, seed=0, role="teacher"), CrossEntropy(), settings, seed=0))
    return model.eval()


def changed(recipe: Recipe, **training: Any) -> Recipe:
    return read({**recipe.dump(), "training": recipe.dump()["training"] | training})


# -- what they get ------------------------------------------------------------------------------------------------------


Got = Callable[..., list[float]]


@pytest.fixture(scope="module")
def got(digits: Digits) -> Got:
    """`got(attack, spoilt, seeds)`: percent that students of some seeds reach after 120 steps on 100 images without labels."""
    spoilt = copy.deepcopy(digits.victim)
    hard = changed(digits.recipe, epochs=15, batch=64, optimizer={**ADAM, "lr": 0.01})
    nasty = DEFENSES.make({"name": "nasty-head", "omega": 0.06})
    list(nasty.harden(spoilt, digits.victim, digits.data.train, hard, device=CPU))
    assert digits.accuracy(spoilt.eval()) > digits.accuracy(digits.victim) - 20  # its users still have a classifier
    assert digits.data.pool is not None
    pool = digits.data.pool.unlabelled()
    training = {"epochs": 6, "passes": 10, "batch": 50, "schedule": {"name": "one-cycle"}}
    recipe = changed(digits.recipe, **training, optimizer={**ADAM, "lr": 0.01})

    @cache
    def one(name: str, is_spoilt: bool, seed: int) -> float:
        student = digits.student(0.25, seed)
        if name == "nothing":
            return digits.accuracy(student)
        attacker = ATTACKS.make({**INSIDE, "finetune": {"name": "finetune"}}.get(name, {"name": name}))
        oracle = Oracle(spoilt if is_spoilt else digits.victim, Access.WEIGHTS)
        drawn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:100]
        held, own = pool.take(drawn.sort().values), read({**recipe.dump(), "seed": seed})
        list(attacker.steal(oracle, student, held, own, device=CPU))
        return digits.accuracy(student)

    return lambda name, is_spoilt, seeds=3: [one(name, is_spoilt, seed) for seed in range(seeds)]


@pytest.mark.learning
@each
def test_an_undefended_victim_is_learned(name: str, got: Got) -> None:
    assert gain(got(name, False, 1), got("nothing", False, 1)) > 40


@pytest.mark.learning
def test_a_nasty_head_works_against_the_usual_attacker(got: Got) -> None:
    assert gain(got("kd", True), got("kd", False)) < -5


@pytest.mark.learning
@pytest.mark.parametrize(("name", "seeds"), [("head-refit", 3), ("finetune", 8), ("simkd-refit", 3), ("fitnet", 3)])
def test_a_nasty_head_is_no_obstacle(name: str, seeds: int, got: Got) -> None:
    assert gain(got(name, True, seeds), got("kd", True, seeds)) > 2


@pytest.mark.learning
def test_a_spoilt_classifier_that_is_reused_spoils_the_student(got: Got) -> None:
    assert gain(got("simkd", True), got("simkd", False)) < -10
    assert gain(got("simkd-refit", True), got("simkd", True)) > 5


@pytest.mark.learning
@each
def test_a_student_of_another_architecture_learns_the_same(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    student, control = (make_model(seed=1, role="thief", name="resnetc20") for _ in range(2))
    assert student.head.in_features != victim.head.in_features
    longer = changed(
        recipe, epochs=40, optimizer={"name": "adam", "lr": 0.01}
    )  # long enough that nothing moves any more
    steal(victim, name, student, images.unlabelled(), longer)
    said_N = victim(images.seen()).argmax(1)
    learned, untaught = (
        100 * float((n.eval()(images.seen()).argmax(1) == said_N).double().mean()) for n in (student, control)
    )
    assert learned > untaught + 20


# -- what they may not do -----------------------------------------------------------------------------------------------


@each
def test_the_victim_stays_as_it_is(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    before = copy.deepcopy(victim.state_dict())
    oracle = steal(victim, name, make_model(seed=1), images, recipe)[2]
    assert same(before, victim.state_dict())
    assert same(before, oracle.weights().state_dict())
    assert not victim.training


@each
def test_labels_that_the_card_withholds_change_nothing(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    students = []
    for labels_N in (images.labels_N, (images.labels_N + 2) % 4, torch.full_like(images.labels_N, -1)):
        students.append(make_model(seed=1))
        steal(victim, name, students[-1], replace(images, labels_N=labels_N, labelled=False), recipe)
    assert all(same(students[0].state_dict(), student.state_dict()) for student in students[1:])


@pytest.mark.parametrize(
    ("name", "alike"),
    [("head-refit", False), ("finetune", False), ("fitnet", False), ("simkd-refit", False), ("simkd", True)],
)
def test_labels_that_are_held_are_used(
    name: str, alike: bool, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    one, two = make_model(seed=1), make_model(seed=1)
    steal(victim, name, one, images, recipe)
    steal(victim, name, two, replace(images, labels_N=(images.labels_N + 2) % 4), recipe)
    assert same(one.state_dict(), two.state_dict()) is alike


@each
def test_without_labels_the_victims_own_are_used(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    one, two = make_model(seed=1), make_model(seed=1)
    pure: dict[str, Any] = {} if INSIDE[name]["name"] == "feature-kd" else {"alpha": 1.0}
    steal(victim, name, one, images.unlabelled(), recipe, **pure)
    steal(victim, name, two, replace(images, labels_N=said(victim, images, CPU)), recipe, **pure)
    assert same(one.state_dict(), two.state_dict())


@each
def test_answers_that_are_computed_are_counted_and_none_is_a_question(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    student = make_model(seed=1)
    _, states, oracle = steal(victim, name, student, images.unlabelled(), recipe)
    assert (oracle.queries, oracle.forwards) == (0, 24 + 2 * 24)  # each image once, each view once
    rest = steal(victim, name, make_model(seed=1), images.unlabelled(), recipe, states[-2])[2]
    assert (rest.queries, rest.forwards) == (0, 24)


# -- going on -----------------------------------------------------------------------------------------------------------


@each
def test_a_run_resumed_from_disk_is_uninterrupted_to_the_bit(name: str, digits: Digits, tmp_path: Path) -> None:
    held = digits.data.train.take(torch.arange(40)).unlabelled()
    recipe = changed(digits.recipe, epochs=2, batch=16)

    def student(seed: int) -> Classifier:
        return build("cnn", 10, 1, 8, 0.125, seed=seed, role="thief")

    whole = student(0)
    records, states, _ = steal(digits.victim, name, whole, held, recipe)
    assert [record.epoch for record in records] == list(range(1, len(records) + 1))
    for after, state in enumerate(states):
        checkpoint.save(tmp_path / str(after), state, {})
        kept = checkpoint.load(tmp_path / str(after))
        assert kept is not None
        rest = student(9)
        resumed, _, _ = steal(digits.victim, name, rest, held, recipe, kept[0])
        assert [record.epoch for record in resumed] == [record.epoch for record in records[after + 1 :]]
        assert [record.terms for record in resumed] == [record.terms for record in records[after + 1 :]]
        assert same(rest.state_dict(), whole.state_dict())
