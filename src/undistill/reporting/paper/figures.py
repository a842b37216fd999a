"""The paper's figures: ablations, two teachers' outputs, t-SNE of features and logits, and images drawn from weights."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
from PIL import Image, ImageDraw

from undistill.errors import RunError
from undistill.experiments.cell import Array, Cell, read_arrays
from undistill.paper.experiments import Experiment
from undistill.paper.published import ITSELF
from undistill.reporting.document import (
    Block,
    Chart,
    Format,
    Panels,
    Picture,
    PictureFile,
    Table,
    Text,
    Value,
    table,
)
from undistill.reporting.naming import ALONE, NORMAL, listed, number, plural
from undistill.reporting.paper.source import HEADS, Measured, Source, symbol
from undistill.reporting.paper.tables import ARMS, NAMES, PANELS
from undistill.reporting.paper.tables import sweep as numbers_of
from undistill.reporting.response import picture, response
from undistill.reporting.theme import DASHES, SHAPES, colour_variable, colours, finished, styles

HEIGHT = 190
"""Of a panel on the page, pixels."""
ROOM = 0.1
"""Between labels of the x axis, as a share of it."""
LINES = (DASHES[0], [6, 3], [1, 0], *DASHES[3:])
"""A dotted line for the baseline, a dashed one for the normal teacher's student, a solid one for the nasty one's."""
COLORS, POINTS = 10, 2_000
"""Colors of classes, and points that a panel of t-SNE draws at most."""
CLASSES, EACH = 20, 8
"""Classes of DeepInversion shown at most, and images of each."""
ENLARGED, GAP, MARGIN = 3, 24, 18


def figures(experiment: Experiment, source: Source, name: str) -> list[Block]:
    """An experiment's figure in one reproduction; `name` is that of its files and charts."""
    if experiment.kind == "sweep":
        return _sweep(experiment, source, name)
    if experiment.figure is None or not source.of(experiment.name):
        return []
    found = _lowest(experiment, source)
    if found is None:
        return [Text("The figure's data are not measured.", "quiet")]
    draw = {"logit-response": _response, "embedding": _embedding, "inversion": _inversion}[experiment.figure]
    return draw(name, *found, read_arrays(source.folder / "cells", found[1]))


def _lowest(experiment: Experiment, source: Source) -> tuple[int, Cell] | None:
    """The figure's cell of the lowest seed that has one: the choice is not ours."""
    cells = (pair for place, m in source.of(experiment.name).items() if place[3] == "" for pair in m.cells.items())
    return next(((seed, cell) for seed, cell in cells if cell.status == "ok" and cell.arrays is not None), None)


# ablations


@dataclass
class Panel:
    """A student's lines in one reproduction. Values are plain records for Vega; `flat` ones do not depend on x."""

    title: str
    seeds: list[dict[str, Any]] = field(default_factory=list)
    means: list[dict[str, Any]] = field(default_factory=list)
    flat: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)

    def put(self, arm: str, x: float | str | None, measured: Measured) -> None:
        """Add a place's values."""
        at: dict[str, Any] = {"arm": arm} if x is None else {"arm": arm, "x": x}
        if x is not None:
            self.seeds += [{**at, "y": round(value, 4), "seed": seed} for seed, value in measured.values.items()]
            if measured.lost:
                self.lost.append({**at, "what": ", ".join(f"{n} {fate}" for fate, n in measured.lost.items())})
        if measured.mean is not None:
            mean, sd = measured.mean, measured.sd or 0.0
            line = {"y": round(mean, 4), "low": round(mean - sd, 4), "high": round(mean + sd, 4), "n": measured.n}
            (self.flat if x is None else self.means).append({**at, **line})

    @property
    def domain(self) -> list[float]:
        """Room around all points and bands, never less than four points of accuracy."""
        values = [v["y"] for v in self.seeds]
        values += [v[key] for v in (*self.means, *self.flat) for key in ("low", "high")]
        if not values:
            return [0.0, 100.0]
        low, high = min(values), max(values)
        room = max(0.08 * (high - low), 2 - (high - low) / 2)
        return [round(max(0.0, low - room), 2), round(min(100.0, high + room), 2)]


