"""What the tests of whole commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SMALL = ("--data", "digits", "-s", "training.epochs=2", "-s", "model.width=0.125", "-s", "data.limit=1100", "-q")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Shell = Callable[..., Outcome]
