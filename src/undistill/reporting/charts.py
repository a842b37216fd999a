"""Cells → Vega-Lite specifications."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import altair as alt

from undistill.experiments.cell import Cell
from undistill.reporting.summary import Section
from undistill.reporting.theme import DASHES, INK, LINE, SHAPES, Spec, colours, finished, legend, styles

Series = dict[str, list[Cell]]
Measure = Literal["accuracy_val", "loss"]
NAMES: dict[Measure, str] = {"accuracy_val": "Validation accuracy, %", "loss": "Training loss"}
HEAD, LANE, GAP = 22, 18, 8
"""Heights in a dot plot, pixels."""
THIN_TO = 120
"""Points a curve is thinned to."""


def dots(section: Section, names: Sequence[str]) -> Spec:
    """Every seed of every arm as a point, the mean as a tick; one lane a victim, told apart by colour and shape.

    `names` are all victims of the page, so that a victim looks the same in every chart.
    """
    points, means, heads, height = _lanes(section)
    present = [name for name in names if name in {point["victim"] for point in points}]
    y = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=None)
    x = alt.X("accuracy:Q", title="accuracy on test images, %", scale=alt.Scale(domain=_domain(points), nice=False))
    x = x.axis(tickCount=5, domain=False, ticks=False)
    colour = alt.Color("victim:N", sort=present, scale=colours(present, names), legend=legend())
    shape_scale = alt.Scale(domain=present, range=styles(present, names, SHAPES))
    shape = alt.Shape("victim:N", sort=present, scale=shape_scale, legend=legend())
    tips = [alt.Tooltip("arm:N", title="student"), alt.Tooltip("victim:N")]
    seen = alt.Chart(alt.Data(values=points)).mark_point(size=64, filled=True, opacity=0.75)
    tip = [*tips, alt.Tooltip("accuracy:Q", format=".2f"), alt.Tooltip("seed:N")]
    seen = seen.encode(x=x, y=y, color=colour, shape=shape, tooltip=tip, description="told:N")
    mean = alt.Chart(alt.Data(values=means)).mark_tick(thickness=2, size=18, color=INK, orient="vertical")
    mean = mean.encode(
        x=x, y=y, tooltip=[*tips, alt.Tooltip("accuracy:Q", title="mean", format=".2f")], description="told:N"
    )
    text = alt.Chart(alt.Data(values=heads)).mark_text(
        aria=False, align="left", baseline="middle", color=INK, fontSize=12, dx=2
    )
    text = text.encode(x=alt.value(0), y=y, text="arm:N")
    rule = (
        alt.Chart(alt.Data(values=[{"y": head["top"]} for head in heads[1:]]))
        .mark_rule(aria=False, color=LINE)
        .encode(y=y)
    )
    drawn = alt.layer(rule, text, seen, *([mean] if means else [])).properties(width="container", height=height)
    about = f"{section.title}: accuracy of every student by what taught it. The same numbers are in the table."
    return finished(drawn, about)


def _domain(points: list[Spec]) -> list[float]:
    """Room around all points, never less than four points of accuracy, never beyond 0 to 100."""
    values = [point["accuracy"] for point in points]
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 2 - (high - low) / 2, 0.5)
    return [max(0.0, math.floor(low - room)), min(100.0, math.ceil(high + room))]


def _lanes(section: Section) -> tuple[list[Spec], list[Spec], list[Spec], int]:
    """(points, means, row heads, height): a row an arm, its head above a lane for each of its victims; y in pixels from the top."""
    points, means, heads, y = [], [], [], 0
    for arm in section.arms:
        groups = [(victim, group) for victim in section.victims if (group := section.group(arm.name, victim))]
        heads.append({"arm": arm.name, "top": y, "y": y + HEAD / 2 + 2})
        y += HEAD
        for victim, group in (pair for pair in groups if pair[1].n):
            place = {"arm": arm.name, "victim": victim, "y": y + LANE / 2}
            said = f"{arm.name}, {victim}"
            for cell in group.cells:
                if cell.accuracy is not None:
                    told = f"{said}: {cell.accuracy:.2f} %, seed {_seed_text(cell)}"
                    points.append(
                        {**place, "accuracy": round(cell.accuracy, 4), "seed": _seed_text(cell), "told": told}
                    )
            if group.mean is not None and group.n > 1:  # a mean of one would only cover its point
                means.append({**place, "accuracy": round(group.mean, 4), "told": f"{said}: mean {group.mean:.2f} %"})
            y += LANE
        y += GAP
    return points, means, heads, y


def series(cells: Iterable[Cell], name_of: dict[str, str]) -> Series:
    """Cells with a curve, by their victim's name, which `name_of` gives for an id."""
    found: Series = defaultdict(list)
    for cell in cells:
        if cell.curve:
            found[name_of[cell.id]].append(cell)
    return dict(found)


