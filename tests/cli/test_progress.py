"""The reporter shows what the library logs and how far long work is, for as long as a verb runs."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from undistill import progress
from undistill.cli.pace import SLOWER, WINDOW, Pace
from undistill.cli.progress import EVERY, FIRST, Reporter, Stage, duration
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.experiments.executors import Job, run_jobs
from undistill.models import Classifier
from undistill.progress import Step, listening
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe

LOG = logging.getLogger("undistill.oracle.logit_cache")


@pytest.fixture(autouse=True)
def library() -> Iterator[logging.Logger]:
    """The library's logger, put back as it was."""
    log = logging.getLogger("undistill")
    level, handlers = log.level, list(log.handlers)
    yield log
    log.setLevel(level)
    log.handlers[:] = handlers


def test_a_reporter_shows_the_librarys_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        LOG.debug("bank: too much")
        LOG.info("bank: %d passes [bold]kept[/bold]", 3)
        LOG.warning("bank: damaged")
    shown = capsys.readouterr()
    assert shown.err == "bank: 3 passes [bold]kept[/bold]\nbank: damaged\n"
    assert shown.out == ""


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        LOG.info("bank: %s", "word " * 60)
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_hides_what_goes_well_and_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True) as reporter:
        LOG.info("bank: 3 passes kept")
        LOG.warning("bank: damaged")
        reporter.say("done")
    assert capsys.readouterr().err == "bank: damaged\n"


def test_other_libraries_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        logging.getLogger("datasets").info("theirs")
    assert "theirs" not in capsys.readouterr().err


def test_a_reporter_leaves_when_its_verb_ends(library: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(library.handlers)
    with Reporter() as reporter:
        assert reporter in library.handlers
    assert library.handlers == before
    with pytest.raises(ZeroDivisionError), Reporter():
        _ = 1 / 0
    assert library.handlers == before
    LOG.info("bank: later")
    assert capsys.readouterr().err == ""


def test_the_second_reporter_shows_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        pass
    with Reporter():
        LOG.info("bank: once")
    assert capsys.readouterr().err == "bank: once\n"


# -- how far it is ------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_loop_tells_each_step_within_an_epoch(
    images: ImageSet, make_model: Callable[..., Classifier], recipe: Recipe
) -> None:
    found: list[Step] = []
    batches = ImageBatches(images, 8, seed=0, role="teacher")
    with listening(found.append):
        list(fit(make_model(), batches, CrossEntropy(), recipe.training, seed=0))
    assert [(step.kind, round(step.done, 3), step.total) for step in found] == [
        ("epoch", round(step / 3, 3), 2) for step in range(1, 7)
    ]
    assert {step.images for step in found} == {8}
    assert progress._listeners == []


def test_a_resumed_loop_tells_where_it_goes_on(
    images: ImageSet, make_model: Callable[..., Classifier], recipe: Recipe
) -> None:
    batches = ImageBatches(images, 8, seed=0, role="teacher")
    first = next(fit(make_model(), batches, CrossEntropy(), recipe.training, seed=0))
    found: list[Step] = []
    with listening(found.append):
        list(fit(make_model(), batches, CrossEntropy(), recipe.training, seed=0, state=first.state))
    assert found[0].done == pytest.approx(4 / 3)


def said() -> str:
    return "said"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.e2e)])
@pytest.mark.parametrize(("last", "share", "whole"), [(1.0, 0.75, 4.0), (None, 0.5, None)])
def test_jobs_tell_how_much_of_their_expected_time_is_done(
    last: float | None, share: float, whole: float | None, processes: int
) -> None:
    found: list[Step] = []
    jobs = [Job("a", said, (), seconds=3.0), Job("b", said, (), ("a",), seconds=last)]
    with listening(found.append):
        list(run_jobs(jobs, processes))
    assert [(step.kind, step.done, step.total, step.share) for step in found] == [
        ("job", 0, 2, 0.0),
        ("job", 1, 2, share),
        ("job", 2, 2, 1.0),
    ]
    assert found[0].seconds == (None if whole is None else whole / processes)


