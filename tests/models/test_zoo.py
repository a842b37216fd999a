"""The paper's networks: their sizes, their parts, and what they take."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.models import MODELS, Classifier, build

# Weights by classes, and millions of multiply-adds of convolutions and linear layers for one image of 32 × 32 pixels in the
# classes of its data set (the printed digits are those of 100 classes; the CNN's of 10): Ma et al. 2021 and the authors' code.
PAPER: dict[str, tuple[dict[int, int], int, str]] = {
    "cnn": ({10: 357_514}, 10, "10.6"),
    "resnetc20": ({10: 272_282, 100: 278_132, 200: 284_632}, 100, "40.8"),
    "resnetc32": ({10: 466_714, 100: 472_564, 200: 479_064}, 100, "69.1"),
    "resnet18": ({10: 11_173_962, 100: 11_220_132, 200: 11_271_432}, 100, "555"),
    "resnet34": ({10: 21_282_122, 100: 21_328_292}, 100, "1159"),
    "resnet50": ({10: 23_520_842, 100: 23_705_252, 200: 23_910_152}, 100, "1298"),
    "resnext29": ({10: 34_426_698, 100: 34_518_948, 200: 34_621_448}, 100, "5387"),
    "shufflenetv2": ({10: 1_268_646, 100: 1_360_896, 200: 1_463_396}, 100, "43.7"),
    "mobilenetv2": ({10: 2_254_090, 100: 2_369_380, 200: 2_497_480}, 100, "64.9"),
}
SIZES = [(name, classes, count) for name, (counts, _, _) in PAPER.items() for classes, count in counts.items()]
# Channels and side of the map behind each stage, at 32 pixels.
MAPS: dict[str, list[tuple[int, int]]] = {
    "cnn": [(32, 16), (64, 8), (128, 4)],
    "resnetc20": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "resnetc32": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "resnet18": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
    "resnet34": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
    "resnet50": [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)],
    "resnext29": [(64, 32), (256, 32), (512, 16), (1024, 8)],
    "shufflenetv2": [(24, 32), (116, 16), (232, 8), (464, 4)],
    "mobilenetv2": [(32, 34), (16, 34), (24, 17), (32, 9), (64, 5), (96, 5), (160, 5), (320, 5)],
}
FEATURES = {"cnn": 128, "resnetc20": 64, "resnetc32": 64, "resnet18": 512, "resnet34": 512, "resnet50": 2048}
FEATURES |= {"resnext29": 1024, "shufflenetv2": 1024, "mobilenetv2": 1280}
each_name = pytest.mark.parametrize("name", PAPER)


@cache
def weightless(name: str, **settings: Any) -> Classifier:
    with torch.device("meta"):
        return build(name, **settings).eval()


def narrow(name: str, **settings: Any) -> Classifier:
    return build(name, **{"num_classes": 5, "width": 0.25, "seed": 0} | settings)


def look(size: int = 32, channels: int = 3, count: int = 2) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def multiply_adds(model: nn.Module, images_BCHW: Tensor) -> int:
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += output.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    model(images_BCHW)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(("name", "classes", "count"), SIZES)
def test_sizes_are_the_papers(name: str, classes: int, count: int) -> None:
    assert sum(p.numel() for p in weightless(name, num_classes=classes).parameters()) == count


@each_name
def test_multiply_adds_are_the_papers(name: str) -> None:
    _, classes, printed = PAPER[name]
    found = multiply_adds(weightless(name, num_classes=classes), torch.empty(1, 3, 32, 32, device="meta"))
    assert f"{found / 1e6:.{len(printed.partition('.')[2])}f}" == printed


@each_name
def test_stages_are_the_papers(name: str) -> None:
    model, images_BCHW = weightless(name, num_classes=10), torch.empty(2, 3, 32, 32, device="meta")
    assert [(m.shape[1], m.shape[2]) for m in model.stages(images_BCHW)] == MAPS[name]
    assert model.features(images_BCHW).shape == (2, FEATURES[name])
    assert isinstance(model.head, nn.Linear)


@each_name
@pytest.mark.parametrize(("size", "channels"), [(33, 1), (64, 3)])
@torch.no_grad()
def test_any_size_and_colour_gives_logits_through_the_head(name: str, size: int, channels: int) -> None:
    model = narrow(name, image_size=size, in_channels=channels, width=0.125).eval()
    logits_BC = model(look(size, channels))
    assert logits_BC.shape == (2, 5)
    assert not torch.equal(logits_BC[0], logits_BC[1])
    assert torch.equal(model.head(model.features(look(size, channels))), logits_BC)


@each_name
def test_large_images_are_taken(name: str) -> None:
    model = weightless(name, image_size=224)
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 10)


@each_name
def test_the_images_size_changes_no_weight_where_features_are_pooled(name: str) -> None:
    small, large = ({key: w.shape for key, w in narrow(name, image_size=s).state_dict().items()} for s in (32, 64))
    assert (small == large) == (name != "cnn")  # the CNN flattens its last map


@each_name
@pytest.mark.parametrize("width", [0.001, 0.25, 0.37])
@torch.no_grad()
def test_every_small_width_can_be_built_and_run(name: str, width: float) -> None:
    model = narrow(name, width=width).eval()
    assert model(look()).shape == (2, 5)
    assert model.head.in_features == pytest.approx(FEATURES[name] * width, abs=2)


@each_name
def test_twice_the_width_can_be_built_and_run(name: str) -> None:
    model = weightless(name, width=2)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert model.head.in_features == FEATURES[name] * 2


@pytest.mark.parametrize("width", [0.001, 0.25, 0.37, 2])
def test_a_resnext_always_has_eight_groups(width: float) -> None:
    layers = [m for m in weightless("resnext29", width=width).modules() if isinstance(m, nn.Conv2d)]
    assert [conv.groups for conv in layers if conv.kernel_size == (3, 3)] == [1, *[8] * 9]


def test_residuals_of_a_mobilenet_do_not_depend_on_its_width() -> None:
    counts = [
        [getattr(m, "residual", None) for m in weightless("mobilenetv2", width=width).modules()] for width in (1, 0.001)
    ]
    assert counts[0] == counts[1]
    assert counts[0].count(True) == 10


@each_name
def test_two_images_of_the_smallest_size_train(name: str) -> None:
    smallest = MODELS.make(name).smallest
    model = narrow(name, image_size=smallest).train()
    loss = nn.functional.cross_entropy(model(look(smallest)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_name
def test_a_gradient_moves_every_weight(name: str) -> None:
    # In evaluation mode, where a bias in front of batch normalisation matters too.
    model = narrow(name, image_size=16, width=0.125).eval()
    model(look(16, count=4)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@each_name
def test_weights_keep_the_plain_memory_format(name: str) -> None:
    # torch 2.13 on CPUs corrupts memory in narrow convolutions with channels-last weights.
    assert all(p.is_contiguous() for p in narrow(name).parameters())
