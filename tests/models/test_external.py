"""Networks that others wrote: made of code that somebody trusted, wrapped, tried, and built again from their config."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill import plugins
from undistill.errors import RunError, UsageError
from undistill.models import MODELS, Classifier, build
from undistill.models import model_folder as folder
from undistill.models.base import from_config
from undistill.models.external import IMAGENET, LOADING, External, Wrapped

NETWORKS = """
import torch
from torch import nn


def _body(in_channels, image_size, num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, 6), nn.ReLU(), nn.Linear(6, num_classes))


def whole(num_classes, in_channels, image_size):
    return _body(in_channels, image_size, num_classes)


def classes_alone(num_classes):
    return _body(3, 8, num_classes)


def keywords(**told):
    made = _body(told["in_channels"], told["image_size"], told["num_classes"])
    made.told = told
    return made


def hidden(num_classes, hidden=6, fail=False):
    if fail:
        raise OSError("no such luck")
    return nn.Sequential(nn.Flatten(), nn.Linear(192, hidden), nn.Linear(hidden, num_classes))


def nothing():
    return {}


def five():
    return _body(3, 8, 5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, images):
        return images, images


class auxiliary(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = _body(3, 8, num_classes)

    def forward(self, images):
        logits = self.body(images)
        return (logits, logits) if self.training else logits


def convolutional(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def sixteen(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))


def twice(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes), nn.ReLU(), nn.Linear(num_classes, num_classes))


def over_maps(num_classes):
    return nn.Sequential(nn.Linear(8, num_classes), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Identity(),
                         Cut(num_classes))


class Cut(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return torch.cat([x, x], 1)[:, : self.count]


dropout = lambda num_classes: nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
VALUE = 3
"""


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file of factories."""
    (tmp_path / "factories.py").write_text(NETWORKS)
    return str(tmp_path / "factories.py")


def made(name: str, classes: int = 4, channels: int = 3, size: int = 8, **settings: Any) -> Wrapped:
    plugins.trust(name)
    network = build(MODELS.make({"name": name, **settings}), classes, channels, size, seed=0)
    assert isinstance(network, Wrapped)
    return network.eval()


def look(channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand(5, channels, size, size, generator=torch.Generator().manual_seed(0))


# -- factories ----------------------------------------------------------------------------------------------------------


def test_a_factory_is_a_callable_of_a_file(file: str) -> None:
    assert made(f"{file}:whole", 4, 1, 9)(look(1, 9)).shape == (5, 4)


def test_a_factory_is_a_callable_of_a_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factory_package").mkdir()
    (tmp_path / "factory_package" / "networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    assert made("factory_package.networks:whole")(look()).shape == (5, 4)


def test_a_factory_is_told_what_it_has_parameters_for_and_no_more(file: str) -> None:
    assert made(f"{file}:classes_alone")(look()).shape == (5, 4)
    assert made(f"{file}:five", classes=5)(look()).shape == (5, 5)
    assert made(f"{file}:keywords").inner.told == {"num_classes": 4, "in_channels": 3, "image_size": 8}


def test_arguments_are_handed_on_and_written_down(file: str) -> None:
    network = made(f"{file}:hidden", arguments={"hidden": 9})
    assert network.features(look()).shape == (5, 9)
    assert network.config["arguments"] == {"hidden": 9}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("hidden", {"arguments": {"depth": 2}}, "cannot be made: TypeError: .*depth"),
        ("hidden", {"arguments": {"num_classes": 7}}, "cannot be made: TypeError: .*num_classes"),
        ("hidden", {"arguments": {"fail": True}}, "cannot be made: OSError: no such luck$"),
        ("nothing", {}, "makes no nn.Module but a dict"),
        ("five", {}, r"answers two images with \(2, 5\), not with 2 × 4 logits"),
        ("Pair", {}, "answers two images with tuple, not with 2 × 4 logits"),
        ("sixteen", {}, "cannot take 3 × 8 × 8 pixels .*its setting resize gives them the size it wants"),
        ("VALUE", {}, "has no callable 'VALUE'"),
        ("absent", {}, "has no callable 'absent'"),
    ],
)
def test_a_factory_that_makes_no_classifier_is_refused_in_a_sentence(
    file: str, name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        made(f"{file}:{name}", **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["no/such.py:net", "no_such_package.networks:net", "torch.no_such:net"])
def test_code_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"no/such\.py|no_such"):
        made(name)


def test_a_file_that_fails_while_it_is_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UsageError, match=r"broken\.py fails while it is imported: ZeroDivisionError"):
        made(f"{tmp_path}/broken.py:net")


@pytest.mark.parametrize("name", ["timm:", "torchvision:", "a:b:c", "module:", "module:not-a-name"])
def test_a_name_that_is_no_network_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="model"):
        MODELS.make(name)


