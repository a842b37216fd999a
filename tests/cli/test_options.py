"""The options that verbs share: listed by each of them, and in the recipe that comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from undistill import plugins
from undistill.cli.app import app
from undistill.cli.main import main
from undistill.cli.options import OPTIONS, Options, verb

Call = Callable[..., tuple[int, str, str]]
SHARING = ["train", "protect", "attack"]
FLAGS = [OPTIONS[field.name][1].split()[0] for field in fields(Options) if field.name != "resume"]


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
    monkeypatch.setitem(plugins.REMEMBERED, plugins.VARIABLE, [])


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """(exit code, stdout, stderr) of `undistill …`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three classes."""
    for c in range(3):
        (tmp_path / "photos" / f"class-{c}").mkdir(parents=True)
        for k in range(4):
            pixels = np.random.default_rng(10 * c + k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"class-{c}" / f"{k}.png")
    return tmp_path / "photos"


def test_every_option_has_a_flag() -> None:
    assert len(FLAGS) == len(fields(Options)) - 1  # but the hidden one
    assert len(set(FLAGS)) == len(FLAGS)


@pytest.mark.parametrize("verb", SHARING)
def test_the_help_of_each_verb_lists_all_shared_options(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert [flag for flag in FLAGS if not re.search(rf"{flag}\b", out)] == []
    assert "--options" not in out


def test_a_verb_is_handed_one_record() -> None:
    got: list[Any] = []
    app = typer.Typer()

    @verb(app, "Group")
    def train(out: Path, *, options: Options) -> None:
        got.append((out, options))

    CliRunner().invoke(app, ["-o", "x", "--seed", "3"], catch_exceptions=False)
    assert got == [(Path("x"), Options(seed=3))]


# -- changes ------------------------------------------------------------------------------------------------------------


def test_nothing_said_changes_nothing() -> None:
    assert Options().changes() == []


@pytest.mark.parametrize(
    ("given", "change"),
    [
        ({"data": "cifar10"}, 'data.name="cifar10"'),
        ({"size": 16}, "data.size=16"),
        ({"pool": 0.25}, "data.pool=0.25"),
        ({"pool": 40.0}, "data.pool=40"),
        ({"pool": 1.0}, "data.pool=1"),
        ({"pool": 0.0}, "data.pool=0"),
        ({"pool": 10.7}, "data.pool=10.7"),
        ({"skip_corrupt": True}, "data.skip_corrupt=true"),
        ({"image_column": "img"}, 'data.image_column="img"'),
        ({"label_column": "y"}, 'data.label_column="y"'),
        ({"precision": "bf16"}, 'training.precision="bf16"'),
        ({"seed": 0}, "seed=0"),
    ],
)
def test_an_option_is_one_setting(given: dict[str, Any], change: str) -> None:
    assert Options(**given).changes() == [change]


def test_a_folder_as_data_is_named_whole(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert Options(data="photos").changes() == ['data.name="folder"', f"data.dir={json.dumps(str(photos.resolve()))}"]


def test_what_is_set_last_wins() -> None:
    assert Options(seed=1, sets=["seed=2"]).changes() == ["seed=1", "seed=2"]


# -- from the shell -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", SHARING)
def test_options_reach_the_recipe(call: Call, photos: Path, tmp_path: Path, verb: str) -> None:
    from undistill.models import build
    from undistill.models import model_folder as folder

    folder.save(tmp_path / "model", build("cnn", 3, 3, 16, 0.125, seed=0), None, "")
    target = [] if verb == "train" else [tmp_path / "model"]
    options = ["--data", photos, "--pool", "0.25", "--skip-corrupt", "--size", "16", "--seed", "5", "-s", "data.val=0"]
    out = tmp_path / "out"
    code, said, complained = call(verb, *target, *options, "--precision", "bf16", "--dry-run", "--json", "-o", out)
    assert (code, complained) == (0, "")
    recipe = json.loads(said)
    expected = {"name": "folder", "dir": str(photos), "pool": 0.25, "skip_corrupt": True, "size": 16, "val": 0}
    assert expected.items() <= recipe["data"].items()
    assert recipe["seed"] == 5
    assert recipe["training"]["precision"] == "bf16"
    assert not out.exists()


def test_the_recipe_is_that_of_the_data(call: Call, photos: Path, tmp_path: Path) -> None:
    for data, views in ((photos, ["resized-crop", "flip"]), ("digits", ["crop"])):
        _, said, _ = call("train", "--data", data, "--dry-run", "--json", "-o", tmp_path / "out")
        assert [view["name"] for view in json.loads(said)["data"]["views"]] == views


def test_a_dry_run_without_json_is_yaml(call: Call, tmp_path: Path) -> None:
    import yaml

    _, said, _ = call("train", "--data", "digits", "--dry-run", "-o", tmp_path / "out")
    assert yaml.safe_load(said)["data"]["name"] == "digits"


def test_what_is_typed_is_trusted_and_nothing_else(call: Call, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def net():\n    pass\n")
    name = f"{tmp_path}/net.py:net"
    assert plugins._remembered(plugins.TRUSTED) == []
    call("train", "--data", "digits", "--model", name, "--dry-run", "-o", tmp_path / "out")
    assert plugins._remembered(plugins.TRUSTED) == [name]


@pytest.mark.parametrize(
    "option", [["-s", "model.name={name}"], ["--trust", "{name}"], ["-s", "student.name='{name}'"]]
)
def test_settings_that_name_code_are_trusted_too(call: Call, tmp_path: Path, option: list[str]) -> None:
    options = [part.format(name="some.module:net") for part in option]
    call("train", "--data", "digits", *options, "--dry-run", "-o", tmp_path / "out")
    assert plugins._remembered(plugins.TRUSTED) == ["some.module:net"]


def test_code_that_a_recipe_file_names_is_not_trusted(call: Call, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\ndef net():\n    pass\n")
    (tmp_path / "recipe.yaml").write_text(f"data: {{name: digits}}\nmodel: {{name: '{tmp_path}/net.py:net'}}\n")
    code, said, complained = call("train", "-c", tmp_path / "recipe.yaml", "-q", "-o", tmp_path / "out")
    assert (code, said) == (2, "")
    assert re.fullmatch(r"error: .*net\.py:net is code, and only a file asks for it; .*--trust .*\n", complained)
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "out").exists()


def test_verbs_are_all_there() -> None:
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert names == {
        "demo",
        "train",
        "protect",
        "attack",
        "import",
        "reproduce",
        "report",
        "run",
        "compare",
        "gate",
        "serve",
        "list",
        "doctor",
        "cache",
    }
    assert {group.name for group in app.registered_groups} == {"audit", "evidence"}
    assert isinstance(app, typer.Typer)
