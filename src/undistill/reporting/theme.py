"""How every chart looks. Colours are CSS variables, so one drawing serves light, dark and paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from undistill.reporting.naming import ALONE

Spec = dict[str, Any]
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 1], [1, 3], [10, 4])
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"
CONFIG: Spec = {
    "font": FONT,
    "background": "transparent",
    "padding": {"left": 2, "right": 8, "top": 4, "bottom": 2},
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "symbolStrokeWidth": 2},
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start"},
    "bar": {"cornerRadiusEnd": 1.5},
}


def colour_variable(name: str, names: Sequence[str]) -> str:
    """The CSS variable that a victim is drawn in; `alone` is always the first."""
    rest = [other for other in names if other != ALONE]
    return "var(--series-0)" if name == ALONE else f"var(--series-{1 + rest.index(name) % (len(SHAPES) - 1)})"


def styles(present: Sequence[str], names: Sequence[str], options: Sequence[Any]) -> list[Any]:
    everyone = [ALONE, *(name for name in names if name != ALONE)]
    return [options[everyone.index(name) % len(options)] for name in present]


def colours(present: Sequence[str], names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(present), range=[colour_variable(name, names) for name in present])


def legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", symbolSize=90, columns=4, labelLimit=220)


def finished(chart: Any, description: str) -> Spec:
    spec: Spec = chart.properties(description=description).to_dict()
    spec.pop("config", None)  # the page brings its own
    return spec
