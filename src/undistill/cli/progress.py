"""Progress on stderr: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from undistill.training.loop import EpochRecord

EVERY = 2.0
"""Seconds between plain lines."""
SHOWN = {"fit": ("loss", "accuracy", "agreement", "accuracy_val"), "invert": ("loss", "hit")}
"""What is told of each phase; `hit` is the percent of made images that the victim takes for what they were to be."""


class Reporter(logging.Handler):
    """Shows what a verb tells it, and what the library logs. `quiet` says nothing but warnings and errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self.quiet = quiet
        self.told: set[str] = set()
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.last = self.began = time.monotonic()
        self.first_epoch: int | None = None
        self.phase = "fit"
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Reporter:
        log = logging.getLogger("undistill")
        self.before = log.level
        log.addHandler(self)
        log.setLevel(self.level)
        if self.console.is_terminal and not self.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("undistill")
        log.removeHandler(self)
        log.setLevel(self.before)
        if self.bar is not None:
            self.bar.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the library's log, once."""
        if (line := record.getMessage()) not in self.told:
            self.told.add(line)
            self.console.print(line, markup=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """One line."""
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` (or of nobody knows how many) of something that is not an epoch."""
        if self.bar is not None:
            self._move(what, done, total, "")
        elif not self.quiet and (time.monotonic() - self.last > EVERY or done == total):
            self.last = time.monotonic()
            self.say(f"{what}: {done:,}{'' if total is None else f' of {total:,}'}")

    def epoch(self, record: EpochRecord, line: dict[str, Any]) -> None:
        """One epoch's record."""
        if self.first_epoch is None or record.phase != self.phase:
            self.phase = record.phase
            self.first_epoch, self.began = record.epoch - 1, time.monotonic() - record.seconds
        what = "epoch" if record.phase == "fit" else f"{record.phase}, batch"
        rate = record.images / max(record.seconds, 1e-9)
        shown = {name: line[name] for name in SHOWN.get(record.phase, SHOWN["fit"]) if name in line}
        facts = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
        facts += f"  {rate:,.0f} images/s"
        if self.bar is not None:
            self._move(what, record.epoch, record.epochs, facts)
        elif not self.quiet and (time.monotonic() - self.last > EVERY or record.epoch == record.epochs):
            self.last = time.monotonic()
            spent = self.last - self.began
            left = spent / (record.epoch - self.first_epoch) * (record.epochs - record.epoch)
            self.say(f"{what} {record.epoch}/{record.epochs}  {facts}  {left:,.0f} s left")

    def _move(self, what: str, done: int, total: int | None, facts: str) -> None:
        assert self.bar is not None
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total, facts=facts)
        self.bar.update(self.tasks[what], completed=done, total=total, facts=facts)


def error(message: str) -> None:
    """The one sentence that ends a failed command."""
    sys.stderr.write(f"error: {message}\n")
