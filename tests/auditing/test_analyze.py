"""From a folder of cells to a result: verdicts, lost cells, relative accuracy, label-equivalent sample sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditing.made import FLOOR, LABELLED, MadeAudit, change, fail, keys, only_card, predicted, remove
from undistill.auditing.analyze import analyze, label_equivalents
from undistill.auditing.case import comparison
from undistill.auditing.evidence import Arm, read
from undistill.auditing.result import Point
from undistill.auditing.text import unique_names
from undistill.auditing.verdict import STRENGTH
from undistill.errors import UsageError
from undistill.experiments.plan import Planned, Role, Side
from undistill.reporting.audit.words import decides_text

SAME = {"kd": 90.0, "decoupled": 88.0, "standardised-kd": 87.0}


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (MadeAudit(soft=FLOOR, naive=70.0), "reduced to labels"),
        (MadeAudit(soft=SAME), "no effect"),
        (MadeAudit(soft={"kd": 84.0, "decoupled": 83.0}), "partial"),
        (MadeAudit(soft=FLOOR, soft0=FLOOR, naive=70, naive0=70, labels0={"label-only": 79.0}), "nothing to defend"),
        (MadeAudit(card=LABELLED, alone=80.0, soft=FLOOR, naive=70.0), "worthless to this thief"),
        (MadeAudit(soft=FLOOR, naive=70.0, seeds=(0,)), "inconclusive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_verdict_from_cells(made: MadeAudit, verdict: str, tmp_path: Path) -> None:
    made.write(tmp_path)
    card = only_card(tmp_path)
    assert (card.verdict, card.indication) == (verdict, None)
    made = MadeAudit(**{**vars(made), "plan": {"verdicts": False}, "cells": [], "made": {}})
    made.write(tmp_path / "small suite")
    card = only_card(tmp_path / "small suite")
    assert (card.verdict, card.indication) == (None, verdict)


def test_without_a_control_there_is_relative_accuracy_and_no_verdict(tmp_path: Path) -> None:
    MadeAudit(control=False).write(tmp_path)
    card = only_card(tmp_path)
    assert (card.verdict, card.indication, card.headroom) == (None, None, None)
    assert card.relative_accuracy == pytest.approx(100 * 80 / 95)


def test_a_worse_control_is_refused(tmp_path: Path) -> None:
    MadeAudit(served=(95.0, 90.0)).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == "inconclusive"
    assert card.relative_accuracy is not None


def test_attacks_are_chosen_by_the_search_and_not_by_test_images(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    chosen = [one.name for one in only_card(tmp_path).attacks if one.chosen and one.side == "defended"]
    assert chosen == ["kd (τ 4, α 1)", "label-only"]
    for name, score in (("label-smooth", 90.0), ("label-only", 10.0)):
        for key in keys(plan, side="defended", role="search", label=name):
            change(tmp_path, key, held_out=score)
    chosen = [one.name for one in only_card(tmp_path).attacks if one.chosen and one.side == "defended"]
    assert "label-smooth" in chosen


# -- cells that are lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [fail, remove])
def test_each_lost_cell_makes_it_inconclusive_or_leaves_it_alone(
    how: Callable[[Path, str], None], tmp_path: Path
) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0, seeds=(0, 1, 2)).write(tmp_path)
    assert only_card(tmp_path).verdict == "reduced to labels"
    for cell in plan.cells:
        if cell.seed not in (0, 10_000):
            continue
        kept = {path: path.read_bytes() for path in tmp_path.glob(f"*/*{cell.key[1:]}.json")}
        how(tmp_path, cell.key)
        card = only_card(tmp_path)
        assert card.verdict == ("reduced to labels" if cell.role == "curve" else "inconclusive"), cell
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_failed_cell_is_counted_and_its_reason_given(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    fail(tmp_path, keys(plan, side="defended", label="soft, rank 3")[2])
    result = analyze(tmp_path)
    assert result.threat_models[0].verdict == "inconclusive"
    assert "it broke" in result.threat_models[0].why
    assert (result.failed, result.done) == (1, result.planned - 1)


@pytest.mark.parametrize("label", ["soft, rank 1", "naive kd", "label-only"])
@pytest.mark.parametrize("side", ["defended", "undefended"])
def test_a_diverged_attack_never_says_more_for_the_defense(label: str, side: str, tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    before = only_card(tmp_path).verdict
    for key in keys(plan, side=side, label=label)[:2]:
        if plan.cell(key).role != "search":
            fail(tmp_path, key, "diverged")
    after = only_card(tmp_path).verdict
    assert STRENGTH[str(after)] <= STRENGTH[str(before)]


def test_a_rank_that_the_search_does_not_have_is_no_loss(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    for key in keys(plan, side="defended", role="search", label="standardised-kd"):
        fail(tmp_path, key, "diverged")
    for key in keys(plan, side="defended", label="soft, rank 3"):
        fail(tmp_path, key)
    card = only_card(tmp_path)
    assert card.verdict == "reduced to labels"
    assert not any(one.attack == "standardised-kd" and one.side == "defended" for one in card.attacks)


# -- a model that shows labels alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        ({}, "reduced to labels"),
        ({"noise": 1.5, "labels": {"label-only": 79.0, "label-smooth": 78.9}}, "reduced to labels"),
        ({"soft0": FLOOR, "naive0": 70.0}, "nothing to defend"),
        ({"card": LABELLED, "alone": 81.0}, "worthless to this thief"),
        ({"card": LABELLED, "alone": 70.0}, "reduced to labels"),
        ({"seeds": (0,)}, "inconclusive"),
        ({"shows": "weights"}, "inconclusive"),
    ],
)
def test_a_model_that_returns_labels_alone(made: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    MadeAudit(**{"soft": {}, "naive": None, "shows": "label", **made}).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == verdict
    assert card.relative_accuracy is not None
    if "shows" not in made:
        assert card.A_soft == card.A_label
        gap = next(found.estimate for found in card.contrasts if found.name.startswith("A_soft − floor"))
        assert gap.upper is not None
        assert gap.upper <= 0
        assert card.reduction == card.headroom
        assert card.reduction_share in (100.0, None)


def test_what_is_not_computed_yet(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    for cell in plan.cells:
        if cell.role != "served":
            remove(tmp_path, cell.key)
    assert only_card(tmp_path).verdict == "inconclusive"
    for cell in plan.cells:
        if cell.role == "served":
            remove(tmp_path, cell.key)
    with pytest.raises(UsageError, match="computed yet"):
        analyze(tmp_path)


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_levels_are_the_best_of_their_kind(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    card = only_card(tmp_path)
    levels = [card.A_def, card.A_soft, card.A_label, card.A_soft0, card.A_label0, card.A_ref]
    means = [level.mean for level in levels if level is not None]
    assert means == pytest.approx([80, 80, 79, 90, 79.5, 78], abs=0.11)
    assert card.headroom is not None
    assert card.reduction is not None
    assert card.headroom.mean == pytest.approx(11, abs=0.11)
    assert card.reduction.mean == pytest.approx(10, abs=0.11)
    assert card.reduction_share == pytest.approx(100 * card.reduction.mean / card.headroom.mean, abs=0.01)
    assert card.tried == 3 + 2 + 2


def test_the_result_without_the_attack_that_decides(tmp_path: Path) -> None:
    """`kd` leads by 5 points, in each of its settings; without it soft outputs teach no more than labels."""
    MadeAudit(soft={"kd": 84.0, "decoupled": 79.0, "standardised-kd": 78.0}, naive=83.5).write(tmp_path)
    card = only_card(tmp_path)
    found = card.decides
    assert found is not None
    assert (card.verdict, found.attack, found.without) == ("partial", "kd", "reduced to labels")
    assert (found.best, found.runner_up) == (card.best, "label-only")
    assert found.ahead is not None
    assert found.ahead.mean == pytest.approx(5.0)
    assert "kd (τ 4, α 1). The best other attack is label-only, 5.0 points behind" in decides_text(card)
    assert decides_text(card).endswith("Without kd, the verdict would be: label-only level.")
    MadeAudit(soft=SAME).write(tmp_path / "robust")
    robust = only_card(tmp_path / "robust")
    assert robust.decides is not None
    assert robust.decides.without == robust.verdict == "no effect"


def test_a_gain_is_the_paired_difference_from_the_chosen_label_only_attack(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    card = only_card(tmp_path)
    gains = {each.name: each.gain for each in card.attacks if each.side == "defended"}
    gap = next(found.estimate for found in card.contrasts if found.name == "A_soft − floor")
    assert gains["label-only"] is None
    assert gains["kd (τ 4, α 1)"] is not None
    assert gap.mean == gains["kd (τ 4, α 1)"].mean


def test_a_reduction_is_never_reported_below_nothing(tmp_path: Path) -> None:
    MadeAudit(soft={"kd": 95.0, "decoupled": 88.0}).write(tmp_path)
    reduction = only_card(tmp_path).reduction
    assert reduction is not None
    assert reduction.upper is not None
    assert reduction.upper < reduction.mean == 0


def test_more_effort_counts_for_relative_accuracy_and_for_no_verdict(tmp_path: Path) -> None:
    MadeAudit(soft=FLOOR, naive=70.0, effort=88.0).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == "reduced to labels"
    assert card.best == "the best attacker, twice the steps"
    assert card.relative_accuracy == pytest.approx(100 * 88 / 95, abs=0.2)


def test_the_chosen_attack_on_the_model_is_no_baseline() -> None:
    def arm(side: Side, role: Role, score: float) -> Arm:
        return Arm((Planned(key="k", side=side, role=role, label=role, card=LABELLED),), score=score)

    found = comparison([arm("defended", "soft", 60), arm("defended", "labels", 70), arm("alone", "alone", 90)], True)
    assert (found.attacks.chosen, found.defended.chosen) == (found.baseline.all[0], found.labels.all[0])


def test_a_method_is_judged_by_its_teachers(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    method = plan.model_copy(update={"question": "method"})
    (tmp_path / "audit.json").write_text(json.dumps(method.dump()))
    card = only_card(tmp_path)
    assert card.verdict == "inconclusive"  # one teacher is one unit
    assert card.A_def is not None
    assert (card.A_def.n, card.A_def.low) == (1, None)


def test_every_planned_cell_has_a_line_with_its_command(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    remove(tmp_path, plan.cells[5].key)
    lines = analyze(tmp_path).lines
    assert [line.key for line in lines] == [cell.key for cell in plan.cells]
    assert lines[5].status == "missing"
    assert all(line.command == f"undistill audit cell {tmp_path} {line.key}" for line in lines)


def test_an_accuracy_lies_between_nothing_and_all(tmp_path: Path) -> None:
    MadeAudit(seeds=(0, 1), noise=8.0).write(tmp_path)
    found = [each.accuracy for each in only_card(tmp_path).attacks]
    assert any(one is not None and one.high == 100 for one in found)
    assert all(one is not None and one.low is not None and 0 <= one.low <= one.mean for one in found)


POINTS = tuple(Point(x=x, y=y) for x, y in ((10, 50.0), (100, 70.0), (1000, 90.0)))


@pytest.mark.parametrize(
    ("accuracy", "wanted"),
    [(70, (100, False)), (80, (316.2, False)), (50, (10, False)), (49, (None, False)), (91, (1000, True))],
)
def test_label_equivalents(accuracy: float, wanted: tuple[float | None, bool]) -> None:
    number, beyond = label_equivalents(accuracy, POINTS)
    assert number == pytest.approx(wanted[0])
    assert beyond == wanted[1]
    assert label_equivalents(accuracy, POINTS[:1]) == (None, False)


def test_two_attacks_never_share_a_name(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    evidence = read(tmp_path)
    arms = evidence.arms(evidence.plan.cards[0])
    twice = (arms[0], replace(arms[0]), *arms[1:])
    names = unique_names(twice)
    assert len({(arm.side, name) for arm, name in names.items()}) == len(twice)


def test_fidelity_is_the_agreement_with_the_audited_model_for_baselines_too(tmp_path: Path) -> None:
    made = MadeAudit()
    found = analyze(made.at(tmp_path)).threat_models[0]
    model_N = predicted(made.served[0], 999)
    by_id = {cell.id: arrays["predicted"] for cell, arrays in made.made.values() if arrays}
    for attack in found.attacks:
        expected = np.mean([100 * (by_id[cell] == model_N).mean() for cell in attack.cells])
        assert attack.fidelity == pytest.approx(expected, abs=0.01)
    assert {attack.side for attack in found.attacks} == {"defended", "undefended", "alone"}
