"""The report of attacks: what it says follows from the cells, in every format, and nothing in it runs or loads anything."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reporting.browsing import valid
from reporting.synthetic import API, attacker, control, figure, grid, victim, write
from undistill.errors import RunError, UsageError
from undistill.experiments.cell import Cell
from undistill.reporting import attack
from undistill.reporting.paired import difference
from undistill.reporting.report import Report, write_report
from undistill.reporting.summary import Group, summarize

APPROVED = Path(__file__).parent / "approved" / "attack.md"

BANNED = re.compile(r"undistillable|\bsecure|\bsafe\b|\bproves?\b", re.IGNORECASE)
HOSTILE = "</script><img src=x onerror=alert(1)>"


class Visible(HTMLParser):
    """Collects what a reader sees, and the tags that were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write(tmp_path_factory.mktemp("demo"), grid(), figure())
    (folder / "demo.json").write_text('{"schema": 1, "seed": 0, "seeds": 3, "quick": false}')
    return write_report([folder], folder / "report")


def test_the_markdown_is_the_approved_one(demo: Report) -> None:
    """Written anew with `UNDISTILL_APPROVE=1`; read its diff."""
    found = (demo.page.parent / "report.md").read_text()
    if "UNDISTILL_APPROVE" in os.environ:
        APPROVED.parent.mkdir(exist_ok=True)
        APPROVED.write_text(found)
    assert found == APPROVED.read_text()


def test_three_files_hold_the_same_numbers(demo: Report) -> None:
    folder = demo.page.parent
    assert json.loads((folder / "report.json").read_text()) == demo.values
    seen, markdown = Visible((folder / "index.html").read_text()).text, (folder / "report.md").read_text()
    for section in demo.values["sections"]:
        for block in section["body"]:
            for row in block.get("rows", ()) if block["kind"] == "table" else ():
                for value in row.values():
                    if isinstance(value, float):
                        assert f"{value:.1f}" in seen
                        assert f"{value:.1f}" in markdown


def test_no_word_that_promises_too_much(demo: Report) -> None:
    for text in (Visible(demo.page.read_text()).text, demo.text, (demo.page.parent / "report.md").read_text()):
        assert BANNED.search(text) is None


def test_the_page_fetches_nothing(demo: Report) -> None:
    tags = Visible(demo.page.read_text()).tags
    fetched = [
        attrs.get("src") or attrs.get("href") for tag, attrs in tags if tag in ("script", "link", "img", "iframe")
    ]
    assert all(address is None or address.startswith("data:") for address in fetched)
    [policy] = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_the_page_can_be_read_without_seeing_it(demo: Report) -> None:
    page = Visible(demo.page.read_text())
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for _, attrs in page.tags if "data-spec" in attrs)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_links_lead_to_the_cells(demo: Report) -> None:
    found = [attrs["href"] for tag, attrs in Visible(demo.page.read_text()).tags if tag == "a"]
    assert any(str(address).startswith("../cells/") for address in found)
    assert all((demo.page.parent / str(address)).is_file() for address in found)


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path, [victim(0), attacker(0), control(0)], figure())
    files = [
        write_report([folder], folder / "report").page.parent / name
        for name in ("index.html", "report.md", "report.json")
    ]
    before = [file.read_bytes() for file in files]
    write_report([folder], folder / "report")
    assert [file.read_bytes() for file in files] == before


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    cells = [
        victim(0, data_note=HOSTILE),
        attacker(
            0, data_note=HOSTILE, student=HOSTILE, victim=HOSTILE, experiment=HOSTILE, card=HOSTILE, attack=HOSTILE
        ),
        attacker(1, None, status="failed", why=HOSTILE, env={"torch": HOSTILE}),
    ]
    report = write_report([write(tmp_path, cells, figure((HOSTILE, "{{ 7 * 7 }}", "two")))], tmp_path / "report")
    page = Visible(report.page.read_text())
    assert not [attrs for tag, attrs in page.tags if "onerror" in attrs]
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags].count("script") == report.page.read_text().count("</script>")
    assert "<img" not in (report.page.parent / "report.md").read_text()


def test_one_cell_is_enough(tmp_path: Path) -> None:
    report = write_report(
        [write(tmp_path, [attacker(0, 91.2, experiment="attack", reported=87.1)])], tmp_path / "report"
    )
    seen = Visible(report.page.read_text()).text
    assert "91.2" in seen
    assert "reported 87.1" in seen
    assert "nothing can be concluded from 1 seed" in seen.lower() or "nothing can be concluded" in seen
    assert report.values["commands"] == [
        "undistill attack MODEL --attack kd --student cnn --threat-model 'logits/labelled(1.0)/trained/random' --seed 0 "
        "--out FOLDER -s attack.temperature=4 -s attack.alpha=0.9 -s student.width=0.125"
    ]


def test_lost_cells_are_counted(tmp_path: Path) -> None:
    why = "the loss was not finite at step 3"
    cells = [
        attacker(0, 90.0),
        attacker(1, None, status="diverged", why=why),
        attacker(0, None, "normal", status="diverged"),
    ]
    report = write_report([write(tmp_path, cells)], tmp_path / "report")
    assert "90.0 (n = 1, 1 diverged)" in report.text
    assert "– (1 diverged)" in report.text
    assert why in Visible(report.page.read_text()).text


