"""`undistill reproduce` as people call it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from undistill.cli.main import main

pytestmark = pytest.mark.e2e

FIXED = ("--scale", "toy", "--device", "cpu", "--jobs", "1")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_from_the_command_to_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    only = ("--only", "table1/*/CNN/*", "--only", "logits/*")
    code, out, err = call(capsys, "table1", "logits", *FIXED, *only, "-o", tmp_path / "r")
    assert (code, "Traceback" in err) == (0, False)
    assert "[6/6]" in err
    page = (tmp_path / "r" / "report" / "index.html").read_text()
    cells = sorted((tmp_path / "r" / "cells").glob("*.json"))
    assert len(cells) == 6
    hrefs = set(re.findall(r'href="([^"#]*cells/[^"]*\.json)"', page))
    linked = {(tmp_path / "r" / "report" / href).resolve() for href in hrefs}
    assert len(linked) >= 4
    assert linked <= {path.resolve() for path in cells}
    assert "87.75" in page  # the article's CNN from the normal teacher
    assert out.strip().endswith("index.html")
    again, _, err = call(capsys, "table1", "logits", *FIXED, *only, "-o", tmp_path / "r")
    assert again == 0
    assert "6 of 6 are done already" in err


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "table1", *FIXED, "--only", "table1/none/CNN/*", "-o", tmp_path / "r", "--json", "-q")
    assert code == 0
    assert isinstance(json.loads(out), dict)


def test_a_dry_run_names_every_cell_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "table1", "alpha", *FIXED, "--dry-run", "-o", tmp_path / "r")
    assert code == 0
    assert not (tmp_path / "r").exists()
    lines = out.splitlines()
    assert sum(line.startswith(("table1/", "alpha/")) for line in lines) == 14 + 86
    assert "alpha/ResNet18/nasty/CNN/0.9/s0" in out
    assert "shared" in next(line for line in lines if line.startswith("alpha/ResNet18/nasty/CNN/0.9/"))
    assert "toy: 100 cells" in lines[-1]
    assert "PFLOP" in lines[-1]


def test_a_dry_run_knows_what_is_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    only = ("--only", "table1/none/CNN/*", "--only", "table1/*/normal/CNN/*")
    call(capsys, "table1", *FIXED, "--only", "table1/none/CNN/*", "-o", tmp_path / "r")
    code, out, _ = call(capsys, "table1", *FIXED, *only, "--dry-run", "--json", "-o", tmp_path / "r")
    assert code == 0
    found = json.loads(out)
    assert [cell["state"] for cell in found["cells"]] == ["done", "to do"]
    assert found["tasks"] == 1
    assert found["pflop"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table7"], "no experiment called 'table7'"),
        (["table1", "--scale", "big"], "no scale called 'big'"),
        (["table1", "--recipe", "slow"], "no recipe called 'slow'"),
        (["table1", "--only", "x"], "no cell is called 'x'"),
        ([], "NAME"),
    ],
)
def test_wrong_wishes(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], says: str) -> None:
    code, _, err = call(capsys, *arguments, "-o", tmp_path / "r")
    assert code == 2
    assert says in err
    assert not (tmp_path / "r").exists()


def test_the_help_waits_for_no_torch() -> None:
    code = "import sys; from undistill.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "reproduce", "--help"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Of table1," in said
    assert said.split()[-1] == "False"
