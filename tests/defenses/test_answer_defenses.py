"""Answer-side defenses: what each sends, and that it is an answer still."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from undistill.cli.catalog import catalog
from undistill.data.image_set import Splits
from undistill.defenses.base import DEFENSES
from undistill.defenses.l1_ball import MARGIN, SMALLEST
from undistill.defenses.modelguard_s import book, entries, outputs, turned
from undistill.defenses.noise import disturbed
from undistill.defenses.protect import protect
from undistill.defenses.reverse_sigmoid import CLIP, reverse_sigmoid
from undistill.defenses.stingy import kept
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense
from undistill.threat_model import Access
from undistill.training.recipe import Recipe, read

Array = NDArray[Any]
NAMES = ["answer-top1", "l1-ball", "modelguard-s", "noise", "reverse-sigmoid", "rounding", "stingy", "top-k", "top1"]
each = pytest.mark.parametrize("name", NAMES)
steady = pytest.mark.parametrize("name", [name for name in NAMES if name != "noise"])
EDGES = torch.tensor(
    [[1.0, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [1 / 6] * 6, [1 - 5e-30, *[1e-30] * 5], [0.3, 0, 0, 0, 0, 0]]
)


def made(name: str, **settings: Any) -> AnswerDefense:
    return ANSWER_DEFENSES.make({"name": name, **settings})


def sent(probs: Any, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> Tensor:
    probs_BC = probs.to(dtype) if isinstance(probs, Tensor) else torch.tensor(probs, dtype=dtype)
    return made(name, **settings).answer(probs_BC, torch.Generator().manual_seed(seed))


def drawn(count: int = 200, classes: int = 10, seed: int = 0, sharpness: float = 3.0) -> Tensor:
    logits_BC = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharpness * logits_BC).softmax(dim=1)


# -- all of them --------------------------------------------------------------------------------------------------------


def test_these_are_all() -> None:
    ours = [n for n, c in ANSWER_DEFENSES.classes().items() if c.__module__.startswith("undistill.defenses.")]
    assert ours == NAMES
    assert [name for name in ours if ANSWER_DEFENSES.find(name).random] == ["noise"]
    shows = {name: ANSWER_DEFENSES.find(name).shows for name in ours}
    assert {name: access for name, access in shows.items() if access is not Access.PROBS} == {
        "answer-top1": Access.LABEL,
        "top1": Access.TOPK,
        "top-k": Access.TOPK,
    }


def test_they_are_listed_with_their_settings() -> None:
    listed = {entry["name"]: entry for entry in catalog("answer-defense")["output-defense"]}
    assert listed["reverse-sigmoid"]["settings"] == {"beta": 0.7, "gamma": 0.2}
    assert set(NAMES) <= listed.keys()
    assert all(entry["about"].endswith(".") for entry in listed.values())


@each
def test_settings_and_name_make_the_component_again(name: str) -> None:
    defense = made(name)
    assert ANSWER_DEFENSES.make(defense.model_dump(mode="json")) == defense
    with pytest.raises(UsageError, match=f"answer-defense {name}: there is no setting 'zzz'"):
        made(name, zzz=1)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("probs", [drawn(), drawn(sharpness=60), EDGES, drawn(1, 2), drawn(3, 1000)])
def test_an_answer_is_at_least_nothing_and_at_most_one_in_all(name: str, dtype: torch.dtype, probs: Tensor) -> None:
    answer_BC = sent(probs, name, dtype=dtype)
    assert (answer_BC.shape, answer_BC.dtype) == (probs.shape, dtype)
    assert bool(answer_BC.isfinite().all())
    assert float(answer_BC.min()) >= 0
    over = 0.005 * probs.shape[1] if name == "rounding" else 0
    assert float(answer_BC.sum(dim=1).max()) <= 1 + over + 1e-5
    assert bool((answer_BC > 0).any(dim=1).all())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("noise", "modelguard-s")])
def test_classes_may_be_named_in_any_order(name: str) -> None:
    probs_BC, order = drawn(), torch.randperm(10, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(sent(probs_BC[:, order], name), sent(probs_BC, name)[:, order], rtol=0, atol=1e-15)


@steady
def test_rows_are_answered_one_by_one(name: str) -> None:
    probs_BC = drawn(20)
    alone = torch.cat([sent(row_C[None], name) for row_C in probs_BC])
    torch.testing.assert_close(sent(probs_BC, name), alone, rtol=0, atol=1e-15)


@each
def test_only_the_random_ones_answer_twice_in_two_ways(name: str) -> None:
    probs_BC = drawn()
    assert torch.equal(sent(probs_BC, name, seed=0), sent(probs_BC, name, seed=0))
    assert torch.equal(sent(probs_BC, name, seed=0), sent(probs_BC, name, seed=1)) is (not made(name).random)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse-sigmoid"])
def test_the_top_class_stays_on_top(name: str) -> None:
    for probs_BC in (drawn(sharpness=0.3), drawn(), EDGES.double()):
        answer_BC, top_B = sent(probs_BC, name), probs_BC.argmax(dim=1)
        assert bool((answer_BC.gather(1, top_B[:, None])[:, 0] == answer_BC.max(dim=1).values).all())


# -- the ball -----------------------------------------------------------------------------------------------------------


def program(y: Array, epsilon: float) -> float | None:
    """The least Σ log(y + 1e-6) · y′ by a general solver, in (y′, |y′ − y|); None where nothing satisfies the constraints."""
    count, top = len(y), int(y.argmax())
    eye, none = np.eye(count), np.zeros((count, count))
    others = np.delete(eye - eye[top], top, axis=0)
    above = np.vstack(
        [
            np.hstack([eye, -eye]),
            np.hstack([-eye, -eye]),
            np.hstack([others, none[1:]]),
            np.concatenate([np.zeros(count), np.ones(count)])[None],
        ]
    )
    most = np.concatenate([y, -y, np.full(count - 1, -MARGIN), [epsilon]])
    cost = np.concatenate([np.log(y + SMALLEST), np.zeros(count)])
    whole = np.concatenate([np.ones(count), np.zeros(count)])[None]
    found = linprog(cost, A_ub=above, b_ub=most, A_eq=whole, b_eq=[1.0], bounds=(0, None), method="highs")
    return float(found.fun) if found.status == 0 else None


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 30])
def test_the_ball_holds_its_constraints_and_finds_what_a_linear_program_finds(classes: int, epsilon: float) -> None:
    probs_BC = torch.cat([drawn(8, classes, seed=1, sharpness=sharp) for sharp in (0.1, 0.5, 1.0, 3.0, 8.0)])
    for y, ours in zip(probs_BC.numpy(), sent(probs_BC, "l1-ball", epsilon=epsilon).numpy(), strict=True):
        least = program(y, epsilon)
        if least is None:
            np.testing.assert_allclose(ours, y, atol=1e-12)
            continue
        top = int(y.argmax())
        assert np.abs(ours - y).sum() <= epsilon + 1e-9
        assert ours.sum() == pytest.approx(1)
        assert ours[top] >= np.delete(ours, top).max() + MARGIN - 1e-9
        assert float(np.log(y + SMALLEST) @ ours) == pytest.approx(least, abs=1e-6)


def test_a_ball_of_no_size_changes_nothing_and_an_even_output_stays() -> None:
    assert torch.equal(sent(drawn(), "l1-ball", epsilon=0.0), drawn())
    even = torch.full((1, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(sent(even, "l1-ball", epsilon=0.0001), even)


# -- the code book ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_a_code_book_answers_within_its_distance_where_it_covers(epsilon: float) -> None:
    for probs_BC in (drawn(2000), drawn(2000, sharpness=8)):
        turn_BC = turned(probs_BC.argmax(dim=1), 10)
        assert bool((probs_BC.gather(1, turn_BC)[:, 0] == probs_BC.amax(dim=1)).all())
        _, covered_B = entries(probs_BC.gather(1, turn_BC), book(epsilon, 2000, 0, 10), epsilon)
        far_B = (sent(probs_BC, "modelguard-s", epsilon=epsilon) - probs_BC).abs().sum(dim=1)
        assert covered_B.double().mean() > 0.8
        assert torch.equal(covered_B, far_B <= epsilon)


def test_a_code_book_keeps_the_top_class_and_covers_what_it_was_made_from() -> None:
    made_KC = book(0.5, 500, 1, 10)
    assert bool((made_KC.argmax(dim=1) == 0).all())
    torch.testing.assert_close(made_KC.sum(dim=1), torch.ones(len(made_KC), dtype=torch.float64))
    assert bool(entries(outputs(500, 1, 10), made_KC, 0.5)[1].all())
    assert len(book(0.5, 1000, 1, 10)) > len(made_KC)
    assert not torch.equal(book(0.5, 500, 2, 10)[:3], made_KC[:3])


def test_the_first_entry_that_is_near_answers_and_else_the_nearest() -> None:
    held = torch.tensor([[0.6, 0.4, 0.0], [0.8, 0.1, 0.1], [0.9, 0.1, 0.0]], dtype=torch.float64)
    asked = torch.tensor([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)
    entry_B, covered_B = entries(asked, held, 0.25)
    assert (entry_B.tolist(), covered_B.tolist()) == ([1, 0, 1], [True, True, False])


def test_a_code_book_turns_with_the_classes_and_lets_few_answers_through() -> None:
    probs_BC = drawn(2000)
    torch.testing.assert_close(sent(probs_BC.roll(3, 1), "modelguard-s"), sent(probs_BC, "modelguard-s").roll(3, 1))
    assert len(sent(probs_BC, "modelguard-s").unique(dim=0)) <= 10 * len(book(1.0, 2000, 0, 10)) < 100
    assert torch.equal(sent(probs_BC, "modelguard-s", epsilon=0.0), probs_BC)


# -- one by one ---------------------------------------------------------------------------------------------------------


def test_top1_shows_one_class_with_its_confidence() -> None:
    assert sent([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], "top1").tolist() == [[0, 0.5, 0], [0.4, 0, 0]]


def test_answer_top1_shows_no_confidence() -> None:
    assert sent([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], "answer-top1").tolist() == [[0, 1, 0], [1, 0, 0]]


def test_top_k_is_not_renormalised() -> None:
    assert sent([[0.1, 0.2, 0.4, 0.3]], "top-k", k=2).tolist() == [[0, 0, 0.4, 0.3]]
    assert sent([[0.1, 0.2, 0.4, 0.3]], "top-k").tolist() == [[0.1, 0.2, 0.4, 0.3]]


def test_rounding_keeps_two_digits_unless_told() -> None:
    assert sent([[0.123, 0.877]], "rounding").tolist() == [[0.12, 0.88]]
    assert sent([[0.123, 0.877]], "rounding", digits=0).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("share", "classes", "count"), [(0.2, 10, 2), (0.2, 4, 1), (0.2, 11, 3), (0.07, 100, 7), (0.01, 2, 1), (1, 7, 7)]
)
def test_stingy_keeps_its_share_rounded_up(share: float, classes: int, count: int) -> None:
    assert kept(share, classes) == count
    assert (sent(drawn(5, classes), "stingy", share=share) > 0).sum(dim=1).tolist() == [count] * 5


def test_stingy_is_the_softmax_of_the_kept_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10)) * 3
    wanted = np.zeros_like(logits)
    for row, scores in zip(wanted, logits, strict=True):
        best = np.argsort(-scores)[:3]
        row[best] = np.exp(scores[best]) / np.exp(scores[best]).sum()
    given_BC = torch.from_numpy(logits).softmax(dim=1)
    np.testing.assert_allclose(sent(given_BC, "stingy", share=0.3).numpy(), wanted, atol=1e-12)


def twin_of_reverse_sigmoid(probs: Array, beta: float, gamma: float) -> Array:
    """After the paper's formula, a number at a time."""
    out = np.zeros_like(probs)
    for place in itertools.product(*map(range, probs.shape)):
        y = min(max(probs[place], CLIP), 1 - CLIP)
        term = 1 / (1 + np.exp(-gamma * np.log(y / (1 - y)))) - 0.5
        out[place] = max(0.0, probs[place] - beta * term)
    return out / out.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("beta", "gamma"), [(0.7, 0.2), (0.0, 1.0), (3.0, 1.0), (1.5, 0.1)])
