"""`undistill audit` from the shell: the whole of it, cell by cell, judged and compared, and refused in a sentence."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from undistill.auditing import making
from undistill.cli.main import main
from whole.commands import Outcome, Shell

pytestmark = pytest.mark.e2e

FEW = ("-s", "training.epochs=1", "-s", "model.width=0.0625", "-q")
PLAN = ("--questions", "20", "--steps", "2", "--seeds", "1", "--students", "cnn:0.0625", "--accept-accuracy", "-q")
HOW = (*PLAN, "--jobs", "1")


@pytest.fixture(scope="module")
def shell() -> Shell:
    """Call `undistill …` in this process."""

    def call(*words: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return Outcome(ended.value.code if isinstance(ended.value.code, int) else 0, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines of an attack's log instead of twenty."""
    monkeypatch.setattr(making, "EPOCHS", 2)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> tuple[str, str]:
    """(nasty, normal): teachers of digits that were hardly trained."""
    folder = tmp_path_factory.mktemp("teachers")
    nasty, normal = str(folder / "nasty"), str(folder / "normal")
    assert shell("train", "-c", "digits", *FEW, "-o", normal).code == 0
    assert shell("protect", normal, "--with", "nasty", "-q", "-o", nasty).code == 0
    return nasty, normal


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, shell: Shell, teachers: tuple[str, str]) -> tuple[Path, Outcome]:
    """A quick audit with a control, as one command."""
    folder = tmp_path_factory.mktemp("audit") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "EPOCHS", 2)
        said = shell("audit", teachers[0], "--control", teachers[1], "--delta", "60", *HOW, "-o", str(folder))
    assert said.code == 0, said.err
    return folder, said


def test_an_audit_ends_in_a_page(done: tuple[Path, Outcome]) -> None:
    folder, said = done
    assert {path.name for path in (folder / "report").iterdir()} >= {
        "index.html",
        "report.md",
        "report.json",
        "report.tex",
    }
    assert "best extracted model" in said.out
    assert len(said.out.splitlines()) <= 24
    assert "Page: " in said.out


def test_an_audit_that_is_done_computes_nothing_again(
    done: tuple[Path, Outcome], shell: Shell, teachers: tuple[str, str]
) -> None:
    folder, said = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = shell("audit", teachers[0], "--control", teachers[1], "--delta", "60", *HOW, "-o", str(folder))
    assert (again.code, again.out) == (0, said.out)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before


def test_cell_by_cell_gives_the_same_page(
    done: tuple[Path, Outcome], shell: Shell, teachers: tuple[str, str], tmp_path: Path
) -> None:
    folder, single = done[0], tmp_path / "single"
    planned = shell("audit", "plan", teachers[0], "--control", teachers[1], "--delta", "60", *PLAN, "-o", str(single))
    assert planned.code == 0, planned.err
    keys = [cell["key"] for cell in json.loads((single / "audit.json").read_text())["cells"]]
    assert re.search(rf"stage 1: --index \d+ to {len(keys) - 1}:", planned.out)
    assert shell("audit", "cell", str(single), keys[0], "-q").code == 0  # the name that the command had
    one = shell("run", str(single), "--index", "1", "-q")
    assert one.code == 0, one.err
    assert one.out.startswith(keys[1])
    rest = shell("run", str(single), "-q", "--jobs", "1")
    assert rest.code == 0, rest.err
    judged = shell("audit", "judge", str(single), "--json")
    assert judged.code == 0
    ours, theirs = (
        json.loads((place / "report" / "report.json").read_text())["judgement"] for place in (single, folder)
    )
    assert ours["cards"] == theirs["cards"]
    assert ours["flags"] == theirs["flags"]


def test_what_is_missing_makes_it_inconclusive_and_says_so(
    shell: Shell, teachers: tuple[str, str], tmp_path: Path
) -> None:
    assert shell("audit", "plan", teachers[0], "--control", teachers[1], *PLAN, "-o", str(tmp_path / "a")).code == 0
    early = shell("audit", "judge", str(tmp_path / "a"))
    assert (early.code, early.out) == (2, "")
    assert "is computed yet: `undistill run" in early.err
    for index in (0, 1, 2, 3, 4):
        assert shell("audit", "cell", str(tmp_path / "a"), "--index", index, "-q").code == 0
    judged = shell("audit", "judge", str(tmp_path / "a"))
    assert judged.code == 0, judged.err
    assert "5 of " in judged.out
    assert "Not yet known" in judged.out


def test_a_dry_run_prints_the_plan_and_writes_nothing(shell: Shell, teachers: tuple[str, str], tmp_path: Path) -> None:
    said = shell(
        "audit",
        teachers[0],
        "--control",
        teachers[1],
        "--accept-accuracy",
        "--suite",
        "standard",
        "--dry-run",
        "-o",
        str(tmp_path / "a"),
        "-q",
    )
    assert said.code == 0
    assert "suite standard@2" in said.out
    assert "of processor time" in said.out
    assert "skipped: attackers who hold the weights" in said.out
    assert not (tmp_path / "a").exists()


