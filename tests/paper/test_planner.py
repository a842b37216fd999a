"""Plans: what is shared, what is told apart, and how cells are called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from undistill.attacks.base import ATTACKS
from undistill.errors import UsageError
from undistill.paper.compute import Task
from undistill.paper.plan import Point
from undistill.paper.planner import Planner
from undistill.paper.scales import PAPER, SCALES, SMALL, SMOKE, Attacker, Scale


def plan(scale: Scale, *names: str, seeds: tuple[int, ...] = (0,), only: tuple[str, ...] = ()) -> dict[str, Task]:
    """Tasks by the name of the point that they fill."""
    planner = Planner(scale, seeds)
    return {point.name: planner.tasks[point.key] for point in planner.points(names or ("all",), only)}


@pytest.fixture(scope="module")
def paper() -> dict[str, Task]:
    return plan(PAPER)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("table1/ResNet18/nasty/CNN/s0", "omega/ResNet18/nasty/CNN/0.04/s0"),
        ("table1/ResNet18/nasty/CNN/s0", "temperature/ResNet18/nasty/CNN/4/s0"),
        ("table1/ResNet18/nasty/CNN/s0", "alpha/ResNet18/nasty/CNN/0.9/s0"),
        ("table1/ResNet18/nasty/CNN/s0", "fraction/ResNet18/nasty/CNN/1/s0"),
        ("table1/ResNet18/nasty/CNN/s0", "adversary/ResNet18/nasty/CNN/ResNet18/s0"),
        ("table1/ResNet18/normal/CNN/s0", "omega/ResNet18/nasty/CNN/0/s0"),
        ("table1/ResNet18/normal/itself/s0", "omega/ResNet18/nasty/itself/0/s0"),
        ("table1/none/CNN/s0", "alpha/none/CNN/s0"),
        ("table1/none/CNN/s0", "fraction/none/CNN/1/s0"),
        ("dafl/ResNet34/nasty/itself/s0", "deep-inversion/ResNet34/nasty/itself/s0"),
    ],
)
def test_experiments_share_their_parts(paper: dict[str, Task], one: str, other: str) -> None:
    assert paper[one].key == paper[other].key


def test_whatever_moves_a_number_moves_the_key(paper: dict[str, Task]) -> None:
    by_key: dict[str, set[str]] = {}
    for task in paper.values():
        by_key.setdefault(task.key, set()).add(json.dumps([task.kind, task.settings], sort_keys=True))
    assert all(len(settings) == 1 for settings in by_key.values())
    seeds = plan(SMOKE, "table1", seeds=(0, 1))
    assert len({task.key for task in seeds.values()}) == len(seeds) == 28


def test_an_omega_of_its_own_is_a_teacher_of_its_own(paper: dict[str, Task]) -> None:
    omegas = [paper[f"omega/ResNet18/nasty/itself/{x:g}/s0"] for x in (0.004, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1)]
    assert [task.settings["defense"]["omega"] for task in omegas] == [0.004, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert len({task.key for task in omegas}) == 7
    students = [paper[f"omega/ResNet18/nasty/CNN/{x:g}/s0"].settings["victim"] for x in (0.004, 0.04)]
    assert students == [omegas[0].key, omegas[3].key]


def test_the_thiefs_temperature_moves_and_the_teachers_does_not(paper: dict[str, Task]) -> None:
    hot, cool = (paper[f"temperature/ResNet18/nasty/CNN/{x}/s0"] for x in (20, 1))
    assert hot.settings["attack"] == {"name": "kd", "temperature": 20.0, "alpha": 0.9}
    assert cool.settings["attack"]["temperature"] == 1.0
    assert hot.settings["victim"] == cool.settings["victim"]


def test_a_fraction_is_on_the_card_and_in_the_control(paper: dict[str, Task]) -> None:
    for name in ("fraction/ResNet18/nasty/CNN/0.25/s0", "fraction/none/CNN/0.25/s0"):
        assert paper[name].settings["card"] == "logits/labelled(0.25)/trained/random"


def test_the_settings_of_the_paper(paper: dict[str, Task]) -> None:
    def told(name: str) -> tuple[Any, ...]:
        task = paper[name]
        recipe = task.settings["recipe"]["training"]
        return recipe["epochs"], recipe["batch"], recipe["optimizer"]["name"], recipe["optimizer"]["lr"]

    assert told("table1/ResNet18/normal/itself/s0") == (160, 128, "sgd", 0.1)
    assert told("table1/ResNet18/nasty/CNN/s0") == (100, 128, "adam", 1e-3)
    assert told("table1/ResNet18/nasty/ResNetC-20/s0") == (160, 128, "sgd", 0.1)
    assert told("table2/ResNet50/nasty/MobileNetV2/s0") == (200, 128, "sgd", 0.1)
    for table, omega, temperature in (("table1", 0.04, 4), ("table2", 0.005, 20), ("table3", 0.01, 20)):
        nasty, student = paper[f"{table}/ResNet18/nasty/itself/s0"], paper[f"{table}/ResNet18/nasty/teacher-self/s0"]
        assert nasty.settings["defense"] == {"name": "nasty", "omega": omega, "temperature": temperature}
        assert student.settings["attack"] == {"name": "kd", "temperature": temperature, "alpha": 0.9}


def test_a_student_of_the_teachers_own_network_is_of_that_width() -> None:
    small = plan(SMALL, "table1")
    assert small["table1/ResNet18/nasty/teacher-self/s0"].settings["student"] == {
        "name": "cnn",
        "width": 1.0,
        "recipe": None,
    }
    assert small["table1/ResNet18/nasty/CNN/s0"].settings["student"]["width"] == 0.5


def test_a_student_alone_does_not_depend_on_a_teacher() -> None:
    alone = plan(SMOKE, "table2")["table2/none/ShuffleNetV2/s0"]
    assert alone.settings["attack"] == {"name": "scratch"}
    assert "victim" not in alone.settings


def test_adversaries_are_trained_ordinarily(paper: dict[str, Task]) -> None:
    planner = Planner(PAPER, [0])
    tasks = {point.name: planner.tasks[point.key] for point in planner.points(["adversary"])}
    nasty = tasks["adversary/ResNet18/nasty/itself/CNN/s0"]
    adversary = planner.tasks[nasty.settings["adversary"]]
    assert (adversary.kind, adversary.settings["recipe"]["model"]["name"]) == ("train", "cnn")
    assert adversary.settings["recipe"]["training"]["optimizer"]["name"] == "adam"  # as the paper trains its CNN
    assert "adversary" not in paper["adversary/ResNet18/nasty/itself/ResNet18/s0"].settings


def test_a_task_stands_behind_what_it_needs() -> None:
    planner = Planner(PAPER, [0, 1])
    planner.points(["all"])
    seen: set[str] = set()
    for key, task in planner.tasks.items():
        assert seen.issuperset(task.needs)
        seen.add(key)


def test_a_pattern_brings_what_it_needs_and_no_more() -> None:
    planner = Planner(SMOKE, [0, 1])
    (point,) = planner.points(["table1"], ["table1/ResNet18/nasty/CNN/s1"])
    assert (point.column, point.arm, point.seed) == ("CNN", "nasty", 1)
    assert [task.kind for task in planner.tasks.values()] == ["train", "protect", "attack"]


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(UsageError, match="no cell is called 'table1/VGG/"):
        Planner(SMOKE, [0]).points(["table1"], ["table1/ResNet18/*", "table1/VGG/*"])


def test_data_free_attackers_hold_nothing(paper: dict[str, Task]) -> None:
    for name, attack in (("dafl", "dafl"), ("dafl-cifar100", "dafl"), ("deep-inversion", "deep-inversion")):
        task = paper[f"{name}/ResNet34/nasty/ResNet18/s0"]
        assert (task.settings["card"], task.settings["attack"]["name"]) == ("weights/none/none/random", attack)
    assert paper["dafl/ResNet34/nasty/ResNet18/s0"].settings["attack"]["entropy"] == 5
    assert paper["dafl-cifar100/ResNet34/nasty/ResNet18/s0"].settings["attack"]["entropy"] == 20
    training = paper["dafl/ResNet34/nasty/ResNet18/s0"].settings["recipe"]["training"]
    assert training["epochs"] == 2000


def test_where_the_data_lie_is_no_setting() -> None:
    for scale in SCALES.values():
        for task in plan(scale, "table1").values():
            assert "dir" not in task.settings["recipe" if "recipe" in task.settings else "defense"].get("data", {})


@pytest.mark.parametrize(("share", "count", "passes"), [(1.0, 500, 5), (0.5, 250, 10), (0.1, 50, 48)])
def test_a_attacker_of_fewer_images_sees_as_many_copies(share: float, count: int, passes: int) -> None:
    attacker = Attacker(questions=500, views=24_000, epochs=10, batch=64)
    assert attacker.count(share) == count
    assert f"training.passes={passes}" in attacker.changes(share)
    assert abs(count * passes * 10 - 24_000) <= count * 5


def test_names_of_points() -> None:
    point = Point(experiment="omega", teacher="ResNet18", arm="nasty", column="CNN", x=0.04, seed=2, key="k")
    assert point.name == "omega/ResNet18/nasty/CNN/0.04/s2"
    assert Point(experiment="logits", teacher="ResNet18", key="k").name == "logits/ResNet18/s0"


def test_all_settings_of_a_data_free_attack_are_in_the_key(paper: dict[str, Task]) -> None:
    for name in (
        "dafl/ResNet34/nasty/ResNet18/s0",
        "deep-inversion/ResNet34/nasty/ResNet18/s0",
        "deep-inversion/ResNet34/s0",
    ):
        settings = paper[name].settings["attack"]
        assert settings == ATTACKS.make(settings).model_dump(mode="json")
