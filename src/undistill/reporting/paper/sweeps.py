"""Ablations: accuracy over the varied setting, a panel a student, an arm a line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from undistill.paper.experiments import Experiment
from undistill.paper.published import ITSELF
from undistill.reporting.naming import ALONE, NORMAL, number
from undistill.reporting.paper.entries import HEADS, lost_text, missing_text, numbers
from undistill.reporting.paper.sheet import Sheet, Value
from undistill.reporting.paper.source import Measured, Source
from undistill.reporting.theme import DASHES, SHAPES, Spec, colour_variable, colours, finished, styles

SYMBOLS = {"omega": "ω", "temperature": "τ_S", "alpha": "α", "fraction": "share of images", "adversary": "adversary"}
ARMS = {"none": ALONE, "normal": NORMAL, "nasty": "nasty"}
"""What the arms are called in a legend, in its order."""
NAMES = tuple(ARMS.values())
ROOM = 0.1
"""Between labels of the x axis, as a share of it."""
HEIGHT = 190
"""Of a panel, pixels."""
Kind = Literal["quantitative", "nominal"]


@dataclass(frozen=True)
class Panel:
    """A student's lines in one reproduction. Values are plain records for Vega."""

    title: str
    seeds: list[dict[str, Any]]
    means: list[dict[str, Any]]
    flat: list[dict[str, Any]]
    lost: list[dict[str, Any]]


def panels(experiment: Experiment, source: Source) -> list[Panel]:
    """One a student, and one for the teacher itself where it was trained anew at every x."""
    places = source.of(experiment.name)
    found = []
    for column in (ITSELF, *experiment.students):
        own = {place: m for place, m in places.items() if place[3] == column}
        if column == ITSELF and not any(place[4] is not None for place in own):
            continue
        panel = Panel(HEADS.get(column, column), [], [], [], [])
        for (_, _, arm, _, x), measured in own.items():
            _put(panel, ARMS.get(arm, arm), x, measured)
        if panel.seeds or panel.lost:
            found.append(panel)
    return found


def still(experiment: Experiment, source: Source) -> str:
    """A sentence of teachers that were trained once for all x; empty where there are none."""
    digits = source.digits(experiment.name)
    parts = []
    for (_, _, arm, column, x), measured in source.of(experiment.name).items():
        if column == ITSELF and x is None and measured.mean is not None:
            spread = f" ± {number(measured.sd, digits)}" if measured.sd is not None else ""
            parts.append(f"the {arm} one reaches {number(measured.mean, digits)}{spread} %")
    return f"The teachers are the same at every value: {', '.join(parts)}." if parts else ""


def arms_of(found: list[Panel]) -> list[str]:
    """The arms that any of the panels shows, in a legend's order."""
    shown = {value["arm"] for panel in found for value in (*panel.seeds, *panel.flat, *panel.lost)}
    return [name for name in NAMES if name in shown]


def legend_of(present: list[str]) -> list[tuple[str, str, str]]:
    """(name, colour, dashes) of each arm."""
    dashes = styles(present, NAMES, LINES)
    return [
        (name, colour_variable(name, NAMES), "" if dash == [1, 0] else " ".join(map(str, dash)))
        for name, dash in zip(present, dashes, strict=True)
    ]


