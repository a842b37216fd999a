"""An attacker who chooses what it queries, and the baseline that chooses what is labeled."""

from __future__ import annotations

import copy
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.active import Active, ActiveScratch, chosen
from undistill.attacks.base import ATTACKS
from undistill.data.image_set import ImageSet
from undistill.experiments.extraction import hold, with_unqueried
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access, ThreatModel

from .conftest import Digits
from .test_semi import recipe_of, robbed

CARD = ThreatModel.parse("probs/unlabelled/fresh/random/50+200")
CPU = torch.device("cpu")


def test_the_farthest_from_all_that_is_known_is_chosen_again_and_again() -> None:
    """Four points of two classes on a line: known is the first; then the far end, then the middle of what is left."""
    probs = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.45, 0.55], [0.0, 1.0]])
    assert chosen("k-center", probs, torch.tensor([0]), 3).tolist() == [3, 2, 1]
    assert chosen("k-center", probs, torch.tensor([0, 3]), 1).tolist() == [2]
    assert chosen("entropy", probs, torch.tensor([2]), 3).tolist() == [1, 0, 3]


@pytest.mark.parametrize("choice", ["k-center", "entropy"])
def test_nothing_is_chosen_twice_even_of_equal_ones(choice: str) -> None:
    same = torch.full((20, 4), 0.25)
    assert sorted(chosen(choice, same, torch.arange(5), 15).tolist()) == list(range(5, 20))


@pytest.mark.parametrize("queries", [*range(2, 26), 50])
def test_small_budgets_are_spent_to_the_last_query_too(digits: Digits, queries: int) -> None:
    card = CARD.model_copy(update={"questions": queries})
    images = hold(digits.data, card, Active(), 0)
    every = with_unqueried(digits.data, card, Active(), 0, images)
    oracle = Oracle(digits.victim, Access.PROBS, budget=queries)
    recipe = recipe_of(digits, epochs=1, passes=1)
    list(Active(choice="entropy").steal(oracle, digits.student(), images, recipe, device=CPU, held=every))
    assert oracle.queries == queries


class Counting(Oracle):
    """Writes down what it is asked."""

    seen: list[Tensor]

    def ask(self, images_BCHW: Tensor) -> Any:
        self.seen = [*getattr(self, "seen", []), images_BCHW.flatten(1)]
        return super().ask(images_BCHW)


def held(digits: Digits, name: str) -> tuple[ImageSet, ImageSet]:
    images = hold(digits.data, CARD, ATTACKS.make(name), 0)
    return images, with_unqueried(digits.data, CARD, ATTACKS.make(name), 0, images)


def test_the_budget_is_spent_to_the_last_query_each_on_another_image(digits: Digits) -> None:
    oracle = Counting(digits.victim, Access.PROBS, budget=50)
    images, every = held(digits, "active")
    recipe = recipe_of(digits, epochs=2, passes=1)
    records = list(Active().steal(oracle, digits.student(), images, recipe, device=CPU, held=every))
    asked = torch.cat(oracle.seen)
    assert [len(part) for part in oracle.seen] == [5] * 10
    assert (oracle.queries, len(asked.unique(dim=0))) == (50, 50)
    again = Counting(digits.victim, Access.PROBS, budget=50)
    state = copy.deepcopy(records[0].state)
    list(Active().steal(again, digits.student(seed=3), images, recipe, device=CPU, held=every, state=state))
    assert again.queries == 50
    assert torch.equal(torch.cat(again.seen), asked)


def test_a_substitute_that_knows_nothing_chooses_at_random(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first images of the pool are chosen no more often than the last."""
    monkeypatch.setattr("undistill.attacks.active.predict", lambda network, images: torch.zeros(len(images), 10))
    _, every = held(digits, "active")
    first_half = every.index_N.sort().values[:125]
    shares = []
    for seed in range(12):
        oracle = Counting(digits.victim, Access.PROBS, budget=50)
        images = hold(digits.data, CARD, Active(), seed)
        recipe = recipe_of(digits, seed, epochs=1, passes=1)
        list(Active().steal(oracle, digits.student(), images, recipe, device=CPU, held=every))
        pixels = every.seen().flatten(1)
        place = (torch.cat(oracle.seen)[:, None] == pixels).all(dim=2).long().argmax(dim=1)
        shares.append(torch.isin(every.index_N[place], first_half).double().mean())
    assert abs(float(torch.stack(shares).mean()) - 0.5) < 0.08


def test_with_nothing_to_choose_it_is_kd(digits: Digits) -> None:
    images, _ = held(digits, "active")
    recipe = recipe_of(digits, epochs=2, passes=2)
    students = {}
    for attack in (Active(), ATTACKS.make("kd")):
        students[attack.name] = student = digits.student()
        oracle = Oracle(digits.victim, Access.PROBS, budget=50)
        list(attack.steal(oracle, student, images, recipe, device=CPU))
    for ours, theirs in zip(students["active"].parameters(), students["kd"].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_baseline_is_told_true_labels_and_asks_nothing(digits: Digits) -> None:
    class Deaf(nn.Module):
        def forward(self, images_BCHW: Tensor) -> Tensor:
            raise AssertionError("the victim was asked")

    images, every = held(digits, "active-scratch")
    assert every.labelled
    assert not held(digits, "active")[1].labelled
    oracle = Oracle(Deaf(), Access.LABEL, budget=50)
    told = ActiveScratch().ask(oracle, every, torch.arange(9), CPU)
    assert torch.equal(told.labels_B, every.labels_N[:9])
    recipe = recipe_of(digits, epochs=1, passes=1)
    list(ActiveScratch().steal(oracle, digits.student(), images, recipe, device=CPU, held=every))
    assert oracle.queries == 0


@pytest.mark.e2e
def test_chosen_images_teach_more_than_drawn_ones(able: Digits) -> None:
    """Of labels, so that no victim's noise is in it; what an attacker gains is measured by the studies."""
    steps: dict[str, Any] = {"epochs": 10, "passes": 20, "batch": 50}

    def got(attack: dict[str, Any]) -> float:
        return fmean(able.accuracy(robbed(able, attack, seed, **steps)[0]) for seed in range(4))

    assert got({"name": "active-scratch", "rounds": 3}) > got({"name": "scratch"}) + 2
