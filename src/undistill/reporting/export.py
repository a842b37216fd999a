"""A document as a report on disk: page, Markdown, JSON; figures as SVG, PNG, PDF; tables as CSV, Markdown, LaTeX, HTML."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert

from undistill.files import write_bytes, write_text
from undistill.reporting import render
from undistill.reporting.document import Chart, Document, Panels, PictureFile, Table, Value, charts, every_block, tables
from undistill.reporting.shell import asset
from undistill.reporting.theme import CONFIG, Spec

FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
SCALE = 2.0
WIDTH = 460
"""Of a chart in a file, pixels."""
FIGURES, TABLES = ("svg", "png", "pdf"), ("csv", "md", "tex", "html")
"""Endings of the files of panels and of tables."""
SYMBOLS = str.maketrans(
    {
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "→": r"$\to$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "α": r"$\alpha$",
        "τ": r"$\tau$",
        "ω": r"$\omega$",
        "[": "{[}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",  # a row's end would take [ for its option
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


@dataclass(frozen=True)
class Report:
    """What was written: `text` for a terminal, `values` for programs, `page` for people."""

    text: str
    values: dict[str, Any]
    page: Path


def write(
    document: Document,
    out: Path,
    terminal: str = "",
    *,
    values: dict[str, Any] | None = None,
    tex: Sequence[Table] = (),
) -> Report:
    """Write `out/index.html`, `report.md`, `report.json`, `figures/`, `tables/`, and the tables of `tex` as `report.tex`.

    The same document gives the same bytes. `values` are written as `report.json` in place of the document's own; a terminal shows
    `terminal` and where the page is.

    Raises:
        RunError: `out` cannot be written.
    """
    figures = write_figures(document, out / "figures")
    own = [each for each in tables(document) if each.long]
    if len({each.name for each in own}) < len(own):
        raise ValueError("two tables of one name would be one file")
    for each in own:
        write_table(each, out / "tables")
    page = out / "index.html"
    write_text(page, render.html(document))
    shown = {name: f"figures/{path.name}" for name, path in figures.items()}
    write_text(out / "report.md", render.markdown(document, shown))
    values = render.values(document) if values is None else values
    write_text(out / "report.json", json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if tex:
        write_text(out / "report.tex", as_tex(document.title, tex))
    return Report(f"{terminal}\n\nPage: {page}", values, page)


def link(path: Path, out: Path) -> str:
    """The relative address of a file, quoted."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())


# figures


def write_figures(document: Document, folder: Path) -> dict[str, Path]:
    """A file for each chart, three for panels, a PNG for pictures; by name, the one that Markdown shows."""
    files = {chart.name: write_svg(folder / f"{chart.name}.svg", chart) for chart in charts(document)}
    for block in every_block(document):
        if isinstance(block, Panels):
            files[block.name] = write_panels(folder, block)
        elif isinstance(block, PictureFile):
            files[block.name] = folder / f"{block.name}.png"
            write_bytes(files[block.name], block.png)
    return files


def write_svg(path: Path, chart: Chart) -> Path:
    """A chart as a file, in its light colors and with a legend of its own."""
    spec = with_legend(dict(chart.spec)) if chart.legend else dict(chart.spec)
    write_text(path, vl_convert.vegalite_to_svg(on_white({**spec, "width": WIDTH}), allowed_base_urls=[]))
    return path


def write_panels(folder: Path, block: Panels) -> Path:
    """All panels as one drawing with one legend: `folder/NAME.svg`, `.png` and `.pdf`; the PDF holds the drawing of the SVG."""
    width, height = block.size
    panels = [
        {**with_legend(_bare(chart.spec)), "title": chart.title.replace("`", ""), "width": width, "height": height}
        for chart in block.charts
    ]
    schema = block.charts[0].spec["$schema"]
    spec = on_white({"$schema": schema, "concat": panels, "columns": block.columns, "align": "all", "spacing": 24})
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    png = vl_convert.vegalite_to_png(spec, scale=SCALE, allowed_base_urls=[])
    for ending, content in (("svg", svg.encode()), ("pdf", vl_convert.svg_to_pdf(svg)), ("png", png)):
        write_bytes(folder / f"{block.name}.{ending}", content)
    return folder / f"{block.name}.png"