def test_weights_of_a_factory_come_from_the_seed_and_leave_the_global_generator_alone(file: str) -> None:
    before = torch.get_rng_state()
    first, second = (made(f"{file}:whole").state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# -- the wrapping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["whole", "hidden", "twice", "dropout"])
def test_logits_are_the_head_of_the_features(file: str, name: str) -> None:
    network = made(f"{file}:{name}")
    assert torch.equal(network.head(network.features(look())), network(look()))


def test_the_head_is_the_last_linear_layer_with_an_output_for_each_class(file: str) -> None:
    network = made(f"{file}:twice")
    assert network.head is network.get_submodule("inner.3")


def test_a_module_without_a_linear_head_answers_but_has_no_features(file: str) -> None:
    network = made(f"{file}:convolutional")
    assert network(look()).shape == (5, 4)
    with pytest.raises(UsageError, match="convolutional ends in no linear layer of 4 outputs"):
        network.features(look())


def test_a_linear_layer_over_maps_gives_no_features(file: str) -> None:
    network = made(f"{file}:over_maps")
    with pytest.raises(UsageError, match="reads no B × D features"):
        network.features(look())


def test_a_foreign_module_names_no_stages(file: str) -> None:
    with pytest.raises(UsageError, match="names no stages"):
        made(f"{file}:whole").stages(look())


def test_features_leave_no_hook_behind(file: str) -> None:
    network = made(f"{file}:whole")
    network.features(look())
    assert not network.head._forward_pre_hooks


def test_grey_images_are_given_thrice_to_a_module_that_takes_colour_alone(file: str) -> None:
    network = made(f"{file}:dropout", channels=1)
    assert torch.equal(network(look(1)), network.inner(look(1).repeat(1, 3, 1, 1)))


def test_colour_images_are_given_as_they_are(file: str) -> None:
    network = made(f"{file}:dropout")
    assert torch.equal(network(look()), network.inner(look()))


def test_normalisation_comes_first(file: str) -> None:
    name = f"{file}:whole"
    plugins.trust(name)
    network = build(name, 4, 3, 8, mean=[0.1, 0.2, 0.3], std=[0.5, 0.4, 0.3], seed=0).eval()
    mean_C, std_C = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    assert torch.allclose(network(look()), network.get_submodule("inner")((look() - mean_C) / std_C), atol=1e-6)


def test_a_module_that_answers_with_more_while_it_is_trained_is_refused_there(file: str) -> None:
    network = made(f"{file}:auxiliary")
    assert network(look()).shape == (5, 4)
    with pytest.raises(UsageError, match="auxiliary answers with a tuple in training, not with logits alone; switch"):
        network.train()(look())


def test_resize_gives_a_network_the_size_it_wants(file: str) -> None:
    network = made(f"{file}:sixteen", resize=16)
    larger = nn.functional.interpolate(look(), (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(network(look()), network.inner(larger))
    assert network.config["image_size"] == 8


def test_a_size_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(UsageError, match="resize"):
        MODELS.make({"name": "module:net", "resize": 10**6})


def test_the_head_is_saved_once(file: str) -> None:
    assert list(made(f"{file}:whole").state_dict()) == [
        f"inner.{layer}.{part}" for layer in (1, 3) for part in ("weight", "bias")
    ]


def test_a_deep_copy_keeps_head_and_inside_the_same_layer(file: str) -> None:
    network = made(f"{file}:whole")
    twin = copy.deepcopy(network)
    assert twin.head is twin.get_submodule("inner.3")
    assert twin.head is not network.head
    before = network(look())
    with torch.no_grad():
        for parameter in twin.head.parameters():
            parameter.zero_()
    assert torch.equal(twin(look()), torch.zeros(5, 4))
    assert torch.equal(network(look()), before)


def test_trying_a_network_leaves_its_mode_and_statistics_alone(file: str) -> None:
    name = f"{file}:dropout"
    plugins.trust(name)
    network = build(name, 4, 3, 8, seed=0)
    assert network.training
    assert int(network.state_dict()["inner.1.num_batches_tracked"]) == 0


# -- built again --------------------------------------------------------------------------------------------------------


def test_a_config_builds_the_network_again(file: str) -> None:
    network = made(f"{file}:hidden", arguments={"hidden": 9}, resize=8)
    twin = from_config(json.loads(json.dumps(network.config))).eval()
    assert twin.config == network.config
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(look()), network(look()))


def test_a_model_folder_keeps_a_foreign_network(file: str, tmp_path: Path) -> None:
    network = made(f"{file}:dropout")
    folder.save(tmp_path / "model", network, None, "")
    found, names = folder.read(tmp_path / "model")
    assert names is None
    assert torch.equal(found(look()), network(look()))


# -- trust --------------------------------------------------------------------------------------------------------------


def name_in_config(path: Path, name: str) -> Path:
    network = {**build("cnn", 4, 3, 8, 0.125, seed=0).config, "name": name, "width": 1}
    folder.save(path, build("cnn", 4, 3, 8, 0.125, seed=0), None, "")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "network": network}))
    return path


def test_a_config_that_names_code_is_refused_and_nothing_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    monkeypatch.setattr(os, "abort", lambda: called.append(1))
    model = name_in_config(tmp_path / "model", "os:abort")
    with pytest.raises(RunError, match=r"os:abort is code, and only a file asks for it; .* add --trust os:abort"):
        folder.read(model)
    assert called == []
    plugins.trust("os:abort")
    with pytest.raises(RunError, match=r"makes no nn\.Module"):
        folder.read(model)
    assert called == [1]  # the control: trust is what was missing


