"""The demo from the shell, at its smallest: every part is there and resumes; its numbers mean nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from undistill.experiments.cell import collect
from undistill.paper.demo import Demo
from whole.commands import Shell

pytestmark = pytest.mark.e2e

QUICK = ("demo", "--quick", "--seed", "7", "-q")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    subprocess.run(
        [sys.executable, "-m", "undistill", *QUICK, "--jobs", "2", "-o", str(out)],
        check=True,
        env=os.environ,
    )
    return out


def test_every_attacker_is_tried_on_both_teachers(demo: Path) -> None:
    cells = [cell for _, cell in collect([demo])]
    assert Counter(cell.kind for cell in cells) == {"cell": 7, "control": 1, "figure": 1, "victim": 2}
    tried = Counter((cell.attack, cell.victim) for cell in cells if cell.kind == "cell")
    assert tried[("kd", "normal")] == tried[("kd", "nasty")] == 2
    assert tried[("head-refit", "nasty")] == 1
    assert {cell.seeds["student"] for cell in cells if cell.kind == "cell"} == {7}


def test_attackers_of_one_draw_hold_the_same_fifty_fresh_images(demo: Path) -> None:
    cells = [cell for _, cell in collect([demo]) if cell.kind in ("cell", "control")]
    assert {cell.images for cell in cells} == {50}
    assert all("/fresh/" in cell.card for cell in cells)
    assert {cell.queries for cell in cells if cell.kind == "cell" and not cell.card.startswith("weights")} == {50}
    assert {cell.queries for cell in cells if cell.kind == "control"} == {0}


def test_another_seed_shares_no_teacher_and_no_draw() -> None:
    demos = [Demo(seed, teachers=5, draws=3) for seed in range(3)]
    pairs = [pair for demo in demos for pair in demo.pairs]
    students = [student for demo in demos for pair in demo.pairs for student in demo.students(pair)]
    assert len(set(pairs)) == 15
    assert len(set(students)) == 45


def test_the_report_is_there(demo: Path) -> None:
    assert (demo / "report" / "index.html").stat().st_size > 100_000
    assert "nasty" in (demo / "report" / "report.md").read_text()
    json.loads((demo / "report" / "report.json").read_text())


def test_the_same_command_is_done_at_once_and_other_settings_are_refused(demo: Path, shell: Shell) -> None:
    before = {path: path.read_bytes() for path in demo.rglob("*.json")}
    assert shell(*QUICK, "-o", demo, "--jobs", "1").code == 0
    assert {path: path.read_bytes() for path in demo.rglob("*.json")} == before
    other = shell("demo", "--quick", "--seed", "8", "-q", "-o", demo)
    assert other.code == 2
    assert "other settings" in other.err


@pytest.mark.parametrize("option", ["--teachers", "--draws"])
def test_no_teacher_or_no_draw_is_refused(option: str, shell: Shell, tmp_path: Path) -> None:
    refused = shell("demo", option, "0", "-q", "-o", tmp_path / "out")
    assert refused.code == 2
    assert option.strip("-s") in refused.err
    assert not (tmp_path / "out").exists()


def test_a_lost_student_is_trained_again_to_the_same_cell(demo: Path, shell: Shell, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "copy")
    lost = tmp_path / "copy" / "students" / "kd-4-nasty-s7"
    before = json.loads((lost / "result.json").read_text())["cell"]
    shutil.rmtree(lost)
    for marker in (tmp_path / "copy" / "done").iterdir():
        if json.loads(marker.read_text())["cell"] == before["id"]:
            marker.unlink()
    assert shell(*QUICK, "--jobs", "1", "-o", tmp_path / "copy").code == 0
    after = json.loads((lost / "result.json").read_text())["cell"]
    for cell in (before, after):
        del cell["seconds"], cell["env"]
        for line in cell["curve"]:
            del line["seconds"]
    assert after == before
