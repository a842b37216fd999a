"""The last layer behind a public encoder: as many queries as unknowns, and it is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.public import Public, least_squares, solve
from undistill.data.image_set import ImageSet
from undistill.errors import Refused, UsageError
from undistill.models import Classifier
from undistill.oracle.oracle import Answer, Oracle
from undistill.threat_model import Access
from undistill.training.features import read_all
from undistill.training.loop import EpochRecord
from undistill.training.recipe import Recipe

from .conftest import ADAM, Digits
from .test_inside_attacks import changed

CPU = torch.device("cpu")


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(classes: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    return torch.randn(classes, width, generator=rng(seed)), torch.randn(classes, generator=rng(seed + 1))


def features(count: int, width: int = 64, seed: int = 5) -> Tensor:
    """As behind a ReLU."""
    return torch.randn(count, width, generator=rng(seed)).relu()


def probabilities(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (z.double() @ weight.double().T + bias.double()).softmax(dim=1)


def furthest(queries: int, *, clipped: bool = False) -> tuple[float, float]:
    """(largest difference of a probability on new images, how often the same class is named) after so many queries."""
    weight, bias = layer(10, 64, 1)
    z, fresh = features(queries), features(500, seed=9)
    said = probabilities(z, weight, bias).float()
    said = said.clamp_min(1e-6) if clipped else said
    found = solve(z, Answer(Access.PROBS, said), 10, exact=True)
    ours, theirs = probabilities(fresh, *found), probabilities(fresh, weight, bias)
    return float((ours - theirs).abs().max()), float((ours.argmax(1) == theirs.argmax(1)).double().mean())


@pytest.mark.parametrize("queries", [70, 100, 400])
def test_one_query_more_than_there_are_features_is_enough(queries: int) -> None:
    apart, same = furthest(queries)
    assert (apart < 1e-4, same) == (True, 1.0)


def test_half_as_many_are_not() -> None:
    assert furthest(32)[0] > 0.1


def test_probabilities_must_not_be_clipped() -> None:
    """The customary 10⁻⁶ spoils the equations of exactly those classes that say most."""
    assert furthest(70, clipped=True)[1] < 0.9


def test_the_layer_that_is_found_is_the_layer_up_to_a_shift() -> None:
    weight, bias = layer(4, 3, 2)
    z = features(30, 3).double()
    found, off = least_squares(z, probabilities(z, weight, bias).log())
    torch.testing.assert_close(found, (weight - weight.mean(dim=0)).double(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(off, (bias - bias.mean()).double(), rtol=1e-6, atol=1e-8)


def test_of_many_layers_that_answer_alike_it_is_the_smallest() -> None:
    """A feature that is always off, and one that is another's double."""
    z = features(50, 3)
    wide = torch.cat([z, torch.zeros(50, 1), 2 * z[:, :1]], dim=1)
    weight, bias = layer(4, 5, 2)
    found, _ = least_squares(wide.double(), probabilities(wide, weight, bias).log())
    assert found[:, 3].abs().max() < 1e-6
    torch.testing.assert_close(found[:, 4], 2 * found[:, 0], rtol=1e-4, atol=1e-6)


def test_rows_that_lost_a_probability_are_left_out() -> None:
    """A sure victim has probabilities that float32 cannot hold; the other rows are equations as good as any."""
    weight, bias = layer(10, 64, 1)
    z, fresh = features(400), features(500, seed=9)
    said = probabilities(z, 4 * weight, 4 * bias).float()
    lost = (said < torch.finfo(torch.float32).tiny).any(dim=1)
    assert 5 < int(lost.sum()) < 200
    ours = probabilities(fresh, *solve(z, Answer(Access.PROBS, said), 10, exact=True))
    assert torch.equal(ours.argmax(1), probabilities(fresh, 4 * weight, 4 * bias).argmax(1))


@pytest.mark.parametrize("kind", ["label", "zeros", "rounded"])
def test_less_than_exact_probabilities_is_a_fit(kind: str) -> None:
    weight, bias = layer(10, 16, 3)
    z, fresh = features(400, 16), features(500, 16, seed=9)
    said = probabilities(z, weight, bias).float()
    if kind == "zeros":
        said = said.where(said >= said.topk(2, dim=1).values[:, 1:], 0.0)
    answer = (
        Answer(Access.LABEL, said.argmax(1))
        if kind == "label"
        else Answer(Access.PROBS, (said * 100).round() / 100 if kind == "rounded" else said)
    )
    ours = probabilities(fresh, *solve(z, answer, 10, exact=kind == "zeros"))
    theirs = probabilities(fresh, weight, bias)
    assert 0.75 < float((ours.argmax(1) == theirs.argmax(1)).double().mean()) < 1
    assert float((ours - theirs).abs().max()) > 1e-3


