"""Trainings and measurements that fill the points of a plan, found by the hash of their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from undistill.auditing.cell import identify

Kind = Literal["train", "protect", "attack", "logit-response", "embedding", "inversion"]


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
    def folder(self) -> str:
        """Where it lies below the reproduction's folder."""
        home = {"train": "teachers", "protect": "teachers", "attack": "students"}.get(self.kind, "figures")
        return f"{home}/{self.label}-s{self.seed}-{self.key[:8]}"
