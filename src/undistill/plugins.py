"""Components from outside the package: files named by the user, and installed packages with an entry point.

A plugin registers its components when it is imported, like a file of ours. `$UNDISTILL_PLUGINS` may name files too. Code is never
imported because a file says so, only where the user named it (`trust`). Workers get the same files and names (`environment`).
Never imports torch itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from undistill.errors import UsageError

GROUP = "undistill.plugins"
VARIABLE = "UNDISTILL_PLUGINS"
TRUSTED = "UNDISTILL_TRUSTED"
CARRIED = ("UNDISTILL_MEMORY_LIMIT",)
"""Variables that mean the same wherever a cell is computed."""
REMEMBERED: dict[str, list[str]] = {VARIABLE: [], TRUSTED: []}
"""The files and names that this process was given beside those of its environment."""


def load_plugin(path: str | Path) -> ModuleType:
    """Import a Python file whose components are to be known, here and in worker processes.

    Raises:
        UsageError: no such file, or one that fails while it is imported.
    """
    file = Path(path).expanduser().resolve()
    module = import_file(file)
    _remember(VARIABLE, str(file))
    return module


def trust(name: str) -> None:
    """Let this process and its workers call `package.module:callable` or query an endpoint: for names that a person typed alone."""
    _remember(TRUSTED, name)


def named(name: str) -> Callable[..., Any]:
    """The callable behind `package.module:callable` or `FILE.py:callable`; UsageError where it is not trusted or there is none."""
    place, _, attribute = name.rpartition(":")
    check_trusted(name, "is code")
    module = import_file(Path(place).expanduser().resolve()) if place.endswith(".py") else _module(place)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UsageError(f"{place} has no callable {attribute!r}")
    return found


def check_trusted(name: str, what: str) -> None:
    """UsageError for what nobody typed."""
    if name not in _remembered(TRUSTED):
        raise UsageError(f"{name} {what}, and only a file asks for it; if you trust that file, add --trust {name}")


def _module(place: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise UsageError(f"cannot import {place}: {_sentence(error)}") from error


def environment() -> dict[str, str]:
    """The variables by which a child process loads the same files, trusts the same names and keeps the same limits."""
    limits = {name: os.environ[name] for name in CARRIED if name in os.environ}
    return {variable: "\n".join(_remembered(variable)) for variable in REMEMBERED} | limits


def _remembered(variable: str) -> list[str]:
    return [name for name in os.environ.get(variable, "").split("\n") if name] + REMEMBERED[variable]


def _remember(variable: str, name: str) -> None:
    if name not in _remembered(variable):
        REMEMBERED[variable].append(name)


def load_all() -> None:
    """Import the files that were named and what installed packages offer under the entry point `undistill.plugins`."""
    for name in _remembered(VARIABLE):
        import_file(Path(name))
    _installed()


@cache
def _installed() -> None:
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            raise UsageError(f"the installed plugin {entry.name} ({entry.value}) fails: {_sentence(error)}") from error


def import_file(file: Path) -> ModuleType:
    """A Python file as a module, once a process; UsageError names one that is missing or fails."""
    name = f"undistill_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"there is no Python file at {file}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{file} fails while it is imported: {_sentence(error)}") from error
    return module


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
