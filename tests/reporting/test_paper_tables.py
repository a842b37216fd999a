"""The paper's tables hold every number, measured and reported, where it belongs, in every format."""

from __future__ import annotations

import csv
import io
import re
import statistics
from pathlib import Path

import pytest

from reporting.reproduced import accuracy, fill, plan_of
from undistill.paper.experiments import EXPERIMENTS
from undistill.paper.plan import Plan
from undistill.paper.published import REPORTED
from undistill.reporting.naming import number, signed
from undistill.reporting.paper import sweeps
from undistill.reporting.paper.entries import HEADS
from undistill.reporting.paper.grids import Grid, grid
from undistill.reporting.paper.sheet import Sheet, Value, latex
from undistill.reporting.paper.source import open_sources

PLAN = plan_of("table1", "table2", "table3", "dafl", scale="paper")
HOSTILE = "</td><script>alert(1)</script> & 50% $x_1$ \\input{/etc/passwd} | =1+1"


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Grid]:
    sources = open_sources([fill(tmp_path_factory.mktemp("paper"), PLAN)])
    return {name: grid(EXPERIMENTS[name], sources, {}) for name in REPORTED}


def _rows(sheet: Sheet) -> dict[tuple[str, ...], tuple[str, ...]]:
    return {row[: sheet.words]: row[sheet.words :] for row in sheet.rows}


@pytest.mark.parametrize("name", REPORTED)
def test_every_reported_number_is_in_its_place(grids: dict[str, Grid], name: str) -> None:
    table = grids[name]
    lines = _rows(table.sheet)
    records = {(r["teacher"], r["arm"], r["student"]): r for r in csv.DictReader(io.StringIO(table.sheet.csv()))}
    markdown, tex = table.sheet.md().splitlines(), table.sheet.tex().splitlines()
    for (teacher, arm, column), value in REPORTED[name].items():
        head = (teacher, "no teacher" if arm == "none" else arm, "article")
        place = table.columns.index(column)
        assert lines[head][place] == f"{value:.2f}"
        assert float(records[teacher, arm, column]["reported"]) == value
        [line] = [line for line in markdown if line.startswith(f"| {' | '.join(head)} |")]
        assert line.split("|")[4 + place].strip() == f"{value:.2f}"
        [line] = [line for line in tex if line.startswith(f"{' & '.join(head)} &")]
        assert line.removesuffix(r" \\").split(" & ")[3 + place] == f"{value:.2f}"


def test_measured_numbers_are_those_of_the_cells(grids: dict[str, Grid]) -> None:
    lines = _rows(grids["table2"].sheet)
    records = {(r["teacher"], r["arm"], r["student"]): r for r in grids["table2"].sheet.records}
    for place, column in enumerate(grids["table2"].columns):
        points = [p for p in PLAN.of("table2") if (p.teacher, p.arm, p.column) == ("ResNet50", "nasty", column)]
        each = [accuracy(point) for point in points]
        mean, sd = statistics.fmean(each), statistics.stdev(each)
        assert lines["ResNet50", "nasty", "paper"][place] == f"{number(mean, 2)} ± {number(sd, 2)} (3)"
        told = points[0].reported or 0.0
        assert lines["ResNet50", "nasty", "paper − article"][place] == signed(mean - told, 2)
        record = records["ResNet50", "nasty", column]
        assert record["difference"] == pytest.approx(mean - told, abs=1e-5)
        assert record["seeds"] == " ".join(f"{seed}:{value:.6g}" for seed, value in enumerate(each))


def test_what_a_nasty_teacher_changes_is_paired(grids: dict[str, Grid]) -> None:
    line = _rows(grids["table1"].sheet)["ResNet18", "nasty − normal", "paper"]
    by_seed = {
        (p.arm, p.seed): accuracy(p) for p in PLAN.of("table1") if p.column == "CNN" and p.arm in ("normal", "nasty")
    }
    each = [by_seed["nasty", seed] - by_seed["normal", seed] for seed in range(3)]
    assert line[1] == f"{signed(statistics.fmean(each), 2)} ± {number(statistics.stdev(each), 2)} (3)"
    assert _rows(grids["table1"].sheet)["ResNet18", "nasty − normal", "article"][1] == "−5.29"


def test_small_scales_show_no_difference_but_the_csv_holds_it(tmp_path: Path) -> None:
    [source] = open_sources([fill(tmp_path, plan_of("table1", scale="small"))])
    table = grid(EXPERIMENTS["table1"], [source], {})
    assert {row.style for block in table.blocks for row in block.rows} == {"measured", "reported"}
    assert all(r["difference"] is not None for r in table.sheet.records if r.get("reported") and "difference" in r)


def test_missing_and_diverged_cells_are_counted(tmp_path: Path) -> None:
    plan = plan_of("table1")
    keys = {(p.arm, p.column, p.seed): p.key for p in plan.points}
    gone = [keys["nasty", "CNN", 0], *(keys["none", "ResNetC-20", seed] for seed in range(3))]
    [source] = open_sources([fill(tmp_path, plan, without=gone, diverged=[keys["nasty", "CNN", 1]])])
    table = grid(EXPERIMENTS["table1"], [source], {})
    lines = _rows(table.sheet)
    assert lines["ResNet18", "nasty", "smoke"][1].endswith("(1) [1 diverged, 1 not measured]")
    assert lines["", "no teacher", "smoke"][2] == "– [not measured]"
    assert lines["ResNet18", "nasty − normal", "smoke"][1].endswith("(1)")
    [record] = [r for r in table.sheet.records if r["arm"] == "nasty" and r["student"] == "CNN"]
    assert (record["missing"], record["lost"], record["n"]) == (1, "1 diverged", 1)


