"""The paper's tables hold every number, measured and reported, where it belongs, in every format."""

from __future__ import annotations

import csv
import io
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from reporting.reproduced import accuracy, fill, plan_of
from undistill.paper.experiments import EXPERIMENTS
from undistill.paper.plan import Plan
from undistill.paper.published import REPORTED
from undistill.reporting import export, render
from undistill.reporting.document import Format, Table, table
from undistill.reporting.naming import ALONE, number, signed
from undistill.reporting.paper import tables
from undistill.reporting.paper.figures import panels
from undistill.reporting.paper.source import HEADS, open_sources

PLAN = plan_of("table1", "table2", "table3", "dafl", scale="paper")
HOSTILE = "</td><script>alert(1)</script> & 50% $x_1$ \\input{/etc/passwd} | =1+1"


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    sources = open_sources([fill(tmp_path_factory.mktemp("paper"), PLAN)])
    return {name: tables.grid(EXPERIMENTS[name], sources, {}) for name in REPORTED}


def _grid(folder: Path, plan: Plan, **lost: Any) -> Table:
    return tables.grid(EXPERIMENTS["table1"], open_sources([fill(folder, plan, **lost)]), {})


def _lines(grid: Table, words: int = 2) -> dict[tuple[str, ...], dict[str, str]]:
    """Texts by head of column, by the leading words of the row."""
    heads, *lines = render.rows(grid)
    return {tuple(line[:words]): dict(zip(heads[words:], line[words:], strict=True)) for line in lines}


@pytest.mark.parametrize("name", REPORTED)
def test_every_reported_number_is_in_its_place(grids: dict[str, Table], name: str) -> None:
    grid = grids[name]
    lines, heads = _lines(grid), render.rows(grid)[0]
    records = {(r["teacher"], r["arm"], r["student"]): r for r in csv.DictReader(io.StringIO(export.csv(grid)))}
    markdown, tex = render.table_markdown(grid), export.tex(grid).splitlines()
    for (teacher, arm, column), value in REPORTED[name].items():
        key = (f"{teacher} {arm}" if teacher else "no teacher", "article")
        head = HEADS.get(column, column)
        assert lines[key][head] == f"{value:.2f}"
        assert float(records[teacher, arm, column]["reported"]) == value
        [line] = [line for line in markdown if line.startswith(f"| {' | '.join(key)} |")]
        assert line.split("|")[1 + heads.index(head)].strip() == f"{value:.2f}"
        [line] = [line for line in tex if line.startswith(f"{' & '.join(key)} &")]
        assert line.removesuffix(r" \\").split(" & ")[heads.index(head)] == f"{value:.2f}"


def test_measured_numbers_are_those_of_the_cells(grids: dict[str, Table]) -> None:
    lines = _lines(grids["table2"])
    records = {(r["teacher"], r["arm"], r["student"]): r for r in grids["table2"].long}
    for column in dict.fromkeys(point.column for point in PLAN.of("table2")):
        points = [p for p in PLAN.of("table2") if (p.teacher, p.arm, p.column) == ("ResNet50", "nasty", column)]
        head, each = HEADS.get(column, column), [accuracy(point) for point in points]
        mean, sd = statistics.fmean(each), statistics.stdev(each)
        assert lines["ResNet50 nasty", "paper"][head] == f"{number(mean, 2)} ± {number(sd, 2)} (3)"
        told = points[0].reported or 0.0
        assert lines["ResNet50 nasty", "paper − article"][head] == signed(mean - told, 2)
        record = records["ResNet50", "nasty", column]
        assert record["difference"] == pytest.approx(mean - told, abs=1e-5)
        assert record["seeds"] == " ".join(f"{seed}:{value:.6g}" for seed, value in enumerate(each))


def test_what_a_nasty_teacher_changes_is_paired(grids: dict[str, Table]) -> None:
    lines = _lines(grids["table1"])
    by_seed = {
        (p.arm, p.seed): accuracy(p) for p in PLAN.of("table1") if p.column == "CNN" and p.arm in ("normal", "nasty")
    }
    each = [by_seed["nasty", seed] - by_seed["normal", seed] for seed in range(3)]
    expected = f"{signed(statistics.fmean(each), 2)} ± {number(statistics.stdev(each), 2)} (3)"
    assert lines["ResNet18 nasty − normal", "paper"]["CNN"] == expected
    assert lines["ResNet18 nasty − normal", "article"]["CNN"] == "−5.29"


def test_small_scales_show_no_difference_but_the_csv_holds_it(tmp_path: Path) -> None:
    grid = _grid(tmp_path, plan_of("table1", scale="small"))
    assert {who for _, who in _lines(grid)} == {"small", "article"}
    assert all(r["difference"] is not None for r in grid.long if r.get("reported") and "difference" in r)