def panels(experiment: Experiment, source: Source) -> list[Panel]:
    """One a student, and one for the teacher itself where it was trained anew at every x."""
    places, found = source.of(experiment.name), []
    for column in (ITSELF, *experiment.students):
        own = {place: m for place, m in places.items() if place[3] == column}
        if column == ITSELF and not any(place[4] is not None for place in own):
            continue
        panel = Panel(HEADS.get(column, column))
        for (_, _, arm, _, x), measured in own.items():
            panel.put(ARMS.get(arm, arm), x, measured)
        if panel.seeds or panel.lost:
            found.append(panel)
    return found


def _sweep(experiment: Experiment, source: Source, name: str) -> list[Block]:
    found = panels(experiment, source)
    if not found:
        return [Text("No accuracy is measured.", "quiet")]
    shown = {value["arm"] for panel in found for value in (*panel.seeds, *panel.flat, *panel.lost)}
    present = [arm for arm in NAMES if arm in shown]
    about = f"{experiment.title}, {source.title}: accuracy of {{}}. The same numbers are in the table."
    charts = tuple(
        Chart(f"{name}-{n}", panel.title, finished(_drawing(experiment, panel, present), about.format(panel.title)))
        for n, panel in enumerate(found)
    )
    dashes = styles(present, NAMES, LINES)
    keys = ["line " + ("" if dash == [1, 0] else " ".join(map(str, dash))) for dash in dashes]
    legend = [(arm, colour_variable(arm, NAMES), key) for arm, key in zip(present, keys, strict=True)]
    return [Panels(name, charts, _still(experiment, source), legend, numbers_of(experiment, [source]))]


def _still(experiment: Experiment, source: Source) -> str:
    """A sentence of teachers that were trained once for all x; empty where there are none."""
    digits, parts = source.digits(experiment.name), []
    for (_, _, arm, column, x), measured in source.of(experiment.name).items():
        if column == ITSELF and x is None and measured.mean is not None:
            spread = f" ± {number(measured.sd, digits)}" if measured.sd is not None else ""
            parts.append(f"the {arm} one reaches {number(measured.mean, digits)}{spread} %")
    return f"The teachers are the same at every value: {', '.join(parts)}." if parts else ""


