"""Plans: their controls cannot be left out, and cells of one plan are not mixed with those of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from auditing.made import LABELLED, MadeAudit
from undistill.errors import RunError, UsageError
from undistill.experiments.plan import Plan, Planned, missing_control, read, write


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return MadeAudit().write(tmp_path / "made")


def without(plan: Plan, **wanted: Any) -> dict[str, Any]:
    kept = [cell for cell in plan.cells if not all(getattr(cell, name) == value for name, value in wanted.items())]
    assert len(kept) < len(plan.cells)
    return {**plan.dump(), "cells": [cell.model_dump(mode="json") for cell in kept]}


CONTROLS: list[dict[str, Any]] = [
    {"side": "defended", "role": "labels"},
    {"side": "undefended", "role": "labels"},
    {"side": "undefended", "role": "soft"},
    {"side": "alone", "role": "alone"},
    {"side": "defended", "role": "served"},
    {"side": "undefended", "role": "served"},
]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{control['side']}-{control['role']}")
@pytest.mark.parametrize("seed", [None, 0, 4])
def test_a_plan_without_a_control_cannot_be_made(plan: Plan, control: dict[str, Any], seed: int | None) -> None:
    wanted = control if seed is None or control["role"] == "served" else {**control, "seed": seed}
    with pytest.raises(ValidationError, match="a plan without its controls says nothing"):
        Plan.model_validate(without(plan, **wanted))


@pytest.mark.parametrize("role", ["search", "naive", "curve"])
def test_what_is_no_control_may_be_left_out(plan: Plan, role: str) -> None:
    assert missing_control(Plan.model_validate(without(plan, role=role))) == ""


def test_without_a_twin_no_control_of_it_is_asked_for(tmp_path: Path) -> None:
    plan = MadeAudit(control=False, card=LABELLED).write(tmp_path)
    assert not plan.controlled
    assert missing_control(plan) == ""


def test_a_plan_is_read_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    assert read(tmp_path / "made") == plan
    write(tmp_path / "made", plan)


def test_another_plan_on_old_cells_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="delta was 2"):
        write(tmp_path / "made", plan.model_copy(update={"delta": 1.0}))
    fewer = plan.model_copy(update={"cells": plan.cells[:-1]})
    with pytest.raises(UsageError, match="its cells are others"):
        write(tmp_path / "made", fewer)


def test_what_a_plan_expects_may_be_said_anew(plan: Plan, tmp_path: Path) -> None:
    write(tmp_path / "made", plan.model_copy(update={"command": "again", "resolves": 1.5}))


def test_damage_and_newer_schemas_are_told(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "made" / "audit.json"
    values = plan.dump()
    path.write_text(json.dumps({**values, "schema": 99}))
    with pytest.raises(UsageError, match="schema 99"):
        read(tmp_path / "made")
    path.write_text(json.dumps({**values, "delta": -1}))
    with pytest.raises(RunError, match="damaged: delta"):
        read(tmp_path / "made")
    path.write_text("[]")
    with pytest.raises(RunError, match="states no schema"):
        read(tmp_path / "made")


def test_cells_are_found_by_the_beginning_of_their_key(plan: Plan) -> None:
    assert plan.cell(plan.cells[3].key) == plan.cells[3]
    with pytest.raises(UsageError, match="no cells"):
        plan.cell("zzz")
    with pytest.raises(UsageError, match="cells of the plan begin"):
        plan.cell("0")


def test_a_cell_counts_for_each_of_its_cards(plan: Plan) -> None:
    first = plan.cells[0]
    both = first.model_copy(update={"cards": ("a/b/c/d", first.card)})
    changed = plan.model_copy(update={"cells": (both, *plan.cells[1:])})
    assert changed.of("a/b/c/d") == (both,)
    assert both in changed.of(first.card)


def test_what_a_choice_waits_for() -> None:
    cell = Planned(
        key="k",
        side="defended",
        role="soft",
        label="",
        card="",
        choice={"among": ("a", "b")},
        after=("t",),
    )
    assert cell.needs == ("t", "a", "b")
