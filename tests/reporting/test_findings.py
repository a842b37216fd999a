"""Sentences say what the numbers say, and no more."""

from __future__ import annotations

import math

import pytest

from reporting.synthetic import API, control, grid, thief, victim
from undistill.experiments.cell import Cell
from undistill.reporting import findings, limits, story
from undistill.reporting.paired import difference
from undistill.reporting.rows import Group
from undistill.reporting.summary import summarise


def test_differences_are_paired_by_seed() -> None:
    first = Group((thief(0, 90.0), thief(1, 92.0), thief(2, 97.0)))
    second = Group((thief(2, 96.0, "normal"), thief(0, 95.0, "normal"), thief(1, 95.0, "normal")))
    change = difference(first, second)
    assert change is not None
    assert change.each == [-5.0, -3.0, 1.0]
    assert change.mean == pytest.approx(-7 / 3)
    low, high = change.interval or (0.0, 0.0)
    half = 4.302653 * math.sqrt(28 / 3) / math.sqrt(3)  # squares of deviations sum to 56/3, over 2
    assert [low, high] == pytest.approx([-7 / 3 - half, -7 / 3 + half], abs=1e-4)
    assert change.sign == 0


def test_seeds_without_a_partner_are_counted_not_used() -> None:
    change = difference(Group((thief(0, 90.0), thief(1, None, status="diverged"))), Group((thief(0, 95.0, "normal"),)))
    assert change is not None
    assert (change.each, change.unpaired, change.interval) == ([-5.0], 1, None)


def test_no_pair_no_difference() -> None:
    assert difference(Group((thief(0),)), Group((thief(1, victim="normal"),))) is None
    assert difference(None, Group((thief(0),))) is None


def test_a_contrast_in_words() -> None:
    text = findings.of_section(summarise(grid()).sections[0])[0]
    assert text == (
        "KD, τ 4, α 0.9: a student of the nasty teacher reached 92.0 %, of the normal one 97.4 %: difference −5.4 points "
        "(paired over 3 seeds: −5.4, −4.6, −6.2; 95 % t interval −7.4 to −3.4)."
    )


def test_an_interval_around_nothing_is_called_that() -> None:
    section = summarise(grid()).sections[0]
    assert any(
        "victim's labels only".capitalize() in text or "Victim's" in text for text in findings.other_contrasts(section)
    )
    labels = next(text for text in findings.other_contrasts(section) if text.startswith("Victim's"))
    assert "do not separate the two" in labels


def test_few_seeds_conclude_nothing() -> None:
    summary = summarise(
        [cell for cell in grid() if cell.seeds.get("student", 0) < 2 and cell.seeds.get("victim", 0) < 2]
    )
    text = findings.of_section(summary.sections[0])[0]
    assert text.endswith("Nothing can be concluded from 2 seeds.")
    assert "nothing can be concluded" in findings.doubts(summary)[0]
    assert all("nothing can be concluded" in line for line in limits.shows(summary) if " ended " in line)


def test_three_seeds_raise_no_doubt() -> None:
    assert findings.doubts(summarise(grid())) == []


def test_headroom_is_what_soft_answers_add_to_labels() -> None:
    api = summarise(grid()).sections[1]
    text = findings.of_section(api)[-1]
    assert "are worth +6.9 points over its labels alone" in text  # 97.33 − 90.40
    assert "Against the best attack found on the nasty teacher 6.9 of these points are removed." in text


def test_recovery_only_where_the_cells_show_it() -> None:
    paper, api = summarise(grid()).sections
    [text] = findings.recovery(paper)
    assert "below the baseline (by 5.0, 4.4, 6.2 points; mean 5.2)" in text
    assert "KD, τ 1, α 0.9 4.4 points; victim's labels only 5.0 points" in text
    assert findings.recovery(api) == []  # there τ 4 is below alone too, but by less in some seed


def test_recovery_needs_a_loss_in_every_seed() -> None:
    cells = [*(control(s) for s in range(3)), *(thief(s, a) for s, a in enumerate((90.0, 91.0, 97.5)))]
    cells += [thief(s, 97.0, attack="label-only", attack_settings={}) for s in range(3)]
    assert findings.recovery(summarise(cells).sections[0]) == []


def test_cost_of_hardening_to_its_own_users() -> None:
    [text] = findings.of_victims(summarise(grid()))
    assert text.startswith(
        "The nasty teacher itself reaches 98.8 % on test images, its undefended control 99.6 %: difference −0.8 points"
    )
    assert (
        limits.shows(summarise(grid()))[0]
        == "The nasty teacher's own accuracy is 0.8 points below that of its undefended control."
    )


def test_missing_twins_and_victims_are_said() -> None:
    alone = summarise([thief(0, 90.0)])
    assert findings.of_victims(alone) == ["The accuracies of the victims are not among these cells."]
    assert "a student of the normal teacher is missing" in findings.of_section(alone.sections[0])[0]
    assert any("no baseline" in doubt for doubt in findings.doubts(alone))


def test_a_seed_that_occurs_twice_is_a_doubt() -> None:
    cells = [*grid(), thief(0, 95.0, accuracy_val=1.0, experiment="demo")]
    assert any("more than once" in doubt for doubt in findings.doubts(summarise(cells)))


def test_victims_alone_say_nothing_about_copying() -> None:
    summary = summarise([victim(0)])
    assert findings.doubts(summary) == ["These cells hold no attack."]
    assert story.lead(summary).startswith("A normal teacher was trained on made-up digits")


@pytest.mark.parametrize(
    ("cells", "said", "unsaid"),
    [
        ([thief(0)], "release of weights", "Less than labels"),
        ([thief(0, attack="label-only", attack_settings={}, card=API)], "Less than labels", "Attackers outside"),
        ([thief(0, card=API), control(0, card=API)], "baseline available", "Attackers outside"),
    ],
)
def test_limits_follow_the_cells(cells: list[Cell], said: str, unsaid: str) -> None:
    text = " ".join(limits.does_not_show(summarise(cells), None))
    assert said in text
    assert unsaid not in text


def test_how_to_compute_it_again() -> None:
    summary = summarise([thief(3)])
    assert story.commands(summary) == [
        "undistill attack MODEL --attack kd --student cnn --threat-model 'logits/labelled(1.0)/trained/random' --seed 3 "
        "--out FOLDER -s attack.temperature=4 -s attack.alpha=0.9 -s student.width=0.125",
    ]
