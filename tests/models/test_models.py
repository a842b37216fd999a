"""Networks: the paper's sizes, named parts, weights by address."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from undistill.errors import UsageError
from undistill.models import MODELS, Classifier, build
from undistill.models.base import from_config

# parameters by classes, millions of multiply-adds at 32 × 32 pixels: Ma et al. 2021 and the authors' code
PAPER: dict[str, tuple[dict[int, int], float]] = {
    "cnn": ({10: 357_514}, 10.6),
    "resnetc20": ({10: 272_282, 100: 278_132, 200: 284_632}, 40.8),
    "resnetc32": ({10: 466_714, 100: 472_564, 200: 479_064}, 69.1),
    "resnet18": ({10: 11_173_962, 100: 11_220_132, 200: 11_271_432}, 555),
}
SIZES = [(name, classes, count) for name, (counts, _) in PAPER.items() for classes, count in counts.items()]
STAGES = {"cnn": 3, "resnetc20": 4, "resnetc32": 4, "resnet18": 5}
each_name = pytest.mark.parametrize("name", MODELS.classes())


def weightless(name: str, **settings: Any) -> Classifier:
    with torch.device("meta"):
        return build(name, **settings).eval()


def small(name: str, **settings: Any) -> Classifier:
    return build(name, **{"num_classes": 4, "image_size": 8, "width": 0.125, "seed": 0} | settings).eval()


def look(channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def head(model: Classifier) -> nn.Linear:
    assert isinstance(model.head, nn.Linear)
    return model.head


def multiply_adds(model: nn.Module, images: torch.Tensor) -> int:
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    for layer in model.modules():
        layer.register_forward_hook(count)
    model(images)
    return total


@pytest.mark.parametrize(("name", "classes", "count"), SIZES)
def test_sizes_are_the_papers(name: str, classes: int, count: int) -> None:
    assert sum(p.numel() for p in weightless(name, num_classes=classes).parameters()) == count


@pytest.mark.parametrize("name", PAPER)
def test_multiply_adds_are_the_papers(name: str) -> None:
    found = multiply_adds(build(name, seed=0).eval(), torch.zeros(1, 3, 32, 32))
    assert found / 1e6 == pytest.approx(PAPER[name][1], rel=0.01)


@pytest.mark.parametrize("name", PAPER)
def test_stages_are_the_groups_of_the_paper(name: str) -> None:
    assert len(small(name).stages(look())) == STAGES[name]


@each_name
def test_logits_are_the_head_of_the_features(name: str) -> None:
    model = small(name)
    features = model.features(look())
    assert features.shape == (2, head(model).in_features)
    assert torch.equal(model(look()), model.head(features))


@each_name
def test_features_are_the_neck_of_the_last_stage(name: str) -> None:
    model = small(name)
    assert torch.equal(model.features(look()), model.get_submodule("neck")(model.stages(look())[-1]))


@each_name
@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_of_any_size_give_logits(name: str, channels: int, size: int) -> None:
    logits = small(name, in_channels=channels, image_size=size)(look(channels, size))
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()


@each_name
def test_width_scales_the_channels(name: str) -> None:
    full, half = (weightless(name, width=width) for width in (1.0, 0.5))
    assert head(half).in_features * 2 == head(full).in_features
    weights = [sum(p.numel() for p in model.parameters()) for model in (half, full)]
    assert weights[0] / weights[1] == pytest.approx(0.25, abs=0.02)


@each_name
def test_the_thinnest_network_keeps_a_channel(name: str) -> None:
    assert small(name, width=0.001)(look()).shape == (2, 4)


@each_name
def test_normalisation_is_inside(name: str) -> None:
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)
    by_hand = (look() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(small(name, mean=mean, std=std)(look()), small(name)(by_hand))


@each_name
def test_normalisation_is_no_weight(name: str) -> None:
    assert not [key for key in small(name, mean=(0.5,) * 3, std=(0.5,) * 3).state_dict() if "mean" in key.split(".")]


@each_name
def test_the_same_address_gives_the_same_weights(name: str) -> None:
    for one, two in zip(small(name, seed=3).parameters(), small(name, seed=3).parameters(), strict=True):
        assert torch.equal(one, two)


@each_name
@pytest.mark.parametrize("other", [{"seed": 4}, {"role": "thief"}, {"role": "nasty"}])
def test_another_address_gives_other_weights(name: str, other: dict[str, Any]) -> None:
    first, second = small(name, seed=3).state_dict(), small(name, **{"seed": 3} | other).state_dict()
    drawn = [key for key, weight in first.items() if weight.ndim > 1 and len(weight.unique()) > 3]  # 0, 1: handed on
    assert drawn
    assert not [key for key in drawn if torch.equal(first[key], second[key])]


@each_name
def test_weights_by_address_leave_the_global_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    small(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_without_an_address_come_from_the_global_random_state() -> None:
    torch.manual_seed(0)
    first, second = (head(small("cnn", seed=None)).weight for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(head(small("cnn", seed=None)).weight, first)
    assert not torch.equal(first, second)


@each_name
def test_a_config_rebuilds_its_network(name: str) -> None:
    model = small(name, in_channels=1, mean=(0.5,), std=(0.25,))
    twin = from_config(model.config).eval()
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    assert torch.equal(twin(look(1)), model(look(1)))


def test_a_config_that_lacks_something_is_refused_by_name() -> None:
    config = small("cnn").config
    del config["mean"], config["std"]
    with pytest.raises(UsageError, match=r"the model's config\.json lacks mean, std"):
        from_config(config)


def test_a_config_holds_only_what_json_can() -> None:
    config = small("cnn", mean=(torch.tensor(0.5),) * 3).config
    assert all(isinstance(value, str | int | float | list) for value in config.values())
    assert all(type(value) is float for value in config["mean"])


@each_name
def test_every_weight_is_reached_by_a_gradient(name: str) -> None:
    model = small(name).train()
    model(torch.rand(4, 3, 8, 8)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "resnet81"}, "no model called 'resnet81'; did you mean resnet18?"),
        ({"num_classes": 1}, "a classifier needs at least 2 classes, not 1"),
        ({"in_channels": 4}, "images have 1 or 3 channels, not 4"),
        ({"image_size": 7}, "cnn needs images of at least 8 pixels, not 7"),
        ({"width": 0}, "model cnn: width: "),
        ({"width": 17}, "model cnn: width: "),
    ],
)
def test_what_cannot_be_built_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        build(**{"name": "cnn"} | settings)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,) * 3, (0.5,) * 3), ((0.5,), (0.0,))])
def test_moments_that_do_not_fit_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    try:
        model = build("cnn", in_channels=1, image_size=8, mean=mean, std=std, seed=0).eval()
    except UsageError:
        return
    assert model(look(1)).isfinite().all()
