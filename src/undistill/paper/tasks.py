"""Trainings and measurements that fill the points of a plan, found by the hash of their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from undistill.experiments.cell import identify
from undistill.paper.experiments import Figure

Kind = Literal["train", "protect", "attack"] | Figure


@dataclass(frozen=True)
class Task:
    """One run folder or figure. `settings` are all that fixes its numbers, `needs` the tasks it stands on, by key.

    `key` is the hash of kind and settings, so that experiments which share a part find each other's.
    """

    kind: Kind
    label: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    data: str = ""
    seed: int = 0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", identify({"kind": self.kind, **self.settings}))

    @property
    def home(self) -> str:
        """The folder that holds its own."""
        return "students" if self.kind == "attack" else "teachers"

    @property
    def name(self) -> str:
        """What its folder is called. The label is for people: another experiment may call the same task otherwise."""
        return f"{self.label}-s{self.seed}-{self.key[:8]}"
