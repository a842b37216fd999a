"""Names to components.

A component is a frozen, validated record: its fields are hyper-parameters, its methods behaviour, its `name` is how recipes and
the shell call it. A file in the component's package that registers a class is all there is to add; so is a plugin (plugins.py).
A name that ends with a colon is a family: `timm:` is for `timm:resnet18`, `:` for any other name with a colon.
Never imports torch itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from undistill import plugins
from undistill.errors import UsageError, unknown


class Component(BaseModel):
    """Base of everything that a recipe names: hyper-parameters that survive a JSON round trip."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str
    shown: ClassVar[str] = ""
    """How a family is listed: `timm:NAME`."""

    @property
    def settings(self) -> dict[str, Any]:
        """The hyper-parameters without the name."""
        return self.model_dump(mode="json", by_alias=True, exclude={"name"})


C = TypeVar("C", bound=Component)


class Registry(Generic[C]):
    """The components of one kind, found by importing every file of `package` on first use."""

    all: ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._classes: dict[str, type[C]] = {}
        self._found = False
        Registry.all[kind] = self

    def register(self, cls: type[C]) -> type[C]:
        """Class decorator: make `cls` known by the default of its field `name`."""
        name = cls.model_fields["name"].default
        if not isinstance(name, str):
            raise TypeError(f"{cls.__name__} needs a field `name` with a default")
        known = self._classes.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"two {self.kind}s are called {name!r}")
        self._classes[name] = cls
        return cls

    def classes(self) -> dict[str, type[C]]:
        """All components by name, families left out."""
        return {name: cls for name, cls in self.everything().items() if not name.endswith(":")}

    def everything(self) -> dict[str, type[C]]:
        """All components and families by name."""
        if not self._found:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{self.package}.{module.name}")
            self._found = True
        plugins.load_all()
        return dict(sorted(self._classes.items()))

    def find(self, name: object) -> type[C]:
        """The class of a name; UsageError if there is none."""
        everything = self.everything()
        if isinstance(name, str):
            family, colon, rest = name.partition(":")
            found = everything.get(name) if not colon else everything.get(f"{family}:") or everything.get(":")
            if found is not None and (rest or not colon):
                return found
        raise unknown(self.kind, name, [cls.shown or known for known, cls in everything.items()])

    def make(self, settings: str | dict[str, Any] | C) -> C:
        """A component from its name or `{name: …, …}`; UsageError names an unknown name, field or value."""
        if isinstance(settings, Component) and type(settings) is self.find(settings.name):
            return settings
        values = {"name": settings} if isinstance(settings, str) else settings
        if not isinstance(values, dict):
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise UsageError(f"{article} {self.kind} is a name or settings with a name among them, not {settings!r}")
        name = values.get("name")
        cls = self.find(name)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(f"{self.kind} {name}: {problem(error, cls)}") from None


def registry(kind: str) -> Registry[Any]:
    """The registry of a kind that a layer above owns, so that a recipe can be validated whole."""
    if kind not in Registry.all:
        importlib.import_module(OWNERS[kind])
    return Registry.all[kind]


OWNERS = {
    "defense": "undistill.defenses.base",
    "answer-defense": "undistill.oracle.output_defense",
    "attack": "undistill.attacks.base",
}


def parsed(text: str, kind: str, example: str) -> dict[str, Any]:
    """`{name: …, setting: …}` of a shell text `NAME [SETTING=VALUE …]`, each value YAML, as in `rounding digits=1`.

    Raises:
        UsageError: the text is not written so; the `kind` and an `example` are for its sentence.
    """
    name, *settings = text.split() or [""]
    if not name or "=" in name:
        raise UsageError(f"an {kind} is written NAME [SETTING=VALUE …], such as {example}, not {text!r}")
    values: dict[str, Any] = {"name": name}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"a setting of {name} is written SETTING=VALUE, not {setting!r}")
        if key in values:
            raise UsageError(f"{key} is given twice in {text!r}")
        try:
            values[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UsageError(f"the value of {key} is no YAML: {value[:80]!r}") from None
    return values


def problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a failed validation, as the rest of a sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = _owner(model, first["loc"][:-1])
        known = ", ".join(field.alias or name for name, field in owner.model_fields.items()) if owner else ""
        return f"there is no setting {where!r}" + (f"; there are {known}" if known else "")
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    message = first["msg"][0].lower() + first["msg"][1:]
    given = "" if isinstance(first["input"], dict | BaseModel) else f" (given: {first['input']!r})"
    return f"{where}: {message}{given}" if where else message


def _owner(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        found = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model