def test_two_plans_stand_line_under_line(tmp_path: Path) -> None:
    plans = plan_of("table1", scale="small"), plan_of("table1", scale="small-paper-card")
    sources = open_sources([fill(tmp_path / plan.title, plan) for plan in plans])
    lines = _rows(grid(EXPERIMENTS["table1"], sources, {}).sheet)
    assert {key[2] for key in lines} == {"small", "small-paper-card", "article"}


def test_plans_of_one_title_are_told_apart(tmp_path: Path) -> None:
    plan = plan_of("table1", seeds=1)
    sources = open_sources([fill(tmp_path / name, plan) for name in ("one", "two")])
    assert [source.title for source in sources] == ["smoke (one)", "smoke (two)"]


def test_rows_of_a_sweep(tmp_path: Path) -> None:
    plan = plan_of("temperature")
    [source] = open_sources([fill(tmp_path, plan)])
    sheet = sweeps.sheet(EXPERIMENTS["temperature"], [source])
    assert sheet.heads[:4] == ("student", "taught by", "from", "τ_S 1")
    each = [accuracy(p) for p in plan.points if (p.arm, p.column, p.x) == ("nasty", "CNN", 8.0)]
    found = _rows(sheet)["CNN", "nasty", "smoke"][sheet.heads.index("τ_S 8") - 3]
    assert found == f"{number(statistics.fmean(each), 2)} ± {number(statistics.stdev(each), 2)} (3)"
    assert _rows(sheet)["CNN", "baseline", "smoke"][:-1] == ("–",) * 7
    assert _rows(sheet)[HEADS["itself"], "nasty", "smoke"][-1].endswith("(3)")


def test_panels_hold_the_cells_numbers(tmp_path: Path) -> None:
    plan = plan_of("omega")
    lost = [p.key for p in plan.points if (p.column, p.x, p.seed) == ("CNN", 0.1, 1)]
    [source] = open_sources([fill(tmp_path, plan, diverged=lost)])
    found = {panel.title: panel for panel in sweeps.panels(EXPERIMENTS["omega"], source)}
    assert list(found) == [HEADS["itself"], "CNN", "ResNetC-20", "ResNetC-32", HEADS["teacher-self"]]
    expected = {
        (p.x, p.seed): accuracy(p) for p in plan.points if (p.arm, p.column) == ("nasty", "CNN") and p.key not in lost
    }
    assert {(v["x"], v["seed"]): v["y"] for v in found["CNN"].seeds} == pytest.approx(expected)
    for mean in found["CNN"].means:
        each = [value for (x, _), value in expected.items() if x == mean["x"]]
        assert mean["y"] == pytest.approx(statistics.fmean(each), abs=1e-4)
        assert mean["high"] - mean["y"] == pytest.approx(statistics.stdev(each), abs=2e-4)
    alone = statistics.fmean(accuracy(p) for p in plan.points if (p.arm, p.column) == ("none", "CNN"))
    assert [flat["y"] for flat in found["CNN"].flat] == pytest.approx([alone], abs=1e-4)
    assert [(v["x"], v["what"]) for v in found["CNN"].lost] == [(0.1, "1 diverged")]


def _hostile() -> Sheet:
    record: dict[str, Value] = {"name": HOSTILE, "sum": "=1+1", "also": "@x", "below": -5.29, "text": "-1+cmd"}
    return Sheet("x", HOSTILE, (HOSTILE, "b"), ((HOSTILE, "1 ± 2"), ("line\nbreak", "τ → ω")), (record,))


def test_text_stays_text_in_every_format() -> None:
    sheet = _hostile()
    assert "<script" not in sheet.html()
    assert "<script" not in sheet.md()
    [record] = csv.DictReader(io.StringIO(sheet.csv()))
    assert record == {"name": HOSTILE, "sum": "'=1+1", "also": "'@x", "below": "-5.29", "text": "'-1+cmd"}
    assert len(sheet.md().splitlines()) == 2 + 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in sheet.md().splitlines()[2:])
    body = sheet.tex().split(r"\toprule")[1]
    assert r"\input" not in body
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert r"1 $\pm$ 2" in body
    assert r"$\tau$ $\to$ $\omega$" in body
    assert all(line.startswith("%") for line in sheet.tex().splitlines()[:2])


def test_latex_escapes_each_letter() -> None:
    assert latex("a_b & 5%") == r"a\_b \& 5\%"
    assert latex("[x]") == "{[}x]"
    assert latex("{\\}~^#$") == r"\{\textbackslash{}\}\textasciitilde{}\textasciicircum{}\#\$"


def test_a_plan_of_one_place_still_makes_a_table(tmp_path: Path) -> None:
    plan: Plan = plan_of("table1", seeds=1, only=["table1/ResNet18/nasty/CNN/*"])
    [source] = open_sources([fill(tmp_path, plan)])
    table = grid(EXPERIMENTS["table1"], [source], {})
    assert table.columns == ("CNN",)
    assert _rows(table.sheet)["ResNet18", "nasty", "article"] == ("82.46",)
