"""Features computed once: their batches, their scale, and the linear layers that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undistill.data.image_set import ImageSet
from undistill.errors import NotFinite, UsageError
from undistill.models import Classifier
from undistill.models.external import Wrapped
from undistill.training.features import FeatureBatches, Scale, linear_head, read_all, read_out, write_head

MakeModel = Callable[..., Classifier]


def features(rows: int = 40, width: int = 5, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(3, 7, (rows, width)) * rng.uniform(0.5, 2, width))


def wrapped(inner: nn.Module) -> Wrapped:
    config: dict[str, Any] = {"name": "theirs", "num_classes": 4, "in_channels": 3, "image_size": 8}
    return Wrapped(inner, {**config, "mean": [0.0] * 3, "std": [1.0] * 3})


# -- scale --------------------------------------------------------------------------------------------------------------


def test_scale_is_mean_and_deviation() -> None:
    x = features()
    scale = Scale.of(x)
    np.testing.assert_allclose(scale.mean_D, x.numpy().mean(0))
    np.testing.assert_allclose(scale.std_D, x.numpy().std(0))
    np.testing.assert_allclose(scale(x), (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0))
    assert Scale.of(x.float()).std_D.dtype == torch.float32


def test_a_layer_keeps_its_outputs_in_both_directions() -> None:
    x, weight, bias = features(), features(3, seed=1), features(1, 3, seed=2)[0]
    scale = Scale.of(x)
    onto, off = scale.onto(weight, bias), scale.off(weight, bias)
    torch.testing.assert_close(scale(x) @ onto[0].T + onto[1], x @ weight.T + bias)
    torch.testing.assert_close(x @ off[0].T + off[1], scale(x) @ weight.T + bias)
    for there, back in zip(scale.off(*onto), (weight, bias), strict=True):
        torch.testing.assert_close(there, back)


def test_a_flat_feature_is_not_blown_up() -> None:
    x = features()
    x[:, 1] = 4.0
    x[:, 2] = 4.0 + 1e-9 * x[:, 0]
    z = Scale.of(x)(x)
    assert bool((z[:, 1] == 0).all())
    assert bool((z[:, 2] == 0).all())
    torch.testing.assert_close(z[:, 0].var(correction=0), torch.ones((), dtype=torch.float64))
    assert torch.equal(Scale.of(torch.ones(3, 2)).std_D, torch.zeros(2))
    assert bool((Scale.of(features(1))(features(1)) == 0).all())  # one row varies in nothing


def test_a_flat_feature_is_read_no_more_and_what_was_measured_keeps_its_outputs() -> None:
    x, weight, bias = features(), features(3, seed=1), features(1, 3, seed=2)[0]
    x[:, 1] = 4.0
    x[:, 3] = 0.0
    scale = Scale.of(x)
    onto, off = scale.onto(weight, bias), scale.off(weight, bias)
    assert bool((onto[0][:, [1, 3]] == 0).all())
    assert bool((off[0][:, [1, 3]] == 0).all())
    torch.testing.assert_close(scale(x) @ onto[0].T + onto[1], x @ weight.T + bias)
    torch.testing.assert_close(x @ off[0].T + off[1], scale(x) @ weight.T + bias)


def test_no_features_scale_bears_upon_another() -> None:
    x, factor = features(), 2.0 ** torch.tensor([-40, 0, 3, 20, 50], dtype=torch.float64)
    assert torch.equal(Scale.of(x * factor)(x * factor), Scale.of(x)(x))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_finite_end_it(wrong: float) -> None:
    x = features()
    x[3, 1] = wrong
    with pytest.raises(NotFinite, match="features are not finite"):
        Scale.of(x)


# -- batches ------------------------------------------------------------------------------------------------------------


def test_each_pass_has_each_row_once_in_an_order_of_its_own() -> None:
    x, labels = features(10), torch.arange(10)
    batches = FeatureBatches(x, labels, 4, 2, 7)
    epoch = list(batches.epoch(0))
    assert len(batches) == len(epoch) == 6
    rows = torch.cat([batch.index_B for batch in epoch])
    assert rows[:10].sort().values.tolist() == rows[10:].sort().values.tolist() == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    for batch, again in zip(epoch, batches.epoch(0), strict=True):
        assert torch.equal(batch.images_BCHW, x[batch.index_B])
        assert batch.labels_B is not None
        assert torch.equal(batch.labels_B, batch.index_B)
        assert torch.equal(batch.index_B, again.index_B)
    other = FeatureBatches(x, labels, 4, 2, 8)
    assert torch.cat([batch.index_B for batch in other.epoch(0)]).tolist() != rows.tolist()
    assert torch.cat([batch.index_B for batch in batches.epoch(1)]).tolist() != rows.tolist()


def test_batches_without_labels_have_none() -> None:
    assert [batch.labels_B for batch in FeatureBatches(features(4), None, 2, 1, 0).epoch(0)] == [None, None]


# -- networks -----------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_the_network_computes(make_model: MakeModel, images: ImageSet) -> None:
    network = make_model().train()
    features_ND, logits_NC = read_all(network, images, "cpu")
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(logits_NC, network(images.seen()))
        torch.testing.assert_close(features_ND, network.features(images.seen()))
    assert not features_ND.requires_grad
    assert not logits_NC.requires_grad


class Behind(nn.Module):
    """Does something behind its last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.linear(images.flatten(1)) + 1


def test_something_behind_the_head_is_noticed(images: ImageSet) -> None:
    with pytest.raises(UsageError, match="theirs does something behind its last linear layer"):
        read_out(wrapped(Behind()), images.seen())


def test_who_has_no_linear_head_is_told(make_model: MakeModel) -> None:
    network = make_model()
    assert linear_head(network, "it", "victim", biased=True)[1] is network.head
    headless = wrapped(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    with pytest.raises(UsageError, match="it needs a victim that ends in a linear layer; theirs does not"):
        linear_head(headless, "it", "victim")
    with pytest.raises(UsageError, match="it needs a student that ends in a linear layer; Linear does not"):
        linear_head(nn.Linear(2, 2), "it", "student")
    bare = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False)))
    assert linear_head(bare, "it", "student")[0] is bare
    with pytest.raises(UsageError, match="whose last linear layer has a bias; that of theirs has none"):
        linear_head(bare, "it", "student", biased=True)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_is_written_in_place_and_gets_its_bias(bias: bool) -> None:
    head = nn.Linear(3, 2, bias=bias).requires_grad_(False)
    weight, x = head.weight, torch.ones(1, 3)
    write_head(head, torch.full((2, 3), 2.0), torch.tensor([1.0, -1.0]))
    assert head.weight is weight
    assert head(x).tolist() == [[7.0, 5.0]]
    assert not any(parameter.requires_grad for parameter in head.parameters())
