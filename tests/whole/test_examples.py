"""The examples run as they are printed, and stay short."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("ten_lines.py", str(tmp_path / "out"), "1", monkeypatch=monkeypatch)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("accuracy: normal ")
    assert [line.split(":")[0] for line in said[1:]] == [
        "kd from normal",
        "label-only from normal",
        "kd from nasty",
        "label-only from nasty",
    ]


def test_own_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("own_loop.py", monkeypatch=monkeypatch)
    adversary, nasty = capsys.readouterr().out.splitlines()
    assert adversary.endswith("τ²·KL from the adversary 0.00 nats")
    assert float(nasty.split()[-2]) > 3


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80


@pytest.mark.slow
def test_photos_go_from_a_folder_to_a_page(tmp_path: Path) -> None:
    tools = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EPOCHS": "1",
        "QUERIES": "10",
        "ARMS": "kd",
        "SIZE": "64",
    }
    command = [str(EXAMPLES / "photos" / "run.sh"), str(tmp_path / "out"), "--each", "20", "--classes", "3"]
    done = subprocess.run(command, env={**os.environ, **tools}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "left out: 1 corrupt" in done.stderr
    assert {"imported", "nasty"} <= set((tmp_path / "out" / "report" / "report.md").read_text().split())