def _bare(spec: Mapping[str, Any]) -> Spec:
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}


def with_legend(spec: Spec) -> Spec:
    """A chart with the legend that the page draws itself. Where lines tell series apart, it shows lines."""
    new = copy.deepcopy(spec)
    layers = new.get("layer", [new])
    legend: Spec = {"title": None, "orient": "top", "symbolOpacity": 1, "columns": 5}
    channels = ("color", "shape")
    if any("strokeDash" in layer["encoding"] for layer in layers):
        legend |= {"symbolType": "stroke", "symbolSize": 420, "symbolStrokeWidth": 2}
        channels = ("color", "strokeDash")
        for layer in layers:
            layer["encoding"].pop("shape", None)
    for layer in layers:
        for channel in channels:
            if channel in layer.get("encoding", {}) and "field" in layer["encoding"][channel]:
                layer["encoding"][channel]["legend"] = legend
    return new


def on_white(spec: Spec) -> Spec:
    """With colors instead of the page's variables."""
    whole: dict[str, Any] = {**copy.deepcopy(spec), "config": {**CONFIG, "background": "#ffffff", "font": FONT}}
    colors = palette()
    return json.loads(re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: colors.get(found[1], found[0]), json.dumps(whole)))


@cache
def palette() -> dict[str, str]:
    """The page's variables and what they are by day."""
    block = re.match(r":root \{(.*?)\n\}", asset("document.css"), re.DOTALL)
    return dict(re.findall(r"(--[\w-]+): (#\w+);", block[1])) if block else {}


# tables


def write_table(table: Table, folder: Path) -> None:
    """`folder/NAME.csv`, `.md`, `.tex` and `.html`."""
    markdown = "\n".join([render.inert(table.caption), "", *render.table_markdown(table), ""])
    for ending, text in (("csv", csv(table)), ("md", markdown), ("tex", tex(table)), ("html", html(table))):
        write_text(folder / f"{table.name}.{ending}", text)


def csv(table: Table) -> str:
    """The finest values that there are. Text that a spreadsheet would compute is led by an apostrophe."""
    import pandas as pd

    records = [{key: _harmless(value) for key, value in r.items()} for r in table.long or table.records]
    return pd.DataFrame(records, dtype=object).to_csv(index=False, lineterminator="\n")


def tex(table: Table) -> str:
    r"""A `tabular`; needs `\usepackage{booktabs}`."""
    shown = render.printed(table)
    heads, *lines = render.rows(table)
    columns = "".join("r" if render.numeric(table, name) else "l" for name in shown)
    body: list[str] = []
    for place, line in enumerate(lines):
        rule = table.grouped and place and line[0] != lines[place - 1][0]
        body += [r"\midrule"] * bool(rule) + [_row(line)]
    return "\n".join(
        [
            f"% {latex(table.caption)}",
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", _row(heads), r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""),
        ]
    )


def as_tex(title: str, grids: Sequence[Table]) -> str:
    r"""Tables one below the other; needs `\usepackage{booktabs}`."""
    parts = [f"% {latex(title)}", ""]
    for grid in grids:
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{latex(grid.caption)}}}", tex(grid).rstrip()]
        parts += [r"\end{table}", ""]
    return "\n".join(parts)


def _row(texts: list[str]) -> str:
    return " & ".join(map(latex, texts)) + r" \\"


def latex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return render.plain(text).translate(SYMBOLS)


def html(table: Table) -> str:
    """The table alone, to be put into another page."""
    import pandas as pd

    heads, *lines = render.rows(table)
    text: str = pd.DataFrame(lines, columns=heads).to_html(index=False, border=0, escape=True)
    return text + "\n"


def _harmless(value: Value) -> Value:
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return value
