"""Components are found, made and refused by name; what a component must be to be one."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from undistill.attacks.base import ATTACKS
from undistill.data.augment import VIEWS
from undistill.data.sources import SOURCES
from undistill.defenses.base import DEFENSES
from undistill.errors import UsageError
from undistill.models import MODELS
from undistill.registry import Component, Registry, registry
from undistill.training.optim import OPTIMIZERS, SCHEDULES

ALL: list[Registry[Any]] = [ATTACKS, DEFENSES, MODELS, OPTIMIZERS, SCHEDULES, SOURCES, VIEWS]
REQUIRED: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "adam": {"lr": 0.1},
    "adamw": {"lr": 0.1},
    "decoupled-sgd": {"lr": 11.5},
    "step": {"at": [1, 2]},
}
COMPONENTS = [(kind, name) for kind in ALL for name in kind.classes()]
each_component = pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=[f"{k.kind}-{n}" for k, n in COMPONENTS])


def example(kind: Registry[Any], name: str) -> Component:
    made = kind.make({"name": name, **REQUIRED.get(name, {})})
    assert isinstance(made, Component)
    return made


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    monkeypatch.setattr(Registry, "all", dict(Registry.all))
    return Registry("pet", "undistill.registry")


class Cat(Component):
    """Meows."""

    name: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)


# -- every component ----------------------------------------------------------------------------------------------------


@each_component
def test_a_component_survives_json(kind: Registry[Any], name: str) -> None:
    made = example(kind, name)
    assert kind.make(json.loads(json.dumps(made.model_dump(mode="json", by_alias=True)))) == made


@each_component
def test_settings_and_name_make_the_component_again(kind: Registry[Any], name: str) -> None:
    made = example(kind, name)
    assert kind.make({"name": name, **made.settings}) == made


@each_component
def test_a_component_says_what_it_promises(kind: Registry[Any], name: str) -> None:
    assert (kind.classes()[name].__doc__ or "").strip().endswith((".", ")"))


@each_component
def test_a_component_cannot_be_changed(kind: Registry[Any], name: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example(kind, name).name = "other"  # type: ignore[misc]


@each_component
def test_a_setting_nobody_knows_is_refused_by_name(kind: Registry[Any], name: str) -> None:
    with pytest.raises(UsageError, match=rf"{kind.kind} {name}: there is no setting 'zzz'; there are .*name"):
        kind.make({"name": name, **REQUIRED.get(name, {}), "zzz": 1})


@pytest.mark.parametrize("kind", ALL, ids=[k.kind for k in ALL])
def test_a_mistyped_name_is_refused_with_the_nearest(kind: Registry[Any]) -> None:
    name = next(iter(kind.classes()))
    with pytest.raises(UsageError, match=f"no {kind.kind} called '{name}x'; did you mean {name}\\? There are "):
        kind.make(f"{name}x")


@pytest.mark.parametrize("kind", ALL, ids=[k.kind for k in ALL])
@pytest.mark.parametrize("settings", [{}, {"name": None}, {"name": 3}])
def test_a_component_without_a_name_is_refused_in_a_sentence(kind: Registry[Any], settings: Any) -> None:
    with pytest.raises(UsageError, match=f"no {kind.kind} called"):
        kind.make(settings)


@pytest.mark.parametrize("kind", ALL, ids=[k.kind for k in ALL])
@pytest.mark.parametrize("settings", [None, 3, ["cnn"], {"name": ["kd"]}, {"name": {}}])
def test_what_is_no_component_is_refused_in_a_sentence(kind: Registry[Any], settings: Any) -> None:
    with pytest.raises(UsageError, match=kind.kind):
        kind.make(settings)


def test_settings_are_named_as_users_write_them() -> None:
    with pytest.raises(UsageError, match=r"there are .*factor"):
        SCHEDULES.make({"name": "step", "at": [1], "gamma": 0.1})


# -- the registry itself ------------------------------------------------------------------------------------------------


def test_a_registered_class_is_made_by_name(pets: Registry[Any]) -> None:
    pets.register(Cat)
    assert pets.make("cat") == Cat()
    assert pets.make({"name": "cat", "lives": 3}) == Cat(lives=3)


def test_a_component_passes_through(pets: Registry[Any]) -> None:
    pets.register(Cat)
    assert pets.make(cat := Cat(lives=3)) is cat


def test_a_component_of_another_kind_is_refused(pets: Registry[Any]) -> None:
    with pytest.raises(UsageError, match="pet"):
        pets.make(ATTACKS.make("kd"))


def test_a_value_out_of_range_is_refused_with_the_value(pets: Registry[Any]) -> None:
    pets.register(Cat)
    with pytest.raises(UsageError, match=r"pet cat: lives: input should be greater than or equal to 1 \(given: 0\)"):
        pets.make({"name": "cat", "lives": 0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_are_finite(value: float) -> None:
    with pytest.raises(UsageError, match="finite number"):
        DEFENSES.make({"name": "nasty", "omega": value})


def test_two_components_cannot_share_a_name(pets: Registry[Any]) -> None:
    pets.register(Cat)

    class Lion(Component):
        name: Literal["cat"] = "cat"

    with pytest.raises(TypeError, match="two pets are called 'cat'"):
        pets.register(Lion)


def test_two_classes_of_one_name_in_two_files_cannot_share_a_name(pets: Registry[Any]) -> None:
    pets.register(Cat)
    other = type("Cat", (Component,), {"__annotations__": {"name": str}, "name": "cat", "__module__": "elsewhere"})
    with pytest.raises(TypeError, match="two pets are called 'cat'"):
        pets.register(other)


def test_a_component_needs_a_name(pets: Registry[Any]) -> None:
    class Stray(Component):
        pass

    with pytest.raises(TypeError, match="Stray needs a field `name` with a default"):
        pets.register(Stray)


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_upper_layers_are_found_by_kind(kind: str) -> None:
    assert registry(kind) is {"attack": ATTACKS, "defense": DEFENSES}[kind]
