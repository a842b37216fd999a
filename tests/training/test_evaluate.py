"""Predictions and scores against NumPy and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from undistill.data.image_set import ImageSet
from undistill.models import Classifier
from undistill.training.evaluate import accuracy, ece, predict, score


def draw(count: int = 200, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    logits_NC = torch.from_numpy(rng.normal(0, 2, (count, classes)).astype(np.float32))
    return logits_NC, torch.from_numpy(rng.integers(0, classes, count))


def twin_ece(probs_NC: NDArray[Any], labels_N: NDArray[Any]) -> float:
    total = 0.0
    confidence, right = probs_NC.max(axis=1), probs_NC.argmax(axis=1) == labels_N
    for low in range(15):
        inside = (confidence >= low / 15) & ((confidence < (low + 1) / 15) | (low == 14))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * float(total)


def test_predictions_are_the_models_in_evaluation_mode(images: ImageSet, make_model: Callable[..., Classifier]) -> None:
    model = make_model().train()
    logits_NC = predict(model, images)
    expected = make_model().eval()(images.images_NCHW[:].float() / 255)
    assert torch.equal(logits_NC, expected)


@pytest.mark.parametrize("mode", [True, False])
def test_predicting_changes_neither_mode_nor_statistics(
    images: ImageSet, make_model: Callable[..., Classifier], mode: bool
) -> None:
    model = make_model().train(mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, images)
    assert model.training is mode
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_mode_is_put_back_after_an_error(images: ImageSet, make_model: Callable[..., Classifier]) -> None:
    model = make_model().train()
    model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, images)
    assert model.training


def test_predictions_do_not_depend_on_the_batch(images: ImageSet, make_model: Callable[..., Classifier]) -> None:
    torch.testing.assert_close(predict(make_model(), images, batch=5), predict(make_model(), images))


def test_predictions_are_ordinary_float32_tensors(images: ImageSet, make_model: Callable[..., Classifier]) -> None:
    logits_NC = predict(make_model(), images)
    assert logits_NC.dtype == torch.float32
    assert not logits_NC.requires_grad
    assert not logits_NC.is_inference()


def test_accuracy_is_percent_of_all_samples() -> None:
    logits_NC = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert accuracy(logits_NC, torch.tensor([0, 1, 1])) == pytest.approx(200 / 3)


def test_nll_equals_scipys() -> None:
    logits_NC, labels_N = draw()
    expected = -log_softmax(logits_NC.double().numpy(), axis=1)[np.arange(200), labels_N.numpy()].mean()
    assert score(logits_NC, labels_N).nll == pytest.approx(expected, rel=1e-6)


def test_ece_equals_the_twin() -> None:
    logits_NC, labels_N = draw()
    expected = twin_ece(softmax(logits_NC.double().numpy(), axis=1), labels_N.numpy())
    assert ece(logits_NC, labels_N) == pytest.approx(expected, rel=1e-9)


def test_a_calibrated_model_has_no_error() -> None:
    logits_NC = torch.tensor([[math.log(3), 0.0]] * 4)
    assert ece(logits_NC, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-5)


def test_a_model_that_is_sure_and_wrong_has_all_the_error() -> None:
    assert ece(torch.tensor([[50.0, 0.0]] * 4), torch.ones(4).long()) == pytest.approx(100)


def test_a_score_names_all_three() -> None:
    logits_NC, labels_N = draw()
    scores = score(logits_NC, labels_N)
    assert scores.accuracy == accuracy(logits_NC, labels_N)
    assert scores.ece == ece(logits_NC, labels_N)