def drawing(experiment: Experiment, panel: Panel, present: list[str]) -> Any:
    """One panel: seeds as points, their mean as a line in a band of ± one standard deviation; × marks what was lost.

    `present` are the arms of all panels, so that they look the same in each.
    """
    kind: Kind = "nominal" if experiment.vary == "adversary" else "quantitative"
    scale = alt.Scale(domain=_domain(panel), nice=False, zero=False)
    axis = alt.Axis(tickCount=4, domain=False, ticks=False, minExtent=26)
    y, low = (alt.Y(name, title="accuracy, %", scale=scale, axis=axis) for name in ("y:Q", "low:Q"))
    x = _x(experiment, kind)
    colour = alt.Color("arm:N", sort=present, scale=colours(present, NAMES), legend=None)
    told = [alt.Tooltip("arm:N", title="taught by"), alt.Tooltip("x", type=kind, title=SYMBOLS[experiment.vary])]
    layers: list[Any] = []
    if kind == "quantitative":
        layers += _lines(panel, present, x, (y, low), colour, told)
    else:
        mean = alt.Chart(alt.Data(values=panel.means)).mark_tick(thickness=2, size=26, orient="horizontal")
        tips = [*told, alt.Tooltip("y:Q", title="mean", format=".2f"), alt.Tooltip("n:Q", title="seeds")]
        layers.append(mean.encode(x=x, y=y, color=colour, tooltip=tips))
    shape = alt.Shape(
        "arm:N", sort=present, scale=alt.Scale(domain=present, range=styles(present, NAMES, SHAPES)), legend=None
    )
    dots = alt.Chart(alt.Data(values=panel.seeds)).mark_point(size=34, filled=True, opacity=0.6)
    tips = [*told, alt.Tooltip("y:Q", title="accuracy", format=".2f"), alt.Tooltip("seed:N")]
    layers.append(dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips))
    if panel.lost:
        bottom = [{**value, "y": _domain(panel)[0]} for value in panel.lost]
        gone = alt.Chart(alt.Data(values=bottom)).mark_text(text="×", fontSize=15, dy=-6)
        layers.append(gone.encode(x=x, y=y, color=colour, tooltip=[*told, alt.Tooltip("what:N", title="lost")]))
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def spec(experiment: Experiment, panel: Panel, source: Source, present: list[str]) -> Spec:
    """A panel for the page."""
    about = f"{experiment.title}, {source.title}: accuracy of {panel.title}. The same numbers are in the table."
    return finished(drawing(experiment, panel, present), about)


def sheet(experiment: Experiment, sources: list[Source]) -> Sheet:
    """The numbers of all panels: a row a student and arm, a column a value."""
    symbol = SYMBOLS[experiment.vary]
    values = [x for x in experiment.values if any(place[4] == x for s in sources for place in s.of(experiment.name))]
    rows, records = [], []
    for column in (ITSELF, *experiment.students):
        for arm in ARMS:
            for source in sources:
                own = {p[4]: m for p, m in source.of(experiment.name).items() if p[2:4] == (arm, column)}
                if own:
                    digits = source.digits(experiment.name)
                    texts = [_text(own.get(x), digits) for x in (*values, None)]
                    rows.append((HEADS.get(column, column), ARMS[arm], source.title, *texts))
                    records += [_record(experiment, source, arm, column, x, m) for x, m in own.items()]
    heads = ("student", "taught by", "from", *(f"{symbol} {_x_text(x)}" for x in values), f"any {symbol}")
    if all(row[-1] == "–" for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    caption = f"{experiment.title}. Accuracy in percent, mean ± sample standard deviation (number of seeds)."
    return Sheet(experiment.name, caption, heads, tuple(rows), tuple(records), words=3)


def _put(panel: Panel, arm: str, x: float | str | None, measured: Measured) -> None:
    """A place's values into its panel; those that do not depend on x are flat."""
    for seed, value in measured.values.items():
        if x is not None:
            panel.seeds.append({"arm": arm, "x": x, "y": round(value, 4), "seed": seed})
    if measured.mean is not None:
        mean, sd = measured.mean, measured.sd or 0.0
        line = {"y": round(mean, 4), "low": round(mean - sd, 4), "high": round(mean + sd, 4), "n": measured.n}
        (panel.flat if x is None else panel.means).append({"arm": arm, **({} if x is None else {"x": x}), **line})
    if measured.lost and x is not None:
        panel.lost.append({"arm": arm, "x": x, "what": lost_text(measured)})


def _lines(
    panel: Panel, present: list[str], x: alt.X, ys: tuple[alt.Y, alt.Y], colour: alt.Color, told: list[Any]
) -> list[Any]:
    y, low = ys
    dashes = alt.Scale(domain=present, range=styles(present, NAMES, LINES))
    dash = alt.StrokeDash("arm:N", sort=present, scale=dashes, legend=None)
    layers: list[Any] = []
    if panel.flat:
        flat = alt.Chart(alt.Data(values=panel.flat))
        tips = [
            alt.Tooltip("arm:N", title="taught by"),
            alt.Tooltip("y:Q", title="mean", format=".2f"),
            alt.Tooltip("n:Q", title="seeds"),
        ]
        layers.append(flat.mark_rect(opacity=0.12).encode(y=low, y2="high:Q", color=colour))
        layers.append(flat.mark_rule(strokeWidth=1.5).encode(y=y, color=colour, strokeDash=dash, tooltip=tips))
    means = alt.Chart(alt.Data(values=panel.means))
    if any(value["n"] > 1 for value in panel.means):
        layers.append(means.mark_area(opacity=0.15).encode(x=x, y=low, y2="high:Q", color=colour))
    tips = [*told, alt.Tooltip("y:Q", title="mean", format=".2f"), alt.Tooltip("n:Q", title="seeds")]
    if panel.means:
        layers.append(means.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tips))
    return layers


