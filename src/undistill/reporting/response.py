"""What two victims answer to the same few images: bars at several temperatures, and the images themselves."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from undistill.errors import RunError
from undistill.experiments.cell import Array, Cell
from undistill.reporting.document import Block, Chart, Columns, Format, Picture, Section, Text, table
from undistill.reporting.naming import NORMAL, listed, number, plural
from undistill.reporting.theme import INK, SHAPES, Spec, colour_variable, colours, finished

NEEDED = ("images", "labels", "class_names", "normal", "hardened")
SHOWN = 12
"""Classes a chart shows at most: those with the largest answers."""


@dataclass(frozen=True)
class Shown:
    """One image, its answers and their bars."""

    label: str
    picture: str
    rows: list[list[str]]
    charts: list[tuple[str, Spec]]
    hidden: int


@dataclass(frozen=True)
class Response:
    """The figure of one pair of victims."""

    victim: str
    seed: int | None
    temperatures: tuple[float, ...]
    size: tuple[int, int, int]
    images: tuple[Shown, ...]


def softened(logits_NC: Array, temperature: float) -> NDArray[np.float64]:
    """softmax(logits / τ) by row, in float64; −∞ is a class that was not answered."""
    scaled_NC = logits_NC.astype(np.float64) / temperature
    exp_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def response(cell: Cell, arrays: dict[str, Array], victim: str, names: list[str]) -> Response:
    """The figure of a `logit-response` cell; RunError where its arrays do not fit each other."""
    _check(cell, arrays)
    temperatures = tuple(float(t) for t in cell.attack_settings.get("temperatures", (1, 4)))
    by_victim = {
        who: [softened(arrays[key], t) for t in temperatures] for who, key in ((NORMAL, "normal"), (victim, "hardened"))
    }
    classes = [str(name) for name in arrays["class_names"]]
    shown = [_shown(row, arrays, by_victim, classes, temperatures, names) for row in range(len(arrays["images"]))]
    channels, height, width = arrays["images"].shape[1:]
    return Response(victim, cell.seeds.get("victim"), temperatures, (channels, height, width), tuple(shown))


def section(place: int, figure: Response, names: Sequence[str]) -> Section:
    """A part of a report; `names` are all victims of it."""
    hot = listed([f"{t:g}" for t in figure.temperatures])
    seed = "" if figure.seed is None else f" of seed {figure.seed}"
    about = Text(
        f"softmax(logits / τ) of both teachers{seed} at τ {hot}, for the first test image of each of the first classes: chosen by "
        "place, not by what is answered. A student trained at high τ learns from the small outputs that it makes visible."
    )
    shapes = zip((NORMAL, figure.victim), SHAPES, strict=False)
    marks = [(who, colour_variable(who, names), shape) for who, shape in shapes]
    pairs = [(who, t) for t in figure.temperatures for who in (NORMAL, figure.victim)]
    heads = ["class", *(f"{who}, τ {t:g}" for who, t in pairs)]
    body: list[Block] = [about]
    for row, shown in enumerate(figure.images):
        hidden = (
            f" {plural(shown.hidden, 'class', 'classes')} with smaller outputs are left out." if shown.hidden else ""
        )
        numbers = table(
            f"answers-{place}-{row}",
            f"Outputs in percent for the image of class {shown.label}.{hidden}",
            [dict(zip(heads, values, strict=True)) for values in shown.rows],
            dict.fromkeys(heads, Format()),
        )
        drawn = [
            Chart(
                f"answer-{place}-{row}-{n}",
                f"Class {shown.label}, {title}",
                spec,
                "",
                marks,
                numbers if n == 0 else None,
            )
            for n, (title, spec) in enumerate(shown.charts)
        ]
        body.append(Columns(((Picture(shown.picture, f"Test image of class {shown.label}"),), *((c,) for c in drawn))))
    return Section(f"What the {NORMAL} and the {figure.victim} teacher answer", f"response-{place}", tuple(body))


def picture(image_CHW: Array) -> str:
    """A uint8 image as a `data:` address of a PNG."""
    image_HWC = np.moveaxis(image_CHW, 0, -1)
    pixels = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC[:, :, :3]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shown(
    row: int,
    arrays: dict[str, Array],
    by_victim: dict[str, list[NDArray[np.float64]]],
    classes: list[str],
    temperatures: tuple[float, ...],
    names: list[str],
) -> Shown:
    answers = {who: [answer_NC[row] for answer_NC in answers] for who, answers in by_victim.items()}
    largest_C = np.max([answer_C for each in answers.values() for answer_C in each], axis=0)
    kept = sorted(np.argsort(-largest_C, kind="stable")[:SHOWN].tolist())
    label = classes[int(arrays["labels"][row])]
    charts = [
        (f"τ = {t:g}", _bars(label, t, {who: each[place] for who, each in answers.items()}, classes, kept, names))
        for place, t in enumerate(temperatures)
    ]
    table = [
        [classes[c], *(number(100 * each[p][c], 2) for p in range(len(temperatures)) for each in answers.values())]
        for c in kept
    ]
    return Shown(label, picture(arrays["images"][row]), table, charts, len(classes) - len(kept))


def _bars(
    label: str,
    temperature: float,
    answers: dict[str, NDArray[np.float64]],
    classes: list[str],
    kept: list[int],
    names: list[str],
) -> Spec:
    values: list[dict[str, Any]] = [
        {"class": classes[c], "place": place, "victim": who, "percent": round(100 * float(answer_C[c]), 3)}
        for who, answer_C in answers.items()
        for place, c in enumerate(kept)
    ]
    present = list(answers)
    crowded = max(len(classes[c]) for c in kept) > 2
    axis = alt.Axis(labelAngle=-40 if crowded else 0, ticks=False, labelColor=INK, labelLimit=70, labelOverlap=False)
    tips = [alt.Tooltip("victim:N"), alt.Tooltip("class:N"), alt.Tooltip("percent:Q", format=".2f")]
    drawn = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=alt.X(
                "class:N", sort=[classes[c] for c in kept], title="class", axis=axis, scale=alt.Scale(paddingInner=0.25)
            ),
            xOffset=alt.XOffset("victim:N", sort=present),
            y=alt.Y(
                "percent:Q",
                title="answer, %",
                scale=alt.Scale(domain=[0, 100]),
                axis=alt.Axis(tickCount=3, domain=False, ticks=False),
            ),
            color=alt.Color("victim:N", sort=present, scale=colours(present, names), legend=None),
            tooltip=tips,
        )
        .properties(width="container", height=120)
    )
    return finished(
        drawn,
        f"Answers to an image of class {label} at temperature {temperature:g}. The same numbers are in the table.",
    )


def _check(cell: Cell, arrays: dict[str, Array]) -> None:
    missing = [name for name in NEEDED if name not in arrays]
    if missing:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays lack {', '.join(missing)}")
    images, labels, classes = arrays["images"], arrays["labels"], arrays["class_names"]
    expected = (len(images), len(classes))
    fits = images.ndim == 4 and images.dtype == np.uint8 and labels.shape == (len(images),)
    if not fits or arrays["normal"].shape != expected or arrays["hardened"].shape != expected:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays do not fit each other")
    if len(images) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise RunError(f"the figure cell {cell.id} is damaged: a label has no class name")
    if not all(np.isfinite(arrays[who].max(axis=1)).all() for who in ("normal", "hardened")):
        raise RunError(f"the figure cell {cell.id} is damaged: an answer is not a number")
