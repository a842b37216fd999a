"""Students of features: the objectives, the folded head, and who cannot play."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.feature_kd import FitNet, SimKD, folded, fresh_adapter
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access
from undistill.training.features import Scale, read_all
from undistill.training.recipe import Recipe
from undistill.types import Batch

from .test_inside_attacks import steal
from .test_inside_parts import CPU, Headless, MakeModel, bare, wrapped


@pytest.fixture
def victim(make_model: MakeModel, images: ImageSet) -> Classifier:
    """A network whose batch normalisations have seen data."""
    model = make_model(seed=11)
    model(images.seen())
    return model.eval()


# -- computed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
def test_adapter_and_classifier_are_one_layer(images: ImageSet, biased: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    scale = Scale.of(torch.randn(20, 6, generator=rng) * 3 + 2)
    adapter, head = fresh_adapter(5, 6, 0), nn.Linear(6, 4, bias=biased)
    s = torch.randn(7, 5, generator=rng)
    weight, bias = folded(adapter, head, scale)
    torch.testing.assert_close(s @ weight.T + bias, head(adapter(s) * scale.std_D + scale.mean_D))
    assert weight.shape == (4, 5)


def test_the_students_head_is_adapter_and_victims_classifier(
    victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    student = make_model(seed=1, role="thief")
    _, states, _ = steal(victim, "simkd", student, images, recipe)
    scale, adapter = Scale.of(read_all(victim, images, CPU)[0]), fresh_adapter(16, 16, 0)
    for state in states:
        student.load_state_dict(state["model"])
        adapter.load_state_dict(state["modules"]["adapter"])
        s = student.eval().features(images.seen())
        through = victim.head(adapter(s) * scale.std_D + scale.mean_D)
        torch.testing.assert_close(student(images.seen()), through, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("labels_B", [torch.tensor([3, 3, 1, 0]), None])
def test_the_objectives_are_those_that_are_written(
    victim: Classifier, make_model: MakeModel, images: ImageSet, labels_B: Tensor | None
) -> None:
    pixels = images.seen(slice(0, 4))
    oracle, student, adapter = Oracle(victim, Access.WEIGHTS), make_model(seed=1).eval(), fresh_adapter(16, 16, 3)
    with torch.no_grad():
        t, s = victim.features(pixels).numpy(), student.features(pixels).numpy()
        said, given = victim(pixels).numpy().argmax(1), student(pixels).double().log_softmax(1).numpy()
    scale = Scale(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    z = (t - scale.mean_D.numpy()) / scale.std_D.numpy()
    adapted = s @ adapter.weight.detach().numpy().T + adapter.bias.detach().numpy()
    match = ((adapted - z) ** 2).mean()
    named = victim.head(torch.from_numpy(adapted * scale.std_D.numpy() + scale.mean_D.numpy())).detach().numpy()
    batch = Batch(pixels, labels_B, torch.arange(4), 0)
    terms = SimKD(oracle, victim, scale, {"adapter": adapter}, 2.5)(student, batch)
    assert terms["match"].item() == pytest.approx(match, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(2.5 * match, rel=1e-4)
    assert terms["agreement"].item() == pytest.approx(100 * (named.argmax(1) == said).mean())
    labels = said if labels_B is None else labels_B.numpy()
    ce = -given[np.arange(4), labels].mean()
    terms = FitNet(oracle, victim, scale, {"adapter": adapter}, 2.5)(student, batch)
    assert terms["loss"].item() == pytest.approx(ce + 2.5 * match, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(ce, rel=1e-4)
    assert terms["agreement"].item() == pytest.approx(100 * (given.argmax(1) == said).mean())
    assert oracle.forwards == 8


@pytest.mark.parametrize("name", ["simkd", "fitnet"])
def test_a_victim_whose_features_differ_in_scale_gains_nothing(
    name: str, victim: Classifier, make_model: MakeModel, images: ImageSet, recipe: Recipe
) -> None:
    disguised, factor = copy.deepcopy(victim), 2.0 ** torch.arange(-8, 8)
    norm: Any = disguised.neck[2]  # type: ignore[index]
    with torch.no_grad():
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
        disguised.head.weight.div_(factor)  # type: ignore[operator]
    torch.testing.assert_close(disguised(images.seen()), victim(images.seen()))
    one, two = make_model(seed=1), make_model(seed=1)
    steal(victim, name, one, images, recipe)
    steal(disguised, name, two, images, recipe)
    torch.testing.assert_close(one.eval()(images.seen()), two.eval()(images.seen()), atol=1e-3, rtol=1e-3)


# -- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simkd", "simkd-refit", "fitnet"])
def test_a_student_without_a_linear_head_is_refused(
    name: str, victim: Classifier, images: ImageSet, recipe: Recipe
) -> None:
    with pytest.raises(UsageError, match="feature-kd needs a student that ends in a linear layer; theirs does not"):
        steal(victim, name, wrapped(Headless()), images, recipe)


def test_a_student_whose_head_has_no_bias_can_learn_as_a_fitnet_alone(
    victim: Classifier, images: ImageSet, recipe: Recipe
) -> None:
    with pytest.raises(UsageError, match="whose last linear layer has a bias; that of theirs has none"):
        steal(victim, "simkd", bare(), images, recipe)
    assert len(steal(victim, "fitnet", bare(), images, recipe)[0]) == 2
