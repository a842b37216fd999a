"""Losses against closed forms, golden values and an independent float64 twin. Legend: B batch, C classes."""

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
from scipy.special import log_softmax
from torch import Tensor

from undistill.errors import UsageError
from undistill.losses import distillation_loss, self_undermining_loss, smoothed_cross_entropy, softened_kl

Matrix = NDArray[Any]

# softmax (ln 3, 0) = (¾, ¼) and softmax (0, 0) = (½, ½)
SURE, EVEN = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
SURE_TO_EVEN = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # 0.1308
EVEN_TO_SURE = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # 0.1438
FIRST = torch.tensor([0])


def draw(shape: tuple[int, int] = (5, 7), seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, shape))


def twin_kl(p_logits_BC: Matrix, q_logits_BC: Matrix, temperature: float) -> float:
    total = 0.0
    for p_logits, q_logits in zip(p_logits_BC, q_logits_BC, strict=True):
        for log_p, log_q in zip(log_softmax(p_logits / temperature), log_softmax(q_logits / temperature), strict=True):
            total += math.exp(log_p) * (log_p - log_q)
    return temperature**2 * total / len(p_logits_BC)


def twin_ce(logits_BC: Matrix, labels_B: Matrix) -> float:
    return -float(np.mean([log_softmax(row)[label] for row, label in zip(logits_BC, labels_B, strict=True)]))


# -- softened KL --------------------------------------------------------------------------------------------------------


def test_kl_points_from_left_to_right() -> None:
    assert softened_kl(SURE, EVEN, 1).item() == pytest.approx(SURE_TO_EVEN, abs=1e-6)
    assert softened_kl(EVEN, SURE, 1).item() == pytest.approx(EVEN_TO_SURE, abs=1e-6)


