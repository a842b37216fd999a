"""Terms by which images are made without data, against numbers computed by hand and by NumPy. Legend as in losses.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from undistill.errors import UsageError
from undistill.losses import (
    activation_loss,
    information_entropy_loss,
    mean_norm,
    one_hot_loss,
    statistics_distance,
    total_variation,
)

LOGIT_TERMS = [one_hot_loss, information_entropy_loss]
Term = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


# -- DAFL ---------------------------------------------------------------------------------------------------------------


def test_one_hot_is_the_doubt_about_the_top_class() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # top classes of probability ¾ and ½
    assert one_hot_loss(logits).item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_one_hot_equals_cross_entropy_with_the_argmax() -> None:
    logits = draw(6, 5)
    expected = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
    assert one_hot_loss(logits).item() == pytest.approx(expected.item(), rel=1e-12)


def test_activation_is_the_mean_size_with_a_minus() -> None:
    assert activation_loss(torch.tensor([[1.0, -3.0], [0.0, 2.0]])).item() == pytest.approx(-1.5)


@pytest.mark.parametrize("classes", [2, 10])
def test_entropy_of_classes_equally_frequent_is_minus_log10_of_their_number(classes: int) -> None:
    sure = 1000 * torch.eye(classes)  # each image of its own class, without doubt: the mean is even, no single one is
    assert information_entropy_loss(sure).item() == pytest.approx(-math.log10(classes))


def test_entropy_of_one_class_is_zero() -> None:
    assert information_entropy_loss(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]])).item() == 0


def test_entropy_equals_the_twin() -> None:
    logits = draw(6, 5).numpy()
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = probs.mean(0)
    expected = float((mean * np.log10(mean)).sum())
    assert information_entropy_loss(torch.from_numpy(logits)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("term", LOGIT_TERMS)
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits_give_finite_terms_and_gradients(term: Term, scale: float) -> None:
    logits = torch.tensor([[scale, -scale, 0.0], [scale, 0.0, -scale]], requires_grad=True)
    value = term(logits)
    value.backward()
    assert logits.grad is not None
    assert bool(value.isfinite())
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("term", LOGIT_TERMS)
def test_a_shift_of_all_logits_changes_nothing(term: Term) -> None:
    assert term(draw(4, 5) + 7).item() == pytest.approx(term(draw(4, 5)).item(), rel=1e-12)


def test_an_unmentioned_class_adds_no_entropy() -> None:
    with_it = torch.tensor([[0.0, 1.0, -math.inf], [1.0, 0.5, -math.inf]])
    assert information_entropy_loss(with_it).item() == pytest.approx(information_entropy_loss(with_it[:, :2]).item())


# -- DeepInversion ------------------------------------------------------------------------------------------------------


def test_statistics_of_vectors_by_hand() -> None:
    inputs = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # means 2 and 0, variances 1 and 0
    apart = statistics_distance(inputs, torch.tensor([-1.0, 4.0]), torch.tensor([1.0, 2.0]))
    assert apart.item() == pytest.approx(5 + 2)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 5)])
def test_statistics_equal_the_twin(shape: tuple[int, ...]) -> None:
    inputs, mean, variance = draw(*shape), draw(3, seed=1), draw(3, seed=2).abs()
    flat = np.moveaxis(inputs.numpy(), 1, 0).reshape(3, -1)
    expected = np.linalg.norm(flat.mean(1) - mean.numpy()) + np.linalg.norm(flat.var(1) - variance.numpy())
    assert statistics_distance(inputs, mean, variance).item() == pytest.approx(expected, rel=1e-12)


def test_statistics_that_agree_are_not_apart() -> None:
    inputs = draw(8, 3, 4, 4)
    flat = inputs.movedim(1, 0).flatten(1)
    assert statistics_distance(inputs, flat.mean(1), flat.var(1, correction=0)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("inputs", "moments"), [((4, 3), 2), ((4,), 4), ((4, 3, 2, 2), 4)])
def test_channels_that_do_not_fit_are_refused(inputs: tuple[int, ...], moments: int) -> None:
    with pytest.raises(UsageError, match="statistics_distance compares B × C … with C moments"):
        statistics_distance(torch.zeros(inputs), torch.zeros(moments), torch.ones(moments))


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]]])
    # to the right 3 and −4; down 4 and −3; along one diagonal 0; along the other 1
    assert total_variation(image).item() == pytest.approx(5 + 5 + 0 + 1)


def test_total_variation_equals_the_twin() -> None:
    images = draw(2, 3, 5, 4)
    x = images.numpy()
    differences = (
        x[:, :, :, 1:] - x[:, :, :, :-1],
        x[:, :, 1:] - x[:, :, :-1],
        x[:, :, 1:, 1:] - x[:, :, :-1, :-1],
        x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
    )
    expected = sum(float(np.sqrt((d**2).sum())) for d in differences)
    assert total_variation(images).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("images", [torch.full((2, 3, 4, 4), 0.7), torch.rand(2, 1, 1, 1)])
def test_images_of_one_colour_do_not_vary(images: Tensor) -> None:
    images.requires_grad_()
    value = total_variation(images)
    value.backward()
    assert value.item() == 0
    assert images.grad is not None
    assert bool((images.grad == 0).all())


def test_mean_norm_by_hand() -> None:
    images = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 1.0]]]])
    assert mean_norm(images).item() == pytest.approx(3)


# -- all ----------------------------------------------------------------------------------------------------------------


TERMS: list[tuple[Term, tuple[int, ...]]] = [
    (one_hot_loss, (3, 4)),
    (information_entropy_loss, (3, 4)),
    (activation_loss, (3, 4)),
    (total_variation, (2, 2, 3, 3)),
    (mean_norm, (2, 2, 3, 3)),
    (lambda x: statistics_distance(x, torch.ones(2).double(), torch.ones(2).double()), (3, 2, 2, 2)),
    (lambda x: statistics_distance(x, torch.ones(4).double(), torch.ones(4).double()), (3, 4)),
]


@pytest.mark.parametrize(("term", "shape"), TERMS)
def test_gradients_are_those_of_finite_differences(term: Term, shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(term, (draw(*shape).requires_grad_(),))


@pytest.mark.parametrize(("term", "shape"), TERMS[:5])
def test_half_precision_is_computed_in_float32(term: Term, shape: tuple[int, ...]) -> None:
    half = draw(*shape).bfloat16()
    assert term(half).dtype == torch.float32
    assert term(half).item() == pytest.approx(term(half.double()).item(), rel=1e-5)
