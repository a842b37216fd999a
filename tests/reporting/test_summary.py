"""Rows against numbers worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from reporting.synthetic import API, NASTY, attacker, control, figure, grid, victim
from undistill.experiments.cell import Cell
from undistill.reporting.naming import ALONE, arm_text, card_sentence, card_title, number, signed
from undistill.reporting.summary import summarize


def test_mean_and_sample_deviation_by_hand() -> None:
    section = summarize([attacker(0, 90.0), attacker(1, 93.0), attacker(2, 96.0)]).sections[0]
    group = section.group("KD, τ 4, α 0.9", "nasty")
    assert group is not None
    assert (group.n, group.mean, group.sd) == (3, 93.0, 3.0)  # deviations −3, 0, 3: 18 / 2 = 9


def test_one_value_has_no_deviation() -> None:
    group = summarize([attacker(0, 90.0)]).sections[0].group("KD, τ 4, α 0.9", "nasty")
    assert group is not None
    assert (group.n, group.mean, group.sd) == (1, 90.0, None)


def test_lost_cells_stay_and_are_counted() -> None:
    cells = [attacker(0, 90.0), attacker(1, None, status="diverged", why="step 3"), attacker(2, None, status="failed")]
    summary = summarize(cells)
    group = summary.sections[0].group("KD, τ 4, α 0.9", "nasty")
    assert group is not None
    assert (group.n, group.mean, group.lost) == (1, 90.0, {"diverged": 1, "failed": 1})
    assert [cell.status for cell in summary.lost] == ["diverged", "failed"]


def test_nothing_is_dropped() -> None:
    cells = [*grid(), figure()[0]]
    assert sorted(cell.id for cell in summarize(cells).cells) == sorted(cell.id for cell in cells)


def test_the_order_of_cells_does_not_matter() -> None:
    cells = grid()
    shuffled = random.Random(0).sample(cells, len(cells))
    assert summarize(shuffled) == summarize(cells)


def test_the_papers_card_comes_first_and_controls_above_attackers() -> None:
    summary = summarize(grid())
    assert [section.title for section in summary.sections] == ["The paper's threat model", "An API threat model"]
    first = summary.sections[0]
    assert [arm.name for arm in first.arms] == [
        "baseline (control)",
        "KD, τ 4, α 0.9",
        "KD, τ 1, α 0.9",
        "victim's labels only",
    ]
    assert first.victims == (ALONE, "normal", "nasty")


@pytest.mark.parametrize(
    "changes",
    [
        {"card": API},
        {"experiment": "other"},
        {"student_settings": {"width": 1.0}},
        {"data": "other"},
        {"phase": "selection"},
        {"recipe": {"training": {"epochs": 9, "passes": 1}, "views": []}},
    ],
)
def test_what_may_not_be_compared_is_kept_apart(changes: dict[str, Any]) -> None:
    assert len(summarize([attacker(0), attacker(0, **changes)]).sections) == 2


def test_sections_that_differ_in_training_alone_say_so() -> None:
    sections = summarize(
        [attacker(0), attacker(0, recipe={"training": {"epochs": 9, "passes": 1}, "views": []})]
    ).sections
    assert sorted(section.about for section in sections) == ["training.epochs 4", "training.epochs 9"]


def test_one_label_with_two_settings_is_two_victims() -> None:
    sections = summarize([attacker(0), attacker(0, defense={**NASTY, "omega": 0.08})]).sections
    assert sections[0].victims == ("nasty (ω 0.04, τ 4)", "nasty (ω 0.08, τ 4)")


def test_a_victim_of_another_network_is_another_row() -> None:
    assert len(summarize([victim(0), victim(0, student="resnet18")]).victims) == 2


def test_names() -> None:
    assert arm_text("scratch", {}, control=True) == "baseline (control)"
    assert arm_text("kd", {"temperature": 4.0, "alpha": 0.9}) == "KD, τ 4, α 0.9"
    assert arm_text("label-only", {}) == "victim's labels only"
    assert arm_text("decoupled", {"beta": 0.5}) == "decoupled, β 0.5"
    assert (number(-1.26), signed(1.26), signed(-0.04), number(-0.04), number(None)) == (
        "−1.3",
        "+1.3",
        "0.0",
        "0.0",
        "–",
    )


@pytest.mark.parametrize(
    ("card", "title", "said"),
    [
        (
            "logits/labelled(1.0)/trained/random",
            "The paper's threat model",
            "all 810 of the victim's own training images, with their true",
        ),
        (
            "probs/unlabelled(1.0)/fresh/random/50",
            "An API threat model",
            "queries each of them once and sees the probability",
        ),
        ("label/unlabelled(1.0)/fresh/random/9", "An API threat model", "the predicted class alone"),
        (
            "logits/labelled(0.1)/trained/random",
            "Threat model logits/labelled(0.1)/trained/random",
            "The attacker holds 810 of the victim's",
        ),
        (
            "weights/none/none/random",
            "The data-free threat model",
            "The attacker holds no images. It has the victim's weights themselves. It starts from random weights.",
        ),
        ("oracle/of/delphi", "Threat model oracle/of/delphi", "is written 'oracle/of/delphi'"),
        ("", "No threat model", "name no threat model"),
    ],
)
def test_a_card_is_told_in_a_sentence(card: str, title: str, said: str) -> None:
    assert card_title(card) == title
    assert said in card_sentence(card, [control(), attacker(card=card)])


def test_cards_of_two_data_sets_say_of_which_they_are() -> None:
    cells = [attacker(data="aa", data_note="first"), attacker(1, data="bb", data_note="second")]
    titles = [section.title for section in summarize(cells).sections]
    assert [title.rpartition(", ")[2] for title in titles] == ["first", "second"]
    assert all(section.title == "The paper's threat model" for section in summarize(cells[:1]).sections)


def foreign(weights: str, accuracy: float, **changes: Any) -> Cell:
    """An attacker of a victim from elsewhere, of which no seed is known."""
    return attacker(0, accuracy, "normal", victim_id=weights, seeds={"student": 0}, **changes)


def rows(cells: list[Cell]) -> dict[str, list[float]]:
    """Victim → accuracies, of the first section."""
    section = summarize(cells).sections[0]
    return {
        name: group.values
        for name in section.victims
        for arm in section.arms
        if (group := section.group(arm.name, name))
    }


def test_victims_of_different_weights_are_different_rows() -> None:
    cells = [foreign("aaaa1111bb", 95.8), foreign("cccc2222dd", 19.7)]
    assert rows(cells) == {"normal (weights aaaa11)": [95.8], "normal (weights cccc22)": [19.7]}
    served = [victim(0, a, victim_id=w, recipe={}) for w, a in (("aaaa1111bb", 97.0), ("cccc2222dd", 20.0))]
    assert sorted(v.name for v in summarize([*served, *cells]).victims) == sorted(rows(cells))
    assert [v.group.n for v in summarize([*served, *cells]).victims] == [1, 1]


def test_students_of_one_victim_from_elsewhere_are_one_row() -> None:
    cells = [foreign("aaaa1111bb", 90.0 + s, id=f"{s}") for s in range(3)]
    assert rows(cells) == {"normal": [90.0, 91.0, 92.0]}


def test_seeds_of_one_recipe_are_one_row_and_a_second_of_one_seed_is_its_own() -> None:
    ours = [attacker(s, 90.0 + s, "normal") for s in range(3)]
    assert rows(ours) == {"normal": [90.0, 91.0, 92.0]}
    assert rows([*ours, foreign("cccc2222dd", 19.7)]) == {
        "normal": [90.0, 91.0, 92.0],
        "normal (weights cccc22)": [19.7],
    }
    teachers = [victim(s, 99.0) for s in range(3)]
    again = attacker(0, 20.0, "normal", victim_id="cccc2222dd")
    assert rows([*ours, *teachers, again]) == {"normal": [90.0, 91.0, 92.0], "normal (weights cccc22)": [20.0]}


def test_teachers_of_different_recipes_are_different_rows() -> None:
    cells = []
    for place, epochs in enumerate((4, 40)):
        name, own = f"{place}-weights", {"training": {"epochs": epochs}, "views": []}
        cells += [victim(0, 99.0, victim_id=name, recipe=own), attacker(0, 90.0 + place, "normal", victim_id=name)]
    assert rows(cells) == {"normal (weights 0-weig)": [90.0], "normal (weights 1-weig)": [91.0]}
    networks = [
        cell.model_copy(update={"student": net}) if cell.kind == "victim" else cell
        for cell, net in zip(cells, ("resnet18", "", "resnet50", ""), strict=True)
    ]
    assert set(rows(networks)) == {"normal (resnet18)", "normal (resnet50)"}