def test_missing_and_diverged_cells_are_counted(tmp_path: Path) -> None:
    plan = plan_of("table1")
    keys = {(p.arm, p.column, p.seed): p.key for p in plan.points}
    gone = [keys["nasty", "CNN", 0], *(keys["none", "ResNetC-20", seed] for seed in range(3))]
    grid = _grid(tmp_path, plan, without=gone, diverged=[keys["nasty", "CNN", 1]])
    lines = _lines(grid)
    assert lines["ResNet18 nasty", "smoke"]["CNN"].endswith("(1) [1 diverged, 1 not measured]")
    assert lines["no teacher", "smoke"]["ResNetC-20"] == "– [not measured]"
    assert lines["ResNet18 nasty − normal", "smoke"]["CNN"].endswith("(1)")
    [record] = [r for r in grid.long if r["arm"] == "nasty" and r["student"] == "CNN"]
    assert (record["missing"], record["lost"], record["n"]) == (1, "1 diverged", 1)


def test_two_plans_stand_line_under_line(tmp_path: Path) -> None:
    plans = plan_of("table1", scale="small"), plan_of("table1", scale="small-paper-card")
    sources = open_sources([fill(tmp_path / plan.title, plan) for plan in plans])
    assert {who for _, who in _lines(tables.grid(EXPERIMENTS["table1"], sources, {}))} == {
        "small",
        "small-paper-card",
        "article",
    }


def test_plans_of_one_title_are_told_apart(tmp_path: Path) -> None:
    plan = plan_of("table1", seeds=1)
    sources = open_sources([fill(tmp_path / name, plan) for name in ("one", "two")])
    assert [source.title for source in sources] == ["smoke (one)", "smoke (two)"]


def test_rows_of_a_sweep(tmp_path: Path) -> None:
    plan = plan_of("temperature")
    lines = _lines(tables.sweep(EXPERIMENTS["temperature"], open_sources([fill(tmp_path, plan)])), 3)
    each = [accuracy(p) for p in plan.points if (p.arm, p.column, p.x) == ("nasty", "CNN", 8.0)]
    expected = f"{number(statistics.fmean(each), 2)} ± {number(statistics.stdev(each), 2)} (3)"
    assert lines["CNN", "nasty", "smoke"]["τ_S 8"] == expected
    assert list(lines["CNN", ALONE, "smoke"].values())[:-1] == ["–"] * 7
    assert lines[HEADS["itself"], "nasty", "smoke"]["any τ_S"].endswith("(3)")


def test_panels_hold_the_cells_numbers(tmp_path: Path) -> None:
    plan = plan_of("omega")
    lost = [p.key for p in plan.points if (p.column, p.x, p.seed) == ("CNN", 0.1, 1)]
    [source] = open_sources([fill(tmp_path, plan, diverged=lost)])
    found = {panel.title: panel for panel in panels(EXPERIMENTS["omega"], source)}
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


def test_a_plan_of_one_place_still_makes_a_table(tmp_path: Path) -> None:
    lines = _lines(_grid(tmp_path, plan_of("table1", seeds=1, only=["table1/ResNet18/nasty/CNN/*"])))
    assert lines["ResNet18 nasty", "article"] == {"CNN": "82.46"}


def test_text_stays_text_in_every_file(tmp_path: Path) -> None:
    rows = [{"a": HOSTILE, "b": "1 ± 2"}, {"a": "line\nbreak", "b": "τ → ω"}]
    long = [{"name": HOSTILE, "sum": "=1+1", "also": "@x", "below": -5.29, "text": "-1+cmd", "n": 3, "none": None}]
    export.write_table(table("x", HOSTILE, rows, {"a": Format(HOSTILE), "b": Format(right=True)}, long=long), tmp_path)
    csv_text, markdown, tex, html = ((tmp_path / f"x.{ending}").read_text() for ending in export.TABLES)
    assert "<script" not in html + markdown
    [record] = csv.DictReader(io.StringIO(csv_text))
    expected = {"name": HOSTILE, "sum": "'=1+1", "also": "'@x", "below": "-5.29", "text": "'-1+cmd"}
    assert record == expected | {"n": "3", "none": ""}
    assert len(markdown.splitlines()) == 2 + 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in markdown.splitlines()[2:])
    body = tex.split(r"\toprule")[1]
    assert r"\input" not in body
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert r"1 $\pm$ 2" in body
    assert r"$\tau$ $\to$ $\omega$" in body
    assert all(line.startswith("%") for line in tex.splitlines()[:2])


def test_latex_escapes_each_letter() -> None:
    assert export.latex("a_b & 5%") == r"a\_b \& 5\%"
    assert export.latex("[x]") == "{[}x]"
    assert export.latex("{\\}~^#$") == r"\{\textbackslash{}\}\textasciitilde{}\textasciicircum{}\#\$"
