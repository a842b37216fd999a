"""The smoke scale learns something: each of its normal teachers is far above chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from undistill.experiments.cell import collect
from undistill.paper.experiments import NAMES
from undistill.paper.reproduce import reproduce

CHANCE = 10.0


@pytest.mark.slow
def test_normal_teachers_are_above_three_times_chance(tmp_path: Path) -> None:
    names = [name for name in NAMES if name not in ("logits", "embedding")]
    reproduce(names, out=tmp_path / "r", scale="smoke", device="cpu", only=["*/normal/itself/*"])
    teachers = [cell for _, cell in collect([tmp_path / "r"]) if cell.kind == "victim" and not cell.defense]
    assert {cell.student for cell in teachers} == {"resnet18", "resnet34", "resnet50", "resnext29"}
    assert len({cell.data for cell in teachers}) == 3
    assert all((cell.accuracy or 0) > 3 * CHANCE for cell in teachers)
