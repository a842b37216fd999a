"""A picture of a report's page for the README: `make docs`, or `python docs/make.py REPORT/index.html OUT.png`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent


def picture(page: Path, out: Path, *, width: int = 1200, height: int = 1250, scheme: str = "light") -> None:
    """Photograph the top of a page in an installed Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        tab.goto(page.resolve().as_uri())
        tab.wait_for_timeout(1500)
        tab.screenshot(path=str(out))
        browser.close()


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo/report/index.html")
    picture(source, Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "demo-page.png")
