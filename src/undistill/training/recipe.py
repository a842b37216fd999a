"""Recipes: everything that fixes a run's numbers, as validated records read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from undistill.data.load import DataSettings
from undistill.errors import UsageError, unknown
from undistill.models.base import MODELS, Network
from undistill.registry import Component, problem, registry
from undistill.training.averaging import Averaging
from undistill.training.optim import OPTIMIZERS, SCHEDULES, Constant, Optimizer, Schedule

FOLDER = Path(__file__).parent.parent / "recipes"
SCHEMA = 1
OF_ONE_SET = ("dir", "image_column", "label_column", "size", "stored", "channels", "value_range")
"""Settings of `data` that mean nothing for another data set."""


class Record(BaseModel):
    """Immutable; unknown settings are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Training(Record):
    """The `training` section: what `fit` needs to know.

    `passes` is the number of passes over the images in one epoch; raise it for sets so small that one pass is not worth a line in
    the log. `clip` is the largest norm of the whole gradient. `accumulate` computes each batch in that many parts, one after
    another, for batches that do not fit into memory; batch normalization then uses the statistics of one part at a time. With
    `sync_batch_norm`, processes that train together share batch statistics, as if they were one process; without it, each uses
    the statistics of its own images. `precision` auto is bf16 where the device supports it, else fp32.
    """

    epochs: int = Field(30, ge=1)
    batch: int = Field(128, ge=2)
    passes: int = Field(1, ge=1)
    clip: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    smoothing: float = Field(0.0, ge=0, lt=1)
    accumulate: int = Field(1, ge=1)
    sync_batch_norm: bool = True
    average: Averaging | None = None
    optimizer: Any = Field(default={"name": "sgd", "lr": 0.1}, validate_default=True)
    schedule: Any = Field(default_factory=Constant)

    @model_validator(mode="before")
    @classmethod
    def _before_layouts(cls, values: Any) -> Any:
        """Without the memory layout, which was a setting once and is `fit`'s own affair."""
        return {k: v for k, v in values.items() if k != "channels_last"} if isinstance(values, dict) else values

    @field_validator("optimizer", mode="before")
    @classmethod
    def _optimizer(cls, value: Any) -> Optimizer:
        return OPTIMIZERS.make(value)

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: Any) -> Schedule:
        return SCHEDULES.make(value)

    @field_serializer("optimizer", "schedule")
    def _whole(self, value: Component) -> dict[str, Any]:
        return value.model_dump(mode="json", by_alias=True)

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is as it always was, so that cells of earlier recipes keep their ids."""
        plain = {"average": None, "accumulate": 1, "sync_batch_norm": True}
        return {key: value for key, value in whole(self).items() if key not in plain or value != plain[key]}


class Student(Record):
    """The attacker's network with its own settings, and the recipe that trains it (none: the victim's training section).

    `weights`: a model folder, run folder or state dict with the public weights that it starts from; only on a card that starts so.
    """

    name: str = "cnn"
    width: float = Field(1.0, gt=0, le=16)
    settings: dict[str, Any] = {}
    recipe: str | None = None
    weights: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without empty settings and weights, so that cells of students who have none keep their ids."""
        return {key: value for key, value in whole(self).items() if key not in ("settings", "weights") or value}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        MODELS.make(name)
        return name

    @property
    def network(self) -> Network:
        """The network's record."""
        return MODELS.make({**self.settings, "name": self.name, "width": self.width})


class Recipe(Record):
    """A whole run: data, network, training, and how the victim is defended and attacked."""

    data: DataSettings = DataSettings()
    model: Any = Field(default="cnn", validate_default=True)
    training: Training = Field(default_factory=Training)
    defense: Any = Field(default="nasty", validate_default=True)
    attack: Any = Field(default="kd", validate_default=True)
    student: Student = Student()
    seed: int = Field(0, ge=0)

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Network:
        return MODELS.make(value)

    @field_validator("defense", "attack", mode="before")
    @classmethod
    def _component(cls, value: Any, info: Any) -> Component:
        return registry(info.field_name).make(value)

    @field_serializer("model", "defense", "attack")
    def _whole(self, value: Component) -> dict[str, Any]:
        return value.model_dump(mode="json", by_alias=True)

    def dump(self) -> dict[str, Any]:
        """Plain JSON values that `read` turns back into this recipe."""
        return self.model_dump(mode="json", by_alias=True)


def component(values: dict[str, Any], section: str, wanted: Any) -> dict[str, Any]:
    """`values` with another component in a section. One of the same name keeps the settings that it does not name."""
    new = wanted.model_dump(mode="json", by_alias=True) if isinstance(wanted, Component | Record) else wanted
    new = {"name": new} if isinstance(new, str) else new
    if not isinstance(new, dict):
        raise UsageError(f"{section} is a name or settings with a name among them, not {new!r}")
    old = values[section]
    return {**values, section: {**old, **new} if new.get("name") == old["name"] else new}


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(source: str | Path | dict[str, Any] | Recipe, settings: tuple[str, ...] | list[str] = ()) -> Recipe:
    """A recipe from a name, a YAML file or plain values, with `a.b=value` settings on top.

    Raises:
        UsageError: names the file, the setting and the value that does not fit.
    """
    if isinstance(source, Recipe):
        if not settings:
            return source
        source = source.dump()
    recipe = _validate(source if isinstance(source, dict) else _parse(source))
    if not settings:
        return recipe
    values = recipe.dump()  # with all that the source left to its defaults
    for setting in settings:
        values = _override(values, setting)
    return _validate(values)


def _validate(values: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(problem(error, Recipe)) from None


def _parse(source: str | Path) -> dict[str, Any]:
    path = FOLDER / f"{source}.yaml"
    if not path.is_file():
        path = Path(source)
        if not path.suffix and not path.exists():
            raise unknown("recipe", str(source), names())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read recipe {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"recipe {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"recipe {path} holds no settings")
    return values


def _override(values: dict[str, Any], setting: str) -> dict[str, Any]:
    """`values` with one `a.b=value` changed. A new `name` drops the old component's settings, which are not its own."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise UsageError(f"a setting is written section.name=value, not {setting!r}")
    try:
        value = yaml.safe_load(text) if text else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"the value of {path} is no YAML: {text[:80]!r}") from error
    if isinstance(value, str) and _is_number(value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    *sections, last = path.split(".")
    changed = dict(values)
    place = changed
    for section in sections:
        inner = place.get(section)
        if not isinstance(inner, dict):
            inner = {} if inner is None else {"name": inner}
        place[section] = inner = dict(inner)
        place = inner
    if last == "name" and sections and sections[-1] != "data" and place.get("name") != value:
        place.clear()
    if path == "data.name" and place.get("name") != value:
        for key in OF_ONE_SET:
            place.pop(key, None)
    place[last] = value
    return changed


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def for_student(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values with `training` as its student's own recipe has it, which is then named no more."""
    own = values["student"].get("recipe")
    if not own:
        return values
    return {**values, "training": read(own).dump()["training"], "student": {**values["student"], "recipe": None}}
