"""A process killed at any moment, then resumed, leaves the same weights as one that was never interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from undistill import files
from undistill.cli.main import main
from whole.commands import SMALL, Shell

pytestmark = pytest.mark.e2e


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it, no clean-up of ours runs after it."""


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int, *, after: bool) -> None:
    """Die at the `moment`-th file that is written, before or after it is replaced; the temporary file stays, as it would."""
    written = 0
    whole = files.write_bytes

    def write(path: Path, content: bytes, **how: bool) -> None:
        nonlocal written
        written += 1
        if written == moment:
            path.parent.mkdir(parents=True, exist_ok=True)
            if after:
                whole(path, content, **how)
            else:
                (path.parent / f".{path.name}.x{files.TEMPORARY}").write_bytes(content[: len(content) // 2])
            raise Killed
        whole(path, content)

    for module in [m for name, m in sys.modules.items() if name.startswith("undistill.") and hasattr(m, "write_bytes")]:
        monkeypatch.setattr(module, "write_bytes", write)


def commands(teacher: Path) -> dict[str, list[str]]:
    return {
        "train": ["train", *SMALL],
        "protect": ["protect", str(teacher), "--defense", "nasty", "-q"],
        "attack": ["attack", str(teacher), "--attack", "kd", "-q", "-s", "student.width=0.125"],
        "attack-budget": [
            "attack",
            str(teacher),
            "--attack",
            "kd",
            "-q",
            "--threat-model",
            "api",
            "-s",
            "student.width=0.125",
        ],
    }


@pytest.mark.parametrize("verb", ["train", "protect", "attack", "attack-budget"])
def test_killed_at_any_write_then_resumed_gives_the_same_weights(
    verb: str, shell: Shell, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = commands(teacher)[verb]
    assert shell(*command, "-o", tmp_path / "straight").code == 0
    expected, moment = weights(tmp_path / "straight"), 0
    results = (tmp_path / "straight" / "result.json").read_text()
    while True:
        moment += 1
        out = tmp_path / f"killed-{moment}"
        with monkeypatch.context() as patch:
            kill_at(patch, moment, after=moment % 2 == 0)
            with pytest.raises((Killed, SystemExit)) as ended:
                main([*command, "-o", str(out)])
        if isinstance(ended.value, SystemExit):
            assert ended.value.code == 0
            break
        outcome = shell(*command, "-o", out)
        assert outcome.code == 0, (moment, outcome.err)
        assert weights(out) == expected, f"killed at write {moment}"
        assert not list(out.rglob(f".*{files.TEMPORARY}"))
        if verb.startswith("attack"):
            asked = [line for line in results.splitlines() if '"queries"' in line]
            assert asked == [line for line in (out / "result.json").read_text().splitlines() if '"queries"' in line]
    assert moment > 10  # config, env, metrics, two checkpoints of two files, model, result


@pytest.mark.parametrize("epochs", [40])
def test_kill_nine_then_resume(shell: Shell, tmp_path: Path, epochs: int) -> None:
    command = ["train", *SMALL, "-s", f"training.epochs={epochs}", "--threads", "1"]
    assert shell(*command, "-o", tmp_path / "straight").code == 0
    _kill_when(command, tmp_path / "killed", lambda out: _lines(out / "metrics.jsonl") >= 3)
    assert not (tmp_path / "killed" / "result.json").exists()
    assert shell(*command, "-o", tmp_path / "killed").code == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    assert (tmp_path / "killed" / "metrics.jsonl").read_text().count("\n") == epochs


def test_another_number_of_threads_is_said_where_a_run_goes_on(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *(word for word in SMALL if word != "-q")]
    for name, threads in (("same", "1"), ("other", "2")):
        with monkeypatch.context() as patch:
            kill_at(patch, 9, after=True)
            with pytest.raises(Killed):
                main([*command, "--threads", "1", "-o", str(tmp_path / name)])
        try:
            outcome = shell(*command, "--threads", threads, "-o", tmp_path / name)
        finally:
            torch.set_num_threads(1)
        assert outcome.code == 0
        assert ("threads 1 → 2" in outcome.err) == (name == "other")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "protect", "attack"])
@pytest.mark.parametrize("delay", [0.03, 0.4])
def test_kill_nine_at_random_moments(verb: str, delay: float, shell: Shell, teacher: Path, tmp_path: Path) -> None:
    more = ["-s", "training.epochs=40", "--threads", "1"]
    command = [*commands(teacher)[verb], *more]
    assert shell(*command, "-o", tmp_path / "straight").code == 0

    def ready(out: Path) -> bool:
        begun = (out / "config.yaml").exists()
        if begun:
            time.sleep(delay)
        return begun

    _kill_when(command, tmp_path / "killed", ready)
    assert shell(*command, "-o", tmp_path / "killed").code == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")


def _kill_when(command: list[str], out: Path, ready: Callable[[Path], bool]) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "undistill", *command, "-o", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not ready(out) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0
