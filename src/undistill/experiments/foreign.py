"""Code from outside the package: what it is, by its hash, and whether an error is its own."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from undistill.errors import UndistillError
from undistill.models.external import Factory
from undistill.registry import Component

PACKAGE = "undistill"


class Broken(UndistillError):
    """An attack that ended with an error of its own."""


def code_of(components: Iterable[Component]) -> str:
    """16 hex digits over the source files of components that are not the package's own; "" where all of them are.

    A network that a callable makes is as foreign as the callable.
    """
    files = dict.fromkeys(file for component in components if (file := _source(component)) is not None)
    if not files:
        return ""
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]


def _source(component: Component) -> Path | None:
    """The file that a foreign component was read from, where there is one."""
    place = type(component).__module__
    if isinstance(component, Factory):
        place = component.name.rpartition(":")[0]
        if place.endswith(".py"):
            return _there(place)
    return None if _ours(place) else _there(getattr(sys.modules.get(place), "__file__", None))


def _there(name: str | None) -> Path | None:
    path = None if name is None else Path(name).expanduser()
    return path if path is not None and path.is_file() else None


def its_own(error: BaseException) -> bool:
    """Whether an error that came out of an attack was raised by attacks' code, and not by what the package lends them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    place = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return not _ours(place) or place.startswith(f"{PACKAGE}.attacks.")


def _ours(place: str) -> bool:
    return place.partition(".")[0] == PACKAGE
