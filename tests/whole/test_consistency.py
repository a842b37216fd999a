"""What a run writes down is what it did, from the shell and from Python alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import undistill
from undistill.errors import UsageError
from undistill.experiments.cell import collect, read
from undistill.experiments.executors import Job, run_jobs
from whole.commands import SMALL, Shell

TINY = ["training.epochs=1", "model.width=0.125", "student.width=0.125"]


def test_a_run_writes_down_the_data_it_was_given(shell: Shell, tmp_path: Path) -> None:
    data = undistill.load("digits", pool=0, val=0)
    run = undistill.train(None, data, undistill.recipe("digits", TINY), out=tmp_path / "run")
    assert run.config["recipe"]["data"]["pool"] == 0
    assert run.config["recipe"]["data"]["views"] == [{"name": "crop", "padding": 1}]
    assert shell("attack", tmp_path / "run", "-q", "-o", tmp_path / "thief").code == 0


def test_a_name_keeps_the_recipes_settings_of_that_name(tmp_path: Path) -> None:
    data = undistill.load("digits")
    recipe = undistill.recipe("digits", [*TINY, "defense.omega=0.1", "attack.alpha=0.5"])
    normal = undistill.train("cnn", data, recipe, out=tmp_path / "normal")
    nasty = undistill.protect(normal, data, "nasty", out=tmp_path / "nasty")
    cell = undistill.attack(nasty, data, "kd", out=tmp_path / "thief")
    assert normal.recipe.model.width == 0.125
    assert nasty.result["defense"]["omega"] == 0.1
    assert cell.attack_settings["alpha"] == 0.5


@pytest.mark.parametrize("verb", ["protect", "attack"])
def test_label_smoothing_is_not_ignored(verb: str, shell: Shell, teacher: Path, tmp_path: Path) -> None:
    found = set()
    for smoothing in (0, 0.3):
        out = tmp_path / str(smoothing)
        assert shell(verb, teacher, "-q", "-s", f"training.smoothing={smoothing}", "-o", out).code == 0
        found.add((out / "model" / "model.safetensors").read_bytes())
    assert len(found) == 2


def test_no_smoothing_and_no_omega_is_ordinary_training_from_other_weights(
    shell: Shell, teacher: Path, tmp_path: Path
) -> None:
    assert shell("protect", teacher, "-q", "-s", "defense.omega=0", "-o", tmp_path / "twin").code == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "twin" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < losses[-1] < losses[0]


def test_hardening_the_hardened_or_copying_the_copy_wants_another_seed(
    shell: Shell, teacher: Path, tmp_path: Path
) -> None:
    assert shell("protect", teacher, "-q", "-o", tmp_path / "nasty").code == 0
    again = shell("protect", tmp_path / "nasty", "-q", "-o", tmp_path / "nastier")
    assert again.code == 2
    assert "--seed" in again.err
    assert shell("attack", teacher, "-q", "-o", tmp_path / "copy").code == 0
    again = shell("attack", tmp_path / "copy", "-q", "-o", tmp_path / "second")
    assert again.code == 2
    assert "--seed" in again.err
    assert shell("attack", tmp_path / "copy", "--seed", "1", "-q", "-o", tmp_path / "second").code == 0


def test_a_model_folder_remembers_where_it_comes_from(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    assert shell("protect", teacher, "-q", "-o", tmp_path / "nasty").code == 0
    shutil.copytree(tmp_path / "nasty" / "model", tmp_path / "model")
    small = ["-c", "digits", "-s", "training.epochs=1", "-s", "data.limit=1100", "--threat-model", "api", "-q"]
    found = shell("attack", tmp_path / "model", *small, "--accept-accuracy", "--json", "-o", tmp_path / "thief")
    assert json.loads(found.out)["victim"] == "nasty"
    other = shell("attack", tmp_path / "model", *small, "-s", "data.split_seed=9", "-o", tmp_path / "other")
    assert "other data" in other.err
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "origin": {}}))
    unknown = shell("attack", tmp_path / "model", *small, "-o", tmp_path / "unknown")
    assert unknown.code == 2
    assert "fresh" in unknown.err


def test_a_lost_cell_is_written_again(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    command = ("attack", teacher, "-q", "-o", tmp_path / "thief")
    assert shell(*command).code == 0
    ((_, before),) = collect([tmp_path])
    files = {path.name: path.read_bytes() for path in (tmp_path / "thief" / "cells").iterdir()}
    shutil.rmtree(tmp_path / "thief" / "cells")
    assert shell(*command).code == 0
    ((_, after),) = collect([tmp_path])
    assert after == before
    assert {path.name for path in (tmp_path / "thief" / "cells").iterdir()} == set(files)


def test_the_cell_is_the_same_on_disk_in_the_result_and_as_json(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    said = json.loads(shell("attack", teacher, "-q", "--json", "-o", tmp_path / "thief").out)
    (path,) = (tmp_path / "thief" / "cells").glob("*.json")
    assert said == {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("check")}
    assert said == json.loads((tmp_path / "thief" / "result.json").read_text())["cell"]
    assert read(path).values() == said


def test_answers_that_are_not_finite_are_a_result_or_a_sentence(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    explode = ["training.epochs=1", "training.clip=null", "training.optimizer.momentum=0", "training.batch=450"]
    explode += ["training.optimizer.nesterov=false", "training.schedule.name=constant", "training.optimizer.lr=1e10"]
    sets = [word for setting in explode for word in ("-s", setting)]
    found = shell("attack", teacher, *sets, "-q", "--json", "-o", tmp_path / "thief")
    assert found.code == 0, found.err
    assert json.loads(found.out)["status"] == "diverged"
    trained = shell("train", *SMALL, *sets, "-o", tmp_path / "train")
    assert trained.code == 1
    assert "not finite" in trained.err


def test_what_is_said_to_attack_stands_above_the_students_recipe(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    words = [
        "-s",
        "student.recipe=paper-cifar10-cnn",
        "-s",
        "training.optimizer.betas=[0.5,0.9]",
        "-s",
        "training.epochs=7",
    ]
    shown = json.loads(shell("attack", teacher, *words, "--dry-run", "--json", "-o", tmp_path / "out").out)
    assert shown["training"]["optimizer"] == {"name": "adam", "lr": 0.001, "weight_decay": 0.0, "betas": [0.5, 0.9]}
    assert shown["training"]["epochs"] == 7
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["protect", "-s", "model.name=resnet18"], "teacher's network"),
        (["protect", "--start-from", "foo"], "'foo'"),
        (["attack", "--card", "nope"], "'nope'"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    shell: Shell, teacher: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    refused = shell(arguments[0], teacher, *arguments[1:], "--dry-run", "-o", tmp_path / "out")
    assert refused.code == 2
    assert word in refused.err


def test_one_job_at_a_time_works_on_one_thread_like_a_worker() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(run_jobs([Job("threads", _threads, ())], 1)) == ["1"]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def _threads() -> str:
    return str(torch.get_num_threads())


def test_another_machine_on_the_way_is_written_down(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undistill.training.environment import describe
    from undistill.training.loop import EpochRecord

    out = tmp_path / "run"
    recipe = undistill.recipe("digits", [*TINY, "training.epochs=3"])

    class Stop(BaseException):
        pass

    def stop(record: EpochRecord, _: object) -> None:
        if record.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        undistill.train(None, undistill.load("digits"), recipe, out=out, watch=stop)
    monkeypatch.setattr("undistill.training.train.describe", lambda *place: describe(*place) | {"threads": 64})
    undistill.train(None, undistill.load("digits"), recipe, out=out, resume=True)
    env = json.loads((out / "env.json").read_text())
    assert env["threads"] == 64
    assert [(before["threads"], before["epochs"]) for before in env["before"]] == [(torch.get_num_threads(), 2)]


def test_sizes_beside_whole_settings_are_refused() -> None:
    from undistill.data import DataSettings

    with pytest.raises(UsageError, match="val given beside whole data settings"):
        undistill.load(DataSettings(), val=0)
    with pytest.raises(UsageError, match=r"fraction below 1, not 1\.5"):
        undistill.load("digits", val=1.5)
    with pytest.raises(UsageError, match="more than the 1797"):
        undistill.load("digits", limit=99999)


def test_hardening_can_start_from_the_teacher(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    still = ["-s", "training.optimizer.lr=1e-12", "-s", "training.optimizer.weight_decay=0", "-q"]
    assert shell("protect", teacher, "--start-from", "teacher", *still, "-o", tmp_path / "near").code == 0
    assert shell("protect", teacher, *still, "-o", tmp_path / "far").code == 0
    weights = undistill.load_model(teacher).get_parameter("head.weight")
    torch.testing.assert_close(undistill.load_model(tmp_path / "near").get_parameter("head.weight"), weights)
    assert (undistill.load_model(tmp_path / "far").get_parameter("head.weight") - weights).abs().max() > 0.01


def test_the_adversary_may_be_another_network(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    other = [
        "--data",
        "digits",
        "-s",
        "model.name=resnetc20",
        "-s",
        "model.width=0.25",
        "-s",
        "training.epochs=1",
        "-s",
        "data.limit=1100",
    ]
    assert shell("train", *other, "-q", "-o", tmp_path / "other").code == 0
    assert shell("protect", teacher, "--adversary", tmp_path / "other", "-q", "-o", tmp_path / "nasty").code == 0
    result = json.loads((tmp_path / "nasty" / "result.json").read_text())
    assert result["adversary_id"] != result["teacher_id"]
    assert undistill.load_model(tmp_path / "nasty").config["name"] == "cnn"
