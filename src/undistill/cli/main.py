"""The entry point: runs a verb and turns every expected failure into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from undistill import ranks
from undistill.cli.app import app
from undistill.cli.progress import error
from undistill.errors import GO_ON, UndistillError
from undistill.threads import wait_passively

# Typer brings a Click of its own since 0.16, or uses the installed one: ask it for the base of its usage errors.
WRONG_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
LATER = 3.0
"""Seconds that processes beside the first wait with what they have to complain of."""
COMPLETION = "_UNDISTILL_COMPLETE"
"""Set by a shell that asks what could come next."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where an interrupt would be, so that both leave by the same way."""


def main(arguments: list[str] | None = None) -> None:
    """Run the shell's command; every expected failure is one sentence on stderr and an exit code."""
    if "torch" not in sys.modules:
        wait_passively()
    command = typer.main.get_command(app)
    if COMPLETION in os.environ:
        command.main(prog_name="undistill")
    if not ranks.first():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until the process ends
    code = _run(command, list(sys.argv[1:] if arguments is None else arguments))
    if ranks.started() > 1:
        _part(code)
    sys.exit(code)


def _run(command: Any, arguments: list[str]) -> int:
    """Run a command; its exit code."""
    try:
        with _terminable(), command.make_context("undistill", arguments) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except WRONG_USAGE as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # what it says is the help
            typer.echo(problem.format_message())
            return 2
        error(f"{problem.format_message().rstrip('.')}; see {_help_of(problem)}")
        return 2
    except UndistillError as problem:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        _complain(str(problem))
        return problem.exit_code
    except (KeyboardInterrupt, typer.Abort) as stopped:
        terminated = isinstance(stopped, Terminated)
        _complain(f"{'terminated' if terminated else 'interrupted'}; what was done is kept, {GO_ON}")
        return 143 if terminated else 130
    except BrokenPipeError:
        return 1
    except RuntimeError as problem:
        if not ranks.lost(problem):
            raise
        _complain(f"another process of this training is gone; what was done is kept, {GO_ON}")
        return 1
    return 0


def _complain(sentence: str) -> None:
    """Print an error. Of processes that train together the others give the first time to say the same, and are ended then."""
    if ranks.first():
        return error(sentence)
    with suppress(KeyboardInterrupt):
        time.sleep(LATER)
        error(f"process {os.environ['RANK']}: {sentence}")
    return None


def _part(code: int) -> None:
    """Part from the other processes of a training. After a failure at once: tidying up would wait for them."""
    if not code:
        return ranks.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that workers are stopped and folders are left in order."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows only tidies up
        raise Terminated

    if not ranks.first():  # it may be waiting for another process, where Python hears nothing
        yield
        return
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _help_of(problem: Any) -> str:
    """The command whose help says how it is used."""
    context = getattr(problem, "ctx", None)
    return f"{context.command_path.removesuffix(' all')} --help" if context is not None else "undistill --help"
