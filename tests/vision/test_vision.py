"""Real networks of timm and torchvision from the shell: trained, hardened, attacked, named with weights, read from a hub folder.

Run by `make test-vision`, in an environment of its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from undistill.cli.main import main
from undistill.models import Classifier, build
from undistill.models import model_folder as folder
from undistill.models.external import _optional

pytestmark = [pytest.mark.vision, pytest.mark.filterwarnings("ignore")]

Call = Callable[..., Any]
SMALL = (
    "--data",
    "digits",
    "-s",
    "data.limit=1030",
    "-s",
    "training.epochs=2",
    "-s",
    "training.batch=32",
    "-q",
    "--json",
)
STEAL = (*SMALL, "--student", "cnn", "-s", "student.width=0.125", "--card", "probs/unlabelled/trained/random/40")
FAMILIES = pytest.mark.parametrize("family", ["timm", "torchvision"])


@pytest.fixture(scope="module")
def call() -> Call:
    """The JSON that `undistill …` prints."""
    import contextlib
    import io

    def run(*arguments: object, code: int = 0) -> Any:
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        assert (ended.value.code or 0) == code, complained.getvalue()
        return json.loads(said.getvalue()) if code == 0 else complained.getvalue()

    return run


@pytest.fixture(scope="module")
def teachers(call: Call, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained resnet18 of each family; never changed."""
    top = tmp_path_factory.mktemp("vision")
    for family in ("timm", "torchvision"):
        result = call("train", "--model", f"{family}:resnet18", *SMALL, "-o", top / family)
        assert result["status"] == "ok"
    return {family: top / family for family in ("timm", "torchvision")}


def changed(one: Path, two: Path) -> set[str]:
    before, after = (folder.read(path / "model")[0].state_dict() for path in (one, two))
    return {name for name in before if not torch.equal(before[name], after[name])}


@FAMILIES
def test_a_trained_network_is_read_as_it_was_saved(teachers: dict[str, Path], family: str) -> None:
    model = folder.read(teachers[family] / "model")[0]
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.config["name"] == f"{family}:resnet18"
    assert model(pixels).shape == (4, 10)
    assert torch.allclose(model.head(model.features(pixels)), model(pixels), atol=1e-5)
    assert model.features(pixels).shape == (4, 512)


@FAMILIES
def test_its_head_is_hardened_alone_and_stolen_from(
    call: Call, teachers: dict[str, Path], tmp_path: Path, family: str
) -> None:
    result = call("protect", teachers[family], "--with", "nasty-head", "-q", "--json", "-o", tmp_path / "twin")
    assert result["defense"]["name"] == "nasty-head"
    assert changed(teachers[family], tmp_path / "twin") == {"inner.fc.weight", "inner.fc.bias"}
    cell = call("attack", tmp_path / "twin", *STEAL, "-o", tmp_path / "out")
    assert (cell["status"], cell["victim"], cell["queries"]) == ("ok", "nasty-head", 40)


@FAMILIES
def test_it_is_hardened_whole(call: Call, teachers: dict[str, Path], tmp_path: Path, family: str) -> None:
    options = ["--with", "nasty", "--start-from", "teacher", "-s", "training.epochs=1", "-q", "--json"]
    assert call("protect", teachers[family], *options, "-o", tmp_path / "twin")["status"] == "ok"
    assert "inner.conv1.weight" in changed(teachers[family], tmp_path / "twin")


@FAMILIES
def test_a_name_at_its_weights_is_a_victim(call: Call, teachers: dict[str, Path], tmp_path: Path, family: str) -> None:
    state = safetensors.torch.load_file(teachers[family] / "model" / "model.safetensors")
    safetensors.torch.save_file(
        {name.removeprefix("inner."): value for name, value in state.items()}, tmp_path / "w.safetensors"
    )
    cell = call("attack", f"{family}:resnet18@{tmp_path}/w.safetensors", *STEAL, "-o", tmp_path / "out")
    assert (cell["status"], cell["queries"]) == ("ok", 40)


def test_it_is_fine_tuned_from_a_state_dict(call: Call, teachers: dict[str, Path], tmp_path: Path) -> None:
    state = safetensors.torch.load_file(teachers["timm"] / "model" / "model.safetensors")
    plain = {name.removeprefix("inner."): value for name, value in state.items()}
    torch.save(
        {"state_dict": plain | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}}, tmp_path / "w.pth"
    )
    options = ["--model", "timm:resnet18", "--weights", tmp_path / "w.pth", "-s", "training.epochs=1"]
    result = call("train", *SMALL, *options, "-o", tmp_path / "tuned")
    assert result["weights"]["head"] == "new"


def test_a_student_may_be_of_timm(call: Call, teachers: dict[str, Path], tmp_path: Path) -> None:
    options = [
        "-s",
        "student.settings={arguments: {}}",
        "--card",
        "probs/unlabelled/trained/random/40",
        "--student",
        "timm:resnet18",
    ]
    cell = call("attack", teachers["torchvision"], *SMALL[2:], *options, "-o", tmp_path / "out")
    assert cell["student"] == "timm:resnet18"


def test_a_folder_of_timms_is_imported_and_attacked(call: Call, tmp_path: Path) -> None:
    timm = _optional("timm")
    inner = timm.create_model("resnet18", num_classes=10, in_chans=1).eval()
    hub = tmp_path / "hub"
    hub.mkdir()
    safetensors.torch.save_file(inner.state_dict(), hub / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 10, "num_features": 512}
    config["pretrained_cfg"] = {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.4], "interpolation": "bicubic"}
    (hub / "config.json").write_text(json.dumps(config))
    found = call("import", hub, "--json", "-o", tmp_path / "imported")
    assert found["network"]["name"] == "timm:resnet18"
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(folder.read(tmp_path / "imported")[0](pixels), inner((pixels - 0.3) / 0.4), atol=1e-5)
    assert call("attack", tmp_path / "imported", *STEAL, "-o", tmp_path / "out")["status"] == "ok"


def made(name: str, size: int = 32, channels: int = 3, **settings: Any) -> Classifier:
    from undistill.models import MODELS

    return build(MODELS.make({"name": name, **settings}), 5, channels, size, seed=0).eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("timm:mobilenetv3_small_050", {}),
        ("timm:vit_tiny_patch16_224", {"resize": 224}),
        ("timm:vit_tiny_patch16_224", {"arguments": {"img_size": 32, "patch_size": 8}}),
        ("torchvision:mobilenet_v3_small", {}),
        ("torchvision:squeezenet1_0", {"resize": 64}),
    ],
)
def test_networks_of_every_kind_answer(name: str, settings: dict[str, Any]) -> None:
    model = made(name, **settings)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model(pixels).shape == (2, 5)
    if model.head is not None:
        assert torch.allclose(model.head(model.features(pixels)), model(pixels), atol=1e-4)


def test_names_that_they_do_not_have_are_refused() -> None:
    for name in ("timm:resnet19", "torchvision:resnet19", "timm:hf-hub:some/body"):
        with pytest.raises(ValueError, match="called"):
            made(name)


def test_the_usual_moments_are_those_of_the_weights() -> None:
    from undistill.models import MODELS
    from undistill.models.external import IMAGENET, External

    half, resnet = (MODELS.make(f"timm:{name}") for name in ("vit_base_patch16_224", "resnet18"))
    assert isinstance(half, External)
    assert isinstance(resnet, External)
    assert resnet.usual_moments(3) == IMAGENET
    assert [list(part or ()) for part in half.usual_moments(3)] == [[0.5] * 3, [0.5] * 3]