def test_tau_squared_scales_the_kl() -> None:
    assert softened_kl(3 * SURE, EVEN, 3).item() == pytest.approx(9 * SURE_TO_EVEN, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_kl_equals_the_twin(temperature: float) -> None:
    p, q = draw(seed=1), draw(seed=2)
    expected = twin_kl(p.numpy(), q.numpy(), temperature)
    assert softened_kl(p, q, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_kl_is_the_mean_over_the_batch() -> None:
    p, q = draw(seed=1), draw(seed=2)
    assert softened_kl(p, q, 4).item() == pytest.approx(
        np.mean([softened_kl(p[b : b + 1], q[b : b + 1], 4) for b in range(5)])
    )


def test_kl_of_equal_logits_is_zero() -> None:
    assert softened_kl(draw(), draw(), 4).item() == 0


@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(0, 100))
def test_kl_is_never_negative(seed: int, temperature: float, scale: float) -> None:
    assert softened_kl(draw(seed=seed, scale=scale), draw(seed=seed + 1, scale=scale), temperature).item() >= -1e-9


@given(st.integers(0, 10_000), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_kl_does_not_see_a_shift_of_all_logits(seed: int, p_shift: float, q_shift: float) -> None:
    p, q = draw(seed=seed), draw(seed=seed + 1)
    assert softened_kl(p + p_shift, q + q_shift, 4).item() == pytest.approx(softened_kl(p, q, 4).item(), rel=1e-8)


def test_kl_gradients_pass_gradcheck() -> None:
    p, q = draw().requires_grad_(), draw(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: softened_kl(a, b, 4.0), (p, q))


def test_kl_gradient_on_the_right_is_tau_times_the_gap_of_probabilities() -> None:
    p, q = draw(), draw(seed=1).requires_grad_()
    softened_kl(p, q, 4).backward()
    expected = 4 * ((q / 4).softmax(1) - (p / 4).softmax(1)) / len(p)
    torch.testing.assert_close(q.grad, expected.detach())


def test_kl_gradient_on_the_left_weighs_log_ratios() -> None:
    p, q = draw().requires_grad_(), draw(seed=1)
    softened_kl(p, q, 4).backward()
    probs, ratio = (p / 4).softmax(1), (p / 4).log_softmax(1) - (q / 4).log_softmax(1)
    expected = 4 * probs * (ratio - (probs * ratio).sum(1, keepdim=True)) / len(p)
    torch.testing.assert_close(p.grad, expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_extreme_logits_keep_kl_and_gradients_finite(dtype: torch.dtype, temperature: float) -> None:
    p = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    q = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    loss = softened_kl(p, q, temperature)
    loss.backward()
    assert loss.isfinite()
    assert p.grad is not None
    assert q.grad is not None
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()


def test_a_class_of_probability_zero_adds_nothing() -> None:
    p = torch.tensor([[math.log(3), 0.0, -torch.inf]], requires_grad=True)
    q = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    loss = softened_kl(p, q, 1)
    loss.backward()
    assert loss.item() == pytest.approx(SURE_TO_EVEN, abs=1e-6)
    assert p.grad is not None
    assert q.grad is not None
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()


def test_probability_where_the_right_side_has_none_is_infinite() -> None:
    assert softened_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -torch.inf]]), 1).item() == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    p, q = draw().to(dtype), draw(seed=1).to(dtype)
    loss = softened_kl(p, q, 4)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, softened_kl(p.float(), q.float(), 4))


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits: softened_kl(logits, logits, 4),
        lambda logits: distillation_loss(logits, logits, torch.zeros(5).long(), temperature=4, alpha=0.5),
        lambda logits: self_undermining_loss(logits, logits, torch.zeros(5).long(), omega=1, temperature=4),
        lambda logits: smoothed_cross_entropy(logits, torch.zeros(5).long(), 0.1),
    ],
)
@pytest.mark.parametrize(
    ("given_dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_results_are_float32_or_wider(
    loss: Callable[[Tensor], Tensor], given_dtype: torch.dtype, wanted: torch.dtype
) -> None:
    assert loss(draw().to(given_dtype)).dtype == wanted


def test_a_batch_of_one_is_a_batch() -> None:
    assert softened_kl(SURE, EVEN, 2).ndim == 0


@pytest.mark.parametrize("other", [draw((5, 6)), draw((4, 7)), draw((5, 7))[0]])
def test_shapes_that_differ_are_refused(other: Tensor) -> None:
    with pytest.raises(UsageError, match=r"two B × C tensors of one shape, not \(5, 7\)"):
        softened_kl(draw(), other, 4)


# -- distillation -------------------------------------------------------------------------------------------------------


def test_kl_points_from_teacher_to_student() -> None:
    loss = distillation_loss(EVEN, SURE, None, temperature=1, alpha=1)
    assert loss.item() == pytest.approx(SURE_TO_EVEN, abs=1e-6)


def test_tau_squared_scales_distillation() -> None:
    loss = distillation_loss(EVEN, 5 * SURE, None, temperature=5, alpha=1)
    assert loss.item() == pytest.approx(25 * SURE_TO_EVEN, abs=1e-5)


def test_distillation_golden_value() -> None:
    loss = distillation_loss(EVEN, 2 * SURE, FIRST, temperature=2, alpha=0.9)
    assert loss.item() == pytest.approx(0.9 * 4 * 0.13081204 + 0.1 * 0.69314718, abs=1e-6)


def test_temperature_does_not_soften_the_labels_term() -> None:
    loss = distillation_loss(SURE, EVEN, FIRST, temperature=20, alpha=0)
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_distillation_equals_the_twin(alpha: float) -> None:
    student, teacher, labels = draw(), draw(seed=1), np.array([0, 6, 3, 3, 1])
    expected = alpha * twin_kl(teacher.numpy(), student.numpy(), 4) + (1 - alpha) * twin_ce(student.numpy(), labels)
    loss = distillation_loss(student, teacher, torch.from_numpy(labels), temperature=4, alpha=alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_distillation_gradient_passes_gradcheck() -> None:
    student, teacher, labels = draw().requires_grad_(), draw(seed=1), torch.arange(5)
    loss = lambda s: distillation_loss(s, teacher, labels, temperature=4.0, alpha=0.9)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (student,))


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = draw().requires_grad_(), draw(seed=1).requires_grad_()
    distillation_loss(student, teacher, torch.arange(5), temperature=4, alpha=0.9).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_log_probabilities_of_some_classes_are_a_teacher() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[0.75, 0.25, 0.0]]).log()
    loss = distillation_loss(student, teacher, None, temperature=1, alpha=1)
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 3), abs=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[1 / 3 - 0.75, 1 / 3 - 0.25, 1 / 3]]))


def test_alpha_one_needs_no_labels() -> None:
    teacher = draw(seed=1)
    loss = distillation_loss(draw(), teacher, None, temperature=4, alpha=1)
    assert loss.item() == pytest.approx(softened_kl(teacher, draw(), 4).item())


