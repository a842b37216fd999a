"""A reproduction's page in a real headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reporting.browsing import DESK, PHONE, QUIET, Visit
from reporting.reproduced import fill, plan_of
from undistill.reporting.report import Report, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, QUIET]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    plans = plan_of("table1", "logits", "embedding", "temperature", "adversary", "deep-inversion", scale="small")
    folder = fill(tmp_path_factory.mktemp("small"), plans)
    return write_report([folder], folder / "report")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=str)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_draws_everything_quietly_and_fits(browser: Browser, report: Report, size: dict[str, int], scheme: str) -> None:
    visit = Visit(browser, report.page, size=size, scheme=scheme)
    visit.page.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    visit.drawn()
    assert visit.page.locator("[data-spec]").count() == visit.page.locator("[data-drawn]").count() == 1 + 2 + 6 + 4
    assert visit.overflow() <= 0
    assert visit.said == []
    assert [address for address in visit.asked if not address.startswith(("data:", "blob:"))] == [report.page.as_uri()]
    visit.context.close()


def test_colours_follow_light_and_dark(browser: Browser, report: Report) -> None:
    visit = Visit(browser, report.page, size=DESK, scheme="light")
    marks = "[...document.querySelectorAll('[data-spec^=embedding] .mark-symbol path')].slice(0, 200)"

    def fills() -> set[str]:
        return set(visit.page.evaluate(f"{marks}.map(mark => getComputedStyle(mark).fill)"))

    light = fills()
    visit.page.emulate_media(color_scheme="dark")
    assert len(light) == 10
    assert not light & fills()
    visit.page.emulate_media(color_scheme="dark", media="print")
    assert fills() == light
    visit.context.close()


def test_without_scripts_the_tables_say_it_all(browser: Browser, report: Report) -> None:
    visit = Visit(browser, report.page, size=PHONE, scheme="light", scripts=False)
    text = visit.page.locator("body").inner_text()
    assert "Charts need JavaScript" in text
    for row in report.values["tables"]["table1"]:
        if row.get("n"):
            assert f"{row['mean']:.2f}".replace("-", "−") in text
    visit.context.close()


def test_a_seed_leads_to_its_cell(browser: Browser, report: Report) -> None:
    visit = Visit(browser, report.page, size=DESK, scheme="light")
    link = visit.page.locator("table.grouped .dots a").first
    link.focus()
    address = link.get_attribute("href") or ""
    assert (report.page.parent / Path(address)).is_file()
    assert (link.get_attribute("aria-label") or "").startswith("seed 0: ")
    visit.context.close()