def test_the_reverse_sigmoid_agrees_with_its_twin(beta: float, gamma: float) -> None:
    for probs_BC in (drawn(), drawn(sharpness=60), EDGES.double()):
        wanted = twin_of_reverse_sigmoid(probs_BC.numpy(), beta, gamma)
        np.testing.assert_allclose(reverse_sigmoid(probs_BC, beta, gamma).numpy(), wanted, atol=1e-12)


def test_the_reverse_sigmoid_acts_above_one_half_too() -> None:
    # logit(0.8) = log 4, σ(0.2 log 4) = 4^.2 / (1 + 4^.2) = 0.56889; two classes are mirror images, so they sum to 1 already
    wanted = 0.8 - 0.7 * (4**0.2 / (1 + 4**0.2) - 0.5)
    assert sent([[0.8, 0.2]], "reverse-sigmoid")[0].tolist() == pytest.approx([wanted, 1 - wanted], abs=1e-12)
    assert wanted < 0.76
    trapped = 0.8 - 0.7 * (0.5 - 0.5)  # with odds of 4 clipped to 1, whose logarithm is 0
    assert trapped - wanted > 0.04


def test_the_reverse_sigmoid_leaves_one_half_alone_and_beta_zero_all() -> None:
    assert sent([[0.5, 0.5]], "reverse-sigmoid").tolist() == [[0.5, 0.5]]
    torch.testing.assert_close(sent(drawn(), "reverse-sigmoid", beta=0.0), drawn())


