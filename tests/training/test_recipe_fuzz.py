"""Settings from anybody: a recipe, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undistill.errors import UndistillError
from undistill.experiments import cell as cells
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import read_config, read_metrics

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from(
    ["data", "model", "training", "defense", "attack", "student", "seed", "name", "views", "epochs", "lr", "optimizer"]
)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=8), inner, max_size=4)
)
PATHS = st.lists(NAMES | st.text(max_size=6), max_size=4).map(".".join)


def ends_well(call: Any) -> None:
    """A result, or an error of one line."""
    try:
        call()
    except UndistillError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


@given(values=st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=5))
def test_any_values_are_a_recipe_or_a_sentence(values: dict[str, Any]) -> None:
    def call() -> None:
        assert isinstance(read(values), Recipe)

    ends_well(call)


@given(settings=st.lists(st.tuples(PATHS, st.sampled_from(["=", ""]), st.text(max_size=20)).map("".join), max_size=3))
def test_any_settings_on_top_are_a_recipe_or_a_sentence(settings: list[str]) -> None:
    ends_well(lambda: read("digits", settings))


@given(content=st.binary(max_size=200) | VALUES.map(lambda value: repr(value).encode(errors="replace")))
def test_any_file_is_a_recipe_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("recipe.yaml", "config.yaml", "metrics.jsonl", "cell.json"):
        (folder / name).write_bytes(content)
    ends_well(lambda: read(folder / "recipe.yaml"))
    ends_well(lambda: read_config(folder))
    ends_well(lambda: cells.read(folder / "cell.json"))
    ends_well(lambda: read_metrics(folder))


@pytest.mark.parametrize(
    "bomb",
    ["&a [*a]", "a: &a [*a, *a]", "[" * 5000, "!!python/object/apply:os.abort []", "data: {name: digits", "\x00"],
)
def test_hostile_yaml_ends_in_a_sentence(tmp_path: Path, bomb: str) -> None:
    (tmp_path / "recipe.yaml").write_text(bomb)
    with pytest.raises(UndistillError):
        read(tmp_path / "recipe.yaml")
