"""The demo's page in a real headless Chromium: its first screen is drawn, quiet, and fits a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reporting.browsing import DESK, PHONE, QUIET, Visit
from reporting.demos import write
from undistill.reporting.report import Report, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, QUIET]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write(tmp_path_factory.mktemp("demo"))
    return write_report([folder], folder / "report")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_is_drawn_and_fits(
    browser: Browser, report: Report, size: dict[str, int], scheme: str
) -> None:
    visit = Visit(browser, report.page, size=size, scheme=scheme)
    assert visit.page.locator("header [data-spec] svg").count() == 2  # the pairs, and the bars of one image
    assert visit.overflow() <= 0
    assert visit.said == []
    assert [address for address in visit.asked if not address.startswith(("data:", "blob:"))] == [report.page.as_uri()]
    first = visit.page.locator(".statement").first.bounding_box()
    assert first is not None
    assert first["y"] + first["height"] < size["height"]  # the headline is read without scrolling
    visit.context.close()
