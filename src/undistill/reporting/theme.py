"""How every chart looks. Colours are CSS variables, so one drawing serves light, dark and paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from undistill.reporting.naming import ALONE, NORMAL

Spec = dict[str, Any]
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([2, 2], [1, 0], [8, 3], [8, 2, 2, 2], [4, 1], [1, 3], [10, 4])
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
    """The CSS variable that a victim is drawn in, the same all over the page."""
    return f"var(--series-{_place(name, names) % len(SHAPES)})"


def styles(present: Sequence[str], names: Sequence[str], options: Sequence[Any]) -> list[Any]:
    """One option (a shape, a dash) a name, by its place among all `names` of the page."""
    return [options[_place(name, names) % len(options)] for name in present]


def _place(name: str, names: Sequence[str]) -> int:
    """`alone` and `normal` have the first places whether they are there or not, so a hardened victim never looks normal."""
    return [ALONE, NORMAL, *(other for other in names if other not in (ALONE, NORMAL))].index(name)


def colours(present: Sequence[str], names: Sequence[str]) -> alt.Scale:
    """The colours of the names that are present."""
    return alt.Scale(domain=list(present), range=[colour_variable(name, names) for name in present])


def legend(size: int = 90) -> alt.Legend:
    """Above the chart, in a row; `size` is that of its symbols."""
    return alt.Legend(
        title=None, orient="top", direction="horizontal", symbolSize=size, symbolOpacity=1, columns=4, labelLimit=220
    )


def finished(chart: Any, description: str) -> Spec:
    """As JSON values, with a description for those who cannot see it."""
    spec: Spec = chart.properties(description=description).to_dict(
        validate=False
    )  # tests do, and it takes longer than drawing
    spec.pop("config", None)  # the page brings its own
    return spec
