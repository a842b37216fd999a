"""The pages of audits in a headless Chromium: they draw, sort by keyboard, fetch nothing, fit a phone, follow light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reporting import audits
from reporting.browsing import DESK, PHONE, QUIET, Visit
from reporting.test_audit_page import small
from reporting.test_compare import audit
from undistill.reporting.audit.compare import write_comparison
from undistill.reporting.audit.page import write_audit
from undistill.reporting.export import Report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = [pytest.mark.e2e, QUIET]
EVERY = [(size, scheme) for size in (PHONE, DESK) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_audit(small(), tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Report:
    pairs = [("nasty", audit(0.7, 98.6, 3.9)), ("noise", audit(0.1, 95.0, 9.0)), ("rounding", audit(0.2))]
    return write_comparison(pairs, tmp_path_factory.mktemp("comparison"))


@pytest.fixture
def visit(browser: Browser, report: Report, request: pytest.FixtureRequest) -> Iterator[Visit]:
    size, scheme = getattr(request, "param", (DESK, "light"))
    visit = Visit(browser, report.page, size=size, scheme=scheme)
    yield visit
    visit.context.close()


def opened(visit: Visit) -> None:
    """Everything that can be opened is, and drawn."""
    visit.page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    visit.drawn()


def quiet_and_fitting(visit: Visit, page: Path) -> None:
    """All charts inside the window, nothing said, nothing asked for."""
    opened(visit)
    charts = visit.page.locator("[data-spec] svg")
    boxes = [box for number in range(charts.count()) if (box := charts.nth(number).bounding_box())]
    assert len(boxes) == visit.page.locator("[data-spec]").count() == visit.page.locator("[data-drawn]").count()
    assert all(box["width"] > 100 and box["height"] > 50 for box in boxes)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= visit.page.viewport_size["width"] for box in boxes)  # type: ignore[index]
    assert visit.overflow() <= 0
    assert visit.said == []
    assert [address for address in visit.asked if not address.startswith(("data:", "blob:"))] == [page.as_uri()]


@pytest.mark.parametrize("visit", EVERY, indirect=True, ids=str)
def test_an_audit_draws_everything_quietly_and_fits(visit: Visit, report: Report) -> None:
    quiet_and_fitting(visit, report.page)
    assert (
        visit.page.locator("[data-spec]").count() == 1 + 1 + 2 + 1
    )  # queries, runner-up; each card's, labels have no search


@pytest.mark.parametrize(("size", "scheme"), EVERY, ids=str)
def test_a_comparison_draws_everything_quietly_and_fits(
    browser: Browser, comparison: Report, size: dict[str, int], scheme: str
) -> None:
    visit = Visit(browser, comparison.page, size=size, scheme=scheme)
    quiet_and_fitting(visit, comparison.page)
    assert visit.page.locator("[data-spec]").count() == 3
    visit.context.close()


def test_every_attacker_is_drawn(visit: Visit) -> None:
    attackers = len(small().threat_models[0].attacks)
    assert visit.page.locator("[data-spec=dots-0] .mark-symbol.role-mark path").count() == attackers


def test_dark_changes_page_and_charts_at_once(visit: Visit) -> None:
    light = visit.background(), visit.fills()
    visit.page.emulate_media(color_scheme="dark")
    dark = visit.background(), visit.fills()
    assert light[0] != dark[0]
    assert len(light[1]) == len(dark[1]) == 3
    assert not light[1] & dark[1]
    visit.page.emulate_media(color_scheme="dark", media="print")
    assert (visit.background(), visit.fills()) == light


def test_cells_are_sorted_by_keyboard(visit: Visit) -> None:
    opened(visit)
    table = visit.page.locator("table[data-sortable]")
    head = table.locator("thead th", has_text="accuracy")
    head.locator("button").focus()
    visit.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    shown = [value for value in column(table, "accuracy, %") if value != "–"]
    assert len(shown) > 10
    assert shown == sorted(shown, key=float)
    assert column(table, "accuracy, %")[-1] == "–"  # what failed comes last in both orders
    assert "accuracy, %, ascending" in visit.page.locator("#sorted").inner_text()
    visit.page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    down = [float(value) for value in column(table, "accuracy, %") if value != "–"]
    assert down == sorted(down, reverse=True)
    assert column(table, "accuracy, %")[-1] == "–"


def test_cells_are_sorted_by_click_and_keep_all_rows(visit: Visit) -> None:
    opened(visit)
    table = visit.page.locator("table[data-sortable]")
    before = column(table, "cell")
    table.locator("thead th button", has_text="attack").click()
    attacks = column(table, "attack")
    assert attacks == sorted(attacks)
    assert sorted(column(table, "cell")) == sorted(before)
    assert column(table, "cell") != before
    table.locator("thead th button", has_text="queries").click()
    numbers = [int(text.replace(",", "")) for text in column(table, "queries")]
    assert numbers == sorted(numbers)  # 1,000 behind 200
    assert table.locator("th[aria-sort]").count() == 1


def test_long_tables_scroll_by_keyboard(visit: Visit) -> None:
    opened(visit)
    region = visit.page.get_by_role("region", name="planned cells")
    region.focus()
    assert region.evaluate("box => box.scrollWidth > box.clientWidth")
    assert region.evaluate("box => document.activeElement === box")


def test_without_scripts_the_tables_say_it_all(browser: Browser, report: Report) -> None:
    visit = Visit(browser, report.page, size=PHONE, scheme="light", scripts=False)
    text = visit.page.locator("body").inner_text()
    assert "Charts need JavaScript" in text
    assert visit.page.locator("table[data-sortable] button").count() == 0
    assert visit.page.locator("[data-spec]").first.is_hidden()
    for row in report.values["tables"]["exposure"]:
        assert f"{row['mean']:.1f}" in text
    visit.context.close()


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    page = write_audit(audits.hostile(), tmp_path).page
    for size in (PHONE, DESK):
        visit = Visit(browser, page, size=size, scheme="light")
        quiet_and_fitting(visit, page)
        opened(visit)
        visit.page.locator("table[data-sortable] button").first.click()
        visit.page.locator("[data-spec=dots-0] .mark-symbol.role-mark path").first.hover(force=True)
        visit.page.wait_for_selector("#vg-tooltip-element.visible")
        assert audits.HOSTILE in visit.page.locator("#vg-tooltip-element").inner_text()
        assert visit.said == []
        assert visit.page.locator("img[src=x]").count() == 0
        visit.context.close()


def column(table: Locator, head: str) -> list[str]:
    """The texts of a column, as they stand."""
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    place = heads.index(head) + 1
    return [text.strip() for text in table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()]