# -- as an attack -------------------------------------------------------------------------------------------------------


def steal(
    oracle: Oracle, student: nn.Module, images: ImageSet, recipe: Recipe, state: Any = None, **settings: Any
) -> list[EpochRecord]:
    return [
        copy.deepcopy(record)
        for record in Public(**settings).steal(oracle, student, images, recipe, device=CPU, state=state)
    ]


def public(digits: Digits) -> Classifier:
    """The victim's encoder with a head of its own."""
    student = copy.deepcopy(digits.victim)
    torch.manual_seed(0)
    student.head.reset_parameters()  # type: ignore[operator]
    return student.train()


def held(digits: Digits, count: int) -> ImageSet:
    assert digits.data.pool is not None
    return digits.data.pool.take(torch.arange(count)).unlabelled()


def agreement(digits: Digits, student: nn.Module) -> float:
    with torch.no_grad():
        seen = digits.data.test.seen()
        return float((student.eval()(seen).argmax(1) == digits.victim.eval()(seen).argmax(1)).double().mean())


def test_the_victims_own_encoder_gives_the_victim(digits: Digits) -> None:
    width = read_all(digits.victim, held(digits, 2), CPU)[0].shape[1]
    oracle, student = Oracle(digits.victim, Access.PROBS, budget=200), public(digits)
    (record,) = steal(oracle, student, held(digits, 200), digits.recipe)
    assert width < 200
    assert oracle.queries == 200
    assert record.terms["agreement"] == 100
    assert agreement(digits, student) == 1.0
    with torch.no_grad():
        seen = digits.data.test.seen()
        apart = student(seen).softmax(1) - digits.victim(seen).softmax(1)
    assert apart.abs().max() < 1e-3


def test_another_encoder_does_not(digits: Digits) -> None:
    student = digits.student(0.25, seed=3)
    steal(Oracle(digits.victim, Access.PROBS, budget=400), student, held(digits, 400), digits.recipe)
    assert agreement(digits, student) < 0.98


def test_rounding_bounds_it(digits: Digits) -> None:
    found = []
    for digits_shown in (None, 1):
        student = public(digits)
        oracle = Oracle(digits.victim, Access.PROBS, budget=200, digits=digits_shown)
        steal(oracle, student, held(digits, 200), digits.recipe)
        found.append(agreement(digits, student))
    assert found[0] == 1.0 > found[1] > 0.8


@pytest.mark.parametrize("access", [Access.LABEL, Access.TOPK])
def test_every_access_will_do(digits: Digits, access: Access) -> None:
    student = public(digits)
    oracle = Oracle(digits.victim, access, budget=200, top_k=2)
    (record,) = steal(oracle, student, held(digits, 200), digits.recipe)
    assert record.terms["agreement"] > 90
    assert oracle.queries == 200


def test_fine_tuning_goes_on_from_the_solution(digits: Digits) -> None:
    recipe = changed(digits.recipe, epochs=2, optimizer={**ADAM, "lr": 1e-5})
    student, oracle = public(digits), Oracle(digits.victim, Access.PROBS, budget=200)
    records = steal(oracle, student, held(digits, 200), recipe, finetune=True)
    assert [record.epoch for record in records] == [1, 2]
    assert oracle.queries == 200
    assert records[0].terms["agreement"] > 90  # in training mode
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), digits.victim.parameters(), strict=True))
    again, fresh = public(digits), Oracle(digits.victim, Access.PROBS, budget=200)
    resumed = steal(fresh, again, held(digits, 200), recipe, state=records[0].state, finetune=True)
    assert [record.terms for record in resumed] == [records[1].terms]
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_finished_solution_is_not_solved_again(digits: Digits) -> None:
    student = public(digits)
    (record,) = steal(Oracle(digits.victim, Access.PROBS), student, held(digits, 100), digits.recipe)
    again, oracle = public(digits), Oracle(digits.victim, Access.PROBS)
    assert steal(oracle, again, held(digits, 100), digits.recipe, state=record.state) == []
    assert oracle.queries == 0
    assert torch.equal(again.head.weight, student.head.weight)  # type: ignore[arg-type]


def test_it_pays_for_its_queries_and_needs_a_head(digits: Digits) -> None:
    with pytest.raises(Refused, match="exceed the budget of 50"):
        steal(Oracle(digits.victim, Access.PROBS, budget=50), public(digits), held(digits, 60), digits.recipe)
    student = public(digits)
    student.head = nn.Sequential(student.head)
    with pytest.raises(UsageError, match="public needs a student that ends in a linear layer"):
        Public().check(student)