def test_another_plan_on_old_cells_is_refused(
    done: tuple[Path, Outcome], shell: Shell, teachers: tuple[str, str]
) -> None:
    said = shell("audit", teachers[0], "--control", teachers[1], *HOW, "-o", str(done[0]))
    assert said.code == 2
    assert "holds another audit" in said.err
    assert "delta was 60.0, now 2.0" in said.err


def test_defenses_are_compared(
    done: tuple[Path, Outcome], shell: Shell, teachers: tuple[str, str], tmp_path: Path
) -> None:
    behind = ("--behind", "top1", "--cells", str(done[0] / "cells"))
    audited = shell("audit", teachers[1], *behind, "--delta", "60", *HOW, "-o", str(tmp_path / "top1"))
    assert audited.code == 0, audited.err
    said = shell("compare", str(done[0]), str(tmp_path / "top1"), "-o", str(tmp_path / "out"))
    assert said.code == 0, said.err
    assert "top1" in said.out
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("audit", "nowhere", "-o", "a"), 2, "there is no model at nowhere"),
        (("audit", "-o", "a"), 2, "audit what?"),
        (("audit", "judge", "nowhere"), 2, "holds no audit"),
        (("run", "nowhere", "abc"), 2, "holds no plan"),
        (("compare", "nowhere", "there", "-o", "a"), 2, "holds no audit"),
        (("audit", "plan", "--method", "nastie", "--data", "digits", "-o", "a"), 2, "no defense called 'nastie'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    words: tuple[str, ...], code: int, sentence: str, shell: Shell
) -> None:
    said = shell(*words)
    assert said.code == code
    assert sentence in said.err.strip().splitlines()[-1]


def test_a_cell_is_named_by_key_or_index_alone(done: tuple[Path, Outcome], shell: Shell) -> None:
    folder = str(done[0])
    for words, sentence in (
        ((), "name a cell by its KEY or by --index"),
        (("abc", "--index", "0"), "name a cell by its KEY or by --index"),
        (("--index", "999"), "the last is --index"),
        (("zzz",), "no cells of the plan begin with 'zzz'"),
    ):
        said = shell("audit", "cell", folder, *words)
        assert said.code == 2
        assert sentence in said.err


def test_a_report_of_an_audit_is_its_page(done: tuple[Path, Outcome], shell: Shell, tmp_path: Path) -> None:
    said = shell("report", str(done[0]), "-o", str(tmp_path / "page"))
    assert said.code == 0
    assert "best extracted model" in said.out
    mixed = shell("report", str(done[0]), str(tmp_path), "-o", str(tmp_path / "other"))
    assert mixed.code == 2
    assert "undistill compare" in mixed.err


def test_the_help_of_an_audit_has_its_options_in_groups_and_no_old_names(shell: Shell) -> None:
    said = shell("audit", "--help")
    assert said.code == 0
    for word in ("--access", "--queries", "--time", "The job", "Running", "Examples", "[default: "):
        assert word in said.out
    assert "--serve" not in said.out
    assert "audit all" not in said.out


def test_old_names_of_options_are_still_read_and_what_they_are_called_now_is_said(
    shell: Shell, teachers: tuple[str, str], tmp_path: Path
) -> None:
    old = ("--serve", "probs", "--questions=20", "--card", "unlabelled/fresh", "--suite", "quick", "--dry-run")
    new = (
        "--access",
        "probs",
        "--queries=20",
        "--threat-model",
        "unlabelled/fresh",
        "--suite",
        "quick",
        "--dry-run",
        "-q",
    )
    one, other = (
        shell("audit", teachers[1], *words, "--accept-accuracy", "--json", "-o", str(tmp_path)) for words in (old, new)
    )
    assert one.code == other.code == 0
    plans = [json.loads(each.out) for each in (one, other)]
    assert [cell["key"] for cell in plans[0]["cells"]] == [cell["key"] for cell in plans[1]["cells"]]
    assert "--access" in one.err
    assert "is now called" not in other.err


def test_an_audit_without_a_folder_is_named_after_its_model(
    shell: Shell, teachers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("audit", "plan", teachers[0], "--accept-accuracy", "-q").code == 0
    assert (tmp_path / "runs" / "audit-nasty" / "audit.json").is_file()


def test_an_audit_that_cannot_be_done_in_its_time_says_which_time_would_do(
    shell: Shell, teachers: tuple[str, str], tmp_path: Path
) -> None:
    long = ("--time", "1s", "--steps", "100000", "--accept-accuracy")
    said = shell("audit", teachers[0], *long, "-o", str(tmp_path / "a"), "-q")
    assert said.code == 2
    assert "--time" in said.err
    assert not (tmp_path / "a" / "cells").exists()
