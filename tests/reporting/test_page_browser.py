"""The page in a real headless Chromium: it draws everything, asks for nothing, fits a phone, and follows light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reporting.browsing import DESK, PHONE, QUIET, Visit
from reporting.synthetic import attacker, figure, grid, write
from undistill.reporting.report import Report, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, QUIET]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write(tmp_path_factory.mktemp("page"), grid(), figure())
    return write_report([folder], folder / "report")


@pytest.fixture
def visit(browser: Browser, report: Report, request: pytest.FixtureRequest) -> Iterator[Visit]:
    size, scheme = getattr(request, "param", (DESK, "light"))
    visit = Visit(browser, report.page, size=size, scheme=scheme)
    yield visit
    visit.context.close()


@pytest.fixture(scope="module")
def desk(browser: Browser, report: Report) -> Iterator[Visit]:
    """For tests that only look."""
    visit = Visit(browser, report.page, size=DESK, scheme="light")
    yield visit
    visit.context.close()


EVERY = pytest.mark.parametrize(
    "visit", [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")], indirect=True, ids=str
)


@EVERY
def test_draws_everything_quietly_and_fits(visit: Visit, report: Report) -> None:
    charts = visit.page.locator("[data-spec] svg")
    boxes = [box for number in range(charts.count()) if (box := charts.nth(number).bounding_box())]
    assert len(boxes) >= 2 + 4  # dots of two threat models, 2 images × 2 τ; training curves are folded
    assert all(box["width"] > 100 and box["height"] > 50 for box in boxes)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= visit.page.viewport_size["width"] for box in boxes)  # type: ignore[index]
    assert visit.overflow() <= 0
    assert visit.said == []
    outside = [address for address in visit.asked if not address.startswith(("data:", "blob:"))]
    assert outside == [report.page.as_uri()]


def test_tables_hold_the_numbers(desk: Visit, report: Report) -> None:
    for section in report.values["sections"]:
        if section["id"].startswith("section-"):
            shown = desk.page.locator(f"section[aria-labelledby={section['id']}] table").first.inner_text()
            (found,) = [block for block in section["body"] if block["kind"] == "table"]
            numbers = [value for row in found["rows"] for value in row.values() if isinstance(value, float)]
            assert len(numbers) >= 5
            assert all(f"{value:.1f}" in shown for value in numbers)


def test_every_seed_is_drawn(desk: Visit) -> None:
    dots = desk.page.locator("[data-spec=dots-0] .mark-symbol.role-mark path")
    assert dots.count() == 3 * (1 + 2 * 3)  # seeds × (alone, and three arms of two victims)


def test_dark_changes_page_and_charts_at_once(visit: Visit) -> None:
    light = visit.background(), visit.fills()
    visit.page.emulate_media(color_scheme="dark")
    dark = visit.background(), visit.fills()
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] != light[0]
    assert len(light[1]) >= 3
    assert len(dark[1]) >= 3
    assert not light[1] & dark[1]
    visit.page.emulate_media(color_scheme="dark", media="print")
    assert (visit.background(), visit.fills()) == light


def test_charts_follow_the_window(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 740})
    visit.page.wait_for_function(
        "[...document.querySelectorAll('[data-spec] svg')].every(svg => svg.getBoundingClientRect().width <= 330)"
    )
    assert visit.overflow() <= 0


@pytest.mark.parametrize("visit", [(PHONE, "light")], indirect=True)
def test_everything_opened_still_fits_and_draws(visit: Visit) -> None:
    visit.page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    visit.drawn()
    assert visit.page.locator("[data-spec]").count() == visit.page.locator("[data-drawn]").count()
    assert visit.overflow() <= 0
    assert visit.said == []


def test_keyboard_reaches_and_opens_the_details(visit: Visit) -> None:
    visit.page.locator("summary").first.focus()
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("details[open]").count() == 1


def test_charts_are_described(desk: Visit) -> None:
    charts = desk.page.locator("[data-spec][data-drawn]")
    for number in range(charts.count()):
        assert "same numbers are in the table" in (charts.nth(number).get_attribute("aria-label") or "")


def test_without_scripts_the_tables_say_it_all(browser: Browser, report: Report) -> None:
    visit = Visit(browser, report.page, size=PHONE, scheme="light", scripts=False)
    text = visit.page.locator("body").inner_text()
    assert "Charts need JavaScript" in text
    assert visit.page.locator("[data-spec]").first.is_hidden()
    for accuracy in (
        "97.2",
        "92.0",
        "90.8",
    ):  # means of the baseline, of a nasty teacher's student, of another baseline
        assert accuracy in text
    visit.context.close()


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=console.error(1)>"
    cells = [
        *grid(),
        attacker(0, 80.0, student=hostile, victim=hostile, attack=hostile, data_note=hostile, card=hostile),
    ]
    folder = write(tmp_path, cells, figure((hostile, "<b>one</b>", "two")))
    page = write_report([folder], folder / "report").page
    visit = Visit(browser, page, size=DESK, scheme="light")
    visit.page.locator("[data-spec^=dots] .mark-symbol.role-mark path").first.hover(force=True)
    visit.page.wait_for_selector("#vg-tooltip-element.visible")
    assert hostile in visit.page.locator("#vg-tooltip-element").inner_text()
    assert visit.said == []
    assert visit.page.locator("img[src=x]").count() == 0
    assert re.search(r"onerror=console", visit.page.locator("body").inner_text())
    visit.context.close()
