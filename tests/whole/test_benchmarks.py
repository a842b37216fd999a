"""The benchmarks compare like with like, and the docs show what they measured. Never how fast."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
import torch
from benchmarks import arm, floor, measure, plain, precision, table
from torch import nn

from undistill.data import VIEWS, ImageSet
from undistill.data.augment import Views
from undistill.losses import distillation_loss, self_undermining_loss

pytestmark = pytest.mark.e2e

SPEC: dict[str, Any] = {"network": "cnn", "images": 256, "batch": 128, "epochs": 1}


def logits(seed: int) -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_reference_minimises_the_same_losses() -> None:
    ours_BC, other_BC, labels_B = logits(0), logits(1), torch.arange(6) % 4
    expected = distillation_loss(ours_BC, other_BC, labels_B, temperature=4.0, alpha=0.9)
    torch.testing.assert_close(plain.distillation()(ours_BC, other_BC, labels_B), expected)
    expected = self_undermining_loss(ours_BC, other_BC, labels_B, omega=0.04, temperature=4.0)
    torch.testing.assert_close(plain.nasty(ours_BC, other_BC, labels_B), expected)


def test_its_pictures_are_our_views(images: ImageSet) -> None:
    """Every picture it makes is one of those that a crop and a flip can make."""
    pictures = plain.Pictures(images.images_NCHW[:], images.labels_N, 1, flip=True)
    views = Views([VIEWS.make({"name": "crop", "padding": 1}), VIEWS.make("flip")], 0, 0, 18, torch.device("cpu"))
    views.tables[0] = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat(2, 1)
    views.tables[1] = torch.arange(18)[:, None] // 9
    torch.manual_seed(0)
    for number in (0, 5, 9):
        possible = views(images.images_NCHW[:][number].expand(18, -1, -1, -1), torch.arange(18))
        made, label = pictures[number]
        assert label == int(images.labels_N[number])
        assert min(float((each - made).abs().max()) for each in possible) < 1e-6


def test_grey_pictures_without_any_change_are_the_images(make_images: Any) -> None:
    grey = make_images(channels=1)
    made, _ = plain.Pictures(grey.images_NCHW, grey.labels_N, 0, flip=False)[3]
    assert torch.equal(made, grey.seen()[3])


@pytest.mark.parametrize("name", ["ours", "reference", "bare"])
@pytest.mark.parametrize("work", ["plain", "nasty", "kd"])
def test_every_arm_trains(name: str, work: str) -> None:
    if name == "bare" and work != "plain":
        return
    found = arm.run({**SPEC, "arm": name, "work": work, "other": "cnn", "workers": 0})
    assert len(found["epochs"]) == 1
    assert found["start"] > 0


def test_a_grid_has_a_student_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm, "TEMPERATURES", (1, 4))
    monkeypatch.setattr(arm, "ALPHAS", (0.5, 0.9))
    grid = {**SPEC, "work": "grid", "other": "cnn", "jobs": 1}
    (losses,) = list(arm.grid(grid, torch.device("cpu")))
    assert isinstance(losses, list)
    assert len(set(losses)) == 4
    assert len(arm.run({**grid, "arm": "reference", "workers": 0})["epochs"]) == 4


def test_the_floor_counts_a_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    first, relu, last = floor.work(model, torch.zeros(2, 3, 5, 5), 4)
    assert first == (
        2 * 2 * 25 * 8 * 27,
        4 * (2 * 3 * 25 + 2 * 8 * 25 + 216),
        2 * 2 * 25 * 8 * 27,
        4 * (2 * 8 * 25 + 2 * 3 * 25 + 2 * 216),
    )
    assert relu == (0, 4 * 2 * 2 * 8 * 25, 0, 4 * 3 * 2 * 8 * 25)
    assert last[2] == 2 * last[0] == 2 * 2 * 2 * 25 * 4 * 8


def test_an_arm_is_timed_with_its_memory_and_its_json() -> None:
    found = measure.once([sys.executable, "-c", "import json; x = bytearray(10**8); print(json.dumps({'start': 3}))"])
    assert found["start"] == 3
    assert found["wall"] > 0
    with pytest.raises(measure.Failed, match="ZeroDivisionError"):
        measure.once([sys.executable, "-c", "1 / 0"])


def test_the_first_epoch_does_not_count() -> None:
    assert measure.steady([{"epochs": [9.0, 1.0, 2.0]}, {"epochs": [9.0, 3.0, 4.0]}]) == 2.5
    assert measure.steady([{"epochs": [9.0]}]) == 9.0


def test_the_effect_of_bf16_is_paired() -> None:
    rows = [
        {"fp32": dict.fromkeys(precision.ARMS, 90.0 + s), "bf16": dict.fromkeys(precision.ARMS, 91.0 + s)}
        for s in (0, 5)
    ]
    found = precision.differences([copy.deepcopy(row) for row in rows])
    assert found["nasty teacher"] == {"fp32": 92.5, "bf16": 93.5, "difference": 1.0, "half": 0.0}


def test_ratios_are_those_of_the_measured_times() -> None:
    for file in table.EVIDENCE.glob("bench-*.json"):
        for group in json.loads(file.read_text()).values():
            for row in group["rows"]:
                assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], abs=1e-3)
