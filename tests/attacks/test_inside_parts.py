"""What attackers who hold the weights compute: a logistic regression, a new head, a tuned copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from undistill.attacks.finetune import Finetune
from undistill.attacks.head_refit import few, logistic, refit
from undistill.attacks.insider import frozen
from undistill.data.image_set import ImageSet
from undistill.errors import NotFinite, UsageError
from undistill.models import Classifier
from undistill.models.external import Wrapped
from undistill.training.features import Scale, read_all
from undistill.training.recipe import Recipe, Training

from .test_inside_attacks import changed, same, steal

CPU = torch.device("cpu")
MakeModel = Callable[..., Classifier]


@pytest.fixture
def victim(make_model: MakeModel, images: ImageSet) -> Classifier:
    """A network whose batch normalisations have seen data."""
    model = make_model(seed=11)
    model(images.seen())
    return model.eval()


def wrapped(inner: nn.Module) -> Wrapped:
    config: dict[str, Any] = {"name": "theirs", "num_classes": 4, "in_channels": 3, "image_size": 8}
    return Wrapped(inner, {**config, "mean": [0.0] * 3, "std": [1.0] * 3})


def bare() -> Wrapped:
    """Its head has no bias."""
    return wrapped(nn.Sequential(nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 4, bias=False)))


def problem(rows: int = 60, classes: int = 3, width: int = 4) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % classes
    return torch.from_numpy(
        rng.normal(size=(classes, width))[labels] + rng.normal(size=(rows, width))
    ), torch.from_numpy(labels)


# -- a new head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
def test_the_regression_is_scikit_learns(l2: float) -> None:
    x, labels = problem()
    weight, bias = logistic(x, labels, 3, l2)
    twin = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(x.numpy(), labels.numpy())
    ours = (x @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(ours, twin.predict_proba(x.numpy()), atol=1e-5)
    np.testing.assert_allclose(weight - weight.mean(0), twin.coef_ - twin.coef_.mean(0), atol=1e-4)


def test_no_gradient_is_left_at_the_solution() -> None:
    x, labels = problem(classes=5)
    weight, bias = (part.requires_grad_() for part in logistic(x, labels, 5, 0.5))
    loss = F.cross_entropy(x @ weight.T + bias, labels, reduction="sum") + 0.25 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-4
    start = F.cross_entropy(torch.zeros(len(x), 5).double(), labels, reduction="sum")
    assert loss < 0.8 * start


def test_a_class_without_an_image_is_never_named() -> None:
    x, labels = problem()
    weight, bias = logistic(x, labels * 2, 6, 1.0)  # classes 1, 3 and 5 are missing
    probs = (x @ weight.T + bias).softmax(1)
    assert probs[:, [1, 3, 5]].max() < 1e-5
    known = logistic(x, labels, 3, 1.0)
    torch.testing.assert_close(probs[:, [0, 2, 4]], (x @ known[0].T + known[1]).softmax(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("per_class", [1, 3, 100, None])
def test_few_labels_are_as_many_of_each_class_as_there_are(per_class: int | None) -> None:
    labels = torch.tensor([0] * 5 + [2] * 8 + [3])
    rows = few(labels, per_class, 0)
    most = 100 if per_class is None else per_class
    assert labels[rows].bincount(minlength=4).tolist() == [min(most, count) for count in (5, 0, 8, 1)]
    assert rows.tolist() == sorted(set(rows.tolist())) == few(labels, per_class, 0).tolist()
    drawn = {tuple(few(labels, per_class, seed).tolist()) for seed in range(8)}
    assert (len(drawn) > 1) is (per_class in (1, 3))


@pytest.mark.parametrize("biased", [True, False])
def test_a_refitted_head_is_the_regression_on_standardised_features(
    victim: Classifier, images: ImageSet, biased: bool
) -> None:
    network = frozen(victim if biased else bare(), CPU)
    assert isinstance(network, Classifier)
    features_ND, logits_NC = read_all(network, images, CPU)
    assert isinstance(network.head, nn.Linear)
    agreement = refit(network.head, features_ND, logits_NC, images, 2, 1.0, 0)
    rows, scale = few(images.labels_N, 2, 0), Scale.of(features_ND)
    weight, bias = logistic(scale(features_ND)[rows], images.labels_N[rows], 4, 1.0)
    expected = scale(features_ND).double() @ weight.T + bias
    torch.testing.assert_close(network(images.seen()).double(), expected, atol=1e-4, rtol=1e-4)
    said = (expected.argmax(1) == logits_NC.argmax(1)).double().mean()
    assert agreement == pytest.approx(100 * said.item())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_student_learns_from_the_refitted_head_and_says_how_alike_it_is(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    terms = [record.terms for record in steal(victim, "head-refit", make_model(seed=1), images, recipe)[0]]
    assert terms[0]["refit"] == terms[1]["refit"]
    own = steal(victim, "head-refit", make_model(seed=1), images.unlabelled(), recipe)[0]
    assert own[0].terms["refit"] == 100  # its own top classes, which features that tell them apart give back
    one, all_of_them, stiff = make_model(seed=1), make_model(seed=1), make_model(seed=1)
    steal(victim, "head-refit", one, images, recipe, labels_per_class=1)
    steal(victim, "head-refit", all_of_them, images, recipe, labels_per_class=None)
    steal(victim, "head-refit", stiff, images, recipe, labels_per_class=None, l2=100.0)
    assert not same(one.state_dict(), all_of_them.state_dict())
    assert not same(stiff.state_dict(), all_of_them.state_dict())


def test_features_that_are_not_finite_end_it(make_model: MakeModel, images: ImageSet, recipe: Recipe) -> None:
    broken = make_model()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    for name in ("head-refit", "simkd"):
        with pytest.raises((NotFinite, UsageError)):
            steal(broken, name, make_model(seed=1), images, recipe)


# -- a tuned copy -------------------------------------------------------------------------------------------------------


def test_a_copy_is_tuned_by_gradient_descent_on_the_labels(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    whole = changed(recipe, batch=24, smoothing=0.1)
    records, states, _ = steal(victim, "finetune", make_model(seed=1), images, whole, epochs=1, lr=0.3)
    twin = copy.deepcopy(victim).train().requires_grad_()
    loss = F.cross_entropy(twin(images.seen()), images.labels_N, label_smoothing=0.1)
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.3 * parameter.grad)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(states[0]["modules"]["tuned"][name], value, atol=1e-5, rtol=1e-4)
    assert records[0].terms["loss"] == pytest.approx(loss.item(), rel=1e-5)
    fresh = make_model(seed=1).state_dict()
    assert same(states[0]["model"], fresh)  # the student waits
    assert not same(states[1]["model"], fresh)
    assert same(states[0]["modules"]["tuned"], states[-1]["modules"]["tuned"])


def test_tuning_comes_first_and_then_the_student(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    records, states, _ = steal(victim, "finetune", make_model(seed=1), images, recipe, epochs=3)
    assert [record.phase for record in records] == ["finetune"] * 3 + ["fit"] * 2
    assert [record.epoch for record in records] == [state["epoch"] for state in states] == [1, 2, 3, 4, 5]
    assert [record.epochs for record in records] == [3, 3, 3, 5, 5]
    assert records[0].lr == 0.01
    assert records[3].lr == 0.05


def test_a_copy_is_tuned_as_the_recipe_has_it_but_for_the_steps() -> None:
    usual = Training(epochs=50, batch=7, passes=3, clip=2.0, smoothing=0.2)
    tuned = Finetune(epochs=4, lr=0.02, momentum=0.5).training(usual)
    assert (tuned.epochs, tuned.optimizer.lr, tuned.optimizer.momentum, tuned.schedule.name) == (
        4,
        0.02,
        0.5,
        "constant",
    )
    assert (tuned.batch, tuned.passes, tuned.clip, tuned.smoothing) == (7, 3, 2.0, 0.2)


# -- refused ------------------------------------------------------------------------------------------------------------


class Headless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).flatten(1)


@pytest.mark.parametrize("name", ["head-refit", "simkd", "simkd-refit", "fitnet"])
def test_a_victim_without_a_linear_head_is_refused(
    name: str, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    with pytest.raises(UsageError, match="needs a victim that ends in a linear layer; theirs does not"):
        steal(wrapped(Headless()), name, make_model(seed=1), images, recipe)


def test_a_tuned_copy_needs_no_features(make_model: MakeModel, images: ImageSet, recipe: Recipe) -> None:
    assert len(steal(wrapped(Headless()), "finetune", make_model(seed=1), images, recipe)[0]) == 4
