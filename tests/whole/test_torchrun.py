"""`torchrun`: two processes train what one would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ONE = [sys.executable]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def call(*command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=300, check=False)
    assert not ok or done.returncode == 0, done.stderr
    return done


def undistill(by: list[str], *words: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    return call(*by, "-m", "undistill", *map(str, words), ok=ok)


def curve(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torchrun") / "teacher"
    undistill(ONE, "train", "--data", "digits", "-s", "training.epochs=4", "-o", out, "-q")
    return out


def test_what_two_processes_tell_each_other() -> None:
    assert call(*TWO, str(HERE / "together.py")).stdout.split("\n")[0] == "all as it should be"


def test_a_nasty_training_is_that_of_one_process_also_where_one_goes_on(teacher: Path, tmp_path: Path) -> None:
    words = ("protect", teacher, "--defense", "nasty", "-s", "training.epochs=4")
    undistill(ONE, *words, "--cache", tmp_path / "a", "-o", tmp_path / "one", "-q")
    done = undistill(TWO, *words, "--cache", tmp_path / "b", "-o", tmp_path / "two")
    assert done.stdout.count("accuracy") == 1  # the first process alone says it
    assert "on 2 processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert (
        len(list((tmp_path / "b").glob("*/*.safetensors"))) == len(list((tmp_path / "a").glob("*/*.safetensors"))) > 0
    )

    command = [*TWO, "-m", "undistill", *map(str, words), "--cache-limit", "0", "-o", str(tmp_path / "killed"), "-q"]
    running = subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint" / "state.json").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)  # which it passes on: its workers are in groups of their own
    running.wait()
    done = undistill(ONE, *words, "--cache-limit", "0", "-o", tmp_path / "killed")
    assert "other processes 2 → 1" in done.stderr

    expected = curve(tmp_path / "one")
    for other in ("two", "killed"):
        found = curve(tmp_path / other)
        assert len(found) == len(expected) == 4
        for epoch, (a, b) in enumerate(zip(expected, found, strict=True)):
            # rounding grows by a step's curvature: two threads of one process part as fast
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4 if epoch < 2 else 0.1)
            assert (b["images"], b["lr"]) == (a["images"], a["lr"])
    assert read(tmp_path / "two" / "env.json")["processes"] == 2
    assert len(list((tmp_path / "two" / "cells").glob("*.json"))) == 1


@pytest.mark.parametrize(
    "more", [("--cache-limit", "0"), ("-s", "training.accumulate=3", "-s", "training.sync_batch_norm=false")]
)
def test_an_attack_asks_as_much_as_one_process_would(teacher: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    words = ("attack", teacher, "-s", "training.epochs=2", "--cache", tmp_path / "cache", *more)
    undistill(ONE, *words, "-o", tmp_path / "one", "-q")
    undistill(TWO, *words, "-o", tmp_path / "two", "-q")
    one, two = (read(tmp_path / name / "result.json")["cell"] for name in ("one", "two"))
    assert one["queries"] == two["queries"] > 0
    assert one["id"] == two["id"]
    losses = [[line["loss"] for line in curve(tmp_path / name)] for name in ("one", "two")]
    synced = "training.accumulate=3" not in more
    assert (losses[1] == pytest.approx(losses[0], rel=1e-4)) is synced  # own statistics are others
    if synced:
        assert one["forwards"] == two["forwards"] > 0


def test_a_budget_is_paid_once(teacher: Path, tmp_path: Path) -> None:
    words = (
        "attack",
        teacher,
        "-s",
        "training.epochs=2",
        "--threat-model",
        "probs/unlabelled/fresh/random/50",
        "--cache-limit",
        "0",
    )
    for name, by in (("one", ONE), ("two", TWO)):
        undistill(by, *words, "-o", tmp_path / name, "-q")
    one, two = (read(tmp_path / name / "result.json")["cell"] for name in ("one", "two"))
    assert one["queries"] == two["queries"] == 50
    assert [line["loss"] for line in curve(tmp_path / "two")] == pytest.approx(
        [line["loss"] for line in curve(tmp_path / "one")], rel=1e-4
    )


@pytest.mark.parametrize("attack", ["head-refit", "feature-kd"])
def test_what_an_insider_computes_is_counted_once(teacher: Path, tmp_path: Path, attack: str) -> None:
    words = (
        "attack",
        teacher,
        "--attack",
        attack,
        "-s",
        "training.epochs=1",
        "--threat-model",
        "weights/labelled/trained/random",
    )
    for name, by in (("one", ONE), ("two", TWO)):
        undistill(by, *words, "-o", tmp_path / name, "-q")
    one, two = (read(tmp_path / name / "result.json")["cell"] for name in ("one", "two"))
    assert one["forwards"] == two["forwards"] > 0


def test_an_error_of_one_process_is_one_sentence(teacher: Path, tmp_path: Path) -> None:
    from undistill.files import locked

    with locked(tmp_path / "held"):  # which the first process alone finds out
        done = undistill(TWO, "protect", teacher, "-o", tmp_path / "held", ok=False)
    said = done.stderr.partition("torch.distributed.elastic")[0]
    assert done.returncode
    assert said.count("error: ") == 1
    assert "is in use by another process" in said
    assert "Traceback" not in said.partition("W1")[0]


def test_what_several_processes_cannot_share_is_refused(teacher: Path, tmp_path: Path) -> None:
    done = undistill(TWO, "audit", teacher, "-o", tmp_path / "audit", ok=False)
    assert done.returncode
    assert done.stderr.count("error: torchrun divides one training") == 1
    assert not (tmp_path / "audit").exists()
