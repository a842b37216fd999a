"""The figures of an experiment: what the page draws, and the same as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undistill.experiments.cell import Array, Cell, read_arrays
from undistill.files import write_bytes
from undistill.paper.experiments import Experiment
from undistill.reporting import blocks
from undistill.reporting.blocks import Chart, Entry, Head, Table, chart
from undistill.reporting.naming import ALONE, NORMAL, listed, plural
from undistill.reporting.paper import embedding, sweeps
from undistill.reporting.paper.export import side_by_side, with_legend, write_figure
from undistill.reporting.paper.inversion import inversion
from undistill.reporting.paper.source import Source
from undistill.reporting.response import Response, Shown, response
from undistill.reporting.theme import Spec, colour_variable

PANEL, SQUARE, BARS = (230, 170), (230, 230), (300, 130)
"""Width and height of a panel in a file, pixels."""


@dataclass
class Picture:
    """One experiment's figure in one reproduction; `kind` says which part of the template draws it."""

    kind: str
    title: str
    about: str = ""
    charts: list[Chart] = field(default_factory=list)
    block: dict[str, Any] = field(default_factory=dict)
    spec: Spec | None = None
    png: bytes | None = None


def pictures(experiment: Experiment, sources: list[Source]) -> list[Picture]:
    """One a reproduction that has it."""
    held = [source for source in sources if source.of(experiment.name)]
    found = []
    for place, source in enumerate(held):
        if experiment.kind == "sweep":
            found.append(_sweep(experiment, source, place))
        elif experiment.figure:
            draw = {"logit-response": _response, "embedding": _embedding, "inversion": _inversion}[experiment.figure]
            cell = _lowest(experiment, source)
            if cell is None:
                found.append(Picture("missing", source.title, "The figure's data are not measured."))
            else:
                arrays = read_arrays(source.folder / "cells", cell[1])
                found.append(draw(experiment, source, place, cell[0], cell[1], arrays))
    return found


def write_pictures(folder: Path, experiment: Experiment, found: list[Picture]) -> list[Path]:
    """The files of an experiment's figures; where there are several reproductions, a number tells them apart."""
    files: list[Path] = []
    drawn = [picture for picture in found if picture.spec is not None or picture.png is not None]
    for place, picture in enumerate(drawn):
        name = experiment.name if len(drawn) == 1 else f"{experiment.name}-{place + 1}"
        if picture.spec is not None:
            files += write_figure(folder, name, picture.spec)
        if picture.png is not None:
            files.append(folder / f"{name}.png")
            write_bytes(files[-1], picture.png)
    return files


def _lowest(experiment: Experiment, source: Source) -> tuple[int, Cell] | None:
    """The figure's cell of the lowest seed that has one: the choice is not ours."""
    cells: Iterator[tuple[int, Cell]] = (
        pair for place, m in source.of(experiment.name).items() if place[3] == "" for pair in m.cells.items()
    )
    return next(((seed, cell) for seed, cell in cells if cell.status == "ok" and cell.arrays is not None), None)


def _sweep(experiment: Experiment, source: Source, place: int) -> Picture:
    panels = sweeps.panels(experiment, source)
    present = sweeps.arms_of(panels)
    if not panels:
        return Picture("missing", source.title, "No accuracy is measured.")
    specs = [(panel.title, sweeps.spec(experiment, panel, source, present)) for panel in panels]
    charts = [chart(f"{experiment.name}-{place}-{n}", spec, title=title) for n, (title, spec) in enumerate(specs)]
    block = {"legend": sweeps.legend_of(present), "lines": experiment.vary != "adversary"}
    whole = side_by_side([(title, with_legend(spec)) for title, spec in specs], min(3, len(panels)), PANEL)
    return Picture("sweep", source.title, sweeps.still(experiment, source), charts, block, spec=whole)


def _response(
    experiment: Experiment, source: Source, place: int, seed: int, cell: Cell, arrays: dict[str, Array]
) -> Picture:
    victim = cell.victim or "nasty"
    figure = response(cell, arrays, victim, [ALONE, NORMAL, victim])
    block = response_block(f"{experiment.name}-{place}", figure, (ALONE, NORMAL, victim))
    drawn = [(f"{image.label}, {title}", with_legend(spec)) for image in figure.images for title, spec in image.charts]
    whole = side_by_side(drawn, len(figure.temperatures), BARS) if drawn else None
    return Picture("response", source.title, block["about"], block=block, spec=whole)


def _embedding(
    experiment: Experiment, source: Source, place: int, seed: int, cell: Cell, arrays: dict[str, Array]
) -> Picture:
    figure = embedding.embedding(cell, arrays, seed)
    specs = [(panel, embedding.spec(figure, panel, source)) for panel in embedding.PANELS]
    charts = [chart(f"{experiment.name}-{place}-{n}", spec, title=title) for n, (title, spec) in enumerate(specs)]
    drawn = [(title, with_legend(spec, "right", ("color", "shape"))) for title, spec in specs]
    about = (
        f"{figure.count:,} test images, teachers of seed {seed}. Axes of a t-SNE have no unit; each panel has its own."
    )
    return Picture(
        "embedding", source.title, about, charts, {"legend": figure.legend}, spec=side_by_side(drawn, 2, SQUARE)
    )


def _inversion(
    experiment: Experiment, source: Source, place: int, seed: int, cell: Cell, arrays: dict[str, Array]
) -> Picture:
    figure = inversion(cell, arrays, seed)
    hidden = f" {plural(figure.hidden, 'class', 'classes')} are left out." if figure.hidden else ""
    about = (
        "Images that DeepInversion draws out of both teachers' weights from the same noise, a class a row; teachers of "
        f"seed {seed}.{hidden}"
    )
    return Picture(
        "inversion", source.title, about, block={"strips": figure.strips, "across": figure.across}, png=figure.png()
    )


def response_block(place: int | str, figure: Response, names: Sequence[str]) -> dict[str, Any]:
    """What the template's `response` is filled with; `names` are all victims of the page."""
    hot = listed([f"{t:g}" for t in figure.temperatures])
    seed = "" if figure.seed is None else f" of seed {figure.seed}"
    images = []
    for row, shown in enumerate(figure.images):
        drawn = [
            blocks.chart(f"answer-{place}-{row}-{n}", spec, title=title) for n, (title, spec) in enumerate(shown.charts)
        ]
        images.append(
            {"label": shown.label, "picture": shown.picture, "charts": drawn, "table": answers(figure, shown)}
        )
    return {
        "id": f"response-{place}",
        "title": f"What the {NORMAL} and the {figure.victim} teacher answer",
        "about": f"softmax(logits / τ) of both teachers{seed} at τ {hot}, for the first test image of each of the first classes: "
        "chosen by place, not by what is answered. High τ makes small answers visible, and a student trained at high τ learns "
        "from them.",
        "images": images,
        "marks": [(who, colour_variable(who, names)) for who in (NORMAL, figure.victim)],
    }


def answers(figure: Response, shown: Shown) -> Table:
    """The numbers behind one image's bars, percent."""
    pairs = [(who, t) for t in figure.temperatures for who in (NORMAL, figure.victim)]
    heads = [Head("class"), *(Head(f"{who}, τ {t:g}") for who, t in pairs)]
    hidden = f" {plural(shown.hidden, 'class', 'classes')} with smaller outputs are left out." if shown.hidden else ""
    return Table(
        f"Outputs in percent for the image of class {shown.label}.{hidden}",
        heads,
        [[Entry(t) for t in row] for row in shown.rows],
    )