def measured(lines: Series, measure: Measure) -> bool:
    """Whether any epoch holds this number."""
    return any(_curve(cell, measure) for cells in lines.values() for cell in cells)


def mean_curve(cells: list[Cell], measure: Measure) -> list[tuple[int, float]]:
    """(epoch, mean over the seeds that reached it), where the number was taken."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for cell in cells:
        for epoch, value in _curve(cell, measure):
            by_epoch[epoch].append(value)
    return [(epoch, statistics.fmean(values)) for epoch, values in sorted(by_epoch.items())]


def curves(lines: Series, names: Sequence[str], measure: Measure, title: str) -> Spec:
    """One measure over epochs: a thin line a seed, a thick one for the mean, told apart by colour and dash."""
    title_y = NAMES[measure].lower()
    seeds, means = [], []
    for victim, cells in lines.items():
        means += [{"victim": victim, "epoch": e, "value": round(v, 4)} for e, v in _thinned(mean_curve(cells, measure))]
        for number, cell in enumerate(cells if len(cells) > 1 else []):
            own = _thinned(_curve(cell, measure))
            seeds += [
                {"victim": victim, "line": f"{victim} {number}", "epoch": e, "value": round(v, 4)} for e, v in own
            ]
    present = [name for name in names if name in lines]
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickCount=5, tickMinStep=1, format="d"))
    y = alt.Y(
        "value:Q", title=title_y, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, domain=False, ticks=False)
    )
    colour = alt.Color("victim:N", sort=present, scale=colours(present, names), legend=legend(420))
    dash_scale = alt.Scale(domain=present, range=styles(present, names, DASHES))
    dash = alt.StrokeDash("victim:N", sort=present, scale=dash_scale, legend=legend(420))
    thin = (
        alt.Chart(alt.Data(values=seeds))
        .mark_line(strokeWidth=1, opacity=0.3)
        .encode(x=x, y=y, color=colour, detail="line:N")
    )
    tips = [alt.Tooltip("victim:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("value:Q", title=title_y, format=".3f")]
    thick = (
        alt.Chart(alt.Data(values=means))
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tips)
    )
    drawn = alt.layer(thin, thick) if seeds else alt.layer(thick)
    return finished(
        drawn.properties(width="container", height=180),
        f"{title}: {title_y} by epoch. The same numbers are in the table.",
    )


def _curve(cell: Cell, measure: Measure) -> list[tuple[int, float]]:
    pairs = [(line.get("epoch", number), line.get(measure)) for number, line in enumerate(cell.curve, start=1)]
    return [(epoch, float(value)) for epoch, value in pairs if isinstance(value, int | float)]


def _thinned(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    step = max(1, -(-len(pairs) // THIN_TO))
    return [pair for number, pair in enumerate(pairs) if number % step == 0 or number == len(pairs) - 1]


def _seed_text(cell: Cell) -> str:
    return ", ".join(f"{who} {seed}" for who, seed in cell.seeds.items()) or "unknown"
