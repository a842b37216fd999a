"""`reproduce`: interrupted, resumed, refused; failures are results."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paper.toy import TOY
from undistill.errors import Diverged, NotFinite, UsageError
from undistill.experiments import store
from undistill.experiments.cell import Cell, collect, read_arrays
from undistill.experiments.runtime import Runtime
from undistill.paper import compute as work
from undistill.paper import plan as plans
from undistill.paper import reproduce as verb
from undistill.paper.reproduce import prepare, reproduce
from undistill.paper.scales import SCALES
from undistill.reporting.paper.source import open_sources

CNN = "table1/*/CNN/*"


def cells(out: Path) -> dict[str, Cell]:
    return {cell.key: cell for _, cell in collect([out]) if cell.key}


def numbers(out: Path) -> dict[str, tuple[Any, ...]]:
    """What must not differ between two ways to the same cells."""
    return {
        key: (cell.id, cell.kind, cell.accuracy, cell.nll, cell.status, cell.numbers)
        for key, cell in cells(out).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One column of table 1 and its figures, never interrupted."""
    out = tmp_path_factory.mktemp("reproduction") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "toy", TOY)
        reproduce(
            ["table1", "logits", "embedding"],
            out=out,
            scale="toy",
            jobs=1,
            device="cpu",
            only=[CNN, "logits/*", "embedding/*"],
        )
    return out


def test_every_point_has_its_cell(whole: Path) -> None:
    plan, found = plans.read(whole), cells(whole)
    assert len(plan.points) == 5
    assert all(found[point.key].status == "ok" for point in plan.points)
    kinds = {point.name: found[point.key].kind for point in plan.points}
    assert kinds["table1/none/CNN/s0"] == "control"
    assert kinds["table1/ResNet18/nasty/CNN/s0"] == "cell"
    assert kinds["embedding/ResNet18/s0"] == "figure"
    assert {cell.kind for cell in found.values()} == {"control", "cell", "figure", "victim"}


def test_arrays_lie_beside_cells(whole: Path) -> None:
    for folder, cell in collect([whole]):
        if cell.kind in ("figure", "cell", "victim"):
            assert read_arrays(folder, cell)


