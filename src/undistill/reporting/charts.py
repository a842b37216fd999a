"""Cells → Vega-Lite specifications."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import altair as alt

from undistill.auditing.cell import Cell
from undistill.reporting.summary import Section
from undistill.reporting.theme import DASHES, INK, SHAPES, Spec, colours, finished, legend, styles

Series = dict[str, list[Cell]]
Measure = Literal["accuracy_val", "loss"]
NAMES: dict[Measure, str] = {"accuracy_val": "Validation accuracy, %", "loss": "Training loss"}
THIN_TO = 120
"""Points a curve is thinned to."""


def dots(section: Section, names: Sequence[str]) -> Spec:
    """Every seed of every arm as a point, the mean as a tick; one lane a victim, told apart by colour and shape.

    `names` are all victims of the page, so that a victim looks the same in every chart.
    """
    points, means = [], []
    for arm in section.arms:
        for victim in section.victims:
            group = section.group(arm.name, victim)
            if group is None or group.mean is None:
                continue
            place = {"arm": arm.name, "victim": victim}
            means.append({**place, "accuracy": round(group.mean, 4)})
            for cell in group.cells:
                if cell.accuracy is not None:
                    points.append({**place, "accuracy": round(cell.accuracy, 4), "seed": _seed_text(cell)})
    present = [name for name in names if name in {point["victim"] for point in points}]
    lane = alt.Y("arm:N", sort=[arm.name for arm in section.arms], title=None, axis=_labels_inside())
    x = alt.X("accuracy:Q", title="accuracy on test images, %", scale=alt.Scale(zero=False, nice=True, padding=10))
    x = x.axis(tickCount=5, domain=False, ticks=False)
    shared = {"y": lane, "x": x, "yOffset": alt.YOffset("victim:N", sort=present, scale=alt.Scale(paddingOuter=0.9))}
    colour = alt.Color("victim:N", sort=present, scale=colours(present, names), legend=legend())
    shape = alt.Shape(
        "victim:N", sort=present, scale=alt.Scale(domain=present, range=styles(present, names, SHAPES)), legend=legend()
    )
    tips = [
        alt.Tooltip("arm:N", title="student"),
        alt.Tooltip("victim:N", title="victim"),
        alt.Tooltip("accuracy:Q", format=".2f"),
    ]
    seen = alt.Chart(alt.Data(values=points)).mark_point(size=62, filled=True, opacity=0.72)
    seen = seen.encode(**shared, color=colour, shape=shape, tooltip=[*tips, alt.Tooltip("seed:N")])
    tick = alt.Chart(alt.Data(values=means)).mark_tick(thickness=2.5, size=20, color=INK, opacity=0.9)
    tick = tick.encode(**shared, tooltip=[*tips[:2], alt.Tooltip("accuracy:Q", title="mean", format=".2f")])
    lanes = 34 + 20 * len(present)
    drawn = alt.layer(tick, seen).properties(width="container", height=alt.Step(lanes, **{"for": "position"}))
    return finished(
        drawn, f"{section.title}: accuracy of every student by what taught it. The same numbers are in the table."
    )


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
    colour = alt.Color("victim:N", sort=present, scale=colours(present, names), legend=legend())
    dash_scale = alt.Scale(domain=present, range=styles(present, names, DASHES))
    dash = alt.StrokeDash("victim:N", sort=present, scale=dash_scale, legend=legend())
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


def _labels_inside() -> alt.Axis:
    """Row names above their lanes instead of beside them: they cost no width, so a phone shows whole charts."""
    return alt.Axis(
        labelAlign="left",
        labelPadding=-4,
        labelOffset=-18,
        labelColor=INK,
        labelFontSize=12,
        labelLimit=300,
        ticks=False,
        domain=False,
    )


def _curve(cell: Cell, measure: Measure) -> list[tuple[int, float]]:
    pairs = [(line.get("epoch", number), line.get(measure)) for number, line in enumerate(cell.curve, start=1)]
    return [(epoch, float(value)) for epoch, value in pairs if isinstance(value, int | float)]


def _thinned(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    step = max(1, -(-len(pairs) // THIN_TO))
    return [pair for number, pair in enumerate(pairs) if number % step == 0 or number == len(pairs) - 1]


def _seed_text(cell: Cell) -> str:
    return ", ".join(f"{who} {seed}" for who, seed in cell.seeds.items()) or "unknown"
