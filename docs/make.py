"""From finished runs to what the README and the docs show.

    python docs/make.py [DEMO [NAME]]           # `make docs`, after `make demo`
    python docs/make.py REPRODUCTION NAME       # a folder of `undistill reproduce`

Copies cells and report to `results/NAME/`. For the demo called `demo`, writes its table into the README and photographs the top of
its page; for a reproduction, writes its claims, tables and figures into `docs/reproduction.md` between the marks of that name.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from undistill.auditing.cell import Cell, collect
from undistill.reporting.report import write_report
from undistill.reproduction.plan import FILE
from undistill.reproduction.plan import read as read_plan

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


def keep_reproduction(folder: Path, results: Path) -> None:
    """Replace `results` by the plan, the cells of its points, and their report without the page."""
    plan = read_plan(folder)
    wanted = {point.key for point in plan.points}
    shutil.rmtree(results, ignore_errors=True)
    (results / "cells").mkdir(parents=True)
    shutil.copy(folder / FILE, results)
    for place, cell in collect([folder]):
        if cell.key in wanted:
            shutil.copy(place / f"{cell.id}.json", results / "cells")
            if cell.kind == "figure" and cell.arrays is not None:
                shutil.copy(place / cell.arrays, results / "cells")
    write_report([results], results)
    (results / "index.html").unlink()
    for path in (results / "figures").glob("*.pdf"):
        path.unlink()


def excerpt(results: Path) -> str:
    """What the docs show: claims, tables and figures from `report.md`, its links bent to where it lies."""
    text = (results / "report.md").read_text()
    body = text[text.index("## Claims") :]
    body = re.sub(r"\]\((?!https?:)", f"](../results/{results.name}/", body)
    return re.sub(r"^## ", "### ", body, flags=re.MULTILINE)


def main(demo: Path, name: str = "demo") -> None:
    """Keep a demo or a reproduction under `results/`; the demo called `demo` is what the README shows."""
    if (demo / FILE).is_file():
        results, page = ROOT / "results" / name, ROOT / "docs" / "reproduction.md"
        keep_reproduction(demo, results)
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(
            f"{begin}.*{end}", lambda _: f"{begin}\n{excerpt(results)}\n{end}", page.read_text(), flags=re.DOTALL
        )
        page.write_text(text)
        return
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