@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_it_ends_with_the_same_cells(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    fixed: dict[str, Any] = {"scale": "toy", "jobs": 1, "device": "cpu", "only": [CNN, "logits/*", "embedding/*"]}
    done, do = 0, work.do

    def interrupted(*arguments: Any) -> str:
        nonlocal done
        if (done := done + 1) > after:
            raise KeyboardInterrupt
        return do(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(work, "do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce(["table1", "logits", "embedding"], out=tmp_path / "r", **fixed)
    assert 0 < len(cells(tmp_path / "r")) <= after
    said: list[str] = []
    reproduce(["table1", "logits", "embedding"], out=tmp_path / "r", say=said.append, **fixed)
    assert said[0] == f"{after} of 7 are done already"
    assert numbers(tmp_path / "r") == numbers(whole)


def test_killed_within_a_training_it_ends_with_the_same_cells(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student was saved, its cell not yet marked."""
    fixed: dict[str, Any] = {"scale": "toy", "jobs": 1, "device": "cpu", "only": [CNN]}

    def killed(path: Path, *_: Any) -> None:
        if path.parent.name == "done":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            reproduce(["table1"], out=tmp_path / "r", **fixed)
    reproduce(["table1"], out=tmp_path / "r", **fixed)
    found, expected = numbers(tmp_path / "r"), numbers(whole)
    assert found.items() <= expected.items()
    assert len(found) == 5


def test_another_experiment_finds_what_is_done(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "r")
    said: list[str] = []
    pattern = "alpha/ResNet18/nasty/CNN/0.9/*"
    reproduce(["alpha"], out=tmp_path / "r", scale="toy", jobs=1, device="cpu", only=[pattern], say=said.append)
    assert said == ["3 of 3 are done already"]
    plan = plans.read(tmp_path / "r")
    assert plan.names == ("table1", "logits", "embedding", "alpha")
    assert len(plan.points) == 6
    assert plan.command.count("undistill reproduce") == 2


def test_a_folder_of_another_scale_is_refused(whole: Path) -> None:
    with pytest.raises(UsageError, match="holds a reproduction of scale toy, not smoke"):
        reproduce(["table1"], out=whole, scale="smoke")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds no reproduction, but 'thesis\.tex'"):
        reproduce(["table1"], out=tmp_path, scale="toy")
    assert {path.name for path in tmp_path.iterdir()} <= {"thesis.tex", ".lock"}


def test_a_teacher_that_diverges_is_a_result_and_its_students_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: Any, **__: Any) -> None:
        raise Diverged(3, 17)

    monkeypatch.setattr(work, "protect", diverges)
    reproduce(["table1", "logits"], out=tmp_path / "r", scale="toy", jobs=1, device="cpu", only=[CNN, "logits/*"])
    found = {point.name: cells(tmp_path / "r")[point.key] for point in plans.read(tmp_path / "r").points}
    lost = found["table1/ResNet18/nasty/CNN/s0"]
    assert (lost.status, lost.accuracy, lost.kind) == ("failed", None, "cell")
    assert "nasty-resnet18 did not train" in lost.why
    assert (found["logits/ResNet18/s0"].status, found["logits/ResNet18/s0"].kind) == ("failed", "figure")
    assert found["table1/ResNet18/normal/CNN/s0"].status == "ok"
    (nasty,) = (cell for cell in cells(tmp_path / "r").values() if cell.status == "diverged")
    assert (nasty.kind, nasty.accuracy, nasty.victim) == ("victim", None, "nasty")
    assert "step 17 of epoch 4" in nasty.why


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"names": ["table9"]}, "no experiment called 'table9'; did you mean table"),
        ({"names": ["table1"], "seeds": 0}, "needs at least 1 seed from 0 up, not 0 from 0"),
        ({"names": ["table1"], "seed": -1}, "needs at least 1 seed from 0 up, not 1 from -1"),
        ({"names": ["table1"], "scale": "huge"}, "no scale called 'huge'"),
        ({"names": ["table1"], "only": ["nothing"]}, "no cell is called 'nothing'"),
    ],
)
def test_wrong_wishes_are_one_sentence(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        prepare(**arguments)


def test_data_that_are_not_there_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar100").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no folder 'cifar10'"):
        reproduce(["table1"], out=tmp_path / "r", scale="small", data_dir=tmp_path / "data")
    assert not (tmp_path / "r" / "cells").exists()


def test_a_data_set_itself_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").touch()
    assert work.PaperFolder(tmp_path, data_dir=tmp_path / "cifar10").where("cifar10") == {
        "dir": str(tmp_path / "cifar10")
    }
    assert work.PaperFolder(tmp_path, data_dir=tmp_path).where("cifar10") == {"dir": str(tmp_path / "cifar10")}
    assert work.PaperFolder(tmp_path, data_dir=tmp_path).where("digits") == {}


def test_plans_survive_the_disk(tmp_path: Path) -> None:
    plan, _ = prepare(["all"], scale="smoke", seeds=2)
    plans.write(tmp_path, plan)
    assert plans.read(tmp_path) == plan
    path = tmp_path / plans.FILE
    text = path.read_text()
    assert '"schema": 1,' in text
    assert "schema_" not in text
    path.write_text(text.replace('"schema"', '"schema_"'))  # as older versions wrote it
    assert plans.read(tmp_path) == plan


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 2}', "update undistill"),
        ('{"schema_": 2}', "update undistill"),
        ('{"title": 3}', "damaged"),
    ],
)
def test_damaged_plans_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / plans.FILE).write_text(text)
    with pytest.raises(Exception, match=says) as found:
        plans.read(tmp_path)
    assert "\n" not in str(found.value)


def test_a_task_is_found_under_the_label_that_another_experiment_gave_it(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"out": tmp_path / "r", "scale": "toy", "jobs": 1, "device": "cpu"}
    reproduce(["omega"], only=["omega/ResNet18/nasty/itself/0.04/*"], **fixed)
    reproduce(["table1"], only=["table1/ResNet18/nasty/CNN/*"], **fixed)
    folders = [path.name for path in (tmp_path / "r" / "teachers").iterdir()]
    assert len(folders) == 2
    assert any("omega-0.04" in name for name in folders)
    assert all(cell.status == "ok" for cell in cells(tmp_path / "r").values())


def test_answers_that_are_not_finite_are_a_result_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflows(*_: Any, **__: Any) -> None:
        raise NotFinite("the trained network answers with numbers that are not finite")

    monkeypatch.setattr(work, "protect", overflows)
    reproduce(["table1"], out=tmp_path / "r", scale="toy", jobs=1, device="cpu", only=["table1/ResNet18/nasty/CNN/*"])
    assert sorted(cell.status for cell in cells(tmp_path / "r").values()) == ["diverged", "failed", "ok"]


def test_what_was_lost_for_want_of_a_teacher_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: Any, **__: Any) -> None:
        raise Diverged(0, 1)

    fixed: dict[str, Any] = {"out": tmp_path / "r", "scale": "toy", "jobs": 1, "device": "cpu"}
    fixed |= {"only": ["table1/ResNet18/nasty/*"]}
    with monkeypatch.context() as patch:
        patch.setattr(work, "protect", diverges)
        reproduce(["table1"], **fixed)
    plan = plans.read(tmp_path / "r")
    itself = next(point for point in plan.points if point.column == "itself")
    (tmp_path / "r" / "done" / f"{itself.key}.json").unlink()  # as somebody does who mended the cause
    reproduce(["table1"], **fixed)
    (source,) = open_sources([tmp_path / "r"])
    assert {source.cells[point.key].status for point in plan.points} == {"ok"}


def test_places_are_filled_by_todays_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed: dict[str, Any] = {"out": tmp_path / "r", "scale": "toy", "jobs": 1, "device": "cpu"}
    reproduce(["embedding"], **fixed)
    before = plans.read(tmp_path / "r")
    monkeypatch.setitem(SCALES, "toy", replace(TOY, points=40, notes=("Fewer points.",)))
    reproduce(["logits"], **fixed)
    after = plans.read(tmp_path / "r")
    (old,), (new,) = before.of("embedding"), after.of("embedding")
    assert old.name == new.name
    assert old.key != new.key
    assert after.notes == ("Fewer points.",)
    reproduce(["logits"], **fixed)
    assert plans.read(tmp_path / "r").command.count("\n") == 1


def test_a_damaged_marker_is_work_to_do(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "r")
    key = plans.read(whole).points[0].key
    place = work.PaperFolder(tmp_path / "r")
    assert place.done(key) is not None
    for text in ("[]", '{"cell": "../../etc/passwd"}', "{}"):
        (tmp_path / "r" / "done" / f"{key}.json").write_text(text)
        assert place.done(key) is None


def test_a_plan_alone_is_run_later_to_the_same_cells(whole: Path, tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"scale": "toy", "jobs": 1, "device": "cpu", "only": [CNN, "logits/*", "embedding/*"]}
    out = reproduce(["table1", "logits", "embedding"], out=tmp_path / "r", plan_only=True, **fixed)
    assert not (out / "cells").exists()
    verb.resume(out, runtime=Runtime("cpu", jobs=1))
    assert numbers(out) == numbers(whole)
