"""The 7×7 stem of photos, against PyTorch's functions called one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from undistill.models import build
from undistill.models.base import MODELS


def test_a_7x7_stem_takes_photos_to_a_quarter_of_their_side() -> None:
    network = build(MODELS.make({"name": "resnet18", "stem": "7x7", "width": 0.125}), 5, 3, 32, seed=0).eval()
    images = torch.rand(2, 3, 32, 32)
    weights = network.state_dict()
    hidden = F.conv2d(images, weights["body.0.0.weight"], stride=2, padding=3)
    hidden = F.relu(hidden / (1 + 1e-5) ** 0.5)  # fresh batch norm: mean 0, variance 1
    torch.testing.assert_close(network.stages(images)[0], F.max_pool2d(hidden, 3, 2, 1))
    assert network.stages(images)[0].shape == (2, 8, 8, 8)


def test_a_large_resnet18_has_the_weights_of_he_et_al() -> None:
    network = build(MODELS.make({"name": "resnet18", "stem": "7x7"}), 1000, 3, 64)
    assert (
        sum(p.numel() for p in network.parameters()) == 11_689_512
    )  # He et al. 2016, table 1; as published with weights


def test_the_stem_survives_its_config() -> None:
    network = build(MODELS.make({"name": "resnet50", "stem": "7x7", "width": 0.125}), 5, 3, 64, seed=0)
    assert network.config["stem"] == "7x7"
    assert network.state_dict()["body.0.0.weight"].shape[2:] == (7, 7)
