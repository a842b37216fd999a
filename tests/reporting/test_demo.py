"""The demo's sentences say what its intervals allow, on the page and on a terminal alike."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from reporting.demos import SOFT_EFFECT, write
from undistill.errors import RunError
from undistill.experiments.cell import collect
from undistill.paper.demo_result import NASTY, NORMAL, SOFT, read
from undistill.reporting import demo as page
from undistill.reporting.document import Chart, every_block
from undistill.reporting.report import write_report
from undistill.statistics import UNKNOWN, Difference


def statement(folder: Path, place: int) -> str:
    said = page.statements(read(folder))
    return f"{said[place].head}: {said[place].text}"


def flat(mean: float, half: float = math.inf) -> Difference:
    return Difference(mean, mean - half, mean + half, mean - half, mean + half, 5)


def test_the_headline_is_computed_from_paired_differences(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    assert found.taken[SOFT.name].mean == pytest.approx(6.0)
    assert found.headroom.mean == pytest.approx(6.0)
    assert found.users.mean == pytest.approx(0.4)
    assert found.mean(SOFT, NORMAL) == pytest.approx(92.0)
    text = statement(tmp_path, 0)
    assert "took 6.0 of 6.0 points (95 %: " in text
    assert "users lose 0.4" in text
    assert "12 draws of images, 4 teacher pairs" in text


@pytest.mark.parametrize(
    ("taken", "headroom", "said", "unsaid"),
    [
        (flat(4.0, 2.0), 5.0, "took 4.0 of 5.0 points (95 %: 2.0 to 6.0)", "not separated"),
        (flat(4.0, 2.0), 3.0, "took 4.0 points (95 %: 2.0 to 6.0), or 3.0", " of 3.0"),
        (flat(4.0, 2.0), -1.0, "worth nothing", "−1.0"),
        (flat(1.0, 2.0), 5.0, "not separated from 0", "took"),
        (flat(0.0, 0.0), 5.0, "not separated from 0", "took"),
        (flat(-4.0, 2.0), 5.0, "gave the attacker 4.0 points", "took"),
        (flat(4.0), 5.0, "no interval", "took"),
    ],
)
def test_no_headline_says_more_than_its_interval(taken: Difference, headroom: float, said: str, unsaid: str) -> None:
    text = page.took(taken, headroom)
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("lost", "said"), [(0.31, "lose 0.3"), (-0.31, "gain 0.3"), (0.04, "lose nothing"), (-0.04, "lose nothing")]
)
def test_what_users_lose_has_a_sign(lost: float, said: str) -> None:
    assert said in page.users(lost)


def test_the_head_over_other_attackers_follows_their_numbers(tmp_path: Path) -> None:
    text = statement(write(tmp_path / "a", {**SOFT_EFFECT, "kd-1": (88.0, 84.0)}), 2)
    assert text.startswith("Where it helps less, or not at all: ")
    assert "4.0 points lower (95 %" in text
    assert "not significant" in text
    assert "Weights, last layer" in text
    more = statement(write(tmp_path / "b", {**SOFT_EFFECT, "kd-1": (88.0, 80.0)}), 2)
    assert more.startswith("Against other attackers: ")
    assert "8.0 points lower" in more


def test_a_diverged_student_is_left_out_of_its_pair_and_counted(tmp_path: Path) -> None:
    found = read(write(tmp_path, diverged=True))
    assert found.lost == 1
    assert found.taken[SOFT.name].mean == pytest.approx(6.0)
    assert "11 draws" in page.size(found)
    assert page.provenance(found)["without a result"] == "1 training"


def test_one_pair_is_no_evidence(tmp_path: Path) -> None:
    assert "no interval" in statement(write(tmp_path, teachers=1), 0)


def test_a_demo_that_has_only_begun_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"schema": 2, "seed": 0, "teachers": 2, "draws": 2, "quick": false}')
    with pytest.raises(RunError, match=tmp_path.name):
        write_report([tmp_path], tmp_path / "report")


def test_teachers_without_attackers_draw_a_page_that_says_so(tmp_path: Path) -> None:
    for folder, cell in list(collect([write(tmp_path)])):
        if cell.kind in ("cell", "control"):
            (folder / f"{cell.id}.json").unlink()
    report = write_report([tmp_path], tmp_path / "report")
    assert "Too few" in report.text
    assert not re.search(r"\bnan\b", report.page.with_name("report.md").read_text())


def test_the_terminal_fits_and_says_what_the_page_says(tmp_path: Path) -> None:
    report = write_report([write(tmp_path)], tmp_path / "report")
    lines = report.text.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert len(lines) <= 23  # and the prompt
    assert lines[-1] == f"Page: {report.page}"
    values = json.loads(report.page.with_name("report.json").read_text())
    assert values == report.values
    for statement in page.statements(read(tmp_path)):
        assert statement.head in report.text
        assert f"<h2>{statement.head}</h2>" in report.page.read_text()


def test_the_picture_has_a_line_for_every_draw_of_every_attacker(tmp_path: Path) -> None:
    [chart] = [
        b for b in every_block(page.document(read(write(tmp_path)))) if isinstance(b, Chart) and b.name == "paired"
    ]
    points = chart.spec["layer"][0]["data"]["values"]
    assert len(points) == 2 * 12 * 4
    ends = [p for p in points if p["line"] == "weights 0"]
    assert [p["teacher"] for p in ends] == [NORMAL, NASTY]
    assert chart.numbers is not None
    assert len(chart.numbers) == 5 * 12


def test_nothing_known_is_not_a_number_on_the_page() -> None:
    assert "nan" not in page.took(UNKNOWN, math.nan)