def test_the_reverse_sigmoid_turns_the_order_of_lesser_classes_round() -> None:
    answer = sent([[0.99, 0.009, 0.001]], "reverse-sigmoid")[0].tolist()
    assert answer[0] > answer[2] > answer[1]


@pytest.mark.parametrize("sharpness", [2.0, 5.0, 20.0])
def test_the_reverse_sigmoid_usually_keeps_the_top_class(sharpness: float) -> None:
    probs_BC = drawn(1000, sharpness=sharpness)
    same = (sent(probs_BC, "reverse-sigmoid").argmax(dim=1) == probs_BC.argmax(dim=1)).double().mean()
    assert float(same) > 0.95


def test_what_falls_below_nothing_is_nothing() -> None:
    answer = sent([[0.7, 0.3]], "reverse-sigmoid", beta=4.0, gamma=1.0)  # 0.7 − 4 · 0.2 < 0 < 0.3 + 4 · 0.2
    assert answer.tolist() == [[0, 1]]


def twin_of_noise(probs: Array, noise: Array) -> Array:
    """One row at a time, with the exchange written out."""
    out = np.zeros_like(probs)
    for row, p, n in zip(out, probs, noise, strict=True):
        with np.errstate(divide="ignore"):
            scores = np.log(p) + n
        row[:] = np.exp(scores - scores.max())
        row /= row.sum()
        top, new = p.argmax(), row.argmax()
        row[top], row[new] = row[new], row[top]
    return out


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_noise_agrees_with_its_twin(seed: int, classes: int) -> None:
    chance = np.random.default_rng(seed)
    probs, noise = chance.dirichlet([0.5] * classes, size=4), 3 * chance.normal(size=(4, classes))
    probs[0] = np.eye(classes)[0]
    ours = disturbed(torch.from_numpy(probs), torch.from_numpy(noise))
    np.testing.assert_allclose(ours.numpy(), twin_of_noise(probs, noise), atol=1e-12)


