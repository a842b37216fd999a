"""What an audit's folder holds: cells that are not the planned ones, and attacks whose search has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auditing.made import FLOOR, LABELLED, MadeAudit, change, fail, keys, only_card, remove
from undistill.auditing.analyze import analyze
from undistill.errors import RunError


def test_a_search_that_changed_makes_its_attacks_missing(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0, taus={1.0: 79.9, 4.0: 80.0}).write(tmp_path)
    hot = next(cell for cell in plan.cells if cell.role == "search" and cell.attack.get("temperature") == 4.0)
    assert only_card(tmp_path).verdict == "reduced to labels"
    change(tmp_path, hot.key, held_out=78.0)  # kd is still the best attack, at another temperature
    judgement = analyze(tmp_path)
    card = judgement.threat_models[0]
    assert card.verdict == "inconclusive"
    old = [line for line in judgement.lines if line.why == "its search has changed: compute it again"]
    assert [line.key for line in old] == keys(plan, side="defended", label="soft, rank 1")
    assert {line.status for line in old} == {"missing"}
    assert judgement.done == judgement.planned - 5
    assert [attacker.accuracy for attacker in card.attacks if attacker.name == "soft, rank 1"][:1] == [None]


def test_a_search_that_changed_without_another_choice_changes_nothing(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    hot = next(cell for cell in plan.cells if cell.role == "search" and cell.attack.get("temperature") == 4.0)
    change(tmp_path, hot.key, held_out=79.5)
    assert only_card(tmp_path).verdict == "reduced to labels"


def test_a_place_in_the_search_that_was_empty_once_and_no_more(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    for key in keys(plan, side="defended", label="soft, rank 3"):
        change(
            tmp_path,
            key,
            status="diverged",
            recipe={},
            attack="soft, rank 3",
            accuracy=None,
            held_out=None,
            arrays=None,
        )
    assert only_card(tmp_path).verdict == "inconclusive"
    for key in keys(plan, side="defended", role="search", label="standardised-kd"):
        fail(tmp_path, key, "diverged")
    assert only_card(tmp_path).verdict == "reduced to labels"


@pytest.mark.parametrize(
    ("role", "values"),
    [
        ("naive", {"card": LABELLED}),
        ("naive", {"seeds": {"student": 7}}),
        ("naive", {"seeds": {}}),
        ("naive", {"phase": "selection"}),
        ("search", {"phase": "report"}),
        ("naive", {"attack": "label-only"}),
        ("naive", {"kind": "victim"}),
        ("served", {"kind": "cell"}),
        ("served", {"card": LABELLED}),
    ],
)
def test_a_cell_that_is_not_the_planned_one_is_an_error(role: str, values: dict[str, Any], tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    key = keys(plan, role=role)[0]
    change(tmp_path, key, **values)
    with pytest.raises(RunError, match=rf"done/{key}\.json names a cell that is not the planned one"):
        analyze(tmp_path)


@pytest.mark.parametrize(
    "marker", [{"cell": "../c000000000000003"}, {"cell": "c0"}, {"cell": "c000000000000003", "cells": "/tmp"}, {}]
)
def test_a_marker_leads_nowhere_else(marker: dict[str, str], tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    (tmp_path / "done" / f"{plan.cells[3].key}.json").write_text(json.dumps(marker))
    with pytest.raises(RunError, match="is damaged"):
        analyze(tmp_path)


def test_a_marker_may_name_a_folder_beside_the_audit(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path / "a")
    before = only_card(tmp_path / "a")
    (tmp_path / "a" / "cells").rename(tmp_path / "cells")
    for cell in plan.cells:
        marker = tmp_path / "a" / "done" / f"{cell.key}.json"
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "cells": "../cells"}))
    assert only_card(tmp_path / "a") == before


@pytest.mark.parametrize("how", [fail, remove])
def test_a_lost_attack_with_more_effort_is_flagged_and_changes_no_verdict(
    how: Callable[[Path, str], None], tmp_path: Path
) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0, effort=80.0).write(tmp_path)
    for key in keys(plan, role="effort")[:2]:
        how(tmp_path, key)
    judgement = analyze(tmp_path)
    assert judgement.threat_models[0].verdict == "reduced to labels"
    assert "effort-not-tried" in {flag.name for flag in judgement.flags}


def test_predictions_that_contradict_their_accuracy_are_an_error(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    change(tmp_path, keys(plan, role="soft")[0], accuracy=12.5)
    with pytest.raises(RunError, match="its predictions"):
        analyze(tmp_path)


def test_cells_of_other_data_are_an_error(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    change(tmp_path, keys(plan, role="soft")[0], data="0" * 16)
    with pytest.raises(RunError, match="other data"):
        analyze(tmp_path)
