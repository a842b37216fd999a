"""Models of others become model folders: the authors' checkpoints, plain state dicts, timm's folders."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from models.references import FOREIGN, keys
from undistill import plugins
from undistill.data import Splits
from undistill.errors import RunError, UsageError
from undistill.models import MODELS, Classifier, build
from undistill.models import model_folder as folder
from undistill.models.convert import AUTHORS_DATA, import_model
from undistill.models.external import IMAGENET


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])


def authors_state(layout: str, model: Classifier) -> dict[str, Tensor]:
    """Our weights under the authors' names."""
    ours, rules = model.state_dict(), MODELS.classes()[FOREIGN[layout][0]].foreign_keys
    found = {key: next(re.sub(p, r, key) for p, r in rules if re.fullmatch(p, key)) for key in keys(layout)}
    return {key: ours[place].clone() for key, place in found.items()}


def authors(path: Path, params: Any, state: dict[str, Tensor], name: str = "best_model.tar") -> Path:
    """A folder as the authors' code leaves it."""
    path.mkdir(exist_ok=True)
    (path / "params.json").write_text(json.dumps(params))
    torch.save(
        {"epoch": 199, "state_dict": state, "optim_dict": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path / name
    )
    return path


def take(source: Path, out: Path, **told: Any) -> Path:
    """`import_model` of a network that takes pixels as they are, unless it is told otherwise."""
    return import_model(source, out, **{"mean": "none", **told})


def look(size: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0))


# -- the authors' layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "layout", "data"),
    [
        ("net", "cnn", "cnn", "cifar10"),
        ("preresnet20", "resnetc20", "resnetc20", "cifar100"),
        ("shufflenetv2", "shufflenetv2", "shufflenetv2", "tiny_imagenet"),
    ],
)
def test_a_checkpoint_of_the_authors_becomes_a_model_folder(
    tmp_path: Path, theirs: str, ours: str, layout: str, data: str
) -> None:
    known = AUTHORS_DATA[data]
    network = build(ours, known["num_classes"], 3, known["image_size"], mean=known["mean"], std=known["std"], seed=0)
    params = {"model_name": theirs, "dataset": data, "batch_size": 128}
    source = authors(tmp_path / "authors", params, authors_state(layout, network))
    found, names = folder.read(import_model(source, tmp_path / "out"))
    assert names is None
    assert found.config == network.config
    pixels = look(known["image_size"])
    assert torch.equal(found(pixels), network.eval()(pixels))
    assert folder.read_origin(tmp_path / "out")["source"] == "authors"


@pytest.fixture
def cnn() -> Classifier:
    return build("cnn", 10, 3, 32, seed=0).eval()


PARAMS = {"model_name": "net", "dataset": "cifar10"}


def test_the_last_model_is_taken_where_there_is_no_best(tmp_path: Path, cnn: Classifier) -> None:
    other = build("cnn", 10, 3, 32, seed=1)
    source = authors(tmp_path / "run", PARAMS, authors_state("cnn", other), "last_model.tar")
    last = folder.read(import_model(source, tmp_path / "last"))[0]
    assert torch.equal(last.state_dict()["head.weight"], other.state_dict()["head.weight"])
    authors(source, PARAMS, authors_state("cnn", cnn))
    best = folder.read(import_model(source, tmp_path / "best"))[0]
    assert torch.equal(best.state_dict()["head.weight"], cnn.state_dict()["head.weight"])


def test_what_is_told_wins_over_what_their_code_fixes(tmp_path: Path, cnn: Classifier) -> None:
    source = authors(tmp_path / "run", PARAMS, authors_state("cnn", cnn))
    out = import_model(source, tmp_path / "out", mean=[0.5] * 3, std=[0.25] * 3)
    assert folder.read(out)[0].config["std"] == [0.25] * 3


