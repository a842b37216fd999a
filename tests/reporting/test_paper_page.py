"""The page of a reproduction and the files beside it."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reporting.browsing import specs, valid
from reporting.reproduced import CLASSES, cell_of, figure_of, fill, plan_of
from reporting.synthetic import attacker
from reporting.synthetic import write as write_cells
from reporting.test_attack import BANNED, HOSTILE, Visible
from undistill.errors import RunError, UsageError
from undistill.experiments.cell import save
from undistill.paper.plan import Plan, write
from undistill.reporting.export import on_white, palette
from undistill.reporting.paper.figures import inverted, mosaic
from undistill.reporting.paper.page import write_reproduction
from undistill.reporting.report import Report, write_report

APPROVED = Path(__file__).parent / "approved" / "paper.md"
NAMES = ("table1", "logits", "embedding", "omega", "deep-inversion")
PLAN = plan_of(*NAMES, scale="small")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = fill(tmp_path_factory.mktemp("small", numbered=False), PLAN)
    return write_report([folder], folder / "report")


@pytest.fixture(scope="module")
def page(report: Report) -> Visible:
    return Visible(report.page.read_text())


def test_everything_is_written(report: Report) -> None:
    folder = report.page.parent
    tables = {
        f"{name}.{ending}"
        for name in ("table1", "deep-inversion", "omega", "embedding", "claims")
        for ending in ("csv", "md", "tex", "html")
    }
    assert {path.name for path in (folder / "tables").iterdir()} == tables
    drawn = {f"{name}.{ending}" for name in ("omega", "logits", "embedding") for ending in ("svg", "png", "pdf")}
    assert {path.name for path in (folder / "figures").iterdir()} == drawn | {"deep-inversion.png"}
    assert (folder / "figures" / "omega.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((folder / "report.json").read_text()) == report.values
    assert report.text.splitlines()[-1] == f"Page: {report.page}"


def test_figures_have_no_variables_left(report: Report) -> None:
    for path in (report.page.parent / "figures").glob("*.svg"):
        text = path.read_text()
        assert "var(" not in text
        assert palette()["--series-2"] in text or path.stem == "embedding"
    whole = on_white({"mark": {"color": "var(--class-3)"}})
    assert whole["mark"]["color"] == palette()["--class-3"]


def test_the_markdown_is_the_approved_one(report: Report) -> None:
    """Written anew with `UNDISTILL_APPROVE=1`; read its diff."""
    found = (report.page.parent / "report.md").read_text()
    if "UNDISTILL_APPROVE" in os.environ:
        APPROVED.write_text(found)
    assert found == APPROVED.read_text()


def test_promises_nothing_too_much(report: Report, page: Visible) -> None:
    for text in (page.text, report.text, (report.page.parent / "report.md").read_text()):
        titled = re.sub(r"“Undistillable[^”]*”", "", text)
        assert BANNED.search(titled) is None


def test_every_link_resolves(report: Report, page: Visible) -> None:
    found = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(address[1:] in ids for address in found if address.startswith("#"))
    files = [address for address in found if not address.startswith("#")]
    assert all((report.page.parent / address).is_file() for address in files)
    cells = {point.key for point in PLAN.points}
    assert len({address for address in files if address.startswith("../cells/")}) == len(cells)


def test_the_page_fetches_nothing_and_can_be_read_without_seeing_it(page: Visible) -> None:
    fetched = [a.get("src") or a.get("href") for tag, a in page.tags if tag in ("script", "link", "img", "iframe")]
    assert all(address is None or address.startswith("data:") for address in fetched)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row", "rowgroup") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_panels_draw_the_arrays(report: Report) -> None:
    drawn = specs(report.page.read_text())
    _, arrays = figure_of(next(p for p in PLAN.of("embedding") if p.seed == 0))
    values = drawn["embedding-0"]["data"]["values"]
    drawn_N2 = np.array([[value["x"], value["y"]] for value in values])
    assert np.abs(drawn_N2 - arrays["normal features"]).max() < 0.0051
    assert [value["c"] for value in values] == arrays["labels"].tolist()
    assert drawn["answer-logits-0-0"]["description"].startswith(f"Answers to an image of class {CLASSES[0]}")


def test_pictures_stand_in_their_class_and_side() -> None:
    cell, arrays = figure_of(next(p for p in PLAN.points if p.experiment == "deep-inversion" and not p.column))
    strips, hidden = inverted(cell, arrays)
    assert (list(strips), hidden) == (list(CLASSES), 0)
    for who, strip_CHW in zip(("normal", "nasty"), strips[CLASSES[3]], strict=True):
        images = arrays[who][arrays["targets"] == 3]
        assert all((strip_CHW[:, :, 33 * n : 33 * n + 32] == image).all() for n, image in enumerate(images))
    assert Image.open(io.BytesIO(mosaic(strips))).height == 10 * (32 * 3 + 2) + 18


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    folder = fill(tmp_path, plan_of("table1", "omega", seeds=2))
    write_report([folder], folder / "report")
    files = sorted(path for path in (folder / "report").rglob("*.*") if path.suffix != ".pdf")
    before = [path.read_bytes() for path in files]
    write_report([folder], folder / "report")
    assert [path.read_bytes() for path in files] == before


def test_nothing_measured_still_makes_a_page(tmp_path: Path) -> None:
    write(tmp_path, PLAN)
    report = write_report([tmp_path], tmp_path / "report")
    seen = Visible(report.page.read_text()).text
    assert f"0 of {len({p.key for p in PLAN.points}):,} cells" in seen
    assert "not measured" in seen
    assert {claim["verdict"] for claim in report.values["claims"]} == {"not judged"}


def test_two_plans_side_by_side(tmp_path: Path) -> None:
    plan, other = plan_of("omega", "deep-inversion", scale="small"), plan_of("omega", scale="small-paper-card")
    report = write_report([fill(tmp_path / "a", plan), fill(tmp_path / "b", other)], tmp_path / "report")
    page = Visible(report.page.read_text())
    assert [plan["title"] for plan in report.values["plans"]] == ["small", "small-paper-card"]
    assert {"omega-1.svg", "omega-2.svg"} <= {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert "not planned" in page.text  # DeepInversion's claim, in the second
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    plan: Plan = plan_of("table1", "embedding", seeds=1).model_copy(
        update={"title": HOSTILE, "notes": (f"`{HOSTILE}` {{{{ 7 * 7 }}}}",), "command": HOSTILE}
    )
    write(tmp_path, plan)
    for point in plan.points:
        if point.column:
            more = {"data_note": HOSTILE, "env": {"torch": HOSTILE}, "status": "failed", "why": HOSTILE}
            save(tmp_path / "cells", cell_of(point, None, **more))
        else:
            cell, arrays = figure_of(point)
            save(tmp_path / "cells", cell, arrays | {"class_names": np.array([HOSTILE, *CLASSES[1:]])})
    report = write_report([tmp_path], tmp_path / "report")
    text = report.page.read_text()
    page = Visible(text)
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert [tag for tag, _ in page.tags].count("script") == text.count("</script>")
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    markdown = (report.page.parent / "report.md").read_text()
    assert "<img" not in re.sub(r"^```$.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)  # commands are code
    assert "<img" not in (report.page.parent / "tables" / "table1.html").read_text()


@pytest.mark.parametrize("damage", [{"labels": np.array([0])}, {"normal features": np.zeros((900, 3))}])
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    plan = plan_of("embedding", seeds=1)
    folder = fill(tmp_path, plan)
    cell, arrays = figure_of(plan.points[0])
    save(folder / "cells", cell, arrays | damage)
    with pytest.raises(RunError, match=r"is damaged"):
        write_report([folder], folder / "report")


def test_reproductions_and_others_do_not_mix(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", plan_of("table1", seeds=1))
    two = write_cells(tmp_path / "two", [attacker(0)])
    with pytest.raises(UsageError, match=r"one holds a reproduction and .*two does not"):
        write_report([two, one], tmp_path / "report")
    with pytest.raises(UsageError, match=r"two holds no reproduction"):
        write_reproduction([two], tmp_path / "report")
    with pytest.raises(UsageError, match=r"nowhere is no folder"):
        write_reproduction([tmp_path / "nowhere"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_cell_that_two_tasks_share_is_found_by_its_marker(tmp_path: Path) -> None:
    plan = plan_of("table1", seeds=1)
    first, second = plan.points[0], plan.points[1]
    folder = fill(tmp_path, plan, without=[second.key])
    shared = cell_of(first, 77.7)
    (folder / "done").mkdir()
    (folder / "done" / f"{second.key}.json").write_text(json.dumps({"cell": shared.id, "label": "x"}))
    report = write_report([folder], folder / "report")
    assert report.values["plans"][0]["missing"] == 0


def test_every_chart_is_valid(report: Report) -> None:
    assert valid(report.page)