def test_a_pipe_gets_a_line_in_the_first_seconds_and_often_enough(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    lines: list[tuple[float, str]] = []
    for tenths in range(1, 1200):
        clock.now = tenths / 10
        reporter.step(Step("epoch", tenths / 400, 40, images=128))
        reporter.tick()
        if shown := capsys.readouterr().err:
            lines.append((clock.now, shown))
    times = [time for time, _ in lines]
    assert times[0] <= FIRST + 0.2
    assert max(later - before for before, later in itertools.pairwise(times)) <= EVERY + 0.2 <= 30
    last = lines[-1][1]
    assert "epoch 3/40" in last
    assert "left" in last
    assert "1,280 images/s" in last


def test_work_that_says_nothing_of_itself_is_still_alive(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    reporter.step(Step("job", 0, 42, 0.0))
    clock.now = 1.5
    reporter.tick()
    assert "0/42" in capsys.readouterr().err
    clock.now = 700.0
    reporter.tick()
    assert "11 min 40 s so far" in capsys.readouterr().err


def test_before_the_first_job_ends_a_forecast_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    reporter.step(Step("job", 0, 42, 0.0, seconds=600.0))
    clock.now = 60.0
    reporter.tick()
    assert "about 9 min 00 s left" in capsys.readouterr().err
    clock.now = 601.0  # the forecast was too short, and says nothing any more
    reporter.tick()
    assert "10 min 01 s so far" in capsys.readouterr().err


def test_what_follows_the_last_stage_is_still_alive(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    for second in range(91):
        clock.now = float(second)
        if second == 20:
            reporter.count("decoding test", 100, 100)
        reporter.tick()
    lines = capsys.readouterr().err.splitlines()
    assert "at work · 1 min 20 s so far" in lines
    assert 4 <= len(lines) <= 7


def test_a_job_at_work_in_this_process_shows_its_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    reporter.step(Step("job", 0, 3, 0.0))
    clock.now = 2.0
    reporter.step(Step("epoch", 4.2, 9, images=8))
    reporter.tick()
    shown = capsys.readouterr().err
    assert "0/3" in shown
    assert "epoch 5/9" in shown


def test_the_time_left_follows_costs_and_a_change_of_pace() -> None:
    stage = Stage("jobs", 4, 0.0, recent=float("inf"))
    stage.move(0.0, 0, share=0.0)
    stage.move(30.0, 1, share=0.75)
    assert stage.left(30.0) == pytest.approx(10.0)
    stage = Stage("epoch", 100, 0.0, recent=60.0)
    for second in range(200):
        stage.move(float(second), second / 4)
    for second in range(1, 200):
        stage.move(199.0 + second, 49.75 + second / 40)
    left = stage.left(398.0)
    assert left is not None
    assert left == pytest.approx((100 - stage.done) * 40, rel=0.01)


def test_the_time_left_falls_while_a_long_job_is_at_work_and_grows_when_it_takes_too_long() -> None:
    stage = Stage("jobs", 2, 0.0, recent=float("inf"))
    stage.move(0.0, 0, share=0.0)
    stage.move(60.0, 1, share=0.5)
    assert [stage.left(now) for now in (60.0, 70.0, 110.0)] == pytest.approx([60.0, 50.0, 10.0])
    assert stage.left(180.0) == pytest.approx(180.0)  # twice as slow as it was


def test_a_forecast_steadies_the_time_left_while_little_is_done() -> None:
    stage = Stage("jobs", 16, 0.0, recent=float("inf"))
    stage.expected = 90.0
    stage.move(0.0, 0, share=0.0)
    stage.move(15.0, 2, share=0.01)  # most of these seconds are the start of processes: 1,485 s by pace alone
    assert stage.left(15.0) == pytest.approx(0.99 * (15 + 0.099 * 90) / 0.109)
    stage.move(180.0, 15, share=0.9)
    assert stage.left(180.0) == pytest.approx(20.0, rel=0.1)  # by now the pace decides


@pytest.mark.parametrize("width", [20, 40, 60, 79, 120])
def test_a_line_that_is_too_long_keeps_what_is_done_and_the_time_left(width: int) -> None:
    stage = Stage("epoch", 40, 0.0, unit="images")
    for second in range(10):
        stage.move(float(second), second / 10, amount=128)
    stage.facts = ["loss 0.1234", "accuracy 91.23", "accuracy val 90.12"]
    line = stage.line(10.0, width, bar=width > 40)
    assert "epoch 1/40" in line
    assert "left" in line
    assert len(line) <= max(width, 40)
    assert ("accuracy val" in line) == (width > 100)


def test_a_loop_that_begins_again_has_a_time_of_its_own() -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    for start in (0.0, 100.0):
        for second in range(11):
            clock.now = start + second
            reporter.step(Step("epoch", second / 2.5, 8, images=8))
    assert reporter.stage is not None
    assert reporter.stage.left(110.0) == pytest.approx(10.0)
    assert reporter.stage.rate(110.0) == pytest.approx(8.0)


def test_a_pace_far_below_the_earlier_one_is_a_warning_also_where_it_is_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    reporter = Reporter(quiet=True, clock=clock)
    for step in range(60):
        clock.now += 1 if step < 30 else 10
        reporter.step(Step("epoch", step / 10, 8, images=64))
    assert capsys.readouterr().err.count("times slower") == 1


def test_reading_is_said_once_and_only_where_it_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    reporter.count("decoding test", 50, 100)
    reporter.count("decoding test", 100, 100)
    assert capsys.readouterr().err == ""
    reporter.count("decoding train", 50, 100)
    clock.now = 3.0
    reporter.count("decoding train", 100, 100)
    assert capsys.readouterr().err.count("decoding train 100/100") == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- pace ---------------------------------------------------------------------------------------------------------------


def paced(*rates: float, share: float = 1.0) -> list[str]:
    """The warnings of a run with these rates (images a second), each for a few windows."""
    pace, warnings, clock = Pace(), [], 0.0
    pace.add(0, clock, 0.0)
    for rate in rates:
        for _ in range(4 * int(WINDOW)):
            clock += 1
            if (warning := pace.add(int(rate), clock, share * clock)) is not None:
                warnings.append(warning)
    return warnings


def test_a_steady_or_faster_pace_is_no_warning() -> None:
    assert paced(1000, 900, 1500, 1500 / SLOWER + 1) == []


def test_a_pace_far_below_the_earlier_one_is_said_once() -> None:
    (warning,) = paced(1000, 100, 50, 1000, 100)
    assert "10 times slower" in warning


def test_a_busy_machine_is_told_from_threads_that_wait() -> None:
    assert "other processes" in paced(1000, 100, share=0.2)[0]
    assert "--threads" in paced(1000, 100, share=2.0)[0]


def test_progress_as_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Reporter(progress="json", clock=clock) as reporter:
        reporter.say("two lines follow")
        reporter.step(Step("job", 0, 4, 0.0, seconds=40.0))
        clock.now += 9.0
        reporter.step(Step("job", 1, 4, 0.25, running=2, failed=1))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"message": "two lines follow"}
    assert lines[1] | {"done": 0, "total": 4, "seconds_left": 40.0, "per_hour": None} == lines[1]
    assert lines[2] | {"done": 1, "running": 2, "failed": 1, "per_hour": 400.0, "seconds": 9.0} == lines[2]
    assert 20.0 < lines[2]["seconds_left"] < 30.0


def test_a_line_says_how_many_are_at_work_and_failed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    reporter = Reporter(clock=clock)
    reporter.step(Step("job", 0, 9, 0.0))
    clock.now = 10.0
    reporter.step(Step("job", 3, 9, 1 / 3, running=4, failed=1))
    assert "4 at work · 1 failed" in reporter.line()
    assert capsys.readouterr().err == ""