def test_data_that_their_code_does_not_know_are_read_off_the_head(tmp_path: Path) -> None:
    seven = build("cnn", 7, 1, 8, seed=0)
    source = authors(tmp_path / "run", {"model_name": "net", "dataset": "own"}, authors_state("cnn", seven))
    found = folder.read(take(source, tmp_path / "out", image_size=8, in_channels=1))[0]
    assert (found.config["num_classes"], found.config["mean"]) == (7, [0.0])


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"dataset": "cifar10"}, RunError, r"params\.json names no model_name"),
        ([], RunError, r"params\.json names no model_name"),
        ({"model_name": 3}, RunError, r"params\.json names no model_name"),
        ({"model_name": "resnet19", "dataset": "cifar10"}, UsageError, "no model called 'resnet19'"),
        ({"model_name": "os:abort", "dataset": "cifar10"}, UsageError, "os:abort is code, and only a file asks for it"),
        ({"model_name": "resnet18", "dataset": "cifar10"}, UsageError, "are not those of resnet18"),
        ({"model_name": "net", "dataset": "cifar100"}, UsageError, "tell 10 classes apart, the data 100"),
        ({"model_name": "net", "dataset": "tiny_imagenet"}, UsageError, "tell 10 classes apart, the data 200"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, cnn: Classifier, params: Any, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    monkeypatch.setattr("os.abort", lambda: called.append(1))
    source = authors(tmp_path / "run", params, authors_state("cnn", cnn))
    with pytest.raises(error, match=words):
        import_model(source, tmp_path / "out")
    assert called == []
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(UsageError, match=r"has a params\.json, but neither best_model\.tar nor last_model\.tar"):
        import_model(tmp_path, tmp_path / "out")


def test_damaged_params_are_named(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(RunError, match=r"params\.json"):
        import_model(tmp_path, tmp_path / "out")


def test_a_folder_of_nothing_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds neither params\.json .* nor config\.json"):
        import_model(tmp_path, tmp_path / "out")


# -- plain state dicts --------------------------------------------------------------------------------------------------

SETTINGS = {"name": "cnn", "width": 0.125}


@pytest.fixture
def small() -> Classifier:
    return build("cnn", 4, 3, 8, 0.125, mean=[0.1, 0.2, 0.3], std=[0.5, 0.4, 0.3], seed=0).eval()


@pytest.fixture
def state(tmp_path: Path, small: Classifier) -> Path:
    safetensors.torch.save_file(dict(small.state_dict()), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_a_state_dict_with_its_network_becomes_a_model_folder(tmp_path: Path, state: Path, small: Classifier) -> None:
    moments: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}
    out = import_model(
        state, tmp_path / "out", model=SETTINGS, image_size=8, class_names=["a", "b", "c", "d"], **moments
    )
    found, names = folder.read(out)
    assert names == ("a", "b", "c", "d")
    assert torch.equal(found(look(8)), small(look(8)))


def test_importing_the_same_file_gives_the_same_folder(tmp_path: Path, state: Path) -> None:
    folders = [take(state, tmp_path / name, model=SETTINGS, image_size=8) for name in "ab"]
    one, two = ({path.name: path.read_bytes() for path in made.iterdir()} for made in folders)
    assert one == two


def test_the_source_is_known_by_its_content(tmp_path: Path, state: Path) -> None:
    take(state, tmp_path / "a", model=SETTINGS, image_size=8)
    state.write_bytes(safetensors.torch.save(dict(build("cnn", 4, 3, 8, 0.125, seed=1).state_dict())))
    take(state, tmp_path / "b", model=SETTINGS, image_size=8)
    assert folder.read_origin(tmp_path / "a")["source_sha256"] != folder.read_origin(tmp_path / "b")["source_sha256"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "does not say of which network; name it with --model"),
        ({"model": "resnet19"}, "no model called 'resnet19'"),
        ({"model": "resnet18"}, "are not those of resnet18"),
        ({"model": SETTINGS, "image_size": 16}, "do not fit cnn: 'neck.1.weight'"),
        ({"model": SETTINGS, "image_size": 8, "in_channels": 1}, "do not fit cnn: 'body.0.0.weight'"),
        ({"model": SETTINGS, "image_size": 8, "num_classes": 5}, "tell 4 classes apart, the data 5"),
        ({"model": SETTINGS, "image_size": 8, "class_names": ["a"]}, "1 class names for the 4 outputs"),
        ({"model": SETTINGS, "image_size": 8, "mean": [0.5], "std": [0.5]}, "mean has 1 values for 3 channels"),
        ({"model": SETTINGS, "image_size": 8, "mean": [0.5] * 3, "std": [0.0] * 3}, "std must be above 0"),
        (
            {"model": SETTINGS, "image_size": 8, "mean": [0.5] * 3, "std": [float("nan")] * 3},
            "std must be finite, not nan",
        ),
        (
            {"model": SETTINGS, "image_size": 8, "mean": [0.5] * 3, "std": [float("inf")] * 3},
            "std must be finite, not inf",
        ),
        (
            {"model": SETTINGS, "image_size": 8, "mean": [0.0, -float("inf"), 0.0], "std": [0.5] * 3},
            "mean must be finite, not -inf",
        ),
        ({"model": SETTINGS, "image_size": 8, "mean": [1e300] * 3, "std": [0.5] * 3}, "mean must be finite, not 1e"),
        (
            {"model": SETTINGS, "image_size": 8, "mean": [0.5] * 3, "std": [1e-300] * 3},
            "std must be above 0, not 1e-300",
        ),
        ({"model": "no_such:net", "image_size": 8}, "cannot import no_such"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, state: Path, told: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        take(state, tmp_path / "out", **told)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_there_is_not_overwritten(tmp_path: Path, state: Path) -> None:
    out = take(state, tmp_path / "out", model=SETTINGS, image_size=8)
    before = (out / "config.json").stat().st_mtime_ns
    with pytest.raises(UsageError, match="holds a model already; choose another folder with -o"):
        take(state, out, model=SETTINGS, image_size=8)
    assert (out / "config.json").stat().st_mtime_ns == before


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "caught",)

    torch.save({"state_dict": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(RunError, match="it was not opened, for loading it could run code"):
        import_model(tmp_path / "weights.pt", tmp_path / "out", model="cnn")
    assert not (tmp_path / "caught").exists()


def test_a_factory_named_by_the_caller_is_trusted(tmp_path: Path) -> None:
    code = "from torch import nn\ndef net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))\n"
    (tmp_path / "factory.py").write_text(code)
    safetensors.torch.save_file({"1.weight": torch.ones(4, 192), "1.bias": torch.ones(4)}, tmp_path / "w.safetensors")
    out = take(
        tmp_path / "w.safetensors", tmp_path / "out", model=f"{tmp_path}/factory.py:net", image_size=8, num_classes=4
    )
    assert torch.allclose(folder.read(out)[0](look(8))[:, 0], look(8).flatten(1).sum(1) + 1)


HEADLESS = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_class_names_tell_how_many_classes_there_are_where_the_weights_do_not(tmp_path: Path) -> None:
    (tmp_path / "headless.py").write_text(HEADLESS)
    weights, model = tmp_path / "w.safetensors", f"{tmp_path}/headless.py:net"
    safetensors.torch.save_file({"0.weight": torch.ones(5, 3, 3, 3), "0.bias": torch.ones(5)}, weights)
    with pytest.raises(UsageError, match=r"apart; use --classes \(in Python, num_classes=\)$"):
        take(weights, tmp_path / "out", model=model, image_size=8)
    out = take(weights, tmp_path / "out", model=model, image_size=8, class_names=list("abcde"))
    assert folder.read(out)[1] == tuple("abcde")


# -- normalization ------------------------------------------------------------------------------------------------------


def test_a_state_dict_without_a_normalization_is_asked_for_one(tmp_path: Path, state: Path) -> None:
    with pytest.raises(UsageError, match="--mean none"):
        import_model(state, tmp_path / "out", model=SETTINGS, image_size=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"mean": [0.5] * 3}, "--mean without --std"),
        ({"std": [0.5] * 3}, "--std without --mean"),
        ({"mean": "none", "std": [0.5] * 3}, "leave --std out"),
        ({"mean": "data"}, "--data"),
        ({"mean": "mine"}, "none, data or imagenet, not 'mine'"),
        (
            {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
            r"mean 123\.675 .*by 255 .*becomes 0\.485",
        ),
        ({"mean": [0.485, 0.456, 0.406], "std": [58.395, 57.12, 57.375]}, r"std 58\.395 .*by 255"),
        ({"mean": [0.0] * 3, "std": [255.0] * 3}, "std 255 .*by 255"),
        ({"mean": [-1.0] * 3, "std": [0.5] * 3}, r"mean -1 is outside \[0, 1\]"),
    ],
)
def test_a_normalization_of_other_pixels_is_refused(
    tmp_path: Path, state: Path, told: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        import_model(state, tmp_path / "out", model=SETTINGS, image_size=8, **told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none", "imagenet", "data"])
def test_a_normalization_by_name_is_written_down(tmp_path: Path, state: Path, splits: Splits, name: str) -> None:
    expected = {"none": ([0.0] * 3, [1.0] * 3), "imagenet": IMAGENET, "data": (splits.mean, splits.std)}[name]
    out = import_model(state, tmp_path / "out", model=SETTINGS, mean=name, data=splits)
    config = folder.read(out)[0].config
    assert (config["mean"], config["std"]) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert config["image_size"] == 8  # the data's
    assert folder.read_origin(out)["normalization"]


@pytest.mark.usefixtures("timm")
def test_a_network_of_timms_gets_the_published_normalization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.torch.save_file(tiny("tiny", num_classes=4, in_chans=3).state_dict(), tmp_path / "w.safetensors")
    out = import_model(tmp_path / "w.safetensors", tmp_path / "out", model="timm:tiny", image_size=8)
    assert folder.read(out)[0].config["mean"] == pytest.approx(list(IMAGENET[0]))
    assert "timm:tiny" in folder.read_origin(out)["normalization"]


# -- the order of the outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told", [{"class_order": [2, 0, 3, 1]}, {"class_names": ["class 2", "class 0", "class 3", "class 1"]}]
)
def test_outputs_are_put_in_the_datas_order(
    tmp_path: Path, state: Path, small: Classifier, splits: Splits, told: dict[str, Any]
) -> None:
    moments: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]}
    found, names = folder.read(import_model(state, tmp_path / "out", model=SETTINGS, data=splits, **moments, **told))
    theirs, ours = small(look(8)), found(look(8))
    for output, place in enumerate([2, 0, 3, 1]):
        assert torch.allclose(ours[:, place], theirs[:, output])
    assert names == (splits.train.class_names if "class_names" in told else None)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"class_order": [0, 1, 2]}, "from 0 to 3 once"),
        ({"class_order": [1, 2, 3, 4]}, "from 0 to 3 once"),
        ({"class_order": [0, 0, 1, 2]}, "from 0 to 3 once"),
        ({"class_names": ["class 0", "class 1", "class 2", "wolf"]}, "knows a class 'wolf'"),
        ({"class_names": ["class 0", "class 1", "class 2", "class 2"]}, "not all different"),
    ],
)
def test_an_order_that_is_none_is_refused(
    tmp_path: Path, state: Path, splits: Splits, told: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        take(state, tmp_path / "out", model=SETTINGS, data=splits, **told)
    assert not (tmp_path / "out").exists()


def test_outputs_of_a_network_without_a_linear_head_stay_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "headless.py").write_text(HEADLESS)
    weights, model = tmp_path / "w.safetensors", f"{tmp_path}/headless.py:net"
    safetensors.torch.save_file({"0.weight": torch.rand(5, 3, 3, 3), "0.bias": torch.rand(5)}, weights)
    with pytest.raises(UsageError, match="does not end in a linear layer"):
        take(weights, tmp_path / "out", model=model, image_size=8, num_classes=5, class_order=[1, 0, 2, 3, 4])


