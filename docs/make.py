"""From finished runs to what the README and the docs show.

    python docs/make.py                         # `make docs`: the README's block, and pictures of the page of `make demo`
    python docs/make.py REPRODUCTION NAME       # a folder of `undistill reproduce`

The README's block is made of `results/demo/*.json`, which `results/demo/seeds.py` writes. A reproduction is copied to
`results/NAME/`, and its claims, tables and figures into `docs/reproduction.md` between the marks of that name.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from undistill.experiments.cell import collect
from undistill.paper.plan import FILE
from undistill.paper.plan import read as read_plan
from undistill.reporting.demo import TITLE
from undistill.reporting.document import Document, Statement
from undistill.reporting.render import text
from undistill.reporting.report import write_report

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
TABLES = {"AVX-512": "avx512.json", "AVX2": "avx2.json"}
"""Ten demos each, in `results/demo/`, by instruction set."""


def block() -> str:
    """The README's block: most of what the demo of seed 0 says on a terminal, and how ten seeds came out."""
    found = {name: json.loads((ROOT / "results" / "demo" / file).read_text()) for name, file in TABLES.items()}
    first, facts = found["AVX-512"]["seeds"][0], found["AVX-512"]["computed with"]
    shown = {head: words for head, words in first["says"].items() if head != "Why"}
    said = text(Document(TITLE, tuple(Statement(head, words) for head, words in shown.items())))
    ten = " and ".join(f"{table['excludes 0']} with {name}" for name, table in found.items())
    return (
        f"```\n{said}\n```\n\n"
        f"`undistill demo --seed {first['seed']}`; {facts['data']}; torch {facts['torch']}, {facts['processor']}. "
        f"Of ten values of `--seed`, the interval of the headline excludes 0 in {ten} instructions (effects of {effects(found)} "
        f"points): [`results/demo/`](results/demo).\n"
    )


def effects(found: dict[str, Any]) -> str:
    """`3.9 to 9.0`: the smallest and the largest mean of all seeds."""
    means = [row["taken"]["kd-4"][0] for table in found.values() for row in table["seeds"]]
    return f"{min(means):.1f} to {max(means):.1f}"


PICTURES: dict[str, dict[str, Any]] = {
    "demo-page": {"viewport": {"width": 1280, "height": 900}},
    "demo-page-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "demo-page-phone": {"viewport": {"width": 390, "height": 1700}},
}


def pictures(page: Path) -> None:
    """Photograph the first screen of a page in an installed Chromium: desktop, dark, phone."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, how in PICTURES.items():
            tab = browser.new_page(**how)
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("svg, canvas")
            tab.wait_for_timeout(1000)
            shot = Image.open(io.BytesIO(tab.screenshot()))
            shot.convert("RGB").quantize(64).save(ROOT / "docs" / f"{name}.png", optimize=True)
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


def main(folder: Path | None = None, name: str = "") -> None:
    """The README's block and the pictures; or a reproduction, kept under `results/NAME`."""
    if folder is not None:
        results, page = ROOT / "results" / name, ROOT / "docs" / "reproduction.md"
        keep_reproduction(folder, results)
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        return replace(page, begin, end, f"{begin}\n{excerpt(results)}\n{end}")
    replace(ROOT / "README.md", BEGIN, END, f"{BEGIN}\n{block()}{END}")
    if (page := ROOT / "runs" / "demo" / "report" / "index.html").is_file():
        pictures(page)
    return None


def replace(page: Path, begin: str, end: str, new: str) -> None:
    """Put `new` in place of what is between two marks, and of the marks."""
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: new, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) == 3 else None, *sys.argv[2:])
