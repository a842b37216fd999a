"""From a finished demo to what the README shows: `make docs` (`python docs/make.py [DEMO [NAME]]`, after `make demo`).

Copies the demo's cells and report to `results/NAME/`; for the name `demo`, also writes its table into the README and photographs
the top of its page.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from undistill.auditing.cell import Cell, collect
from undistill.reporting.report import write_report

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def keep(demo: Path, results: Path) -> None:
    """Replace `results` by the demo's cells and its report as Markdown."""
    shutil.rmtree(results, ignore_errors=True)
    shutil.copytree(demo / "cells", results / "cells")
    shutil.copy(demo / "report" / "report.md", results)
    shutil.copy(demo / "demo.json", results)


def table(results: Path) -> str:
    """The README's block: the terminal table and what it was computed with."""
    cells = [cell for _, cell in collect([results])]
    text = write_report([results], results / "page").text.partition("\nPage:")[0].strip()
    shutil.rmtree(results / "page")
    return f"```\n{text}\n```\n\n{provenance(cells)}\n"


def provenance(cells: list[Cell]) -> str:
    """One line: command, seeds, data, commit, machine."""
    seeds = sorted({cell.seeds["victim"] for cell in cells if cell.kind == "victim"})
    env = cells[0].env
    training = sum(cell.seconds for cell in cells)
    return (
        f"`undistill demo --seed {seeds[0]} --seeds {len(seeds)}`; {cells[0].data_note}, fingerprint `{cells[0].data}`; commit "
        f"`{env['commit']}`, torch {env['torch']}, {env['processor']}, {env['cores']} cores, {training:.0f} s of training in "
        f"processes of one thread. Cells: [`results/demo/`](results/demo)."
    )


def picture(page: Path, out: Path) -> None:
    """Photograph the top of a page in an installed Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1200, "height": 1900})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("svg, canvas")
        tab.wait_for_timeout(1000)
        tab.screenshot(path=str(out))
        browser.close()


def main(demo: Path, name: str = "demo") -> None:
    """Keep a demo under `results/`; the one called `demo` is what the README shows."""
    results = ROOT / "results" / name
    keep(demo, results)
    if name != "demo":
        return
    readme = ROOT / "README.md"
    block = f"{BEGIN}\n{table(results)}{END}"
    readme.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, readme.read_text(), flags=re.DOTALL))
    picture(demo / "report" / "index.html", ROOT / "docs" / "demo-page.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo", *sys.argv[2:3])
