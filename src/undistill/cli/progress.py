"""Progress on stderr: one live line on a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from undistill import ranks
from undistill.cli.pace import Pace
from undistill.errors import unknown
from undistill.progress import Step, listening

if TYPE_CHECKING:
    from undistill.training.loop import EpochRecord

FIRST, EVERY = 1.0, 15.0
"""Seconds until the first plain line of a stage, and between later ones."""
RECENT = 60.0
"""Seconds of work that rate and time left rest on, so that they follow a machine that becomes busy."""
BAR = 12
PROGRESS = ("line", "json")
JOBS = "jobs"
SHOWN = {"fit": ("loss", "accuracy", "agreement", "accuracy_val"), "invert": ("loss", "hit")}
"""Numbers that are shown of each phase; `hit` is the percentage of made images that the victim assigns to their target class."""


TELLING = 0.002
"""Share of the work that must be done before it says how long the rest takes, where no forecast does."""
TRUST = 0.1
"""Share of the work that a forecast counts for: the first jobs are often cheap, and include the start of processes."""


class Stage:
    """A piece of work of known or unknown length: how far it is, how fast, and how much time is left."""

    def __init__(self, what: str, total: float | None, now: float, *, unit: str = "", recent: float = RECENT) -> None:
        self.what, self.total, self.unit, self.recent, self.began = what, total, unit, recent, now
        self.done = self.amount = 0.0
        self.facts: Sequence[str] = ()
        self.expected: float | None = None
        self.marks: deque[tuple[float, float, float]] = deque()

    def move(self, now: float, done: float, *, share: float | None = None, amount: float = 0.0) -> None:
        """`done` of the total, at this time; `amount` is added to what the rate counts."""
        self.done, self.amount = done, self.amount + amount
        part = share if share is not None else done / self.total if self.total else 0.0
        self.marks.append((now, part, self.amount))
        while len(self.marks) > 2 and now - self.marks[1][0] > self.recent:
            self.marks.popleft()

    @property
    def over(self) -> bool:
        """Whether all of it is done."""
        return self.total is not None and self.done >= self.total

    def left(self, now: float) -> float | None:
        """Seconds; None before enough progress to tell."""
        if self.total is None or len(self.marks) < 2:
            return None
        (then, before, _), (last, part, _) = self.marks[0], self.marks[-1]
        gained = part - before
        trust = 0.0 if self.expected is None else TRUST * (1 - gained)
        if gained <= (0.0 if trust else TELLING):
            return None

        def rest(until: float) -> float:
            return (1 - part) * (until - then + trust * (self.expected or 0.0)) / (gained + trust)

        return at_last if (at_last := rest(last) - (now - last)) > 0 else rest(now)

    def rate(self, now: float) -> float | None:
        """Units a second; None before the first progress."""
        if len(self.marks) < 2 or now <= self.marks[0][0] or self.amount == self.marks[0][2]:
            return None
        return (self.amount - self.marks[0][2]) / (now - self.marks[0][0])

    def line(self, now: float, width: int | None = None, *, bar: bool = False) -> str:
        """What is done, the time left, the rate and some facts; what does not fit the width is left out, from the end."""
        parts = [self._head(), self._time(now)]
        if (rate := self.rate(now)) is not None and self.unit:
            parts.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{60 * rate:.1f} {self.unit}/min")
        parts += self.facts
        if bar and self.total and self.marks:
            full = round(BAR * min(self.marks[-1][1], 1.0))
            parts[0] += f" {'━' * full}{'─' * (BAR - full)}"
        while width is not None and len(parts) > 2 and len(" · ".join(parts)) > width:
            parts.pop()
        return " · ".join(parts)

    def values(self, now: float, step: Step) -> dict[str, int | float | None]:
        """How far the jobs are, for programs; what is left in seconds, null before that is known."""
        left, rate = self.left(now), self.rate(now)
        left = self.expected if left is None else left
        return {
            "done": int(step.done),
            "total": int(step.total),
            "running": step.running,
            "failed": step.failed,
            "per_hour": None if rate is None else round(3600 * rate, 1),
            "seconds": round(now - self.began, 1),
            "seconds_left": None if left is None else round(left, 1),
        }

    def _head(self) -> str:
        if self.total is None:
            return f"{self.what} {self.done:,.0f}"
        whole = int(self.done)
        number = min(whole + 1, self.total) if self.done > whole else whole
        return f"{self.what} {number:,.0f}/{self.total:,.0f}"

    def _time(self, now: float) -> str:
        if self.over:
            return f"done in {duration(now - self.began)}"
        left, so_far = self.left(now), now - self.began
        if left is not None:
            return f"{duration(left)} left"
        if self.expected is not None and so_far < self.expected:
            return f"about {duration(self.expected - so_far)} left"
        return f"{duration(so_far)} so far"


class Reporter(logging.Handler):
    """Shows what a verb says, what the library logs and how far loops and jobs are. `quiet` leaves warnings and errors.

    With `progress` json instead of line, each line and each job that ended is an object of JSON.
    """

    def __init__(
        self, *, quiet: bool = False, progress: str = "line", clock: Callable[[], float] = time.monotonic
    ) -> None:
        quiet = quiet or not ranks.first()
        super().__init__(logging.WARNING if quiet else logging.INFO)
        if progress not in PROGRESS:
            raise unknown("form of progress", progress, PROGRESS)
        self.quiet, self.json, self.clock = quiet, progress == "json", clock
        self.shown: set[str] = set()
        self.console = Console(stderr=True, highlight=False)
        self.stage: Stage | None = None
        self.began = clock()
        self.due = self.began + EVERY
        self.pace = Pace()
        self.ended = threading.Event()
        self.open = ExitStack()

    def __enter__(self) -> Reporter:
        log = logging.getLogger("undistill")
        self.before = log.level
        log.addHandler(self)
        log.setLevel(self.level)
        self.open.enter_context(listening(self.step))
        if self.quiet or self.json:
            return self
        if self.console.is_terminal:
            live = Live(get_renderable=self._live, console=self.console, refresh_per_second=4, transient=True)
            self.open.enter_context(live)
        else:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.open.close()
        log = logging.getLogger("undistill")
        log.removeHandler(self)
        log.setLevel(self.before)

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the library's log, once."""
        if (line := record.getMessage()) not in self.shown:
            self.shown.add(line)
            self._print(line)

    def say(self, line: str) -> None:
        """One line."""
        if not self.quiet:
            self._print(line)

    def _print(self, line: str) -> None:
        if self.json:
            sys.stderr.write(f"{json.dumps({'message': line}, ensure_ascii=False)}\n")
        else:
            self.console.print(line, markup=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: unknown) of something that is neither an epoch nor a job; jobs at work go before it."""
        if self.stage is not None and self.stage.what == JOBS:
            return
        stage = self._stage(what, total, unit="images")
        stage.move(self.clock(), done, amount=done - stage.amount)
        self._finish(stage)

    def step(self, step: Step) -> None:
        """A step of a loop, or a job that ended."""
        if step.kind == "job":
            stage = self._stage(JOBS, step.total, unit="jobs", recent=float("inf"))
            stage.move(self.clock(), step.done, share=step.share, amount=step.done - stage.amount)
            stage.facts = _at_work(step)
            stage.expected = stage.expected if step.seconds is None else step.seconds
            if self.json and not self.quiet:
                sys.stderr.write(f"{json.dumps(stage.values(self.clock(), step))}\n")
            else:
                self._finish(stage)
        elif self.stage is not None and self.stage.what == JOBS:
            self.stage.facts = (f"now {step.kind} {min(int(step.done) + 1, int(step.total))}/{step.total:.0f}",)
        else:
            self._loop(step)

    def _loop(self, step: Step) -> None:
        """A step of the loop that this verb waits for. A loop that begins again, such as an attack's second, is another stage."""
        stage = self.stage
        if stage is None or stage.what != step.kind or step.done < stage.done:
            self.stage, self.pace = None, Pace()
            self._stage(step.kind, step.total, unit="images").move(
                self.clock(), step.done
            )  # the first step includes the start
            return
        self._stage(step.kind, step.total, unit="images").move(self.clock(), step.done, amount=step.images)
        if warning := self.pace.add(step.images, self.clock(), time.process_time()):
            self._print(f"warning: {warning}")

    def epoch(self, record: EpochRecord, line: dict[str, Any]) -> None:
        """One epoch's record."""
        if record.phase != "fit":
            stage = self._stage(f"{record.phase}, batch", record.epochs, unit="images")
            stage.move(self.clock(), record.epoch, amount=record.images)
        elif self.stage is None or self.stage.what != "epoch":
            stage = self._stage("epoch", record.epochs, unit="images")
            stage.move(self.clock(), record.epoch)
        names = SHOWN.get(record.phase, SHOWN["fit"])
        assert self.stage is not None
        self.stage.facts = [f"{name.replace('_', ' ')} {line[name]:.4g}" for name in names if name in line]
        self._finish(self.stage)

    def _stage(self, what: str, total: float | None, *, unit: str, recent: float = RECENT) -> Stage:
        """The stage of this name: the one at work, or a new one."""
        if self.stage is None or (self.stage.what, self.stage.total) != (what, total):
            self.stage = Stage(what, total, self.clock(), unit=unit, recent=recent)
            self.due = self.clock() + FIRST
        return self.stage

    def _finish(self, stage: Stage) -> None:
        """Say that a stage is over, if it took long enough to be worth a line."""
        if stage.over:
            self.stage, self.due = None, self.clock() + EVERY
            if self.clock() - stage.began >= FIRST:
                self.say(stage.line(self.clock()))

    def line(self, width: int | None = None, *, bar: bool = False) -> str:
        """What is at work now, or for how long something has been that tells nothing of itself."""
        stage, now = self.stage, self.clock()
        return f"at work · {duration(now - self.began)} so far" if stage is None else stage.line(now, width, bar=bar)

    def _live(self) -> Text:
        return Text(self.line(self.console.width - 1, bar=True), no_wrap=True, overflow="crop")

    def _tick(self) -> None:
        while not self.ended.wait(0.25):
            self.tick()

    def tick(self) -> None:
        """Where there is no terminal: the line that is due, if one is."""
        if self.clock() >= self.due:
            self.due = self.clock() + EVERY
            self.say(self.line())


def _at_work(step: Step) -> list[str]:
    """What a line says of jobs beside how many are done."""
    told = [f"{step.running} at work"] if step.running > 1 else []
    return [*told, f"{step.failed} failed"] if step.failed else told


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def error(message: str) -> None:
    """The one sentence that ends a failed command."""
    sys.stderr.write(f"error: {message}\n")
