"""The recipe of a planned thief, once the search that it rests on is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undistill.errors import UsageError
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Plan, Planned
from undistill.experiments.ranking import pick
from undistill.training.recipe import Recipe, read


class Absent(UsageError):
    """The search found no attack of the rank that is wanted: those that were tried diverged."""


def resolved(plan: Plan, planned: Planned, found: Sequence[Cell]) -> Recipe:
    """The recipe; `found` are cells of the search that did not fail.

    Raises:
        Absent: the search has fewer attacks than the rank that is asked for.
    """
    training, attack_settings = dict(planned.recipe["training"]), dict(planned.attack)
    if planned.choice is not None:
        best = pick(found, planned.choice.rank)
        if best is None:
            raise Absent(f"fewer than {planned.choice.rank} attacks of the search came to an end")
        attack_settings = best.record
        training |= {name: best.training[name] for name in ("optimizer", "clip")}
    values: dict[str, Any] = {
        "data": {**plan.data, "views": planned.recipe["views"]},
        "training": training,
        "attack": attack_settings,
        "student": {"recipe": None, **planned.student},
        "seed": planned.seed,
    }
    for path, value in planned.changes.items():
        values = _changed(values, path, lambda _, value=value: value)
    for path, factor in planned.times.items():
        values = _changed(values, path, lambda old, factor=factor: _multiplied(old, factor))
    return read(values)


def _changed(values: dict[str, Any], path: str, change: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    if not rest:
        return {**values, first: change(values.get(first, 1.0 if first == "width" else None))}
    return {**values, first: _changed(values[first], rest, change)}


def _multiplied(old: Any, factor: float) -> Any:
    return max(1, round(old * factor)) if isinstance(old, int) else old * factor
