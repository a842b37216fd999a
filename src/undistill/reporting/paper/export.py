"""Charts as files for papers and slides: SVG, PNG and PDF, in the page's light colours."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert

from undistill.files import write_bytes
from undistill.reporting.shell import asset
from undistill.reporting.theme import CONFIG, Spec

FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
SCALE = 2.0
FORMATS = ("svg", "png", "pdf")


def write_figure(folder: Path, name: str, spec: Spec) -> list[Path]:
    """`folder/NAME.svg`, `.png` and `.pdf`. The PDF holds the drawing of the SVG."""
    spec = printed(spec)
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    files = {
        "svg": svg.encode(),
        "png": vl_convert.vegalite_to_png(spec, scale=SCALE, allowed_base_urls=[]),
        "pdf": vl_convert.svg_to_pdf(svg),
    }
    paths = []
    for ending, content in files.items():
        paths.append(folder / f"{name}.{ending}")
        write_bytes(paths[-1], content)
    return paths


def side_by_side(specs: list[tuple[str, Spec]], columns: int, size: tuple[int, int]) -> Spec:
    """Panels with a title each as one drawing with one legend."""
    panels = []
    for title, spec in specs:
        own = {key: value for key, value in spec.items() if key not in ("$schema", "config")}
        panels.append({**own, "title": title, "width": size[0], "height": size[1]})
    return {"$schema": specs[0][1]["$schema"], "concat": panels, "columns": columns, "align": "all", "spacing": 24}


def with_legend(spec: Spec, orient: str = "top", channels: tuple[str, ...] = ("color",)) -> Spec:
    """A chart with a legend of these channels, which the page draws itself."""
    legend = {"title": None, "orient": orient, "symbolOpacity": 1}
    new = copy.deepcopy(spec)
    if any("strokeDash" in part["encoding"] for part in new.get("layer", [])):  # lines tell arms apart, not points
        legend |= {"symbolType": "stroke", "symbolSize": 420, "symbolStrokeWidth": 2}
        channels = ("color", "strokeDash")
        for part in new["layer"]:
            part["encoding"].pop("shape", None)
    for part in new.get("layer", [new]):
        for channel in channels:
            if channel in part.get("encoding", {}):
                part["encoding"][channel]["legend"] = legend
    return new


def printed(spec: Spec) -> Spec:
    """With colours instead of the page's variables, on white."""
    whole: dict[str, Any] = {**copy.deepcopy(spec), "config": {**CONFIG, "background": "#ffffff", "font": FONT}}
    text = json.dumps(whole)
    colours = palette()
    return json.loads(re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: colours.get(found[1], found[0]), text))


@cache
def palette() -> dict[str, str]:
    """The page's variables and what they are by day."""
    blocks = [re.match(r":root \{(.*?)\n\}", asset(name), re.DOTALL) for name in ("page.css", "paper/paper.css")]
    return {name: value for block in blocks if block for name, value in re.findall(r"(--[\w-]+): (#\w+);", block[1])}
