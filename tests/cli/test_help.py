"""Help: in groups, in 80 columns, with defaults and examples; and the old names of options."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from undistill.cli.app import app
from undistill.cli.help import GROUPS, OLD, Verb
from undistill.cli.main import COMPLETION, main

Call = Callable[..., tuple[int, str, str]]
GROUP: Any = typer.main.get_command(app)
OWN = sorted(name for name, command in GROUP.commands.items() if isinstance(command, Verb))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """(exit code, stdout, stderr) of `undistill …` on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def body(text: str) -> str:
    """The help above its examples, which are commands that may be longer."""
    return text.partition("Examples:")[0]


@pytest.mark.parametrize("verb", ["", *OWN])
def test_help_fits_eighty_columns(call: Call, verb: str) -> None:
    code, out, _ = call(*([verb] if verb else []), "--help")
    assert code == 0
    assert [line for line in out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("verb", OWN)
def test_help_ends_with_two_examples_that_parse(call: Call, verb: str) -> None:
    out = call(verb, "--help")[1]
    shown = [line.split()[1:] for line in out.partition("Examples:")[2].splitlines() if line.strip()]
    assert len(shown) == 2
    for name, *rest in shown:
        assert name == verb
        GROUP.commands[name].make_context(name, rest)


@pytest.mark.parametrize("verb", ["train", "protect", "attack", "reproduce", "demo"])
def test_options_are_in_groups_and_each_says_its_default(call: Call, verb: str) -> None:
    out = body(call(verb, "--help")[1])
    headings = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    known = [group for group in GROUPS if group in headings]
    assert [heading for heading in headings if heading in GROUPS] == known
    assert set(headings) <= {*GROUPS, "Arguments"}
    for parameter in GROUP.commands[verb].params:
        if parameter.required or getattr(parameter, "is_flag", False) or getattr(parameter, "hidden", False):
            continue
        name = parameter.opts[0]
        found = re.search(rf" {name}[ ,]", out)
        assert found, name
        text = " ".join(out[found.start() :].split("\n  -")[0].split())
        repeatable = "repeatable" in text
        assert repeatable or "default" in text or name in NO_DEFAULT, name


NO_DEFAULT = {"--data", "--data-dir", "--name", "--outputs"}
"""Options without which something else is done than with any value of theirs."""


def test_the_help_is_there_without_torch() -> None:
    code = "import sys; from undistill.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for words in (["--help"], ["train", "--help"], ["cache", "--help"]):
        said = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True).stdout
        assert said.split()[-1] == "False"


def test_a_wrong_option_points_to_the_help_of_its_verb(call: Call) -> None:
    code, _, err = call("train", "--colour", "red")
    assert code == 2
    assert "--colour" in err
    assert "undistill train --help" in err


# -- old names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "old", "new"),
    [
        ("protect", ["--with", "nasty"], ["--defense", "nasty"]),
        ("attack", ["--with=kd"], ["--attack=kd"]),
        ("attack", ["--card", "api"], ["--threat-model", "api"]),
        ("attack", ["--unseen"], ["--assume-fresh"]),
        ("attack", ["--called", "mine"], ["--name", "mine"]),
        ("attack", ["--answers", "probs"], ["--outputs", "probs"]),
        ("attack", ["--ledger", "x.parquet"], ["--query-log", "x.parquet"]),
        ("train", ["--bank", "x", "--bank-limit", "2"], ["--cache", "x", "--cache-limit", "2"]),
    ],
)
def test_an_old_name_is_read_with_a_notice(
    verb: str, old: list[str], new: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["-o", "out", *(["MODEL"] if verb != "train" else [])]
    command = GROUP.commands[verb]
    expected = command.make_context(verb, [*new, *rest]).params
    assert capsys.readouterr().err == ""
    assert command.make_context(verb, [*old, *rest]).params == expected
    notice = capsys.readouterr().err
    assert all(word in notice for word in (old[0].partition("=")[0], new[0].partition("=")[0]))
    command.make_context(verb, [*old, *rest, "-q"])
    assert capsys.readouterr().err == ""


def test_old_names_are_not_shown(call: Call) -> None:
    for verb in OWN:
        out = call(verb, "--help")[1]
        assert [name for name in (*OLD, "--with", "--resume") if re.search(rf"{name}\b(?!-)", out)] == []


def test_a_value_that_looks_like_an_old_name_is_left_alone() -> None:
    params = GROUP.commands["report"].make_context("report", ["-o", "out", "--", "--card"]).params
    assert [str(folder) for folder in params["folders"]] == ["--card"]


@pytest.mark.parametrize("verb", ["train", "protect", "attack", "demo", "reproduce"])
def test_resume_is_read_and_does_nothing(verb: str) -> None:
    rest = {"protect": ["MODEL"], "attack": ["MODEL"], "reproduce": ["table1"]}.get(verb, [])
    command = GROUP.commands[verb]
    with_it = command.make_context(verb, ["-o", "out", *rest, "--resume"]).params
    without = command.make_context(verb, ["-o", "out", *rest]).params
    assert {name for name in without if with_it[name] != without[name]} == {"resume"}


# -- completion ---------------------------------------------------------------------------------------------------------


def test_a_shell_completes_verbs_and_options() -> None:
    def completed(words: str) -> str:
        env = os.environ | {COMPLETION: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", "from undistill.cli.main import main; main()"]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env).stdout

    assert {"protect"} == set(completed("undistill pro").split())
    assert "--threads" in completed("undistill train --th").split()