@pytest.mark.parametrize("form", ["side_effects:net", "{folder}/side_effects.py:net"])
def test_code_that_only_a_file_names_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    traces = tmp_path / "imported"
    (tmp_path / "side_effects.py").write_text(f"open({str(traces)!r}, 'w').close()\n{NETWORKS}\nnet = whole")
    monkeypatch.chdir(tmp_path)
    name = form.format(folder=tmp_path)
    model = name_in_config(tmp_path / "model", name)
    for trusted in ("side_effects:whole", "side_effects", f"{tmp_path}/side_effects.py", "os:abort"):
        plugins.trust(trusted)  # the very name is what must be trusted
    with pytest.raises(RunError, match="is code, and only a file asks for it"):
        folder.read(model)
    assert not traces.exists()
    plugins.trust(name)
    with pytest.raises(RunError, match="do not fit"):
        folder.read(model)
    assert traces.exists()
    monkeypatch.delitem(sys.modules, "side_effects", raising=False)


@pytest.mark.parametrize("argument", sorted(LOADING))
@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "module:net"])
def test_arguments_that_would_load_weights_are_refused(name: str, argument: str) -> None:
    with pytest.raises(UsageError, match=f"'{argument}' loads weights; give them with --weights instead"):
        MODELS.make({"name": name, "arguments": {argument: "/tmp/weights.pth"}})


# -- timm and torchvision -----------------------------------------------------------------------------------------------

Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A timm and a torchvision that know `tiny`, and note what they are asked to make."""
    asked: Calls = []

    def make(name: str, **told: Any) -> nn.Module:
        asked.append((name, told))
        channels = told.get("in_chans", 3)
        return nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, told["num_classes"])
        )

    cfgs = {"tiny": SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))}
    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    timm.__dict__.update(
        is_model=lambda name: name in ("tiny", "bare"),
        create_model=make,
        models=SimpleNamespace(get_pretrained_cfg=lambda name: cfgs.get(name.partition(".")[0])),
    )
    torchvision.__dict__["models"] = SimpleNamespace(list_models=lambda module: ["tiny"], get_model=make)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    return asked


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_what_is_not_installed_says_how_to_get_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"^{package} is not installed: pip install 'undistill\[vision\]'$"):
        build(f"{package}:resnet18", 4, 3, 8)


def test_timm_is_told_classes_channels_and_arguments(calls: Calls) -> None:
    network = made("timm:tiny.some_tag", channels=1, arguments={"drop_rate": 0.1})
    assert calls == [("tiny.some_tag", {"num_classes": 4, "in_chans": 1, "drop_rate": 0.1})]
    assert network(look(1)).shape == (5, 4)
    assert not network.grey_to_colour


def test_torchvision_is_told_classes_and_no_weights(calls: Calls) -> None:
    network = made("torchvision:tiny", channels=1)
    assert calls == [("tiny", {"weights": None, "num_classes": 4})]
    assert network.grey_to_colour


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("name", ["timm:hf-hub:some/body", "timm:tniy", "torchvision:tniy", "timm:local-dir:/tmp"])
def test_networks_that_they_do_not_have_are_named(name: str) -> None:
    package, _, architecture = name.partition(":")
    with pytest.raises(UsageError, match=f"{package} has no (network|classifier) called '{architecture}'"):
        made(name)


def moments(name: str, channels: int) -> tuple[Any, Any]:
    record = MODELS.make(name)
    assert isinstance(record, External)
    mean, std = record.usual_moments(channels)
    return (None if mean is None else tuple(mean)), (None if std is None else tuple(std))


@pytest.mark.usefixtures("calls")
def test_the_usual_moments_are_those_of_their_weights() -> None:
    assert moments("timm:tiny", 3) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert moments("timm:tiny", 1) == (pytest.approx((0.4,)), pytest.approx((0.2,)))
    assert moments("timm:bare", 3) == IMAGENET
    assert moments("torchvision:tiny", 3) == IMAGENET
    assert moments("torchvision:tiny", 1) == (pytest.approx((0.449,)), pytest.approx((0.226,)))
    assert moments("module:net", 3) == (None, None)


Timm = Callable[..., Classifier]


@pytest.mark.usefixtures("calls")
def test_a_network_of_timm_is_saved_and_read(tmp_path: Path) -> None:
    network = made("timm:tiny")
    folder.save(tmp_path, network, ("a", "b", "c", "d"), "")
    assert torch.equal(folder.read(tmp_path)[0](look()), network(look()))


@pytest.mark.usefixtures("calls")
def test_listing_shows_families_as_they_are_written() -> None:
    shown = [cls.shown for cls in MODELS.everything().values() if cls.shown]
    assert sorted(shown) == ["package.module:callable", "timm:NAME", "torchvision:NAME"]
    assert not [name for name in MODELS.classes() if ":" in name]