def _drawing(experiment: Experiment, panel: Panel, present: list[str]) -> Any:
    """Seeds as points, their mean as a line in a band of ± one standard deviation; × marks what was lost."""
    nominal = experiment.vary == "adversary"
    scale = alt.Scale(domain=panel.domain, nice=False, zero=False)
    axis = alt.Axis(tickCount=4, domain=False, ticks=False, minExtent=26)
    x, y = _x(experiment), alt.Y("y:Q", title="accuracy, %", scale=scale, axis=axis)
    color = alt.Color("arm:N", sort=present, scale=colours(present, NAMES), legend=None)
    arm = alt.Tooltip("arm:N", title="taught by")
    told = [arm, alt.Tooltip("x", type="nominal" if nominal else "quantitative", title=symbol(experiment))]
    mean = [alt.Tooltip("y:Q", title="mean", format=".2f"), alt.Tooltip("n:Q", title="seeds")]
    means, flat = alt.Chart(alt.Data(values=panel.means)), alt.Chart(alt.Data(values=panel.flat))
    layers: list[Any] = []
    if nominal:
        tick = means.mark_tick(thickness=2, size=26, orient="horizontal")
        layers.append(tick.encode(x=x, y=y, color=color, tooltip=[*told, *mean]))
    else:
        low = alt.Y("low:Q", title="accuracy, %", scale=scale, axis=axis)
        dashes = alt.Scale(domain=present, range=styles(present, NAMES, LINES))
        look = {"y": y, "color": color, "strokeDash": alt.StrokeDash("arm:N", sort=present, scale=dashes, legend=None)}
        if panel.flat:
            layers.append(flat.mark_rect(opacity=0.12).encode(y=low, y2="high:Q", color=color))
            layers.append(flat.mark_rule(strokeWidth=1.5).encode(**look, tooltip=[arm, *mean]))
        if any(value["n"] > 1 for value in panel.means):
            layers.append(means.mark_area(opacity=0.15).encode(x=x, y=low, y2="high:Q", color=color))
        if panel.means:
            layers.append(means.mark_line(strokeWidth=2).encode(x=x, **look, tooltip=[*told, *mean]))
    shapes = alt.Scale(domain=present, range=styles(present, NAMES, SHAPES))
    shape = alt.Shape("arm:N", sort=present, scale=shapes, legend=None)
    dots = alt.Chart(alt.Data(values=panel.seeds)).mark_point(size=34, filled=True, opacity=0.6)
    tips = [*told, alt.Tooltip("y:Q", title="accuracy", format=".2f"), alt.Tooltip("seed:N")]
    layers.append(dots.encode(x=x, y=y, color=color, shape=shape, tooltip=tips))
    if panel.lost:
        bottom = [{**value, "y": panel.domain[0]} for value in panel.lost]
        gone = alt.Chart(alt.Data(values=bottom)).mark_text(text="×", fontSize=15, dy=-6)
        layers.append(gone.encode(x=x, y=y, color=color, tooltip=[*told, alt.Tooltip("what:N", title="lost")]))
    return alt.layer(*layers).properties(width="container", height=HEIGHT)


def _x(experiment: Experiment) -> alt.X:
    title = symbol(experiment)
    if experiment.vary == "adversary":
        axis = alt.Axis(labelAngle=-30, ticks=False, labelLimit=90)
        return alt.X("x:N", sort=[str(x) for x in experiment.values], title=title, axis=axis)
    domain = [float(experiment.values[0]), float(experiment.values[-1])]
    log = {"type": "log", "base": 2} if experiment.log else {"zero": False}
    shown = "%" if experiment.vary == "fraction" else "~g"
    axis = alt.Axis(grid=False, values=_ticks(experiment), format=shown, labelFlush=False)
    return alt.X("x:Q", title=title, scale=alt.Scale(domain=domain, nice=False, padding=8, **log), axis=axis)


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


# outputs of two teachers


def _response(name: str, seed: int, cell: Cell, arrays: dict[str, Array]) -> list[Block]:
    victim = cell.victim or "nasty"
    figure = response(cell, arrays, victim, [ALONE, NORMAL, victim])
    who = (NORMAL, victim)
    charts = tuple(
        Chart(
            f"answer-{name}-{row}-{n}",
            f"{image.label}, {title}",
            spec,
            picture=Picture(image.picture, f"Test image of class {image.label}", 48),
        )
        for row, image in enumerate(figure.images)
        for n, (title, spec) in enumerate(image.charts)
    )
    heads = ["image of", "class", *(f"{each}, τ {t:g}" for t in figure.temperatures for each in who)]
    rows: list[dict[str, Value]] = [
        dict(zip(heads, (image.label, *row), strict=True)) for image in figure.images for row in image.rows
    ]
    hidden = max((image.hidden for image in figure.images), default=0)
    rest = f" {plural(hidden, 'class', 'classes')} with smaller outputs are left out." if hidden else ""
    columns = {head: Format(right=place > 1) for place, head in enumerate(heads)} if rows else {}
    numbers = table(f"{name}-outputs", f"Outputs in percent.{rest}", rows, columns, grouped=True)
    hot = listed([f"{t:g}" for t in figure.temperatures])
    about = (
        f"softmax(logits / τ) of both teachers of seed {seed} at τ {hot}, for the first "
        "test image of each of the first classes, which are chosen by place, not by output. A student that is trained at high τ "
        "learns from the small outputs that it makes visible."
    )
    sides = zip(("left", "right"), who, strict=True)
    legend = [(f"{side} bar: {each}", colour_variable(each, [ALONE, *who]), "square") for side, each in sides]
    if not charts:
        return [Text(about, "quiet")]
    return [Panels(name, charts, about, legend, numbers, len(figure.temperatures), (300, 130))]


