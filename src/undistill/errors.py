"""The errors a user can cause. Each is one sentence that names the value and the way out; the shell prints it alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

GO_ON = "the same command goes on"
"""How an interrupted command is taken up, for the end of a sentence."""


class UndistillError(Exception):
    """Base of every expected failure. `exit_code` is what the shell returns for it."""

    exit_code = 1


class UsageError(UndistillError, ValueError):
    """Wrong usage, settings or input: nothing was started."""

    exit_code = 2


class Busy(UsageError):
    """Another process is at work there."""


class RunError(UndistillError, RuntimeError):
    """A run folder, data set or model could not be read or written."""


class NotFinite(RunError):
    """A trained network returns numbers that are not finite."""


class Diverged(UndistillError, ArithmeticError):
    """The loss stopped being finite."""

    def __init__(self, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step
        super().__init__(
            f"the loss was not finite at step {step} of epoch {epoch + 1}; the last good epoch is kept: "
            "try a lower training.optimizer.lr or set training.clip"
        )

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, int]]:
        """Survive the way back from a worker process."""
        return Diverged, (self.epoch, self.step)


class Implausible(UsageError):
    """A victim whose accuracy cannot be that of a classifier of these data: it was handed over wrongly."""


class Refused(UndistillError, PermissionError):
    """An attacker asked for more than its output access or its query budget allows."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """An error for an unknown name, with the nearest names first."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]}? There are " if close else "there are "
    return UsageError(f"no {kind} called {str(name)!r}; {hint}{', '.join(names)}")
