"""The paper's other settings, as recipes (Ma et al. 2021, section 4.1, and the authors' settings files)."""

from __future__ import annotations

from typing import Any

import pytest

from undistill.training.recipe import read

CROP, FLIP, ROTATION = {"name": "crop", "padding": 4}, {"name": "flip"}, {"name": "rotation", "degrees": 20.0}
PAPER: list[tuple[str, str, float, list[dict[str, Any]]]] = [
    ("paper-cifar100", "cifar100", 0.005, [CROP, FLIP]),
    ("paper-tiny-imagenet", "tiny-imagenet", 0.01, [ROTATION, FLIP]),
]


@pytest.mark.parametrize(("recipe", "data", "omega", "views"), PAPER)
def test_a_paper_recipe_is_the_papers(recipe: str, data: str, omega: float, views: list[dict[str, Any]]) -> None:
    values = read(recipe).dump()
    training = values["training"]
    assert (values["data"]["name"], values["data"]["views"]) == (data, views)
    assert (values["data"]["val"], values["data"]["pool"]) == (0, 0)
    assert (training["epochs"], training["batch"], training["clip"], training["precision"]) == (200, 128, None, "fp32")
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
    assert training["optimizer"] == optimizer
    assert training["schedule"] == {"name": "step", "warmup": 0.0, "at": [60, 120, 160], "factor": 0.2}
    assert values["defense"] == {"name": "nasty", "omega": omega, "temperature": 20.0}
    assert values["attack"] == {"name": "kd", "temperature": 20.0, "alpha": 0.9}
    assert (values["model"]["name"], values["student"]["name"]) == ("resnet18", "shufflenetv2")


def test_the_fast_recipe_changes_only_how_networks_are_trained() -> None:
    fast, paper = read("fast-cifar100").dump(), read("paper-cifar100").dump()
    changed = {section for section in fast if fast[section] != paper[section]}
    assert changed == {"data", "training"}
    assert fast["data"] == paper["data"] | {"val": 0.1}
    assert fast["training"]["epochs"] * 5 < paper["training"]["epochs"]


def test_the_retry_of_a_diverged_student_is_one_setting() -> None:
    paper, retry = read("paper-cifar100").dump(), read("paper-cifar100", ["training.clip=5"]).dump()
    assert retry == paper | {"training": paper["training"] | {"clip": 5.0}}


def test_fine_tuning_is_gentle_and_takes_any_data() -> None:
    values = read("finetune").dump()
    assert values["training"]["epochs"] == 10
    assert values["training"]["optimizer"]["lr"] == 0.01
    assert values["data"]["views"] == [FLIP]  # a crop's padding would depend on the images' size
