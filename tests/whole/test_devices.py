"""Every verb on a device: on the CPU here, and by the mark `gpu` on CUDA, where the branches are that only it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import undistill
from undistill.data import Splits
from undistill.experiments.runtime import Runtime
from undistill.training.environment import choose_device, describe
from undistill.training.precision import arithmetic

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ATTACKS: list[tuple[dict[str, Any], str]] = [
    ({"name": "kd"}, "paper"),
    ({"name": "label-only"}, "api"),
    ({"name": "dafl", "steps": 3, "batch": 16}, "data-free"),
    ({"name": "head-refit", "labels_per_class": 2}, "weights/labelled/fresh/random/50"),
]
FEW = ["data.limit=1100", "data.pool=100", "training.epochs=2", "model.width=0.25"]


@pytest.fixture(scope="module")
def data() -> Splits:
    return undistill.load(undistill.recipe("digits", FEW).data)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("device", DEVICES)
def test_trainings_and_attacks_compute_on_a_device(device: str, precision: str, data: Splits, tmp_path: Path) -> None:
    recipe = undistill.recipe("digits", [*FEW, f"training.precision={precision}"])
    normal = undistill.train("cnn", data, recipe, seed=0, out=tmp_path / "normal", device=device)
    nasty = undistill.protect(normal, data, "nasty", out=tmp_path / "nasty", device=device)
    assert 20 < normal.accuracy <= 100
    assert 10 < nasty.accuracy <= 100
    for attack, card in ATTACKS:
        cell = undistill.attack(
            nasty, data, attack, threat_model=card, out=tmp_path / attack["name"], runtime=Runtime(device=device)
        )
        assert cell.status == "ok"
        assert cell.accuracy is not None


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_says_what_it_is(device: str) -> None:
    found = choose_device(device)
    assert found.type == device
    assert describe(found)["device"] == ("cpu" if device == "cpu" else torch.cuda.get_device_name(found))
    assert arithmetic("auto", found) in ("fp32", "bf16")


def test_on_cuda_one_process_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [Runtime(device=device).at_once for device in ("auto", "cuda")] == [1, 1]
    assert Runtime(device="auto", jobs=3).at_once == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Runtime(device="auto").at_once == Runtime(device="cpu").at_once


def test_every_file_with_a_branch_that_only_cuda_takes_is_listed() -> None:
    root = Path(undistill.__file__).parent
    branch = re.compile(r"""type == "cuda"|\.is_cuda|torch\.cuda\.(is_available|get_device_name|synchronize)""")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if branch.search(path.read_text())}
    listed = set(re.findall(r"\| `([a-z_/]+\.py)` \|", (root.parents[1] / "docs" / "performance.md").read_text()))
    assert found <= listed
