"""The suite that adds seeds: whole rounds, the same folder again, and what it says before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from auditing.made import MadeAudit
from undistill.auditing import making
from undistill.auditing.analyze import analyze
from undistill.auditing.audit import Clock, Ready, prepare, run
from undistill.auditing.config import Request, time_of
from undistill.auditing.evidence import read
from undistill.auditing.precision import announced, precision, too_few
from undistill.auditing.suite import TIMED, expected_resolution, resolution_range, seeds_for
from undistill.auditing.text import unique_names
from undistill.data.image_set import Splits
from undistill.errors import UsageError
from undistill.experiments import audit_cost as forecast
from undistill.experiments import plan as planned
from undistill.experiments.audit_cost import Span, span
from undistill.models import Classifier
from undistill.oracle.victim import resolve
from undistill.reporting.audit.words import digits_of
from undistill.reporting.naming import decimals
from undistill.training.recipe import Recipe

SMALL = Request(serve=("probs", "label"), questions=(6,), students=("cnn:0.0625",), steps=4, time="1h", delta=99.0)
Make = Callable[..., Ready]


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
        asked = replace(SMALL, **changes)  # type: ignore[arg-type]
        return prepare(ours, splits, asked, control=control, recipe=recipe, out=tmp_path / "audit", bank=None)

    return call


def whole(ready: Ready) -> bool:
    """Whether every planned cell of the folder is there."""
    return ready.desk.todo(planned.read(ready.desk.folder)) == ()


def test_a_resolved_difference_ends_the_audit_after_its_first_seeds(made: Make) -> None:
    ready = made()
    plan = run(ready)
    assert len(plan.seeds) == TIMED.seeds
    assert whole(ready)


def test_seeds_are_added_in_whole_rounds_and_their_number_is_what_the_widths_ask_for(made: Make) -> None:
    ready = made()
    first = run(ready)
    wanted = precision(read(ready.desk.folder))
    finer = 0.9 * wanted.width
    again = replace(ready, plan=first.model_copy(update={"delta": finer}))
    (ready.desk.folder / planned.FILE).unlink()  # δ is fixed before a run: another one is another audit
    assert ready.replan is not None
    replan = ready.replan
    plan = run(replace(again, replan=lambda seeds: replan(seeds).model_copy(update={"delta": finer})))
    assert len(plan.seeds) > len(first.seeds)
    assert {cell.key for cell in first.cells} <= {cell.key for cell in plan.cells}
    assert whole(ready)


def test_no_time_left_adds_no_seed(made: Make) -> None:
    ready = made(delta=0.5, time="1s")
    assert len(run(ready).seeds) == TIMED.seeds
    assert whole(ready)


def test_the_same_command_goes_on_with_the_seeds_that_are_there(made: Make) -> None:
    ready = made()
    assert ready.replan is not None
    planned.write(ready.desk.folder, ready.replan(3))
    assert len(run(made()).seeds) == 3
    assert whole(ready)


def test_a_grown_plan_has_all_that_the_smaller_one_has_and_another_one_is_refused(made: Make) -> None:
    ready, other = made(), made(steps=40)
    assert ready.replan is not None
    assert planned.grows(ready.plan, ready.replan(4))
    assert not planned.grows(ready.replan(4), ready.plan)
    assert not planned.grows(other.plan, ready.replan(4))
    planned.write(ready.desk.folder, ready.plan)
    with pytest.raises(UsageError, match="another audit"):
        planned.write(ready.desk.folder, ready.replan(4))
    with pytest.raises(UsageError, match="another audit"):
        planned.write(ready.desk.folder, replace(other).plan, grown=True)


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
    assert time_of(Request(time=text)) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-5m", "10 x", "40000h", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        time_of(Request(time=text))


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
    asked = Request(students=("cnn:0.0625",), steps=4, delta=99.0)
    plan = prepare(ours, data, asked, recipe=recipe, out=tmp_path, bank=None).plan
    assert {card.split("/")[2] for card in plan.cards} == {"trained"}
    assert "trained on" in "\n".join(announced(plan, (1.0, 2.0)))
    with pytest.raises(UsageError, match=r"data\.pool"):
        prepare(ours, data, replace(asked, suite="quick"), recipe=recipe, out=tmp_path, bank=None)


def test_few_data_are_told_with_the_number_that_would_do() -> None:
    told = too_few(16, [7], 3, 82)
    assert told is not None
    for part in ("16 test images", "7 queries", "1,1"):
        assert part in told
    assert too_few(497, [50, 100], 10, 1797) is None
    assert too_few(497, [7], 10) is not None
    assert too_few(99, [], 10) is not None
    assert too_few(2000, [50], 100) is not None  # half an image a class


def test_the_announcement_has_a_span_of_time_and_of_precision(made: Make) -> None:
    told = "\n".join(announced(made(delta=2.0).plan, (60.0, 240.0), seeds=(4, 9), seconds=600.0))
    assert "60 s to 4 min" in told
    assert "10 min" in told
    assert "4 to 9 seeds" in told


def test_a_range_of_precision_holds_what_audits_measured() -> None:
    low, high = resolution_range(8, 497) or (0.0, 0.0)
    assert low <= 1.77 <= 3.48 <= high
    assert resolution_range(1, 497) is None
    seeds = seeds_for(2.0, 497)
    assert seeds is not None
    assert (expected_resolution(seeds, 497) or 9.0) < 2.0
    assert seeds_for(0.5, 41) is None


def test_only_what_is_missing_takes_time_and_processes_share_it(made: Make) -> None:
    cells = [cell.model_copy(update={"seconds": 10.0}) for cell in made().plan.cells]
    assert span([], 2) == Span(0.0, 0.0)
    assert span(cells, 1).low == pytest.approx(10.0 * len(cells))
    assert span(cells, 2).low < span(cells, 1).low
    assert span(cells, 2).low < span(cells, 2).high


def test_the_time_of_others_is_not_counted() -> None:
    assert forecast._least(lambda: time.sleep(0.05), torch.device("cpu")) < 0.05


def test_the_clock_leaves_room_for_the_page() -> None:
    clock = Clock(100.0)
    assert clock.room() == 0  # nothing is known of a cell yet
    clock.began -= 50.0
    for _ in range(10):
        clock.add()
    assert 5 <= clock.room() <= 8


def test_seeds_that_are_needed_follow_from_the_widths(tmp_path: Path) -> None:
    MadeAudit(noise=3.0).write(tmp_path / "loud")
    MadeAudit(noise=0.1).write(tmp_path / "quiet")
    loud, quiet = precision(read(tmp_path / "loud")), precision(read(tmp_path / "quiet"))
    assert loud.width > quiet.width
    assert (loud.seeds or 10_000) > (quiet.seeds or 0)


def test_what_is_not_known_yet_comes_with_command_and_minutes(tmp_path: Path) -> None:
    MadeAudit(noise=4.0, plan={"command": "undistill audit runs/nasty --control runs/normal --time 5m -o there"}).write(
        tmp_path
    )
    own = analyze(tmp_path).outlook
    assert own is not None
    assert own.model == "victim"
    assert own.command.startswith("undistill audit runs/nasty --control runs/normal ")
    assert "5m" not in own.command
    assert "there" not in own.command.split()
    assert own.minutes is not None


def test_a_method_with_teachers_never_grows(recipe: Recipe, splits: Splits, tmp_path: Path) -> None:
    asked = Request(method="nasty", teachers=2, questions=(6,), steps=4, students=("cnn:0.0625",))
    assert prepare(None, splits, asked, recipe=recipe, out=tmp_path, bank=None).replan is None


def test_two_attacks_never_share_a_name(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    evidence = read(tmp_path)
    arms = evidence.arms(evidence.plan.cards[0])
    twice = (arms[0], replace(arms[0]), *arms[1:])
    names = unique_names(twice)
    assert len({(arm.side, name) for arm, name in names.items()}) == len(twice)


def test_digits_follow_the_number_of_test_images(tmp_path: Path) -> None:
    assert [decimals(count) for count in (41, 100, 497, 10_000)] == [0, 1, 1, 2]
    MadeAudit().write(tmp_path)
    assert digits_of(analyze(tmp_path)) == 1