def test_alpha_below_one_needs_labels() -> None:
    with pytest.raises(UsageError, match=r"alpha 0\.9 weighs labels by 0\.1, but there are no labels"):
        distillation_loss(draw(), draw(), None, temperature=4, alpha=0.9)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=rf"alpha is a weight in \[0, 1\], not {alpha}"):
        distillation_loss(draw(), draw(), torch.arange(5), temperature=4, alpha=alpha)


# -- self-undermining ---------------------------------------------------------------------------------------------------


def test_kl_points_from_nasty_to_adversary() -> None:
    loss = self_undermining_loss(SURE, EVEN, FIRST, omega=1, temperature=1)
    assert loss.item() == pytest.approx(-math.log(0.75) - SURE_TO_EVEN, abs=1e-6)


def test_tau_squared_scales_self_undermining() -> None:
    loss = self_undermining_loss(4 * SURE, EVEN, FIRST, omega=1, temperature=4)
    assert loss.item() == pytest.approx(-math.log(81 / 82) - 16 * SURE_TO_EVEN, abs=1e-5)


def test_the_adversary_is_pushed_away_not_followed() -> None:
    assert self_undermining_loss(SURE, EVEN, FIRST, omega=1, temperature=1) < self_undermining_loss(
        SURE, EVEN, FIRST, omega=0, temperature=1
    )


@pytest.mark.parametrize("omega", [0, 0.004, 0.04, 2])
def test_self_undermining_equals_the_twin(omega: float) -> None:
    nasty, adversary, labels = draw(), draw(seed=1), np.array([0, 6, 3, 3, 1])
    expected = twin_ce(nasty.numpy(), labels) - omega * twin_kl(nasty.numpy(), adversary.numpy(), 4)
    loss = self_undermining_loss(nasty, adversary, torch.from_numpy(labels), omega=omega, temperature=4)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_omega_zero_is_cross_entropy_to_the_bit() -> None:
    logits, labels = draw().float(), torch.arange(5)
    loss = self_undermining_loss(logits, draw(seed=1).float(), labels, omega=0, temperature=4)
    assert torch.equal(loss, smoothed_cross_entropy(logits, labels))


def test_self_undermining_gradient_passes_gradcheck() -> None:
    nasty, adversary, labels = draw().requires_grad_(), draw(seed=1), torch.arange(5)
    loss = lambda n: self_undermining_loss(n, adversary, labels, omega=0.5, temperature=4.0)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (nasty,))


def test_no_gradient_reaches_the_adversary() -> None:
    nasty, adversary = draw().requires_grad_(), draw(seed=1).requires_grad_()
    self_undermining_loss(nasty, adversary, torch.arange(5), omega=1, temperature=4).backward()
    assert nasty.grad is not None
    assert adversary.grad is None


@pytest.mark.parametrize("omega", [-0.01, math.inf, math.nan])
def test_omega_out_of_range_is_refused(omega: float) -> None:
    with pytest.raises(UsageError, match=f"omega is a weight of at least 0, not {omega}"):
        self_undermining_loss(draw(), draw(), torch.arange(5), omega=omega, temperature=4)


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_temperature_out_of_range_is_refused_by_all(temperature: float) -> None:
    labels = torch.arange(5)
    for call in (
        lambda: softened_kl(draw(), draw(), temperature),
        lambda: distillation_loss(draw(), draw(), labels, temperature=temperature, alpha=0.5),
        lambda: self_undermining_loss(draw(), draw(), labels, omega=1, temperature=temperature),
    ):
        with pytest.raises(UsageError, match=f"temperature must be above 0, not {temperature}"):
            call()


# -- label smoothing ----------------------------------------------------------------------------------------------------


def test_smoothing_mixes_the_label_with_all_classes() -> None:
    logits, labels = draw(), torch.tensor([0, 6, 3, 3, 1])
    log_probs = log_softmax(logits.numpy(), axis=1)
    expected = -0.8 * log_probs[np.arange(5), labels.numpy()].mean() - 0.2 * log_probs.mean()
    assert smoothed_cross_entropy(logits, labels, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_no_smoothing_is_cross_entropy() -> None:
    assert smoothed_cross_entropy(SURE, FIRST).item() == pytest.approx(-math.log(0.75), abs=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(UsageError, match=rf"label smoothing lies in \[0, 1\), not {smoothing}"):
        smoothed_cross_entropy(draw(), torch.arange(5), smoothing)
