"""Claims are judged by bounds that SciPy and NumPy agree with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reporting.reproduced import accuracy, fill, plan_of
from undistill.paper.plan import Plan, Point
from undistill.reporting.paper.claims import Claim, claims
from undistill.reporting.paper.source import covered, open_sources

TABLE1 = plan_of("table1")
ALPHA = plan_of("alpha", seeds=4)
Value = Callable[[Point], float | None]


def judged(folder: Path, plan: Plan, value: Value = accuracy, **lost: list[str]) -> list[Claim]:
    [source] = open_sources([fill(folder, plan, value, **lost)])
    return claims(covered([source]), source)


def _bounds(each: list[float]) -> tuple[float, float]:
    half = stats.t.ppf(0.95, len(each) - 1) * stats.sem(each)
    return float(np.mean(each) - half), float(np.mean(each) + half)


def gaps(*each: float) -> Value:
    """A nasty teacher's students end `each` points below the normal one's, by seed; a student alone is half way."""

    def value(point: Point) -> float:
        below = {"normal": 0.0, "none": 0.5, "nasty": 1.0}[point.arm]
        return 90.0 + point.seed - below * each[point.seed]

    return value


def test_bounds_are_those_of_a_paired_one_sided_t_test(tmp_path: Path) -> None:
    each = [4.0, 5.5, 4.75]
    worse = judged(tmp_path, TABLE1, gaps(*each))[0]
    assert len(worse.cases) == 4  # students, and not the teacher itself
    for case in worse.cases:
        assert list(case.values.values()) == pytest.approx(each)
        assert case.bounds == pytest.approx(_bounds(each))
        assert stats.ttest_1samp(each, case.bounds[0] if case.bounds else 0).pvalue / 2 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("each", "verdict"),
    [((4.0, 5.5, 4.75), "seen"), ((-4.0, -5.5, -4.75), "opposite"), ((4.0, -5.5, 0.75), "not shown")],
)
def test_every_verdict_is_reached(tmp_path: Path, each: tuple[float, ...], verdict: str) -> None:
    found = judged(tmp_path, TABLE1, gaps(*each))
    assert {case.verdict for claim in found for case in claim.cases} == {verdict}
    assert {claim.verdict for claim in found} == {verdict}


def test_two_seeds_are_not_judged(tmp_path: Path) -> None:
    found = judged(tmp_path, plan_of("table1", seeds=2), gaps(4.0, 5.0))
    assert {claim.verdict for claim in found} == {"not judged"}
    assert all(case.bounds is None for claim in found for case in claim.cases)


def test_pairs_need_both_seeds(tmp_path: Path) -> None:
    plan = plan_of("table1", seeds=4)
    gone = [p.key for p in plan.points if (p.arm, p.column, p.seed) == ("normal", "CNN", 0)]
    lost = [p.key for p in plan.points if (p.arm, p.column, p.seed) == ("nasty", "CNN", 2)]
    worse = judged(tmp_path, plan, gaps(1.0, 2.0, 3.0, 4.0), without=gone, diverged=lost)[0]
    case = next(case for case in worse.cases if case.where["column"] == "CNN")
    assert case.values == {1: 2.0, 3: 4.0}
    assert (case.left_out, case.verdict, worse.verdict) == (2, "not judged", "not judged")


def test_one_opposite_case_decides_the_claim(tmp_path: Path) -> None:
    plan = plan_of("table1")
    lost = [p.key for p in plan.points if (p.arm, p.column, p.seed) == ("nasty", "ResNetC-20", 0)]

    def value(point: Point) -> float | None:
        return gaps(*((-5.0, -5.5, -6.0) if point.column == "CNN" else (5.0, 5.5, 6.0)))(point)

    worse = judged(tmp_path, plan, value, without=lost)[0]
    found = {case.where["column"]: case.verdict for case in worse.cases}
    assert found == {
        "CNN": "opposite",
        "ResNetC-20": "not judged",
        "ResNetC-32": "seen",
        "teacher-self": "seen",
    }
    assert worse.verdict == "opposite"


def test_a_case_that_is_not_shown_keeps_the_claim_from_being_seen(tmp_path: Path) -> None:
    def value(point: Point) -> float | None:
        return gaps(*((5.0, -5.0, 1.0) if point.column == "CNN" else (5.0, 5.5, 6.0)))(point)

    assert judged(tmp_path, TABLE1, value)[0].verdict == "not shown"


def test_the_student_alone_is_held_against_each_teacher(tmp_path: Path) -> None:
    plan = plan_of("table2")
    harms = judged(tmp_path, plan)[2]
    pairs = {(case.where["teacher"], case.where["column"]) for case in harms.cases}
    assert ("ResNeXt29", "ResNet18") in pairs
    assert ("ResNet18", "teacher-self") not in pairs  # nobody without a teacher has that role in a table of several
    values = {p.name: accuracy(p) for p in plan.points}
    case = next(c for c in harms.cases if c.where == {"teacher": "ResNet50", "column": "ShuffleNetV2"})
    for seed, found in case.values.items():
        alone, nasty = f"table2/none/ShuffleNetV2/s{seed}", f"table2/ResNet50/nasty/ShuffleNetV2/s{seed}"
        assert found == pytest.approx(values[alone] - values[nasty])


def test_slopes_are_those_of_polyfit(tmp_path: Path) -> None:
    [claim] = judged(tmp_path, ALPHA)
    assert {case.where["column"] for case in claim.cases} == {"CNN", "ResNetC-20", "ResNetC-32", "teacher-self"}
    for case in claim.cases:
        for seed in range(4):
            line = [p for p in ALPHA.points if (p.arm, p.column, p.seed) == ("nasty", case.where["column"], seed)]
            expected = -np.polyfit([float(p.x or 0) for p in line], [accuracy(p) for p in line], 1)[0]
            assert case.values[seed] == pytest.approx(expected)
        assert case.bounds == pytest.approx(_bounds(list(case.values.values())))


def test_slopes_over_a_logarithm(tmp_path: Path) -> None:
    plan = plan_of("temperature")
    [claim] = judged(tmp_path, plan)
    case = claim.cases[0]
    line = [p for p in plan.points if (p.arm, p.column, p.seed) == ("nasty", "CNN", 1)]
    expected = -np.polyfit(np.log([float(p.x or 0) for p in line]), [accuracy(p) for p in line], 1)[0]
    assert case.values[1] == pytest.approx(expected)


def test_no_slope_over_a_logarithm_takes_a_nothing(tmp_path: Path) -> None:
    plan = plan_of("temperature")
    points = tuple(p.model_copy(update={"x": 0.0}) if p.x == 1.0 else p for p in plan.points)
    [claim] = judged(tmp_path, plan.model_copy(update={"points": points}))
    line = [p for p in points if (p.arm, p.column, p.seed) == ("nasty", "CNN", 1) and p.x]
    expected = -np.polyfit(np.log([float(p.x or 0) for p in line]), [accuracy(p) for p in line], 1)[0]
    assert claim.cases[0].values[1] == pytest.approx(expected)


def test_a_seed_without_one_x_has_no_slope(tmp_path: Path) -> None:
    gone = [p.key for p in ALPHA.points if (p.arm, p.column, p.x, p.seed) == ("nasty", "CNN", 0.3, 2)]
    [claim] = judged(tmp_path, ALPHA, diverged=gone)
    case = next(case for case in claim.cases if case.where["column"] == "CNN")
    assert (sorted(case.values), case.left_out) == ([0, 1, 3], 1)


def test_the_step_from_the_normal_teacher_is_no_slope_over_omega(tmp_path: Path) -> None:
    """Nasty teachers' students rise with ω from far below the normal one's: the claim is false, however low they are."""

    def value(point: Point) -> float:
        return 88.0 if point.x == 0 else 80 + 10 * float(point.x or 0) + 0.01 * point.seed * float(point.x or 0)

    [claim] = judged(tmp_path, plan_of("omega"), value)
    assert {case.where["column"] for case in claim.cases} == {"CNN", "ResNetC-20", "ResNetC-32", "teacher-self"}
    assert [case.mean for case in claim.cases] == pytest.approx([-10.01] * 4)
    assert claim.verdict == "opposite"


def test_a_named_column_may_be_the_teacher_itself(tmp_path: Path) -> None:
    plan = plan_of("adversary")

    def value(point: Point) -> float:
        return 90.0 - 2 * (point.x == "CNN") + 0.1 * point.seed * (point.x == "CNN")

    [claim] = judged(tmp_path, plan, value)
    assert [case.where for case in claim.cases] == [{}]
    assert list(claim.cases[0].values.values()) == pytest.approx([2.0, 1.9, 1.8])
    assert claim.verdict == "seen"


def test_differences_at_every_share(tmp_path: Path) -> None:
    found = judged(tmp_path, plan_of("fraction"))
    assert {(case.where["column"], case.where["x"]) for case in found[1].cases} == {
        (column, x)
        for column in ("CNN", "ResNetC-20", "ResNetC-32", "teacher-self")
        for x in (0.1, 0.25, 0.5, 0.75, 1.0)
    }


def test_numbers_are_weighted_sums(tmp_path: Path) -> None:
    first, second = judged(tmp_path, plan_of("embedding"))
    assert list(second.cases[0].values.values()) == pytest.approx([0.2, 0.24, 0.28])
    assert second.verdict == "seen"
    assert list(first.cases[0].values.values()) == [0.0, 0.0, 0.0]  # what cancels is nothing, and not noise
    assert first.verdict == "not shown"


def test_no_places_no_claims(tmp_path: Path) -> None:
    assert judged(tmp_path, plan_of("logits")) == []
