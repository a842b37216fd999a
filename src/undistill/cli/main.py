"""The entry point: runs a verb and turns every expected failure into one sentence and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer

from undistill.cli.app import app
from undistill.cli.progress import error
from undistill.errors import GO_ON, UndistillError

# Typer brings a Click of its own since 0.16, or uses the installed one: ask it for the base of its usage errors.
WRONG_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> None:
    """Run the shell's command; every expected failure is one sentence on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    command = typer.main.get_command(app)
    try:
        with command.make_context("undistill", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except WRONG_USAGE as problem:
        error(f"{problem.format_message().rstrip('.')}; see undistill --help")
        sys.exit(2)
    except UndistillError as problem:
        if verbose:
            traceback.print_exc()
        error(str(problem))
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        error(f"interrupted; what was done is kept, {GO_ON}")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)
