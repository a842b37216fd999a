"""Recipes: validated whole, read from names, files and settings, refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from undistill.errors import UsageError
from undistill.training.recipe import Recipe, Training, names, read


def test_recipes_come_with_the_package() -> None:
    assert {"digits", "paper-cifar10", "paper-cifar10-cnn", "fast-cifar10"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_recipe_survives_json_and_yaml(name: str) -> None:
    recipe = read(name)
    assert read(json.loads(json.dumps(recipe.dump()))) == recipe
    assert read(yaml.safe_load(yaml.safe_dump(recipe.dump()))) == recipe


@pytest.mark.parametrize("name", names())
def test_a_recipe_states_where_it_comes_from(name: str) -> None:
    from undistill.training.recipe import FOLDER

    assert "Source:" in (FOLDER / f"{name}.yaml").read_text().split("data:")[0]


@pytest.mark.parametrize("name", names())
def test_the_recipe_that_a_student_names_is_there(name: str) -> None:
    assert read(name).student.recipe in (None, *names())


def test_the_papers_recipe_is_the_papers() -> None:
    values = read("paper-cifar10").dump()
    training = values["training"]
    assert (training["epochs"], training["batch"], training["clip"], training["precision"]) == (160, 128, None, "fp32")
    assert training["optimizer"] == {
        "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False
    }  # fmt: skip
    assert training["schedule"] == {"name": "step", "warmup": 0.0, "at": [80, 120], "factor": 0.1}
    assert values["defense"] == {"name": "nasty", "omega": 0.04, "temperature": 4.0}
    assert values["attack"] == {"name": "kd", "temperature": 4.0, "alpha": 0.9}
    assert values["model"] == {"name": "resnet18", "width": 1.0, "stem": "3x3"}
    assert values["data"]["views"] == [{"name": "crop", "padding": 4}, {"name": "flip"}]
    assert (values["data"]["val"], values["data"]["pool"]) == (0, 0)


def test_the_papers_cnn_is_trained_as_in_the_paper() -> None:
    training = read("paper-cifar10-cnn").dump()["training"]
    assert (training["epochs"], training["batch"], training["schedule"]["name"]) == (100, 128, "constant")
    assert training["optimizer"] == {"name": "adam", "lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.999]}


def test_a_recipe_passes_through() -> None:
    assert read(recipe := read("digits")) is recipe


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("training: {epochs: 7}\n")
    assert read(tmp_path / "mine.yaml").training.epochs == 7


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read("digits").training.epochs = 3  # type: ignore[misc]


# -- settings on top ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.epochs=7", "training.epochs", 7),
        ("seed=3", "seed", 3),
        ("defense.omega=0.004", "defense.omega", 0.004),
        ("training.optimizer.lr=1e-3", "training.optimizer.lr", 1e-3),
        ("training.clip=null", "training.clip", None),
        ("training.clip=", "training.clip", None),
        ("model=resnetc20", "model.name", "resnetc20"),
        ("model.width=0.5", "model.width", 0.5),
        ("data.views=[{name: flip}]", "data.views", [{"name": "flip"}]),
        ("data.name=cifar10", "data.pool", 400),
        ("data.dir=/a=b", "data.dir", "/a=b"),
    ],
)
def test_a_setting_changes_one_value(setting: str, path: str, value: Any) -> None:
    found: Any = read("digits", [setting]).dump()
    for part in path.split("."):
        found = found[part]
    assert found == value


def test_a_setting_changes_nothing_else() -> None:
    before, after = read("digits").dump(), read("digits", ["training.epochs=7"]).dump()
    before["training"]["epochs"] = 7
    assert after == before


def test_settings_leave_what_they_are_given_alone() -> None:
    values = {"training": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}}}
    read(values, ["training.epochs=7", "training.optimizer.lr=0.5"])
    assert values == {"training": {"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}}}


@pytest.mark.parametrize(
    ("source", "setting"), [({}, "training.optimizer.lr=0.5"), ("digits-api", "defense.omega=0.1")]
)
def test_settings_apply_to_what_a_recipe_leaves_out(source: str | dict[str, Any], setting: str) -> None:
    assert read(source, [setting]) != read(source)


def test_later_settings_win() -> None:
    assert read("digits", ["seed=1", "seed=2"]).seed == 2


def test_settings_apply_to_a_recipe() -> None:
    assert read(read("digits"), ["seed=5"]).seed == 5


def test_another_name_drops_the_old_components_settings() -> None:
    recipe = read("digits", ["training.optimizer.name=adam", "training.optimizer.lr=0.01"])
    assert recipe.training.optimizer.settings == {"lr": 0.01, "weight_decay": 0.0, "betas": [0.9, 0.999]}


def test_the_same_name_keeps_the_settings() -> None:
    assert read("digits", ["defense.omega=2", "defense.name=nasty"]).defense.omega == 2


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.epoch=7", "there is no setting 'training.epoch'; there are epochs, batch"),
        ("trainings.epochs=7", "there is no setting 'trainings'; there are data, model, training"),
        ("defense.omga=1", "defense nasty: there is no setting 'omga'; there are name, omega, temperature"),
        ("defense.omega=-1", "defense nasty: omega: input should be greater than or equal to 0 (given: -1)"),
        ("defense.omega=.nan", "defense nasty: omega: "),
        ("defense=nice", "no defense called 'nice'; "),
        ("attack.alpha=1.5", "attack kd: alpha: "),
        ("attack=kdd", "no attack called 'kdd'; did you mean kd?"),
        ("model=resnet81", "no model called 'resnet81'; did you mean resnet18?"),
        ("student.name=resnet81", "no model called 'resnet81'; "),
        ("student.width=0", "student.width: "),
        ("training.epochs=0", "training.epochs: "),
        ("training.epochs=many", "training.epochs: "),
        ("training.batch=1", "training.batch: "),
        ("training.clip=0", "training.clip: "),
        ("training.clip=.inf", "training.clip: "),
        ("training.precision=fp16", "training.precision: "),
        ("training.smoothing=1", "training.smoothing: "),
        ("training.optimizer.lr=0", "optimizer sgd: lr: "),
        ("training.optimizer.name=sdg", "no optimizer called 'sdg'; did you mean sgd?"),
        ("training.schedule.up=2", "schedule one-cycle: up: "),
        ("training.schedule.name=step", "schedule step: at: field required"),
        ("data.views=[{name: spin}]", "no view called 'spin'; "),
        ("data.views=[{name: crop, padding: 0}]", "view crop: padding: "),
        ("data.val=-1", "data.val"),
        ("seed=-1", "seed: "),
        ("seed=1.5", "seed: "),
        ("training=fast", "training: "),
        ("epochs", "a setting is written section.name=value, not 'epochs'"),
        ("=3", "a setting is written section.name=value, not '=3'"),
        ("seed={", "the value of seed is no YAML: '{'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_in_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        read("digits", [setting])
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("setting", ["model=5", "model=", "attack=null", "training.optimizer=1", "data.views=[3]"])
def test_a_setting_that_is_no_component_is_refused_in_one_sentence(setting: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        read("digits", [setting])


def test_a_mistyped_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no recipe called 'digit'; did you mean digits\? There are "):
        read("digit")


@pytest.mark.parametrize("content", ["[1, 2]", "", "just words", "3"])
def test_a_file_without_settings_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UsageError, match=r"mine\.yaml holds no settings"):
        read(tmp_path / "mine.yaml")


@pytest.mark.parametrize("content", [b"a: [", b"a: \xff\xfe", b"a: {b"])
def test_a_file_that_is_no_yaml_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.yaml is no YAML: [^\n]+$"):
        read(tmp_path / "mine.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read recipe .*mine\.yaml: No such file"):
        read(tmp_path / "mine.yaml")


def test_a_recipe_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/caught']")
    with pytest.raises(UsageError, match="is no YAML"):
        read(tmp_path / "mine.yaml")
    assert not (tmp_path / "caught").exists()


def test_the_defaults_are_a_recipe() -> None:
    assert Recipe().training == Training()
    assert read({}) == Recipe()


def test_another_data_set_forgets_where_the_first_one_lay() -> None:
    first = {"data": {"name": "folder", "dir": "/photos", "label_column": "kind", "size": 64, "pool": 5}}
    data = read(first, ["data.name=cifar10"]).data
    assert (data.name, data.dir, data.label_column, data.size, data.pool) == ("cifar10", None, None, None, 5)
    assert read(first, ["data.name=folder"]).data.dir == "/photos"


@pytest.mark.parametrize("layout", [True, False])
def test_the_layout_that_was_a_setting_once_is_dropped_from_old_recipes(layout: bool) -> None:
    old = read("digits").dump()
    old["training"]["channels_last"] = layout
    assert read(old) == read("digits")
    assert "channels_last" not in read(old).dump()["training"]
    assert "channels_last" in old["training"]  # what was given stays as it is
