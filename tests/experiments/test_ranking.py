"""The search: who is best is decided by images held out, never by test images."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditing.made import TRAINING
from undistill.errors import RunError
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Choice, Planned
from undistill.experiments.ranking import matches, pick, ranked, scores


def searched(attack: str, held_out: float | None, seed: int = 0, status: Any = "ok", **settings: Any) -> Cell:
    return Cell(
        id=f"{attack}-{seed}-{settings}",
        victim="v",
        victim_id="v",
        attack=attack,
        attack_settings=settings,
        student="cnn",
        student_settings={"width": 0.5},
        seeds={"student": seed},
        phase="selection",
        held_out=held_out,
        status=status,
        recipe={"training": TRAINING},
    )


def test_each_attack_is_there_once_with_its_best_settings() -> None:
    cells = [searched("kd", 70.0, temperature=1), searched("kd", 75.0, temperature=4), searched("average", 72.0)]
    first, second = ranked(cells)
    assert (first.attack, first.settings, first.score) == ("kd", {"temperature": 4}, 75.0)
    assert (second.attack, second.score) == ("average", 72.0)
    assert first.record == {"name": "kd", "temperature": 4}
    assert first.training == TRAINING
    assert first.student_settings == {"width": 0.5}


def test_scores_are_means_over_seeds() -> None:
    cells = [
        searched("kd", 70.0, 0),
        searched("kd", 80.0, 1),
        searched("average", 74.0, 0),
        searched("average", 75.0, 1),
    ]
    assert [(group.attack, group.score) for group in ranked(cells)] == [("kd", 75.0), ("average", 74.5)]


def test_other_training_is_another_group() -> None:
    slow = searched("kd", 80.0).model_copy(update={"recipe": {"training": {**TRAINING, "clip": 1.0}}})
    found = scores([searched("kd", 70.0), slow])
    assert [group.training["clip"] for group in found] == [1.0, None]


def test_a_diverged_cell_scores_nothing_and_its_attack_is_left_out_when_all_settings_diverged() -> None:
    cells = [searched("kd", 90.0, 0, t=1), searched("kd", None, 1, "diverged", t=1), searched("kd", 60.0, t=2)]
    assert ranked(cells)[0].settings == {"t": 2}
    assert scores(cells)[-1].score == -math.inf
    assert ranked([searched("kd", None, 0, "diverged")]) == []


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_a_cell_without_a_score_is_an_error(status: str) -> None:
    with pytest.raises(RunError, match="no attacker can be chosen"):
        ranked([searched("kd", 70.0), searched("average", None, status=status)])


def test_a_rank_beyond_the_attacks_is_none() -> None:
    cells = [searched("kd", 70.0), searched("average", 72.0)]
    found = [pick(cells, rank) for rank in (1, 2, 3)]
    assert [None if one is None else one.attack for one in found] == ["average", "kd", None]


def test_equal_scores_keep_one_order_whatever_the_cells_order() -> None:
    cells = [searched("kd", 70.0, t=2), searched("kd", 70.0, t=1), searched("average", 70.0)]
    assert [g.settings for g in scores(cells)] == [g.settings for g in scores(cells[::-1])]
    assert [g.attack for g in ranked(cells)] == ["average", "kd"]


# -- a search that was computed again --------------------------------------------------------------------------------

FOUND = [searched("kd", 75.0, temperature=4), searched("kd", 70.0, temperature=1), searched("average", 72.0)]


def chosen(rank: int = 1, **more: Any) -> Planned:
    return Planned(
        key="k", side="defended", role="soft", label="rank 1", card="c", choice=Choice(among=("a",), rank=rank), **more
    )


def trained(lr: float = 0.1, clip: float | None = None) -> dict[str, Any]:
    return {"training": {**TRAINING, "epochs": 9, "clip": clip, "optimizer": {"name": "sgd", "lr": lr}}}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"recipe": trained()}, True),
        ({"student": "resnet18", "student_settings": {}, "seeds": {"student": 7}}, True),
        ({"attack": "average", "attack_settings": {}}, False),
        ({"attack_settings": {"temperature": 1}}, False),
        ({"recipe": trained(lr=0.2)}, False),
        ({"recipe": trained(clip=1.0)}, False),
        ({"status": "diverged", "held_out": None}, True),
        ({"attack_settings": {"temperature": 1}, "status": "diverged", "held_out": None}, False),
        ({"attack": "rank 1", "attack_settings": {}, "status": "diverged", "recipe": {}}, False),
        ({"attack": "rank 1", "attack_settings": {}, "status": "failed", "recipe": {}}, True),
    ],
)
def test_a_chosen_cell_matches_the_best_of_its_search(change: dict[str, Any], wanted: bool) -> None:
    assert matches(chosen(), FOUND[0].model_copy(update=change), FOUND) == wanted


def test_what_the_plan_changes_goes_on_top() -> None:
    changed = chosen(
        changes={"attack.alpha": 0.5, "training.clip": 1.0}, times={"training.optimizer.lr": 0.3, "student.width": 2.0}
    )
    fitting = searched("kd", 60.0, temperature=4, alpha=0.5).model_copy(update={"recipe": trained(0.1 * 0.3, 1.0)})
    assert matches(changed, fitting, FOUND)
    assert not matches(chosen(), fitting, FOUND)
    assert not matches(changed, FOUND[0], FOUND)
    for part in (trained(0.1, 1.0), trained(0.03, None)):
        assert not matches(changed, fitting.model_copy(update={"recipe": part}), FOUND)


def test_without_an_attack_of_that_rank_only_an_empty_cell_matches() -> None:
    nothing = searched("rank 3", None, status="diverged").model_copy(update={"recipe": {}})
    assert matches(chosen(3), nothing, FOUND)
    assert not matches(chosen(3), FOUND[0], FOUND)
    assert not matches(chosen(2), nothing, FOUND)
    assert not matches(chosen(1), FOUND[0], [])


def test_where_nothing_is_chosen_or_nothing_can_be() -> None:
    fixed = Planned(key="k", side="defended", role="naive", label="kd", card="c", attack={"name": "average"})
    assert matches(fixed, FOUND[0], [])
    assert not matches(chosen(), FOUND[0], [*FOUND, searched("average", None)])


@given(st.lists(st.floats(0, 100), min_size=6, max_size=6), st.lists(st.floats(0, 100), min_size=6, max_size=6))
def test_the_search_never_reads_test_images(held_out: list[float], accuracies: list[float]) -> None:
    cells = [searched(f"attack-{i // 2}", score, i % 2) for i, score in enumerate(held_out)]
    peeking = [
        cell.model_copy(update={"accuracy": accuracy, "agreement": accuracy, "nll": accuracy, "ece": accuracy})
        for cell, accuracy in zip(cells, accuracies, strict=True)
    ]
    assert ranked(peeking) == ranked(cells)
