"""Losses that read part of an answer, against closed forms and independent NumPy twins. Legend: B batch, C classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from undistill.errors import UsageError
from undistill.losses import decoupled_kl, softened_kl, standardised_kl

Row = NDArray[Any]
CLASSES = torch.tensor([0, 6, 3, 3, 1])
NONE = -torch.inf


def draw(seed: int = 0, shape: tuple[int, int] = (5, 7), scale: float = 3.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape))


def softmax(logits: Row) -> Row:
    weights: Row = np.exp(logits - logits.max())
    return weights / weights.sum()


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def twin_standardised(p_BC: Row, q_BC: Row, temperature: float) -> float:
    total = 0.0
    for p, q in zip(p_BC, q_BC, strict=True):
        shown = np.isfinite(p)
        z = [(row[shown] - row[shown].mean()) / math.sqrt(row[shown].var() + 1e-6) for row in (p, q)]
        total += kl(softmax(z[0] / temperature), softmax(z[1] / temperature))
    return temperature**2 * total / len(p_BC)


def twin_decoupled(p_BC: Row, q_BC: Row, classes_B: Row, temperature: float, target: float, beta: float) -> float:
    total = 0.0
    for p_logits, q_logits, chosen in zip(p_BC, q_BC, classes_B, strict=True):
        p, q = softmax(p_logits / temperature), softmax(q_logits / temperature)
        rest_p, rest_q = np.delete(p, chosen), np.delete(q, chosen)
        total += target * kl(np.array([p[chosen], rest_p.sum()]), np.array([q[chosen], rest_q.sum()]))
        total += beta * kl(rest_p / rest_p.sum(), rest_q / rest_q.sum())
    return temperature**2 * total / len(p_BC)


# -- standardised -------------------------------------------------------------------------------------------------------


def test_two_classes_have_an_order_and_no_scale() -> None:
    up, down = torch.tensor([[9.0, 2.0]], dtype=torch.float64), torch.tensor([[-1.0, 4.0]], dtype=torch.float64)
    assert standardised_kl(up, 3 * up + 1, 2).item() == pytest.approx(0, abs=1e-9)
    assert standardised_kl(up, down, 2).item() == pytest.approx(4 * math.tanh(0.5), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2, 8])
def test_standardised_equals_the_twin(temperature: float) -> None:
    p, q = draw(1), draw(2)
    expected = twin_standardised(p.numpy(), q.numpy(), temperature)
    assert standardised_kl(p, q, temperature).item() == pytest.approx(expected, rel=1e-10)


@given(st.integers(0, 10_000), st.floats(0.5, 50), st.floats(-100, 100))
def test_standardised_sees_neither_scale_nor_shift(seed: int, scale: float, shift: float) -> None:
    p, q = draw(seed), draw(seed + 1)
    plain = standardised_kl(p, q, 2).item()
    assert standardised_kl(scale * p + shift, q, 2).item() == pytest.approx(plain, abs=1e-4)
    assert standardised_kl(p, scale * q + shift, 2).item() == pytest.approx(plain, abs=1e-4)
    assert plain >= 0


def test_standardised_sees_an_order_turned_round() -> None:
    assert standardised_kl(draw(), -draw(), 2) > standardised_kl(draw(), draw(), 2) + 0.1


def test_what_the_answer_hides_does_not_take_part() -> None:
    p, q = draw(1), draw(2).requires_grad_()
    hidden = p.clone()
    hidden[:, [0, 4]] = NONE
    loss = standardised_kl(hidden, q, 2)
    loss.backward()
    shown = [1, 2, 3, 5, 6]
    assert loss.item() == pytest.approx(standardised_kl(p[:, shown], q[:, shown], 2).item())
    assert loss.item() == pytest.approx(twin_standardised(hidden.numpy(), q.detach().numpy(), 2))
    assert q.grad is not None
    assert not q.grad[:, [0, 4]].any()
    assert q.grad[:, shown].isfinite().all()


def test_an_answer_of_one_class_adds_nothing() -> None:
    lone = torch.full((1, 7), NONE, dtype=torch.float64)
    lone[0, 2] = -0.3
    q = draw(2, (1, 7)).requires_grad_()
    loss = standardised_kl(lone, q, 2)
    loss.backward()
    assert loss.item() == 0
    assert q.grad is not None
    assert not q.grad.any()
    both = standardised_kl(torch.cat([lone, draw(1, (1, 7))]), torch.cat([q, q]), 2)
    assert both.item() == pytest.approx(standardised_kl(draw(1, (1, 7)), q, 2).item() / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_logits_give_finite_gradients(dtype: torch.dtype) -> None:
    flat = torch.full((2, 4), 5.0, dtype=dtype, requires_grad=True)
    p = torch.tensor([[3.0, 1.0, 0.0, 0.0]] * 2, dtype=dtype, requires_grad=True)
    for loss in (standardised_kl(p, flat, 2), standardised_kl(flat, p, 2), standardised_kl(flat, flat, 2)):
        loss.backward()
        assert loss.isfinite()
    assert flat.grad is not None
    assert p.grad is not None
    assert flat.grad.isfinite().all()
    assert p.grad.isfinite().all()


def test_standardised_gradients_pass_gradcheck() -> None:
    p, q = draw(1).requires_grad_(), draw(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: standardised_kl(a, b, 2.0), (p, q))


# -- decoupled ----------------------------------------------------------------------------------------------------------


def test_two_classes_are_decoupled_already() -> None:
    p, q = draw(1, (5, 2)), draw(2, (5, 2))
    classes_B = torch.tensor([0, 1, 1, 0, 1])
    assert decoupled_kl(p, q, classes_B, temperature=3, beta=1).item() == pytest.approx(softened_kl(p, q, 3).item())


def test_decoupled_closed_form() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.7, 0.05]]).log()
    first = torch.tensor([0])
    sure = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    among = 0.5 * math.log(0.5 / (0.7 / 0.75)) + 0.5 * math.log(0.5 / (0.05 / 0.75))
    assert decoupled_kl(p, q, first, temperature=1).item() == pytest.approx(sure, abs=1e-6)
    assert decoupled_kl(p, q, first, temperature=1, target=0, beta=1).item() == pytest.approx(among, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize(("target", "beta"), [(1, 0), (0, 1), (1, 8), (0.5, 0.25)])
def test_decoupled_equals_the_twin(temperature: float, target: float, beta: float) -> None:
    p, q = draw(1), draw(2)
    expected = twin_decoupled(p.numpy(), q.numpy(), CLASSES.numpy(), temperature, target, beta)
    loss = decoupled_kl(p, q, CLASSES, temperature=temperature, target=target, beta=beta)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@given(st.integers(0, 10_000), st.integers(0, 6), st.floats(0.5, 20))
def test_distillation_is_both_terms_with_the_others_weighed_by_what_they_have(
    seed: int, chosen: int, temperature: float
) -> None:
    p, q, class_B = draw(seed, (1, 7)), draw(seed + 1, (1, 7)), torch.tensor([chosen])
    others = 1 - (p / temperature).softmax(1)[0, chosen].item()
    loss = decoupled_kl(p, q, class_B, temperature=temperature, beta=others)
    assert loss.item() == pytest.approx(softened_kl(p, q, temperature).item(), rel=1e-8, abs=1e-12)


def test_beta_zero_does_not_see_a_false_peak() -> None:
    honest, q, first = torch.tensor([[0.6, 0.2, 0.1, 0.1]]).log(), draw(2, (1, 4)), torch.tensor([0])
    peaked = torch.tensor([[0.6, 0.0, 0.4, 0.0]]).log()
    for beta, alike in ((0.0, True), (1.0, False)):
        losses = [decoupled_kl(p.double(), q, first, temperature=1, beta=beta).item() for p in (honest, peaked)]
        assert (losses[0] == pytest.approx(losses[1], abs=1e-6)) is alike


def test_a_certain_victim_keeps_its_digits() -> None:
    p, q, first = torch.tensor([[40.0, 1.0, 0.0]]), torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    for temperature in (1.0, 2.0):
        coarse = decoupled_kl(p, q, first, temperature=temperature, beta=1)
        fine = decoupled_kl(p.double(), q.double(), first, temperature=temperature, beta=1)
        assert coarse.item() == pytest.approx(fine.item(), rel=1e-4)
        assert fine.item() > 0


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(
    "p", [[[1e4, -1e4, 0.0]], [[0.0, NONE, NONE]], [[NONE, 0.0, 1.0]], [[0.0, 1.0, NONE]]], ids=str
)
def test_extreme_answers_keep_loss_and_gradient_finite(p: list[list[float]], beta: float) -> None:
    for logits in ([[-1e4, 1e4, 0.0]], [[1e4, -1e4, 0.0]], [[0.0, 0.0, 0.0]]):
        q = torch.tensor(logits, requires_grad=True)
        loss = decoupled_kl(torch.tensor(p), q, torch.tensor([0]), temperature=4, beta=beta)
        loss.backward()
        assert loss.isfinite()
        assert q.grad is not None
        assert q.grad.isfinite().all()


def test_where_the_others_have_nothing_the_class_is_all_there_is() -> None:
    p, q, first = torch.tensor([[0.0, NONE, NONE]]), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])
    expected = -q.log_softmax(1)[0, 0].item()
    assert decoupled_kl(p, q, first, temperature=1, beta=5).item() == pytest.approx(expected, abs=1e-6)


def test_decoupled_gradient_passes_gradcheck_and_stays_on_the_right() -> None:
    p, q = draw(1).requires_grad_(), draw(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: decoupled_kl(p, s, CLASSES, temperature=4.0, beta=0.5), (q,))
    decoupled_kl(p, q, CLASSES, temperature=4).backward()
    assert p.grad is None
    assert q.grad is not None


# -- both ---------------------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize(
    "loss",
    [
        lambda p, q, temperature=2.0: standardised_kl(p, q, temperature),
        lambda p, q, temperature=2.0: decoupled_kl(p, q, CLASSES, temperature=temperature, beta=1.0),
    ],
    ids=["standardised", "decoupled"],
)
Loss = Callable[..., Tensor]


@both
def test_a_number_that_is_none_is_not_hidden(loss: Loss) -> None:
    for broken in (math.nan, math.inf):
        p = draw(1)
        p[2, 2] = broken
        assert loss(p, draw(2)).isnan()


@both
@pytest.mark.parametrize(("given_dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64,) * 2])
def test_half_precision_is_computed_in_float32(loss: Loss, given_dtype: torch.dtype, wanted: torch.dtype) -> None:
    p, q = draw(1).to(given_dtype), draw(2).to(given_dtype)
    assert loss(p, q).dtype == wanted
    assert torch.equal(loss(p, q), loss(p.to(wanted), q.to(wanted)))


@both
@pytest.mark.parametrize("other", [draw(2, (5, 6)), draw(2, (4, 7)), draw(2)[0]])
def test_shapes_that_differ_are_refused(loss: Loss, other: Tensor) -> None:
    with pytest.raises(UsageError, match=r"two B × C tensors of one shape, not \(5, 7\)"):
        loss(draw(1), other)


@both
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_out_of_range_are_refused(loss: Loss, temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be above 0"):
        loss(draw(1), draw(2), temperature)
