"""Errors of options come before any data are read; --fresh discards what this tool wrote, and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from undistill.cli import verbs
from undistill.cli.audit import _command
from undistill.cli.fresh import start_anew
from undistill.cli.main import main
from undistill.cli.options import Options, local_copy
from undistill.errors import UsageError
from undistill.files import locked
from undistill.models import build
from undistill.models import model_folder as folder
from undistill.models.base import MODELS
from undistill.threads import Moment
from undistill.training.run_folder import begun

Call = Callable[..., tuple[int, str]]
SMALL = ("--data", "digits", "-s", "training.epochs=1", "-s", "model.width=0.125", "-q")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """(exit code, stderr) of `undistill …`."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data may be read."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("data were read before the options were checked")

    monkeypatch.setattr(verbs, "load", refuse)


WRONG: list[tuple[str, list[str], str]] = [
    ("train", [], "--data"),
    ("train", ["--data", "digits", "--device", "tpu"], "tpu"),
    ("train", ["--data", "digits", "--seed", "-1"], "-1"),
    ("train", ["--data", "digits", "--precision", "fp8"], "fp8"),
    ("train", ["--data", "digits", "--weights", "nowhere.pt"], "nowhere.pt"),
    ("train", ["--data", "digits", "--cache-limit", "-1"], "-1"),
    ("train", ["--data", "digits", "--threads", "0"], "--threads"),
    ("train", ["--data", "digits", "--model", "resnet19"], "resnet19"),
    ("train", ["--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
    ("train", ["--data", "cifar10", "--data-dir", "empty"], "empty"),
    ("train", ["--data", "digits", "-o", "file"], "file"),
    ("train", ["--data", "digits", "-o", "other"], "thesis.tex"),
    ("protect", ["nowhere", "-c", "digits"], "nowhere"),
    ("protect", ["model", "-c", "digits", "--adversary", "nowhere"], "nowhere"),
    ("protect", ["model", "-c", "digits", "--defense", "nastier"], "nastier"),
    ("protect", ["model", "-c", "digits", "--start-from", "here"], "here"),
    ("protect", ["model", "-c", "digits", "--device", "tpu"], "tpu"),
    ("protect", ["model", "-c", "digits", "-o", "other"], "thesis.tex"),
    ("attack", ["nowhere", "-c", "digits"], "nowhere"),
    ("attack", ["model", "-c", "digits", "--attack", "kdd"], "kdd"),
    ("attack", ["model", "-c", "digits", "--threat-model", "apis"], "apis"),
    ("attack", ["model", "-c", "digits", "--threat-model", "label/unlabeled/fresh/random/50"], "label"),
    ("attack", ["model", "-c", "digits", "--outputs", "prob"], "prob"),
    ("attack", ["model", "-c", "digits", "--student", "resnet"], "resnet"),
    ("attack", ["model", "-c", "digits", "--query-log", "log.parquet"], "--query-log"),
    ("attack", ["model", "-c", "digits", "-s", "model.width=2"], "model.width"),
    ("attack", ["model", "-c", "digits", "-o", "other"], "thesis.tex"),
    ("reproduce", ["table1", "--data-dir", "nowhere"], "nowhere"),
    ("demo", ["--cache-limit", "-1"], "-1"),
]


@pytest.mark.parametrize(
    ("verb", "words", "named"), WRONG, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_wrong_option_is_named_before_data_are_read(
    call: Call, unread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.save(tmp_path / "model", build("cnn", 10, 1, 8, 0.125, seed=0), None, "")
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("x")
    Path("file").write_text("x")
    before = sorted(Path().rglob("*"))
    code, err = call(verb, *words, *([] if "-o" in words else ["-o", "out"]), "-q")
    assert code == 2
    assert named in err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_another_recipe_in_the_folder_is_named_before_data_are_read(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call("train", *SMALL, "-o", out)[0] == 0
    monkeypatch.setattr(verbs, "load", lambda *_: pytest.fail("data were read"))
    for change in (["--seed", "3"], ["-s", "training.epochs=4"]):
        code, err = call("train", *SMALL, *change, "-o", out)
        assert code == 2
        assert "now " in err
        assert "--fresh" in err


def test_a_dry_run_says_what_the_folder_holds_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "would start" in call("train", *SMALL, "--dry-run", "-o", out)[1]
    assert not out.exists()
    call("train", *SMALL, "-o", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "finished" in call("train", *SMALL, "--dry-run", "-o", out)[1]
    assert "discard" in call("train", *SMALL, "--dry-run", "--fresh", "-o", out)[1]
    assert call("train", *SMALL, "--dry-run", "--seed", "9", "-o", out)[0] == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


# -- --data-dir ---------------------------------------------------------------------------------------------------------


def test_a_local_copy_is_the_folder_of_the_set_or_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").write_text("x")
    assert local_copy("cifar10", tmp_path) == local_copy("cifar10", tmp_path / "cifar10") == tmp_path / "cifar10"
    assert local_copy("cifar100", tmp_path) == tmp_path
    assert local_copy("cifar10", None) is None


# -- --fresh ------------------------------------------------------------------------------------------------------------


def test_fresh_trains_again_with_other_settings(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("train", *SMALL, "-o", out)
    first = (out / "model" / "model.safetensors").read_bytes()
    code, err = call("train", *SMALL, "--seed", "5", "--fresh", "-o", out)
    assert (code, err) == (0, "")
    assert (out / "model" / "model.safetensors").read_bytes() != first
    assert json.loads((out / "result.json").read_text())["seed"] == 5


def test_a_wrong_option_discards_nothing(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("train", *SMALL, "-o", out)
    assert call("train", *SMALL, "--device", "tpu", "--fresh", "-o", out)[0] == 2
    assert (out / "result.json").exists()


def made(home: Path, *names: str) -> Path:
    for name in names:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"schema": 1, "recipe": {}}')
    return home


def test_an_executor_that_is_not_there_discards_and_reads_nothing(
    call: Call, unread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "reproduction.json").write_text("{}")
    for executor, says in (("rey", "did you mean ray"), ("ray", "pip install")):
        code, err = call("reproduce", "table1", "--fresh", "--executor", executor, "-o", tmp_path / "out")
        assert (code, says in err) == (2, True)
        assert (tmp_path / "out" / "reproduction.json").exists()
        code, err = call("audit", tmp_path, "--data", "digits", "--executor", executor, "-o", tmp_path / "other")
        assert (code, says in err) == (2, True)


def test_the_command_on_the_page_does_not_say_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["undistill", "audit", "m", "--executor", "ray gpus=1", "--progress=json", "-q", "--jobs", "2", "-o", "a b"]
    monkeypatch.setattr(sys, "argv", typed)
    assert _command() == "undistill audit m --jobs 2 -o 'a b'"


def test_query_logs_are_kept_and_never_in_the_way(tmp_path: Path) -> None:
    logs = ["answers.parquet", "answers.refused.json"]
    run = made(tmp_path / "run", "config.yaml", "cells/a.json", "model/config.json", *logs)
    assert start_anew(run)
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == logs
    assert not begun(run)
    assert not start_anew(run)


def test_a_run_is_not_discarded_where_files_of_others_would_keep_the_next_from_beginning(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "config.yaml", "model/config.json", "notes.txt")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        start_anew(run)
    assert (run / "model" / "config.json").exists()
    audit = made(tmp_path / "audit", "audit.json", "teachers/normal-s0/config.yaml", "answers-x.parquet", "notes.txt")
    assert start_anew(audit)
    assert sorted(path.name for path in audit.iterdir() if path.name != ".lock") == ["answers-x.parquet", "notes.txt"]


@pytest.mark.parametrize("text", ["lr: 0.1\n", "schema: 1\n", "- a\n", "{"])
def test_the_settings_of_another_tool_mark_no_folder_of_ours(tmp_path: Path, text: str) -> None:
    other = made(tmp_path / "project", "model/weights.json", "report/index.html")
    (other / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match="no command here wrote"):
        start_anew(other)
    assert (other / "model" / "weights.json").exists()


def test_fresh_never_removes_what_the_command_reads(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("train", *SMALL, "-o", out)
    for verb in (["protect", out], ["attack", out / "model", "-c", "digits"], ["train", *SMALL, "--weights", out]):
        code, err = call(*verb, "--fresh", "-q", "-o", out)
        assert code == 2
        assert "--fresh" in err
    assert (out / "model" / "model.safetensors").exists()


def test_a_model_that_is_not_there_discards_no_audit(call: Call, tmp_path: Path) -> None:
    out = made(tmp_path / "audit", "audit.json", "cells/a.json")
    assert call("audit", tmp_path / "nowhere", "--data", "digits", "--fresh", "-o", out)[0] == 2
    assert (out / "cells" / "a.json").exists()


@pytest.mark.parametrize("mark", ["config.yaml", "demo.json", "reproduction.json", "audit.json"])
def test_every_kind_of_folder_is_discarded(tmp_path: Path, mark: str) -> None:
    assert start_anew(made(tmp_path / "run", mark, "cells/a.json", "report/index.html"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"b\.txt"):
        start_anew(made(tmp_path / "photos", "cells/a.json", "b.txt"))
    assert (tmp_path / "photos" / "cells" / "a.json").exists()
    assert not start_anew(tmp_path / "nowhere")


def test_a_folder_in_use_is_not_discarded(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "config.yaml")
    with locked(run), pytest.raises(UsageError, match="in use"):
        start_anew(run)
    assert (run / "config.yaml").exists()


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    shared = made(tmp_path / "shared", "a.json")
    run = made(tmp_path / "run", "config.yaml")
    (run / "cells").symlink_to(shared)
    start_anew(run)
    assert not (run / "cells").exists()
    assert (shared / "a.json").exists()


# -- threads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Eight cores, none of them in use; the numbers of threads that are set."""
    used: list[int] = []
    monkeypatch.setattr(verbs, "usable", lambda: 8)
    monkeypatch.setattr(verbs, "others", lambda _: 0.0)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    return used


def choose(out: Path, *names: str | None, size: int = 8, **options: Any) -> str | None:
    networks = [None if name is None else MODELS.make(name) for name in names]
    images = SimpleNamespace(channels=1, image_size=size)
    splits = SimpleNamespace(num_classes=10, train=images)
    return verbs.use_threads(Options(device="cpu", **options), networks, splits, 64, out, Moment.now())


def test_a_small_network_takes_one_thread_and_a_large_one_all(eight: list[int], tmp_path: Path) -> None:
    lines = [choose(tmp_path, "cnn"), choose(tmp_path, "resnet18", size=32), choose(tmp_path, None)]
    assert eight == [1, 8, 8]
    assert all(line is not None and "--threads" in line for line in lines)


def test_a_small_student_of_a_large_victim_takes_the_threads_of_the_victim(eight: list[int], tmp_path: Path) -> None:
    choose(tmp_path, "cnn", "resnet18", size=32)
    choose(tmp_path, "cnn", None)
    assert eight == [8, 8]


def test_networks_are_known_of_folders_unknown_of_code_and_not_asked_of_files(tmp_path: Path) -> None:
    folder.save(tmp_path / "model", build("cnn", 10, 1, 8, 0.125, seed=0), None, "")
    (network,) = verbs.networks_of(str(tmp_path / "model"), None)
    assert network.name == "cnn"
    assert verbs.networks_of("timm:resnet18@x.safetensors") == [None]
    assert verbs.networks_of("answers.parquet") == []


def test_a_number_that_was_asked_for_is_taken(
    eight: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(tmp_path, "cnn", threads=3) is None
    assert eight == [3]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose(tmp_path, "cnn") is None
    assert eight == [3]


@pytest.mark.parametrize(("before", "count"), [(4, 4), (8, 8), (16, 1)])
def test_a_run_that_goes_on_keeps_its_threads_where_there_are_so_many(
    eight: list[int], tmp_path: Path, before: int, count: int
) -> None:
    made(tmp_path, "checkpoint/state.json")
    (tmp_path / "env.json").write_text(json.dumps({"threads": before}))
    choose(tmp_path, "cnn")
    assert eight == [count]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"threads": "4"}', '{"threads": 0}'])
def test_a_damaged_note_of_threads_is_as_good_as_none(eight: list[int], tmp_path: Path, text: str) -> None:
    made(tmp_path, "checkpoint/state.json")
    (tmp_path / "env.json").write_text(text)
    choose(tmp_path, "cnn")
    assert eight == [1]


def test_the_environment_of_the_tests_sets_one_thread() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("each", "weights", "warned"), [(99, None, True), (100, None, False), (99, Path("weights.pth"), False)]
)
def test_few_images_to_train_on_are_said_before_the_training(each: int, weights: Path | None, warned: bool) -> None:
    said: list[str] = []
    splits = SimpleNamespace(train=Images(3 * each), num_classes=3)
    verbs.warn_of_few(splits, weights, said.append)
    assert bool(said) == warned
    if warned:
        assert "--weights" in said[0]
        assert "--size 64" in said[0]


class Images(list[None]):
    """As many images of 160 pixels."""

    image_size = 160

    def __init__(self, count: int) -> None:
        super().__init__([None] * count)
