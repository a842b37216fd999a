"""What a reproduction costs: arithmetic against the paper's networks and a count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from undistill.errors import UsageError
from undistill.experiments import cost, evidence
from undistill.experiments.cell import collect
from undistill.experiments.cost import Cost, Speed
from undistill.paper import forecast
from undistill.paper.planner import Planner
from undistill.paper.scales import LAPTOP, PAPER, SMALL, Scale
from undistill.statistics import ENOUGH


@pytest.mark.parametrize(
    ("name", "millions"), [("cnn", 10.6), ("resnetc20", 40.8), ("resnetc32", 69.1), ("resnet18", 555)]
)
def test_multiply_adds_of_the_papers_networks(name: str, millions: float) -> None:
    assert cost.macs(json.dumps({"name": name}), (10, 3, 32)) / 1e6 == pytest.approx(millions, rel=0.005)


def flop(monkeypatch: pytest.MonkeyPatch, scale: Scale, *only: str) -> dict[str, float]:
    """PFLOP by a cell's name, without timing anything."""
    monkeypatch.setattr(forecast, "speed", lambda *_, **__: Speed(0.0, 0.0, 0.0))
    planner = Planner(scale, [0])
    points = planner.points(["all"], only)
    costs = forecast.estimate(planner.tasks.values(), planner.tasks, torch.device("cpu"))
    return {point.name: costs[point.key].flop / 1e15 for point in points}


def test_the_papers_first_table(monkeypatch: pytest.MonkeyPatch) -> None:
    found = flop(monkeypatch, PAPER, "table1/*")
    resnet, cnn = 2 * 555.4e6, 2 * 10.56e6
    epoch, tests = 50_000, 10_000
    assert found["table1/ResNet18/normal/itself/s0"] * 1e15 == pytest.approx(
        resnet * (3 * 160 * epoch + tests), rel=0.01
    )
    assert found["table1/ResNet18/nasty/itself/s0"] * 1e15 == pytest.approx(
        resnet * (4 * 160 * epoch + tests), rel=0.01
    )
    kd = cnn * (3 * 100 * epoch + tests) + resnet * (100 * epoch + tests)
    assert found["table1/ResNet18/nasty/CNN/s0"] * 1e15 == pytest.approx(kd, rel=0.01)
    assert found["table1/none/CNN/s0"] * 1e15 == pytest.approx(cnn * (3 * 100 * epoch + tests), rel=0.01)


def test_a_budget_of_questions_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = flop(monkeypatch, SMALL, "table1/ResNet18/nasty/CNN/*")
    student = cost.macs(json.dumps({"name": "cnn", "width": 0.5}, sort_keys=True), (10, 3, 32))
    victim = cost.macs(json.dumps({"name": "cnn", "width": 1.0}, sort_keys=True), (10, 3, 32))
    expected = 2 * student * (3 * 25_000 + 10_000) + 2 * victim * (500 + 10_000)
    assert found["table1/ResNet18/nasty/CNN/s0"] * 1e15 == pytest.approx(expected)


def test_a_training_takes_longer_than_its_outputs() -> None:
    found = cost.speed(json.dumps({"name": "cnn", "width": 0.25}), (10, 3, 32), torch.device("cpu"))
    assert 0 < found.output < found.training(1, 1) < 10
    assert found.training(128, 64) < found.training(128, 2)


def test_costs_add_up() -> None:
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_an_inverted_image_costs_a_gradient_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = flop(monkeypatch, SMALL, "deep-inversion/ResNet34/s0")
    victim = cost.macs(json.dumps({"name": "cnn", "width": 0.5}, sort_keys=True), (10, 3, 32))
    assert found["deep-inversion/ResNet34/s0"] * 1e15 == pytest.approx(2 * victim * 2 * 2 * 256 * 100)


def test_outputs_that_the_logit_cache_has_by_then_cost_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students of one victim and seed see the same views: the second one's outputs were computed for the first."""
    found = flop(monkeypatch, LAPTOP, "table1/*")
    student = 2 * cost.macs(json.dumps({"name": "cnn", "width": 1.0}, sort_keys=True), (10, 3, 32))
    victim = 2 * cost.macs(json.dumps({"name": "airbench", "width": 1.0}, sort_keys=True), (10, 3, 32))
    r20 = 2 * cost.macs(json.dumps({"name": "resnetc20", "width": 1.0}, sort_keys=True), (10, 3, 32))
    first = student * (3 * 20 * 50_000 + 10_000) + victim * (20 * 50_000 + 10_000)
    assert found["table1/ResNet18/nasty/CNN/s0"] * 1e15 == pytest.approx(first, rel=1e-3)
    longer = r20 * (3 * 30 * 50_000 + 10_000) + victim * 10 * 50_000  # ten passes more than the CNN took
    assert found["table1/ResNet18/nasty/ResNetC-20/s0"] * 1e15 == pytest.approx(longer, rel=1e-3)


def test_a_forecast_says_who_plays_whom_and_how_many_seeds_are_few(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(forecast, "speed", lambda *_, **__: Speed(0.0, 0.0, 0.0))
    assert forecast.JUDGED == ENOUGH
    text = forecast.forecast(["table1"], tmp_path, scale="laptop").text
    assert "airbench plays ResNet18 (cifar10)" in text
    assert "seeds: 1" in text
    assert "seeds: 3" not in forecast.forecast(["table1"], tmp_path, scale="laptop", seeds=3).text


def test_a_forecast_looks_whether_the_data_are_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cifar10"):
        forecast.forecast(["table1"], tmp_path / "out", scale="laptop", data_dir=tmp_path)


def test_the_time_on_a_gpu_follows_from_rates_measured_there(tmp_path: Path) -> None:
    found = forecast.forecast(["table1"], tmp_path, on="h200", scale="laptop-resnet18")
    assert found.values["device"] == "NVIDIA H200"
    alone = {row["cell"]: row["s"] for row in found.values["cells"] if "/none/" in row["cell"]}
    rates = forecast.GPUS["h200"][1]
    assert alone["table1/none/CNN/s0"] == pytest.approx(
        (20 * 50_000 + 10_000 / 3) / rates["cnn"]
    )  # tests are outputs alone
    larger = alone["table1/none/ResNetC-32/s0"] / alone["table1/none/ResNetC-20/s0"]
    assert larger == pytest.approx(69.1 / 40.8, rel=0.01)
    with pytest.raises(UsageError, match="h200"):
        forecast.forecast(["table1"], tmp_path, on="abacus", scale="laptop-resnet18")


def test_the_rates_of_a_gpu_are_those_of_the_evidence(tmp_path: Path) -> None:
    evidence.unpack(Path(__file__).parents[2] / "evidence" / "laptop-resnet18.parquet", tmp_path / "study")
    cells = [cell for _, cell in collect([tmp_path / "study"])]
    trained = [cell for cell in cells if cell.kind == "control" or (cell.kind, cell.victim) == ("victim", "normal")]
    assert {cell.env["device"] for cell in trained} == {forecast.GPUS["h200"][0]}
    rates = {c.student: 50_000 * c.recipe["training"]["epochs"] / c.seconds for c in trained}
    assert rates == pytest.approx(forecast.GPUS["h200"][1], rel=0.005)
