"""The suite that adds seeds: whole rounds, the same folder again, and what it says before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from auditing.made import MadeAudit
from undistill.auditing import audit, making
from undistill.auditing.analyze import analyze
from undistill.auditing.audit import Clock, Ready, prepare, prepare_in_time, run
from undistill.auditing.config import AuditConfig, time_of
from undistill.auditing.evidence import read
from undistill.auditing.precision import announced, precision
from undistill.auditing.suite import TIMED
from undistill.data.image_set import Splits
from undistill.errors import UsageError
from undistill.experiments import cost
from undistill.experiments import plan as planned
from undistill.experiments.cost import Span, span
from undistill.models import Classifier
from undistill.oracle.victim import resolve
from undistill.progress import Step, listening
from undistill.reporting.audit.words import digits_of
from undistill.reporting.naming import decimals
from undistill.training.recipe import Recipe

SMALL = AuditConfig(access=("probs", "label"), queries=(6,), students=("cnn:0.0625",), steps=4, time="1h", delta=99.0)
Make = Callable[..., Ready]
Log = pytest.LogCaptureFixture


@pytest.fixture
def made(
    make_model: Callable[..., Classifier],
    splits: Splits,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    """`made(**request)`: a small audit with an undefended control, not begun."""
    monkeypatch.setattr(making, "EPOCHS", 2)

    def call(**changes: object) -> Ready:
        ours, control = (
            replace(resolve(make_model(seed=1, role=role)), fresh_pool=True, data_fingerprint=splits.fingerprint)
            for role in ("teacher", "nasty")
        )
        asked = SMALL.but(**changes)
        return prepare(ours, splits, asked, control=control, recipe=recipe, out=tmp_path / "audit", bank=None)

    return call


def whole(ready: Ready) -> bool:
    """Whether every planned cell of the folder is there."""
    return ready.folder.graph(planned.read(ready.folder.folder)).missing() == ()


def test_a_resolved_difference_ends_the_audit_after_its_first_seeds(made: Make, caplog: Log) -> None:
    ready = made()
    caplog.set_level("INFO", logger="undistill")
    plan = run(ready)
    assert len(plan.seeds) == TIMED.seeds
    assert "are resolved" in caplog.text
    assert whole(ready)


@pytest.mark.parametrize("seconds", [0.001, 1000.0])
def test_an_audit_from_python_is_made_smaller_too(
    make_model: Callable[..., Classifier],
    splits: Splits,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    """Its first round fits into its time, or it is the smallest that there is, and it says so."""

    def forecast(plan: planned.Plan, *_: object, **__: object) -> planned.Plan:
        cells = tuple(cell.model_copy(update={"seconds": seconds}) for cell in plan.cells)
        return plan.model_copy(update={"cells": cells})

    monkeypatch.setattr(audit, "forecast", forecast)
    model = replace(resolve(make_model(seed=1)), fresh_pool=True, data_fingerprint=splits.fingerprint)
    asked = SMALL.but(recipe=recipe, steps=None, access=(), queries=(), time="10m", accept_accuracy=True)
    said: list[str] = []
    ready = prepare_in_time(model, splits, asked, out=tmp_path, say=said.append)
    assert any("reduced to" in line for line in said) == (seconds > 1)
    assert (len(ready.plan.cards) == 2) == (seconds > 1)


@pytest.mark.e2e
def test_seeds_are_added_in_whole_rounds_and_their_number_is_what_the_widths_ask_for(made: Make) -> None:
    ready = made()
    first = run(ready)
    wanted = precision(read(ready.folder.folder))
    finer = 0.9 * wanted.width
    again = replace(ready, plan=first.model_copy(update={"delta": finer}))
    (ready.folder.folder / planned.FILE).unlink()  # δ is fixed before a run: another one is another audit
    assert ready.replan is not None
    replan = ready.replan
    told: list[Step] = []
    with listening(told.append):
        plan = run(replace(again, replan=lambda seeds: replan(seeds).model_copy(update={"delta": finer})))
    began = [step for step in told if step.kind == "job" and not step.done]
    assert began[-1].seconds  # a round that was not forecast has the pace of those before
    assert len(plan.seeds) > len(first.seeds)
    assert {cell.key for cell in first.cells} <= {cell.key for cell in plan.cells}
    assert whole(ready)


def test_no_time_left_adds_no_seed(made: Make, caplog: Log) -> None:
    ready = made(delta=0.5, time="1s")
    caplog.set_level("INFO", logger="undistill")
    assert len(run(ready).seeds) == TIMED.seeds
    assert "does not fit into --time" in caplog.text
    assert whole(ready)


def test_the_same_command_goes_on_with_the_seeds_that_are_there(made: Make) -> None:
    ready = made()
    assert ready.replan is not None
    planned.write(ready.folder.folder, ready.replan(3))
    assert len(run(made()).seeds) == 3
    assert whole(ready)


def test_a_grown_plan_has_all_that_the_smaller_one_has_and_another_one_is_refused(made: Make) -> None:
    ready, other = made(), made(steps=40)
    assert ready.replan is not None
    assert planned.grows(ready.plan, ready.replan(4))
    assert not planned.grows(ready.replan(4), ready.plan)
    assert not planned.grows(other.plan, ready.replan(4))
    planned.write(ready.folder.folder, ready.plan)
    with pytest.raises(UsageError, match="another audit"):
        planned.write(ready.folder.folder, ready.replan(4))
    with pytest.raises(UsageError, match="another audit"):
        planned.write(ready.folder.folder, replace(other).plan, grown=True)


def test_a_fixed_number_of_seeds_is_kept(made: Make) -> None:
    ready = made(seeds=1, time=None, delta=0.5)
    assert ready.replan is None
    assert len(run(ready).seeds) == 1
    with pytest.raises(UsageError, match="--time"):
        made(seeds=1)
    with pytest.raises(UsageError, match="--time"):
        made(suite="quick")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2 hours", 7200), (3, 180), (None, 600)]
)
def test_times(text: str | int | None, seconds: float) -> None:
    assert time_of(AuditConfig(time=text)) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-5m", "10 x", "40000h", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        time_of(AuditConfig(time=text))


def test_by_default_there_are_several_budgets_and_every_access_of_a_network(made: Make) -> None:
    plan = made(serve=(), questions=()).plan
    accesses = {card.split("/")[0] for card in plan.cards}
    budgets = {card.rpartition("/")[2] for card in plan.cards}
    assert accesses == {"probs", "top1", "label", "weights"}
    assert len(budgets) > 1
    behind = made(serve=(), questions=(), behind=("stingy",)).plan
    assert "weights" not in {card.split("/")[0] for card in behind.cards}


def test_without_a_fresh_pool_the_trained_images_are_queried_and_that_is_told(
    make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    ours = replace(resolve(make_model(seed=1)), data_fingerprint=splits.fingerprint)
    data = replace(splits, pool=None)
    asked = AuditConfig(students=("cnn:0.0625",), steps=4, delta=99.0)
    plan = prepare(ours, data, asked, recipe=recipe, out=tmp_path, bank=None).plan
    assert {card.split("/")[2] for card in plan.cards} == {"trained"}
    assert "trained on" in "\n".join(announced(plan, (1.0, 2.0)))
    with pytest.raises(UsageError, match=r"data\.pool"):
        prepare(ours, data, asked.but(suite="quick"), recipe=recipe, out=tmp_path, bank=None)


def test_the_announcement_has_a_span_of_time_and_of_precision(made: Make) -> None:
    told = "\n".join(announced(made(delta=2.0).plan, (60.0, 240.0), seeds=(4, 9), seconds=600.0))
    assert "60 s to 4 min" in told
    assert "10 min" in told
    assert "4 to 9 seeds" in told


def test_only_what_is_missing_takes_time_and_processes_share_it(made: Make) -> None:
    cells = [cell.model_copy(update={"seconds": 10.0}) for cell in made().plan.cells]
    assert span([], 2) == Span(0.0, 0.0)
    assert span(cells, 1).low == pytest.approx(10.0 * len(cells))
    assert span(cells, 2).low < span(cells, 1).low
    assert span(cells, 2).low < span(cells, 2).high


def test_the_time_of_others_is_not_counted() -> None:
    assert cost._least(lambda: time.sleep(0.05), torch.device("cpu")) < 0.05


def test_the_clock_leaves_room_for_the_page() -> None:
    clock = Clock(100.0)
    assert clock.room() == 0  # nothing is known of a cell yet
    clock.began -= 50.0
    for _ in range(10):
        clock.add()
    assert 5 <= clock.room() <= 8


def test_a_method_with_teachers_never_grows(recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    asked = AuditConfig(method="nasty", teachers=2, queries=(6,), steps=4, students=("cnn:0.0625",))
    assert prepare(None, splits, asked, recipe=recipe, out=tmp_path, bank=None).replan is None


def test_digits_follow_the_number_of_test_images(tmp_path: Path) -> None:
    assert [decimals(count) for count in (41, 100, 497, 10_000)] == [0, 1, 1, 2]
    MadeAudit().write(tmp_path)
    assert digits_of(analyze(tmp_path)) == 1


def test_each_network_is_timed_once_and_that_is_said(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_speeds", {})
    said = list[str]()
    for budget in (6, 4):  # plans of one audit, made smaller to fit its time: batches and steps differ
        plan = made(questions=(budget,)).plan
        cost.forecast(plan, (4, 3, 8), trained=20, held_out=20, device=torch.device("cpu"), say=said.append)
    assert said == ["timing a few steps of cnn, width 0.0625"]


def test_a_slow_network_is_not_timed_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LONGEST", 0.01)
    calls = list[int]()

    def slow() -> None:
        calls.append(1)
        time.sleep(0.02)

    cost._least(slow, torch.device("cpu"))
    assert len(calls) == 1