# t-SNE


def _embedding(name: str, seed: int, cell: Cell, arrays: dict[str, Array]) -> list[Block]:
    labels, names = _classes(cell, arrays)
    rows = range(0, len(labels), max(1, -(-len(labels) // POINTS)))
    looks = [(each, f"var(--class-{place % COLORS})", _shape(place)) for place, each in enumerate(names)]
    charts = []
    for n, panel in enumerate(PANELS):
        xy_N2 = arrays[panel].astype(float).round(2)
        values = [{"x": float(xy_N2[row, 0]), "y": float(xy_N2[row, 1]), "c": int(labels[row])} for row in rows]
        who, what = panel.split()
        about = f"t-SNE of the {who} teacher's {what} for {len(rows):,} test images. How well classes lie apart is in the table."
        charts.append(Chart(f"{name}-{n}", panel, finished(_scatter(values, looks), about)))
    about = f"{len(rows):,} test images, teachers of seed {seed}. Axes of a t-SNE have no unit; each panel has its own."
    return [Panels(name, tuple(charts), about, looks, columns=4, size=(230, 230))]


def _classes(cell: Cell, arrays: dict[str, Array]) -> tuple[Array, list[str]]:
    """Labels and names of the classes; RunError where the arrays do not fit each other."""
    missing = [each for each in (*PANELS, "labels", "class_names") if each not in arrays]
    if missing:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays lack {', '.join(missing)}")
    labels, names = arrays["labels"].astype(int), [str(each) for each in arrays["class_names"]]
    for panel in PANELS:
        if arrays[panel].shape != (len(labels), 2) or not np.isfinite(arrays[panel]).all():
            raise RunError(f"the figure cell {cell.id} is damaged: {panel} is not one point an image")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(names)):
        raise RunError(f"the figure cell {cell.id} is damaged: a label has no class name")
    return labels, names


def _scatter(values: list[dict[str, Any]], looks: Sequence[tuple[str, str, str]]) -> alt.Chart:
    """A panel without axes: t-SNE's coordinates mean nothing."""
    classes = [each for each, _, _ in looks]
    names = [{"c": place, "class": each} for place, each in enumerate(classes)]
    color = alt.Scale(domain=classes, range=[look for _, look, _ in looks])
    shape = alt.Scale(domain=classes, range=[form for _, _, form in looks])
    side = alt.Scale(zero=False, nice=False, padding=6)
    return (
        alt.Chart(alt.Data(values=values))
        .transform_lookup(lookup="c", from_=alt.LookupData(data=alt.Data(values=names), key="c", fields=["class"]))
        .mark_point(filled=True, size=14, opacity=0.75, aria=False)
        .encode(
            x=alt.X("x:Q", axis=None, scale=side),
            y=alt.Y("y:Q", axis=None, scale=side),
            color=alt.Color("class:N", sort=classes, scale=color, legend=None),
            shape=alt.Shape("class:N", sort=classes, scale=shape, legend=None),
            tooltip=alt.Tooltip("class:N"),
        )
        .properties(width="container", height=250)
    )


def _shape(place: int) -> str:
    return ("circle", "triangle-up", "square")[(place + place // COLORS) % 3]


# images drawn from weights


def _inversion(name: str, seed: int, cell: Cell, arrays: dict[str, Array]) -> list[Block]:
    strips, hidden = inverted(cell, arrays)
    rest = f" {plural(hidden, 'class', 'classes')} are left out." if hidden else ""
    about = (
        "Images that DeepInversion draws out of both teachers' weights from the same noise, a class a row; teachers of "
        f"seed {seed}.{rest}"
    )
    file = PictureFile(name, "Images that DeepInversion draws from a normal and a nasty teacher", mosaic(strips))
    return [Text(about, "quiet"), strips_table(name, strips), file]


def inverted(cell: Cell, arrays: dict[str, Array]) -> tuple[dict[str, tuple[Array, Array]], int]:
    """By class, the images in a row of the normal and of the nasty teacher, and how many classes are left out.

    Raises:
        RunError: arrays that do not fit each other.
    """
    missing = [each for each in (NORMAL, "nasty", "targets") if each not in arrays]
    if missing:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays lack {', '.join(missing)}")
    targets, both = arrays["targets"].astype(int), (arrays[NORMAL], arrays["nasty"])
    for who, images in zip((NORMAL, "nasty"), both, strict=True):
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(targets) or images.shape[1] not in (1, 3):
            raise RunError(f"the figure cell {cell.id} is damaged: {who} holds no image for each target")
    names = [str(each) for each in arrays.get("class_names", np.array([]))]
    found = sorted(set(targets.tolist()))
    strips = {}
    for target in found[:CLASSES]:
        normal, nasty = (_joined(images[targets == target][:EACH]) for images in both)
        strips[names[target] if 0 <= target < len(names) else str(target)] = normal, nasty
    return strips, max(0, len(found) - CLASSES)


def strips_table(name: str, strips: Mapping[str, tuple[Array, Array]]) -> Table:
    """The images for the page."""
    whose = ("normal teacher", "nasty teacher")
    rows: list[dict[str, Value]] = []
    for label, pair in strips.items():
        row: dict[str, Value] = {"class": label}
        for who, strip_CHW in zip(whose, pair, strict=True):
            about = f"images of class {label} drawn from the {who}"
            row |= {who: picture(strip_CHW.repeat(2, 1).repeat(2, 2)), f"about the {who}": about}
        rows.append(row)
    columns = {"class": Format()} | {who: Format(picture=True, note=f"about the {who}") for who in whose if rows}
    return table(f"{name}-images", "", rows, columns)


def mosaic(strips: Mapping[str, tuple[Array, Array]]) -> bytes:
    """All images as one PNG: normal left, nasty right, a class a row."""
    scaled = [(label, _enlarged(left), _enlarged(right)) for label, (left, right) in strips.items()]
    width = max((left.width for _, left, _ in scaled), default=1)
    names = max((len(label) for label, _, _ in scaled), default=0) * 7 + 14
    canvas = Image.new("RGB", (names + 2 * width + GAP, sum(a.height + 2 for _, a, _ in scaled) + MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    for place, who in enumerate((NORMAL, "nasty")):
        pen.text((names + place * (width + GAP), 3), who, fill="black")
    y = MARGIN
    for label, left, right in scaled:
        pen.text((6, y + left.height // 2 - 6), label, fill="black")
        canvas.paste(left, (names, y))
        canvas.paste(right, (names + width + GAP, y))
        y += left.height + 2
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


def _joined(images_NCHW: Array) -> Array:
    """Images in a row, a white pixel between them."""
    line = np.full((*images_NCHW.shape[1:3], 1), 255, dtype=np.uint8)
    parts = [part for image_CHW in images_NCHW for part in (image_CHW, line)]
    return np.concatenate(parts[:-1], axis=2)


def _enlarged(image_CHW: Array) -> Image.Image:
    pixels = np.repeat(image_CHW, 3, axis=0) if image_CHW.shape[0] == 1 else image_CHW
    drawn = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    return drawn.resize((drawn.width * ENLARGED, drawn.height * ENLARGED), Image.Resampling.NEAREST)