def test_noise_exchanges_the_new_top_with_the_old() -> None:
    answer = disturbed(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[1.0, 2.0, 1.0]]).log())
    torch.testing.assert_close(answer, torch.tensor([[0.4, 0.4, 0.2]]))
    answer = disturbed(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[1.0, 4.0, 1.0]]).log())
    torch.testing.assert_close(answer, torch.tensor([[4 / 7, 2 / 7, 1 / 7]]))


def test_noise_may_be_named_in_any_order_of_classes_with_its_noise() -> None:
    probs_BC, noise_BC = drawn(seed=1), drawn(seed=2).log()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        disturbed(probs_BC[:, order], noise_BC[:, order]), disturbed(probs_BC, noise_BC)[:, order]
    )


def test_noise_has_the_scale_it_is_given() -> None:
    probs_BC = torch.tensor([[0.999, 0.0005, 0.0005]], dtype=torch.float64).expand(20_000, 3)
    for scale in (0.25, 1.0):
        answer_BC = sent(probs_BC, "noise", scale=scale)
        apart_B = (answer_BC[:, 1] / answer_BC[:, 2]).log()  # the difference of two normal numbers
        assert float(apart_B.std()) == pytest.approx(scale * 2**0.5, rel=0.03)
        assert float(apart_B.mean()) == pytest.approx(0, abs=0.05)


def test_noise_of_almost_nothing_changes_almost_nothing() -> None:
    torch.testing.assert_close(sent(drawn(), "noise", scale=1e-9), drawn(), rtol=1e-6, atol=1e-9)


def test_a_class_that_was_hidden_stays_hidden_in_noise() -> None:
    assert (sent(EDGES, "noise") > 0).tolist() == (EDGES > 0).tolist()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("top-k", {"k": 0}),
        ("rounding", {"digits": -1}),
        ("rounding", {"digits": 1.5}),
        ("stingy", {"share": 0}),
        ("stingy", {"share": 1.1}),
        ("noise", {"scale": 0}),
        ("reverse-sigmoid", {"beta": -0.1}),
        ("reverse-sigmoid", {"gamma": 0}),
        ("noise", {"scale": float("inf")}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"answer-defense {name}: {next(iter(settings))}: "):
        made(name, **settings)


# -- they train nothing -------------------------------------------------------------------------------------------------


@each
def test_they_are_no_way_to_harden_a_network(name: str) -> None:
    words = f"{name} changes answers only and trains nothing: put it in front of a model with --output-defense {name}$"
    for wanted in (name, {"name": name}, made(name)):
        with pytest.raises(UsageError, match=words):
            DEFENSES.make(wanted)  # type: ignore[arg-type]


def test_protecting_with_one_says_so_and_leaves_nothing_behind(
    make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    words = "stingy changes answers only and trains nothing: put it in front of a model with --output-defense stingy"
    with pytest.raises(UsageError, match=words):
        protect(make_model(), splits, "stingy", recipe=recipe, out=tmp_path / "out", device="cpu")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=words):
        read(recipe, ["defense.name=stingy"])


def test_a_name_of_both_kinds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DEFENSES, "_classes", {**DEFENSES.everything(), "stingy": DEFENSES.find("nasty")})
    with pytest.raises(TypeError, match="a defense and an answer-defense are called 'stingy'"):
        DEFENSES.find("nasty")
