"""Bad input ends in one sentence on stderr, an exit code, no traceback and nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from undistill.files import locked
from whole.commands import SMALL, Outcome, Shell

pytestmark = pytest.mark.e2e


def refused(outcome: Outcome, *words: str, code: int = 2) -> None:
    """One sentence, the expected code, the words that name what is wrong."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "digit"], ["'digit'", "did you mean digits"]),
        (["train", "--model", "resnet19"], ["'resnet19'", "resnet18"]),
        (["train", "-c", "paper-cifar"], ["'paper-cifar'", "paper-cifar10"]),
        (["train", "-c", "no/such.yaml"], ["no/such.yaml"]),
        (["train", "-s", "training.epoch=3"], ["training.epoch", "epochs"]),
        (["train", "-s", "training.epochs=0"], ["training.epochs", "0"]),
        (["train", "-s", "training.epochs"], ["section.name=value"]),
        (["train", "-s", "training.optimizer.lr=-1"], ["lr", "-1"]),
        (["train", "-s", "training.optimizer.name=sdg"], ["'sdg'", "sgd"]),
        (["train", "-s", "defense.omega=-0.1"], ["omega", "-0.1"]),
        (["train", "-s", "defense.omega=.nan"], ["omega"]),
        (["train", "-s", "attack.temperature=0"], ["temperature", "0"]),
        (["train", "-s", "attack.alpha=1.5"], ["alpha", "1.5"]),
        (["train", "-s", "attack.name=kdd"], ["no attack called 'kdd'", "kd"]),
        (["train", "-s", "data.pool=1797"], ["leave too few"]),
        (["train", "--seed", "-1"], ["seed", "-1"]),
        (["train", "--device", "tpu"], ["'tpu'", "cuda"]),
        (["train", "--precision", "fp8"], ["precision", "fp8"]),
        (["train", "--data-dir", "/nowhere"], ["/nowhere"]),
        (["train", "--data", "cifar10", "--data-dir", "/nowhere"], ["/nowhere"]),
        (["protect", "/nowhere"], ["/nowhere"]),
        (["attack", "/nowhere"], ["/nowhere"]),
        (["train", "--modle", "cnn"], ["--modle"]),
        (["tarin"], ["tarin"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_words_are_named(shell: Shell, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    out = ["-q", "-o", tmp_path / "out"] if arguments[0] != "tarin" else []
    data = ["--data", "digits"] if arguments[0] == "train" and not {"--data", "-c"} & {*arguments} else []
    refused(shell(*arguments, *data, *out), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threat-model", "logits/labelled"], ["logits/labelled"]),
        (["--threat-model", "logits/labelled(2)/trained/random"], ["share"]),
        (["--threat-model", "label/unlabelled/fresh/random/50"], ["kd needs topk", "label"]),
        (["--threat-model", "probs/unlabelled/fresh/random/5000"], ["5000", "400"]),
        (["--attack", "nasty"], ["no attack called 'nasty'"]),
        (["--student", "resnet"], ["'resnet'"]),
        (["-s", "data.split_seed=3"], ["other data"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_impossible_attacks_are_refused(
    shell: Shell, teacher: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    refused(shell("attack", teacher, *arguments, "-q", "-o", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_classes_is_refused(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "model")
    path = tmp_path / "model" / "model" / "config.json"
    config = json.loads(path.read_text())
    config["class_names"][0] = "nought"
    path.write_text(json.dumps(config))
    refused(shell("attack", tmp_path / "model", "-q", "-o", tmp_path / "out"), "class 'nought'", "data do not have")


def test_an_adversary_of_another_input_size_is_refused(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    from undistill.models import build
    from undistill.models import model_folder as folder

    names = tuple(str(digit) for digit in range(10))
    folder.save(tmp_path / "large", build("cnn", 10, 1, 16, seed=0), names, "")
    refused(shell("protect", teacher, "--adversary", tmp_path / "large", "-q", "-o", tmp_path / "out"), "16", "8")


def test_an_unfinished_victim_is_refused(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    refused(shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "out"), "not finished", "goes on")


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/config.json", "config.yaml", "result.json"])
def test_a_truncated_victim_is_named(shell: Shell, teacher: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(teacher, tmp_path / "run")
    path = tmp_path / "run" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome = shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "out")
    refused(outcome, Path(file).name, code=outcome.code)
    assert outcome.code in (1, 2)
    assert not (tmp_path / "out").exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_pickle_is_never_opened(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "run")
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    refused(shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "out"), "pickle", code=1)
    assert not (tmp_path / "exploded").exists()


def test_a_run_of_a_newer_schema_is_refused(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("schema: 1", "schema: 99"))
    refused(shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "out"), "checksum", "remove its 'check'", code=1)
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("check:"))
    )
    refused(shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "out"), "schema 99", "update")


def test_a_locked_folder_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        refused(shell("train", *SMALL, "-o", tmp_path / "out"), "in use by another process")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_folder_with_something_else_in_it_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    refused(shell("train", *SMALL, "-o", tmp_path), "thesis.tex")
    refused(shell("train", *SMALL, "-o", tmp_path, "--fresh"), "thesis.tex")
    assert (tmp_path / "thesis.tex").exists()


def test_other_settings_are_refused_by_name(shell: Shell, teacher: Path) -> None:
    again = ["train", "--data", "digits", "--model", "cnn", *SMALL, "-o", teacher]
    refused(shell(*again, "-s", "training.epochs=3"), "training.epochs was 2, now 3", "--fresh")
    refused(shell(*again, "--seed", "4"), "seed was 0, now 4", "--fresh")


def test_a_finished_run_is_done_at_once(shell: Shell, teacher: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*") if path.is_file()}
    outcome = shell("train", "--data", "digits", "--model", "cnn", *SMALL, "-o", teacher)
    assert outcome.code == 0
    assert str(teacher) in outcome.out
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*") if path.is_file()} == before


def test_a_loss_that_explodes_stops_and_names_the_step(shell: Shell, tmp_path: Path) -> None:
    explode = ["-s", "training.optimizer.lr=1e30", "-s", "training.clip=null", "-s", "training.schedule.name=constant"]
    refused(shell("train", *SMALL, *explode, "-o", tmp_path / "out"), "not finite at step", "epoch 1", code=1)
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_student_that_explodes_is_a_result(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    explode = ["-s", "training.optimizer.lr=1e30", "-s", "training.clip=null", "-s", "training.schedule.name=constant"]
    outcome = shell("attack", teacher, "--attack", "kd", *explode, "-q", "--json", "-o", tmp_path / "out")
    assert outcome.code == 0
    cell = json.loads(outcome.out)
    assert cell["status"] == "diverged"
    assert cell["accuracy"] is None
    assert "not finite" in cell["why"]


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_full_disk_ends_in_a_sentence_and_resumes(shell: Shell, tmp_path: Path) -> None:
    command = ["train", *SMALL, "-o", str(tmp_path / "out")]
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # coverage writes files too
    full = subprocess.run(
        [sys.executable, "-m", "undistill", *command],
        capture_output=True,
        text=True,
        preexec_fn=_limit_file_size,
        env=plain,
        check=False,
    )
    refused(Outcome(full.returncode, full.stdout, full.stderr), "no space left", "goes on", code=1)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert not list((tmp_path / "out").rglob(".*.part"))
    assert shell(*command).code == 0


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_keeps_the_checkpoint(tmp_path: Path, number: int, code: int, word: str) -> None:
    out = tmp_path / "out"
    command = ["train", *SMALL, "-s", "training.epochs=400", "-o", str(out)]
    outcome = _stopped(command, number, lambda: (out / "checkpoint" / "state.json").exists())
    refused(outcome, word, "goes on", code=code)
    assert (out / "checkpoint" / "state.json").exists()
    assert not (out / "result.json").exists()


def test_a_terminated_demo_stops_its_workers_and_leaves_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["demo", "--jobs", "2", "-q", "-o", str(out)]
    outcome = _stopped(command, signal.SIGTERM, lambda: any(out.glob("teachers/*/checkpoint/state.json")))
    refused(outcome, "terminated", "goes on", code=143)
    assert "resource_tracker" not in outcome.err


def _stopped(command: list[str], number: int, ready: Callable[[], bool]) -> Outcome:
    """What a command leaves that is sent a signal once it is at work."""
    running = subprocess.Popen(
        [sys.executable, "-m", "undistill", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(number)
        said, complained = running.communicate(timeout=60)
    finally:
        running.kill()
    return Outcome(running.returncode, said, complained)