LINES = (DASHES[0], [6, 3], [1, 0], *DASHES[3:])
"""A dotted line for the student alone, a dashed one for the normal teacher's, a solid one for the nasty one's."""


def _x(experiment: Experiment, kind: Kind) -> alt.X:
    title = SYMBOLS[experiment.vary]
    if kind == "nominal":
        axis = alt.Axis(labelAngle=-30, ticks=False, labelLimit=90)
        return alt.X("x:N", sort=[str(x) for x in experiment.values], title=title, axis=axis)
    domain = [float(experiment.values[0]), float(experiment.values[-1])]
    log = {"type": "log", "base": 2} if experiment.log else {"zero": False}
    scale = alt.Scale(domain=domain, nice=False, padding=8, **log)
    shown = "%" if experiment.vary == "fraction" else "~g"
    axis = alt.Axis(grid=False, values=_ticks(experiment), format=shown, labelFlush=False)
    return alt.X(
        "x:Q",
        title=title,
        scale=scale,
        axis=axis,
    )


def _ticks(experiment: Experiment) -> list[float]:
    """The values, without those whose labels would touch."""
    values = [float(x) for x in experiment.values]
    places = [math.log(x) for x in values] if experiment.log else values
    apart = ROOM * (places[-1] - places[0])
    kept = [0]
    for n in range(1, len(values) - 1):
        if places[n] - places[kept[-1]] >= apart and places[-1] - places[n] >= apart:
            kept.append(n)
    return [values[n] for n in (*kept, len(values) - 1)]


def _domain(panel: Panel) -> list[float]:
    """Room around all points and bands, never less than four points of accuracy."""
    values = [v["y"] for v in panel.seeds] + [v[key] for v in (*panel.means, *panel.flat) for key in ("low", "high")]
    if not values:
        return [0.0, 100.0]
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), 2 - (high - low) / 2)
    return [round(max(0.0, low - room), 2), round(min(100.0, high + room), 2)]


def _text(measured: Measured | None, digits: int) -> str:
    if measured is None:
        return "–"
    spread = f" ± {number(measured.sd, digits)}" if measured.sd is not None else ""
    counted = f" ({measured.n})" if measured.n else ""
    gone = ", ".join(text for text in (lost_text(measured), missing_text(measured)) if text)
    return f"{number(measured.mean, digits)}{spread}{counted}" + (f" [{gone}]" if gone else "")


def _x_text(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _record(
    experiment: Experiment, source: Source, arm: str, column: str, x: float | str | None, measured: Measured
) -> dict[str, Value]:
    return {
        "figure": experiment.name,
        "plan": source.title,
        "arm": arm,
        "student": column,
        experiment.vary: x,
        **numbers(measured),
    }
