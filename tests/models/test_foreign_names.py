"""Other people's weights: each one finds its place under our names, and the network then computes what theirs does."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from models.references import FOREIGN, Weights, keys
from undistill.models import MODELS, Classifier, build

each_layout = pytest.mark.parametrize("layout", FOREIGN)


def place(network: str, key: str) -> str | None:
    """Where a weight belongs: the replacement of the first pattern that matches all of its name."""
    for pattern, replacement in MODELS.classes()[network].foreign_keys:
        if found := re.fullmatch(pattern, key):
            return found.expand(replacement)
    return None


def trained(network: str, images_BCHW: Tensor) -> Classifier:
    """A narrow network in double precision and evaluation mode, whose BN is set to these images and whose weights all matter."""
    model = build(network, num_classes=5, image_size=32, width=0.25, seed=0).double()
    rng = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.momentum = 1.0  # one pass sets the running statistics
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=rng)
            nn.init.uniform_(layer.bias, -0.5, 0.5, generator=rng)
    model.train()(images_BCHW)
    return model.eval()


@each_layout
def test_every_foreign_name_finds_a_place_of_its_own(layout: str) -> None:
    network = FOREIGN[layout][0]
    with torch.device("meta"):
        ours = build(network).state_dict()
    assert sorted(str(place(network, key)) for key in keys(layout)) == sorted(ours)


@each_layout
def test_only_one_pattern_knows_a_name(layout: str) -> None:
    patterns = [pattern for pattern, _ in MODELS.classes()[FOREIGN[layout][0]].foreign_keys]
    assert not [key for key in keys(layout) if sum(bool(re.fullmatch(pattern, key)) for pattern in patterns) != 1]


@pytest.mark.parametrize("network", sorted({network for network, _, _ in FOREIGN.values()}))
def test_names_of_ours_are_nobody_elses(network: str) -> None:
    with torch.device("meta"):
        assert not [key for key in build(network).state_dict() if place(network, key) is not None]


@pytest.mark.parametrize(
    "key", ["layer5.0.conv1.weight", "layer1.0.conv1", "xconv1.weight", "conv1.weight.more", "fc2.bias"]
)
def test_names_of_another_network_find_no_place(key: str) -> None:
    assert place("resnet18", key) is None


@each_layout
@torch.no_grad()
def test_the_same_weights_give_the_authors_logits(layout: str) -> None:
    network, _, reference = FOREIGN[layout]
    images_BCHW = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = trained(network, images_BCHW)
    ours = model.state_dict()
    weights = Weights({key: ours[str(place(network, key))] for key in keys(layout)})
    logits_BC = model(images_BCHW)
    assert logits_BC.std(dim=0).min() > 0.01  # a network that ignores its images would compare nothing
    torch.testing.assert_close(reference(weights, images_BCHW), logits_BC, rtol=1e-9, atol=1e-9)
    assert weights.used == {key for key in keys(layout) if not key.endswith("num_batches_tracked")}
