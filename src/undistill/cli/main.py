"""The entry point: runs a verb and turns every expected failure into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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
    arguments = sys.argv[1:] if arguments is None else arguments
    _let_the_first_speak()
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        with _terminable(), command.make_context("undistill", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except WRONG_USAGE as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # what it says is the help
            typer.echo(problem.format_message())
            sys.exit(2)
        error(f"{problem.format_message().rstrip('.')}; see {_help_of(problem)}")
        sys.exit(2)
    except UndistillError as problem:
        if verbose:
            traceback.print_exc()
        _complain(str(problem))
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort) as stopped:
        terminated = isinstance(stopped, Terminated)
        _complain(f"{'terminated' if terminated else 'interrupted'}; what was done is kept, {GO_ON}")
        sys.exit(143 if terminated else 130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)


def _let_the_first_speak() -> None:
    """Of processes that train together the first alone prints results."""
    if not ranks.first():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  until the process ends


def _complain(sentence: str) -> None:
    """Print an error, unless the first process of this machine, which did the same, has it to say."""
    if not ranks.place():
        error(sentence)


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that workers are stopped and folders are left in order."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows only tidies up
        raise Terminated

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
