"""An open page in a headless Chromium, for tests that look at it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
# Playwright's own event loop leaves sockets to the collector
QUIET = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def specs(page: str) -> dict[str, Any]:
    """The charts of a page by name."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def valid(page: Path) -> int:
    """How many charts a page has; an error where one is no Vega-Lite, which reports do not look at themselves."""
    every = [spec for spec in specs(page.read_text(encoding="utf-8")).values() if "mark" in spec or "layer" in spec]
    for spec in every:
        alt.Chart.from_dict(spec)
    return len(every)


class Visit:
    """An open page, and all that it said, broke or asked for."""

    def __init__(
        self, browser: Browser, file: Path, *, size: dict[str, int], scheme: str, scripts: bool = True
    ) -> None:
        self.context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        if scripts:
            self.drawn()

    def drawn(self) -> None:
        """Wait until every chart that can be seen is there."""
        seen = "[...document.querySelectorAll('[data-spec]')].filter(box => box.offsetParent !== null)"
        self.page.wait_for_function(
            f"{seen}.length > 0 && {seen}.every(box => box.querySelector('svg'))", timeout=20_000
        )

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def fills(self) -> set[str]:
        """The computed colours of the dots."""
        marks = "[...document.querySelectorAll('[data-spec^=dots] .mark-symbol path')]"
        return set(self.page.evaluate(f"{marks}.map(mark => getComputedStyle(mark).fill)"))

    def background(self) -> str:
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))
