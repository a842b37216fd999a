"""The three files, from folders of cells."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reporting.synthetic import API, PAPER, control, figure, grid, thief, victim, write
from undistill.errors import RunError, UsageError
from undistill.reporting.report import Report, write_report

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


def test_never_imports_torch() -> None:
    code = "import sys, undistill.reporting.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_three_files_say_the_same(demo: Report) -> None:
    folder = demo.page.parent
    values = json.loads((folder / "report.json").read_text())
    assert values == demo.values
    seen, markdown = Visible(demo.page.read_text()).text, (folder / "report.md").read_text()
    for row in values["sections"][0]["rows"]:
        assert f"{row['mean']:.1f}" in seen
        assert f"{row['mean']:.1f} ± {row['sd']:.1f} (3)" in markdown
        assert f"{row['mean']:.1f} ± {row['sd']:.1f} (3)" in demo.text
    for sentence in values["shows"] + values["does_not_show"]:
        assert sentence in seen
        assert sentence.replace("&", "&amp;") in markdown


def test_values_hold_every_seed(demo: Report) -> None:
    rows = demo.values["sections"][0]["rows"]
    nasty = next(row for row in rows if row["arm"] == "KD, τ 4, α 0.9" and row["victim"] == "nasty")
    assert [value["accuracy"] for value in nasty["values"]] == [92.0, 93.0, 91.0]
    assert [value["seeds"]["student"] for value in nasty["values"]] == [0, 1, 2]
    assert demo.values["commands"] == []  # the demo of three seeds is none of this version's commands


def test_the_terminal_ends_with_the_page(demo: Report) -> None:
    assert demo.text.splitlines()[-1] == f"Page: {demo.page}"
    assert not any(line.endswith(" ") for line in demo.text.splitlines())


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
    folder = write(tmp_path, [victim(0), thief(0), control(0)], figure())
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
        thief(0, data_note=HOSTILE, student=HOSTILE, victim=HOSTILE, experiment=HOSTILE, card=HOSTILE, attack=HOSTILE),
        thief(1, None, status="failed", why=HOSTILE, env={"torch": HOSTILE}),
    ]
    report = write_report([write(tmp_path, cells, figure((HOSTILE, "{{ 7 * 7 }}", "two")))], tmp_path / "report")
    page = Visible(report.page.read_text())
    assert not [attrs for tag, attrs in page.tags if "onerror" in attrs]
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags].count("script") == report.page.read_text().count("</script>")
    assert "<img" not in (report.page.parent / "report.md").read_text()


def test_one_cell_is_enough(tmp_path: Path) -> None:
    report = write_report([write(tmp_path, [thief(0, 91.2, experiment="attack")])], tmp_path / "report")
    seen = Visible(report.page.read_text()).text
    assert "91.2" in seen
    assert "nothing can be concluded" in seen
    assert "undistill attack MODEL --attack kd" in seen
    assert "91.2 (1)" in report.text


def test_lost_cells_are_seen(tmp_path: Path) -> None:
    why = "the loss was not finite at step 3"
    cells = [thief(0, 90.0), thief(1, None, status="diverged", why=why), thief(0, None, "normal", status="diverged")]
    report = write_report([write(tmp_path, cells)], tmp_path / "report")
    seen = Visible(report.page.read_text()).text
    assert "90.0 (1, 1 diverged)" in report.text
    assert "– (1 diverged)" in report.text
    assert "2 cells gave no accuracy (diverged)" in seen
    assert why in seen
    assert report.values["sections"][0]["rows"][0]["lost"] == {"diverged": 1}


def test_nothing_but_lost_cells_still_makes_a_page(tmp_path: Path) -> None:
    report = write_report([write(tmp_path, [thief(0, None, status="failed", curve=[])])], tmp_path / "report")
    assert "No thief of the nasty teacher gave an accuracy." in report.page.read_text()


def test_mixtures_of_experiments(tmp_path: Path) -> None:
    one = write(tmp_path / "one", grid())
    two = write(tmp_path / "two", [thief(7, 88.8, experiment="attack", data="other", data_note="other data")])
    three = write(tmp_path / "three", [thief(0, 77.7, experiment="attack", card=API), figure()[0]])
    report = write_report([one, two, three], tmp_path / "report")
    assert [s["card"] for s in report.values["sections"]] == [API, PAPER, PAPER, API]
    seen = Visible(report.page.read_text()).text
    assert "88.8" in seen
    assert "77.7" in seen


def test_reported_numbers_stand_beside_measured_ones(tmp_path: Path) -> None:
    report = write_report([write(tmp_path, [thief(0, 91.2, reported=87.1)])], tmp_path / "report")
    assert "91.2 (1) [reported 87.1]" in report.text
    assert "reported 87.1" in Visible(report.page.read_text()).text


def test_no_folder_no_cells(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere is no folder; name one"):
        write_report([tmp_path / "nowhere"], tmp_path / "report")
    with pytest.raises(UsageError, match=r"no cells below"):
        write_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    write(tmp_path, [thief(0)])
    (tmp_path / "cells" / "0000.json").write_text('{"schema": 1, "id": "x"}')
    with pytest.raises(RunError, match=r"0000\.json is no cell: victim: Field required"):
        write_report([tmp_path], tmp_path / "report")


def test_a_figure_without_its_arrays_is_named(tmp_path: Path) -> None:
    write(tmp_path, [], figure())
    next((tmp_path / "cells").glob("*.npz")).write_bytes(b"broken")
    with pytest.raises(RunError, match=r"npz is damaged or missing"):
        write_report([tmp_path], tmp_path / "report")
