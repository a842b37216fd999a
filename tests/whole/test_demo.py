"""The demo from the shell, at its smallest: every part is there and resumes; its numbers mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from undistill.auditing.cell import collect
from whole.commands import Shell


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    subprocess.run(
        [sys.executable, "-m", "undistill", "demo", "--quick", "--seed", "7", "--jobs", "2", "-q", "-o", str(out)],
        check=True,
        env=os.environ,
    )
    return out


def test_every_cell_of_both_cards_is_there(demo: Path) -> None:
    cells = [cell for _, cell in collect([demo])]
    assert sorted(cell.kind for cell in cells) == ["cell"] * 12 + ["control"] * 2 + ["figure"] + ["victim"] * 2
    assert {cell.card for cell in cells if cell.card} == {
        "logits/labelled(1.0)/trained/random",
        "probs/unlabelled(1.0)/fresh/random/50",
    }
    assert {cell.seeds["student"] for cell in cells if cell.kind == "cell"} == {7}


def test_questions_are_counted_by_card(demo: Path) -> None:
    cells = [cell for _, cell in collect([demo]) if cell.kind != "victim"]
    api = {cell.queries for cell in cells if cell.card.endswith("/50") and cell.kind == "cell"}
    paper = {cell.queries for cell in cells if "trained" in cell.card and cell.kind == "cell"}
    assert api == {50}
    assert paper == {810 * 3}  # images × epochs
    assert {cell.queries for cell in cells if cell.kind == "control"} == {0}


def test_all_arms_of_one_seed_hold_the_same_images(demo: Path) -> None:
    cells = [cell for _, cell in collect([demo]) if cell.card.endswith("/50")]
    assert {cell.images for cell in cells} == {50}
    assert len({cell.data for cell in cells}) == 1


def test_the_page_is_there(demo: Path) -> None:
    assert (demo / "report" / "index.html").stat().st_size > 100_000
    assert "nasty" in (demo / "report" / "report.md").read_text()
    json.loads((demo / "report" / "report.json").read_text())


def test_the_same_command_is_done_at_once_and_other_settings_are_refused(demo: Path, shell: Shell) -> None:
    again = ("demo", "--quick", "--seed", "7", "-q", "-o", demo)
    before = {path: path.read_bytes() for path in demo.rglob("*.json")}
    assert shell(*again, "--jobs", "1").code == 0
    assert {path: path.read_bytes() for path in demo.rglob("*.json")} == before
    other = shell("demo", "--quick", "--seed", "8", "-q", "-o", demo)
    assert other.code == 2
    assert "other settings" in other.err


def test_a_lost_student_is_trained_again_to_the_same_cell(demo: Path, shell: Shell, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(demo, tmp_path / "copy")
    lost = tmp_path / "copy" / "students" / "api-kd-4-nasty-s7"
    before = json.loads((lost / "result.json").read_text())["cell"]
    shutil.rmtree(lost)
    assert shell("demo", "--quick", "--seed", "7", "-q", "--jobs", "1", "-o", tmp_path / "copy").code == 0
    after = json.loads((lost / "result.json").read_text())["cell"]
    for cell in (before, after):
        del cell["seconds"], cell["env"]
        for line in cell["curve"]:
            del line["seconds"]
    assert after == before
