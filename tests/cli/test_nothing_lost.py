"""What a user could type once is still read: `first_options.txt` lists every verb and option of an early version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from undistill.cli.app import app
from undistill.cli.help import OLD, OLD_OF

LINES = [line.split() for line in (Path(__file__).parent / "first_options.txt").read_text().splitlines()]


@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(word for word in words if word.islower())[:40])
def test_every_early_option_is_still_read(words: list[str]) -> None:
    names = [word for word in words if not word.startswith("-") and word.islower()]
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    known = {flag for parameter in command.params for flag in parameter.opts}
    renamed = {**OLD, **OLD_OF.get(names[-1], {})}
    flags = [flag for word in words if word.startswith("--") for flag in word.split("|")]
    assert [flag for flag in flags if flag not in known and renamed.get(flag) not in known] == []
