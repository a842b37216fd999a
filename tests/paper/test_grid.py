"""The paper's grid: every cell of every experiment is there, at every scale that promises it."""

from __future__ import annotations

from collections import Counter

import pytest

from undistill.errors import UsageError
from undistill.paper.experiments import EXPERIMENTS, NAMES, Experiment, named
from undistill.paper.plan import Point
from undistill.paper.planner import Planner
from undistill.paper.published import DOUBTS, ITSELF, REPORTED, SELF
from undistill.paper.scales import FAST, PAPER, SCALES, SMALL, SMOKE, Scale, chosen

CELLS = {
    "table1": 4 + 2 * 5,
    "table2": 3 + 2 * 4 + 2 * 2 * 5,  # ResNet18's own student column is its self
    "table3": 3 + 2 * 4 + 2 * 2 * 5,
    "logits": 1,
    "embedding": 1,
    "adversary": 4 * 5,
    "omega": 4 + 8 * 5,
    "temperature": 4 + 2 * (1 + 7 * 4),
    "alpha": 4 + 2 * (1 + 10 * 4),
    "fraction": 5 * 4 + 2 * (1 + 5 * 4),
    "dafl": 2 * 2,
    "dafl-cifar100": 2 * 2,
    "deep-inversion": 2 * 2 + 1,
}
"""Counted by hand from the paper's tables and the values of its ablations."""


def points(scale: Scale, *names: str) -> tuple[Point, ...]:
    return Planner(scale, [0]).points(names or ("all",))


@pytest.mark.parametrize("scale", [SMOKE, PAPER, FAST], ids=["smoke", "paper", "fast"])
def test_every_cell_of_every_grid_is_planned(scale: Scale) -> None:
    assert Counter(point.experiment for point in points(scale)) == CELLS


def test_the_same_cells_at_both_ends() -> None:
    assert [point.name for point in points(SMOKE)] == [point.name for point in points(PAPER)]


def test_small_leaves_out_students_of_ablations_and_nothing_else() -> None:
    left_out = {point.name for point in points(PAPER)} - {point.name for point in points(SMALL)}
    assert {name.split("/")[0] for name in left_out} == {"adversary", "omega", "temperature", "alpha", "fraction"}
    students = {
        name.removeprefix("adversary/ResNet18/nasty/").split("/")[0] for name in left_out if "adversary" in name
    }
    students |= {part for name in left_out if "adversary" not in name for part in name.split("/")}
    assert not students & {"CNN", ITSELF}


def test_every_number_of_the_paper_stands_in_its_cell() -> None:
    planned = {(p.experiment, p.teacher, p.arm, p.column): p.reported for p in points(PAPER) if p.reported is not None}
    assert planned == {(name, *place): value for name, table in REPORTED.items() for place, value in table.items()}
    assert len(planned) == 4 + 2 * 5 + 2 * (3 + 2 * 4 + 2 * 2 * 5) + 2 * 4


def test_numbers_of_the_paper_are_those_of_its_summary() -> None:
    """Teachers lose at most about 2 points (2.60 in one row, as the doubts say), students 1.72 to 67.57 against none."""
    teachers, students = [], []
    for numbers in (REPORTED[table] for table in ("table1", "table2", "table3")):
        for (teacher, arm, column), value in numbers.items():
            if arm == "nasty" and column == ITSELF:
                teachers.append(numbers[teacher, "normal", ITSELF] - value)
            elif arm == "nasty" and ("", "none", column) in numbers:
                students.append(numbers["", "none", column] - value)
    assert 0 < min(teachers) < max(teachers) == pytest.approx(2.60)
    assert (min(students), max(students)) == pytest.approx((1.72, 67.57))


def test_the_values_of_the_ablations() -> None:
    values = {name: experiment.values for name, experiment in EXPERIMENTS.items() if experiment.vary}
    assert values == {
        "adversary": ("ResNet18", "CNN", "ResNetC-20", "ResNeXt29"),
        "omega": (0, 0.004, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
        "temperature": (1, 2, 4, 8, 12, 16, 20),
        "alpha": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "fraction": (0.1, 0.25, 0.5, 0.75, 1.0),
    }


def test_names() -> None:
    assert (
        *(
            "table1",
            "table2",
            "table3",
            "logits",
            "embedding",
            "adversary",
            "omega",
            "temperature",
            "alpha",
            "fraction",
        ),
        *("dafl", "deep-inversion"),
    ) == NAMES
    assert [e.name for e in named("dafl")] == ["dafl", "dafl-cifar100"]
    assert len(named("all")) == len(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_direction_speaks_of_points_that_there_are(experiment: Experiment) -> None:
    found = points(PAPER, experiment.name)
    for direction in experiment.directions:
        if direction.kind == "numbers":
            assert direction.weights
            assert experiment.figure
            continue
        assert any(_matches(point, direction.first) for point in found), direction.text
        if direction.kind == "difference":
            assert any(_matches(point, direction.second) for point in found), direction.text


def _matches(point: Point, wanted: dict[str, object]) -> bool:
    return all(getattr(point, name) == value for name, value in wanted.items())


def test_doubts_belong_to_tables() -> None:
    assert DOUBTS.keys() <= EXPERIMENTS.keys()


@pytest.mark.parametrize("name", SCALES)
def test_every_role_is_played(name: str) -> None:
    scale = SCALES[name]
    for experiment in EXPERIMENTS.values():
        stage = scale.stages.get(experiment.data)
        if stage is None:
            continue
        roles = {
            *experiment.teachers,
            *experiment.students,
            *(map(str, experiment.values) if experiment.vary == "adversary" and name != "laptop" else ()),
        }
        columns = {*scale.sweep_students} if experiment.vary and scale.sweep_students else roles
        assert (columns & roles) - {SELF, ITSELF} <= stage.networks.keys() | stage.students.keys()


@pytest.mark.parametrize(
    ("scale", "recipe", "says"),
    [
        ("tiny", "", "no scale called 'tiny'; there are smoke, small"),
        ("paper", "quick", "no recipe called 'quick'"),
        ("small", "fast", "fast recipes belong to --scale paper"),
    ],
)
def test_what_there_is_not(scale: str, recipe: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chosen(scale, recipe)
