"""Four drawings of the same images (features and logits of a normal and a nasty teacher), and how well their classes lie apart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from undistill.errors import RunError
from undistill.experiments.cell import Array, Cell
from undistill.paper.experiments import Experiment
from undistill.reporting.naming import number
from undistill.reporting.paper.sheet import Sheet, Value
from undistill.reporting.paper.source import Source
from undistill.reporting.theme import Spec, finished

PANELS = ("normal features", "nasty features", "normal logits", "nasty logits")
MEASURES = {"silhouette": ("silhouette, −1 to 1", 3), "knn": ("10 nearest neighbours right, %", 1)}
COLOURS = 10
SHOWN = 2_000
"""Points that a panel draws at most."""


@dataclass(frozen=True)
class Embedding:
    """The drawings of one cell. `legend` holds class, colour and shape."""

    seed: int | None
    legend: list[tuple[str, str, str]]
    values: dict[str, list[dict[str, Any]]]
    count: int


def embedding(cell: Cell, arrays: dict[str, Array], seed: int | None) -> Embedding:
    """The figure of an `embedding` cell; RunError where its arrays do not fit each other."""
    missing = [name for name in (*PANELS, "labels", "class_names") if name not in arrays]
    if missing:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays lack {', '.join(missing)}")
    labels, names = arrays["labels"].astype(int), [str(name) for name in arrays["class_names"]]
    for name in PANELS:
        if arrays[name].shape != (len(labels), 2) or not np.isfinite(arrays[name]).all():
            raise RunError(f"the figure cell {cell.id} is damaged: {name} is not one point an image")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(names)):
        raise RunError(f"the figure cell {cell.id} is damaged: a label has no class name")
    step = max(1, -(-len(labels) // SHOWN))
    rows = range(0, len(labels), step)
    values = {
        name: [
            {
                "x": round(float(arrays[name][row, 0]), 2),
                "y": round(float(arrays[name][row, 1]), 2),
                "c": int(labels[row]),
            }
            for row in rows
        ]
        for name in PANELS
    }
    looks = [(name, f"var(--class-{place % COLOURS})", _shape(place)) for place, name in enumerate(names)]
    return Embedding(seed, looks, values, len(rows))


def drawing(figure: Embedding, panel: str) -> alt.Chart:
    """A panel without axes: t-SNE's coordinates mean nothing."""
    classes = [name for name, _, _ in figure.legend]
    names = [{"c": place, "class": name} for place, (name, _, _) in enumerate(figure.legend)]
    colour = alt.Scale(domain=classes, range=[look for _, look, _ in figure.legend])
    shape = alt.Scale(domain=classes, range=[form for _, _, form in figure.legend])
    side = alt.Scale(zero=False, nice=False, padding=6)
    return (
        alt.Chart(alt.Data(values=figure.values[panel]))
        .transform_lookup(lookup="c", from_=alt.LookupData(data=alt.Data(values=names), key="c", fields=["class"]))
        .mark_point(filled=True, size=14, opacity=0.75, aria=False)
        .encode(
            x=alt.X("x:Q", axis=None, scale=side),
            y=alt.Y("y:Q", axis=None, scale=side),
            color=alt.Color("class:N", sort=classes, scale=colour, legend=None),
            shape=alt.Shape("class:N", sort=classes, scale=shape, legend=None),
            tooltip=alt.Tooltip("class:N"),
        )
        .properties(width="container", height=250)
    )


def spec(figure: Embedding, panel: str, source: Source) -> Spec:
    """A panel for the page."""
    about = (
        f"t-SNE of the {panel.split()[0]} teacher's {panel.split()[1]} for {figure.count:,} test images, {source.title}. "
        "How well classes lie apart is in the table."
    )
    return finished(drawing(figure, panel), about)


def sheet(experiment: Experiment, sources: list[Source]) -> Sheet:
    """Silhouette and neighbours of each panel, over seeds."""
    rows, records = [], []
    for source in sources:
        measured = next(iter(source.of(experiment.name).values()), None)
        for panel in PANELS:
            who, what = panel.split()
            texts, record = [], dict[str, Value](plan=source.title, teacher=who, values=what)
            for key, (_, digits) in MEASURES.items():
                each = [
                    c.numbers[f"{panel} {key}"]
                    for c in (measured.cells.values() if measured else ())
                    if f"{panel} {key}" in c.numbers
                ]
                sd = statistics.stdev(each) if len(each) > 1 else None
                mean = statistics.fmean(each) if each else None
                spread = f" ± {number(sd, digits)}" if sd is not None else ""
                texts.append(f"{number(mean, digits)}{spread}" + (f" ({len(each)})" if each else ""))
                record |= {key: mean, f"{key} sd": sd, f"{key} n": len(each)}
            rows.append((who, what, source.title, *texts))
            records.append(record)
    heads = ("teacher", "values", "from", *(head for head, _ in MEASURES.values()))
    caption = "How well classes lie apart, in the full space: mean ± sample standard deviation (number of seeds)."
    return Sheet(experiment.name, caption, heads, tuple(rows), tuple(records), words=3)


def _shape(place: int) -> str:
    return ("circle", "triangle-up", "square")[(place + place // COLOURS) % 3]
