"""The rules: each verdict, their order, unknown attacks, and error rates in ten thousand simulated audits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies.verdicts.scenarios import SCENARIOS, SETTINGS
from studies.verdicts.simulate import outcome

from undistill.auditing import verdict as rules
from undistill.auditing.verdict import (
    Candidates,
    Comparison,
    Contrasts,
    best_minus_best,
    check_control,
    contrasts,
    decide,
)
from undistill.errors import UsageError
from undistill.statistics import UNKNOWN, Difference, interval

ROOT = Path(__file__).parents[2]
LEVELS = st.floats(-5, 5)
DELTA = 1.0


def sure(mean: float, half: float = 0.1) -> Difference:
    """A difference known to `half` points."""
    return Difference(mean, mean - half, mean + half, mean - 1.2 * half, mean + 1.2 * half, 5)


def said(headroom: float, gap: float, took: float, half: float = 0.1, **more: Difference) -> str:
    found = Contrasts(sure(headroom, half), sure(gap, half), sure(took, half), **more)
    return str(decide(found, DELTA))


def test_each_verdict() -> None:
    assert said(0.5, 0.2, 0.2) == "nothing to defend"
    assert said(4, 3.9, 0.05) == "no effect"
    assert said(4, 2, 2) == "partial"
    assert said(4, 0.2, 3.8) == "reduced to labels"
    assert said(4, 0.2, 3.8, over_baseline=sure(0.1), control_over_baseline=sure(4)) == "worthless to this thief"
    assert said(1.05, 0.5, 0.5) == "inconclusive"
    assert said(4, 0, 4, half=5) == "inconclusive"


def test_an_undefended_model_is_not_at_label_level() -> None:
    assert said(3, 3, 0) == "no effect"
    assert said(1.5, 0.85, 0) == "no effect"  # a gap that is underestimated: without anything taken nothing was reduced


def test_no_gain_needs_what_label_level_needs() -> None:
    assert said(4, 2, 2, over_baseline=sure(0.1), control_over_baseline=sure(4)) == "partial"
    assert said(4, 0.2, 3.8, over_baseline=sure(0.1), control_over_baseline=sure(0.5)) == "reduced to labels"
    assert said(4, 0.2, 3.8, over_baseline=sure(3), control_over_baseline=sure(4)) == "reduced to labels"


def test_exactly_delta_counts_as_within() -> None:
    def exact(value: float) -> Difference:
        return Difference(value, value, value, value, value, 5)

    assert str(decide(Contrasts(exact(1.0), exact(1), exact(0)), 1.0)) == "nothing to defend"
    assert str(decide(Contrasts(exact(3.0), exact(1), exact(2)), 1.0)) == "reduced to labels"


def test_whole_arrays_are_judged_as_one_by_one() -> None:
    values = np.random.default_rng(0).normal(size=(50, 5)) * 2
    found = Contrasts(interval(values + 2), interval(values), interval(values + 1))
    one_by_one = [str(decide(Contrasts(interval(row + 2), interval(row), interval(row + 1)), DELTA)) for row in values]
    assert decide(found, DELTA).tolist() == one_by_one
    assert len(set(one_by_one)) > 2


def test_the_chosen_stands_for_exists_and_all_for_every() -> None:
    values = {"a": 5.0, "b": 3.0, "x": 1.0, "y": 2.0}

    def compare(first: str, second: str) -> Difference:
        return sure(values[first] - values[second])

    found = best_minus_best(Candidates(("a", "b"), "b"), Candidates(("x", "y"), "x"), compare)
    assert found.mean == 3.0
    assert found.lower == pytest.approx(3 - 2 - 0.1)  # b, which was chosen, against y, the worst case
    assert found.upper == pytest.approx(5 - 1 + 0.1)  # a, the worst case, against x, which was chosen
    assert best_minus_best(Candidates(), Candidates(("x",), "x"), compare) is UNKNOWN


def contrasts_of(values: dict[str, float], **more: Any) -> Contrasts:
    """Of a soft attack s, two of labels l and m, one of the control t, a baseline a; `more` replaces places."""

    def compare(first: str, second: str) -> Difference:
        return sure(values[first] - values[second], 0.0 if first == second else 0.1)

    places: dict[str, Candidates[str]] = {
        "soft": Candidates(("s",), "s"),
        "labels": Candidates(("l", "m"), "l"),
        "attacks": Candidates(("s", "l", "m", "a"), "a"),
        "soft0": Candidates(("t",), "t"),
        "floor": Candidates(("l", "m", "a"), "a"),
        "baseline": Candidates(("a",), "a"),
        "defended": Candidates(("s", "l", "m"), "s"),
    }
    return contrasts(Comparison(**{**places, **more}), compare)


def test_a_baseline_is_not_compared_with_itself() -> None:
    found = contrasts_of({"s": 75.0, "l": 74.0, "m": 70.0, "t": 90.0, "a": 79.8}).over_baseline
    assert (found.lower, found.mean, found.upper) == pytest.approx((-4.9, -4.8, -4.7))


LABELS = Candidates(("l", "m"), "l")
UNHELD: dict[str, Any] = {"floor": LABELS, "baseline": Candidates()}
CLOSED: dict[str, Any] = {"soft": LABELS, "defended": LABELS, "labels_only": True}


def test_what_shows_labels_alone_is_reduced_to_them_without_any_width() -> None:
    values = {"l": 79.0, "m": 79.4, "t": 90.0}
    found = contrasts_of(values, **CLOSED, **UNHELD, attacks=LABELS)
    assert (found.gap.lower, found.gap.mean, found.gap.upper, found.gap.half, found.gap.n) == (0, 0, 0, 0, 5)
    assert found.reduction == found.headroom
    assert str(decide(found, DELTA)) == "reduced to labels"


@pytest.mark.parametrize(("twin", "verdict"), [(79.6, "nothing to defend"), (80.45, "inconclusive")])
def test_what_shows_labels_alone_still_needs_headroom(twin: float, verdict: str) -> None:
    found = contrasts_of({"l": 79.0, "m": 79.4, "t": twin}, **CLOSED, **UNHELD, attacks=LABELS)
    assert str(decide(found, DELTA)) == verdict


@pytest.mark.parametrize(("alone", "gap"), [(81.0, (-1.7, -1.6, -1.5)), (70.0, (0.0, 0.0, 0.0))])
def test_labels_are_never_above_the_better_of_labels_and_alone(alone: float, gap: tuple[float, ...]) -> None:
    both = Candidates(("l", "m", "a"), "l")
    found = contrasts_of({"l": 79.4, "m": 79.0, "t": 90.0, "a": alone}, **CLOSED, attacks=both, floor=both)
    assert (found.gap.lower, found.gap.mean, found.gap.upper) == pytest.approx(gap)


# -- no evidence is no claim -----------------------------------------------------------------------------------------

Numbers = dict[str, list[float]]


@st.composite
def audits(draw: Any) -> dict[str, list[tuple[float, float]]]:
    """(true difference level, half-width) of the attacks of each kind."""
    arm = st.tuples(LEVELS, st.floats(0.01, 1.5))
    return {kind: draw(st.lists(arm, min_size=1, max_size=3)) for kind in ("soft", "labels", "soft0", "alone")}


def verdict_of(arms: dict[str, list[tuple[float, float]]], lost: set[tuple[str, int]], labelled: bool) -> str:
    keys = {kind: tuple((kind, i) for i in range(len(values))) for kind, values in arms.items()}

    def compare(first: tuple[str, int], second: tuple[str, int]) -> Difference:
        if {first, second} & lost:
            return UNKNOWN
        (a, da), (b, db) = arms[first[0]][first[1]], arms[second[0]][second[1]]
        return sure(a - b, math.hypot(da, db))

    def side(*kinds: str) -> Candidates[tuple[str, int]]:
        found = tuple(key for kind in kinds for key in keys[kind])
        return Candidates(found, found[0] if found else None)

    alone = ("alone",) if labelled else ()
    made = Comparison(
        soft=side("soft"),
        labels=side("labels"),
        attacks=side("soft", "labels", *alone),
        soft0=side("soft0"),
        floor=side("labels", *alone),
        baseline=side(*alone),
        defended=side("soft", "labels"),
    )
    return str(decide(contrasts(made, compare), DELTA))


@settings(max_examples=150)
@given(audits(), st.booleans(), st.data())
def test_losing_an_attack_never_says_more_for_the_defense(
    arms: dict[str, list[tuple[float, float]]], labelled: bool, data: Any
) -> None:
    everyone = [(kind, i) for kind, values in arms.items() for i in range(len(values))]
    lost = data.draw(st.sets(st.sampled_from(everyone), min_size=1))
    before, after = verdict_of(arms, set(), labelled), verdict_of(arms, lost, labelled)
    assert rules.STRENGTH[after] <= rules.STRENGTH[before]
    if after in ("nothing to defend", "no effect"):
        assert after == before or rules.STRENGTH[before] > 0


@given(audits(), st.booleans())
def test_lower_mean_and_upper_are_in_order(arms: dict[str, list[tuple[float, float]]], labelled: bool) -> None:
    first, second = arms["soft0"], arms["labels"]

    def compare(a: tuple[float, float], b: tuple[float, float]) -> Difference:
        return sure(a[0] - b[0], math.hypot(a[1], b[1]))

    found = best_minus_best(Candidates(tuple(first), first[-1]), Candidates(tuple(second), second[-1]), compare)
    assert found.low <= found.lower <= found.mean <= found.upper <= found.high


@given(LEVELS, LEVELS, LEVELS, st.floats(0.01, 2), st.floats(0.01, 2))
def test_wider_bounds_never_say_more(headroom: float, gap: float, took: float, half: float, more: float) -> None:
    narrow = Contrasts(sure(headroom, half), sure(gap, half), sure(took, half))
    wide = Contrasts(sure(headroom, half + more), sure(gap, half + more), sure(took, half + more))
    before, after = str(decide(narrow, DELTA)), str(decide(wide, DELTA))
    assert rules.STRENGTH[after] <= max(rules.STRENGTH[before], rules.STRENGTH["partial"] if took > half + more else 0)


# -- controls --------------------------------------------------------------------------------------------------------


def test_a_control_of_other_data_is_refused() -> None:
    with pytest.raises(UsageError, match="other data"):
        check_control(90, 90, 1.0, ("a", "b"))


def test_a_worse_control_is_refused_and_a_better_one_is_not() -> None:
    with pytest.raises(UsageError, match=r"88\.9 %"):
        check_control(90, 88.9, 1.0, ("a", "a"))
    check_control(90, 89, 1.0, ("a", "a"))
    check_control(80, 99, 1.0, ("a",))


# -- simulated error rates ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> Any:
    return json.loads((ROOT / "evidence" / "verdicts.json").read_text())


def test_strong_words_are_false_in_at_most_one_of_twenty(judged: Any) -> None:
    assert judged["sets"] == 10_000
    for setting in judged["settings"]:
        for row in setting["rows"]:
            assert row["false_strong"] <= 0.05, (setting["name"], row["scenario"]["name"])
            assert row["false"] <= 0.055, (setting["name"], row["scenario"]["name"])


def test_what_took_twice_delta_is_seen(judged: Any) -> None:
    for setting in judged["settings"]:
        assert next(r for r in setting["rows"] if r["scenario"]["wanted"] == "partial")["power"] >= 0.8


def test_a_crash_is_always_inconclusive(judged: Any) -> None:
    crashed = [row for s in judged["settings"] for row in s["rows"] if row["scenario"]["crashed"]]
    assert len(crashed) == len(judged["settings"])
    assert all(row["shares"]["inconclusive"] == 1 for row in crashed)


def test_the_kept_outcome_is_that_of_the_rules(judged: Any) -> None:
    for number in (1, 2, 7):
        kept = judged["settings"][2]["rows"][number]["shares"]
        again = outcome(SETTINGS[2], SCENARIOS[number], 2000, 1)["shares"]
        assert again == pytest.approx(kept, abs=0.05)