def test_nothing_but_lost_cells_still_makes_a_page(tmp_path: Path) -> None:
    assert write_report(
        [write(tmp_path, [attacker(0, None, status="failed", curve=[])])], tmp_path / "report"
    ).page.is_file()


def test_mixtures_of_experiments(tmp_path: Path) -> None:
    one = write(tmp_path / "one", grid())
    two = write(tmp_path / "two", [attacker(7, 88.8, experiment="attack", data="other", data_note="other data")])
    three = write(tmp_path / "three", [attacker(0, 77.7, experiment="attack", card=API), figure()[0]])
    seen = Visible(write_report([one, two, three], tmp_path / "report").page.read_text()).text
    assert "88.8" in seen
    assert "77.7" in seen


def test_no_folder_no_cells(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere is no folder; name one"):
        write_report([tmp_path / "nowhere"], tmp_path / "report")
    with pytest.raises(UsageError, match=r"no cells below"):
        write_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    write(tmp_path, [attacker(0)])
    (tmp_path / "cells" / "0000.json").write_text('{"schema": 1, "id": "x"}')
    with pytest.raises(RunError, match=r"0000\.json is no cell: victim: Field required"):
        write_report([tmp_path], tmp_path / "report")


def test_a_figure_without_its_arrays_is_named(tmp_path: Path) -> None:
    write(tmp_path, [], figure())
    next((tmp_path / "cells").glob("*.npz")).write_bytes(b"broken")
    with pytest.raises(RunError, match=r"npz is damaged: it does not fit"):
        write_report([tmp_path], tmp_path / "report")


# -- what is said -------------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed() -> None:
    first = Group((attacker(0, 90.0), attacker(1, 92.0), attacker(2, 97.0)))
    second = Group((attacker(2, 96.0, "normal"), attacker(0, 95.0, "normal"), attacker(1, 95.0, "normal")))
    change = difference(first, second)
    assert change is not None
    assert change.each == [-5.0, -3.0, 1.0]
    assert change.mean == pytest.approx(-7 / 3)
    low, high = change.interval or (0.0, 0.0)
    half = 4.302653 * math.sqrt(28 / 3) / math.sqrt(3)  # squares of deviations sum to 56/3, over 2
    assert [low, high] == pytest.approx([-7 / 3 - half, -7 / 3 + half], abs=1e-4)
    assert change.sign == 0


def test_seeds_without_a_partner_are_counted_not_used() -> None:
    change = difference(
        Group((attacker(0, 90.0), attacker(1, None, status="diverged"))), Group((attacker(0, 95.0, "normal"),))
    )
    assert change is not None
    assert (change.each, change.unpaired, change.interval) == ([-5.0], 1, None)


def test_no_pair_no_difference() -> None:
    assert difference(Group((attacker(0),)), Group((attacker(1, victim="normal"),))) is None
    assert difference(None, Group((attacker(0),))) is None


def test_a_contrast_gives_both_means_and_the_paired_interval() -> None:
    text = attack.of_students(summarize(grid()).sections[0])[0]
    for value in ("92.0 %", "97.4 %", "−5.4 points", "−7.4 to −3.4"):
        assert value in text


def test_an_interval_around_zero_and_few_seeds_conclude_nothing() -> None:
    summary = summarize(grid())
    labels = next(text for text in attack.other_contrasts(summary.sections[0]) if text.startswith("Victim's"))
    assert "no measurable difference" in labels
    assert attack.doubts(summary) == []
    few = summarize([cell for cell in grid() if max(cell.seeds.values()) < 2])
    assert "nothing can be concluded from 2 seeds" in attack.of_students(few.sections[0])[0]
    assert attack.doubts(few)


def test_headroom_is_what_soft_outputs_add_to_labels() -> None:
    text = attack.headroom(summarize(grid()).sections[1])
    assert text is not None
    assert "+6.9 points" in text  # 97.33 − 90.40
    assert "6.9 of these points are removed" in text


def test_the_cost_to_users_is_paired_with_the_control() -> None:
    [text] = attack.of_victims(summarize(grid()))
    for value in ("98.8 %", "99.6 %", "−0.8 points"):
        assert value in text
    assert attack.of_victims(summarize([attacker(0)])) == []


def test_missing_baselines_and_repeated_seeds_are_doubts() -> None:
    assert any("no baseline" in doubt for doubt in attack.doubts(summarize([attacker(0, 90.0)])))
    twice = summarize([*grid(), attacker(0, 95.0, accuracy_val=1.0, experiment="demo")])
    assert any("more than once" in doubt for doubt in attack.doubts(twice))


@pytest.mark.parametrize(
    ("cells", "count"), [([attacker(0)], 5), ([attacker(0, card=API), control(0, card=API)], 5), ([victim(0)], 1)]
)
def test_limits_follow_the_cells(cells: list[Cell], count: int) -> None:
    assert len(attack.limits(summarize(cells))) == count


def test_every_chart_is_valid(demo: Report) -> None:
    assert valid(demo.page)