def test_data_of_another_number_of_classes_are_refused(tmp_path: Path, splits: Splits) -> None:
    safetensors.torch.save_file(dict(build("cnn", 5, 3, 8, 0.125, seed=0).state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="5 classes apart, the data 4"):
        take(tmp_path / "w.safetensors", tmp_path / "out", model=SETTINGS, data=splits)


def test_a_renamed_head_is_named_where_no_number_of_classes_was_told(tmp_path: Path, small: Classifier) -> None:
    state = {name.replace("head.", "classifier."): value for name, value in small.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"names differ: they hold 'classifier\.bias' where it has 'head\.bias'"):
        take(tmp_path / "w.safetensors", tmp_path / "out", model=SETTINGS, image_size=8)


# -- timm's folders -----------------------------------------------------------------------------------------------------


def tiny(name: str, *, num_classes: int, in_chans: int, **_: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timm with one network."""
    module = ModuleType("timm")
    module.__dict__.update(
        is_model="tiny".__eq__, create_model=tiny, models=SimpleNamespace(get_pretrained_cfg=lambda _: None)
    )
    monkeypatch.setitem(sys.modules, "timm", module)


def timm_folder(path: Path, **changes: Any) -> tuple[Path, nn.Module]:
    inner = tiny("tiny", num_classes=4, in_chans=3).eval()
    config: dict[str, Any] = {"architecture": "tiny", "num_classes": 4, "label_names": ["a", "b", "c", "d"]}
    config["pretrained_cfg"] = {"input_size": [3, 8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({key: value for key, value in {**config, **changes}.items() if value is not None})
    )
    safetensors.torch.save_file(inner.state_dict(), path / "model.safetensors")
    return path, inner


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("imported", [False, True])
def test_a_folder_of_timms_is_read_with_its_normalisation_and_names(tmp_path: Path, imported: bool) -> None:
    path, inner = timm_folder(tmp_path / "hub")
    found, names = folder.read(import_model(path, tmp_path / "out") if imported else path)
    mean_C, std_C = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.3, 0.2, 0.1]).view(3, 1, 1)
    assert names == ("a", "b", "c", "d")
    assert torch.allclose(found(look(8)), inner((look(8) - mean_C) / std_C), atol=1e-6)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "tniy"}, "timm has no network called 'tniy'"),
        ({"num_classes": 5, "label_names": None}, r"do not fit its config\.json"),
        ({"pretrained_cfg": {}}, "does not describe an undistill network"),
        ({"label_names": ["a"]}, "names 1 classes for 4 outputs"),
        ({"num_classes": "four"}, "num_classes"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path' loads weights"),
        ({"model_args": 3}, "arguments"),
    ],
)
def test_a_folder_of_timms_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RunError, match=words):
        folder.read(timm_folder(tmp_path / "hub", **changes)[0])


@pytest.mark.usefixtures("timm")
def test_class_names_of_ones_own_replace_those_of_the_folder(tmp_path: Path) -> None:
    out = import_model(timm_folder(tmp_path / "hub")[0], tmp_path / "out", class_names=["w", "x", "y", "z"])
    assert folder.read(out)[1] == ("w", "x", "y", "z")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"model": "cnn"}, r"model already; leave model \(--model\) out"),
        ({"num_classes": 4}, "num_classes already; leave num_classes out"),
        ({"image_size": 9}, r"image_size already; leave image_size \(--size\) out"),
        ({"in_channels": 1}, r"in_channels already; leave in_channels \(--channels\) out"),
        ({"mean": [0.5] * 3}, r"mean already; leave mean \(--mean\) out"),
        ({"std": [0.5] * 3}, r"std already; leave std \(--std\) out"),
    ],
)
def test_what_a_folder_says_itself_cannot_be_told(tmp_path: Path, told: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=rf"config\.json says the {words}$"):
        import_model(timm_folder(tmp_path / "hub")[0], tmp_path / "out", **told)
    assert not (tmp_path / "out").exists()


def test_without_timm_its_folder_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = timm_folder(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RunError, match=r"timm is not installed: pip install 'undistill\[vision\]'"):
        folder.read(path)
