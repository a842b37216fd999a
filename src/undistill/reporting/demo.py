"""The demo's report: where nasty training helps, why, and where it does not, each sentence computed from intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from undistill.experiments.cell import Array
from undistill.paper.demo_result import (
    ATTACKERS,
    BASELINE,
    COLD,
    LABELS,
    NASTY,
    NORMAL,
    QUERIES,
    REFIT,
    SOFT,
    Attacker,
    Demo,
    read,
)
from undistill.reporting import export, render
from undistill.reporting.document import (
    Chart,
    Columns,
    Document,
    Format,
    Items,
    Legend,
    Picture,
    Section,
    Statement,
    Table,
    Text,
    table,
)
from undistill.reporting.export import Report
from undistill.reporting.naming import listed, number, plural, signed
from undistill.reporting.response import picture, softened
from undistill.reporting.theme import INK, MUTED, SHAPES, Spec, colour_variable, finished
from undistill.statistics import Difference

TITLE = "Nasty training against model extraction, on digits"
NAMES = (NORMAL, NASTY)
COLORS = {name: colour_variable(name, NAMES) for name in NAMES}
LEGEND: Legend = [(f"{name} teacher", COLORS[name], shape) for name, shape in zip(NAMES, SHAPES, strict=False)]
PICTURED = (SOFT, COLD, LABELS, REFIT)
"""Attackers in the picture, from left to right."""
HEADS = {SOFT.name: "τ 4", COLD.name: "τ 1", LABELS.name: "class only", REFIT.name: "weights"}
ABOUT = {
    SOFT.name: "probabilities, distilled at τ 4",
    COLD.name: "probabilities, distilled at τ 1",
    LABELS.name: "predicted class only",
    REFIT.name: "weights: last layer refitted, then distilled at τ 4",
    BASELINE.name: "no teacher, true labels (baseline)",
}
HOW = (
    "Draws against one pair of teachers share those teachers, so differences are averaged for each pair first. The 95 % "
    "interval is Student's t over the means of the pairs, with the error from a finite number of test images added in "
    "quadrature."
)
LIMITS = (
    "The size of the effect on your data. These are 8 × 8 gray digits and a small network.",
    "The paper's own threat model, in which the attacker holds the teacher's training images with their labels. None of the "
    "students tried on digits gained dependably from a normal teacher over those labels alone, so there is nothing that nasty "
    "training could be seen to take.",
    "Other attacks. An attacker may combine what is listed here, query adaptively, or use other images. "
    "`undistill audit` tries more of them.",
)
GAP = 3
"""From one attacker to the next in the picture; its two teachers are 1 apart."""


def write_demo(folder: Path, out: Path) -> Report:
    """Write the report of the demo in `folder`; RunError where its cells are missing or damaged."""
    demo = read(folder)
    return export.write(document(demo), out, terminal(demo))


def terminal(demo: Demo) -> str:
    """The statements alone, which fit on a terminal of 80 × 24."""
    return render.text(Document(TITLE, statements(demo)))


def statements(demo: Demo) -> tuple[Statement, ...]:
    """Where it helps, why, and where it does not."""
    why = (Statement("Why", because(demo)),) if demo.bars is not None else ()
    return (Statement("Where it helps", helps(demo)), *why, Statement(*fails(demo)))


def document(demo: Demo) -> Document:
    """What the demo says."""
    first, *why, last = statements(demo)
    shown = [Columns(((*why, drawn), (bars,))) for drawn, bars in images(demo)[:1]]
    others = tuple(Columns(((drawn,), (bars,))) for drawn, bars in images(demo)[1:])
    return Document(
        title=TITLE,
        eyebrow="undistill demo",
        lead=(Columns(((first, last), (paired(demo),))), *shown),
        sections=(
            Section("Every attacker", "attackers", (attackers(demo), teachers(demo), Text(HOW, "quiet"))),
            *((Section("More images", "images", others, folded=True),) if others else ()),
            Section("What this demo does not show", "limits", (Items(LIMITS),)),
            Section("Every draw", "draws", (draws(demo),), folded=True),
        ),
        provenance=provenance(demo),
        commands=(command(demo),),
        files={"report.json": "report.json", "report.md": "report.md"},
    )


# sentences


def helps(demo: Demo) -> str:
    """The headline, and the accuracies it follows from."""
    soft, nasty, labels = demo.mean(SOFT, NORMAL), demo.mean(SOFT, NASTY), demo.mean(LABELS, NORMAL)
    if soft is None or nasty is None or labels is None:
        return "Too few attackers are finished to say."
    return (
        f"Against an attacker with {QUERIES} images and your probabilities, nasty training "
        f"{took(demo.taken[SOFT.name], demo.headroom.mean)}; {users(demo.users.mean)}. The attacker's student reaches "
        f"{number(soft)} % on probabilities of the normal teacher (distilled at temperature τ 4), {number(nasty)} % on those "
        f"of the nasty one, and {number(labels)} % on predicted classes alone ({size(demo)})."
    )


def took(taken: Difference, headroom: float) -> str:
    """`took 4.0 of 4.2 points (95 %: 2.1 to 5.9)`, and no more than the interval allows."""
    points = number(abs(taken.mean))
    if np.isnan(taken.mean):
        return "has not been measured yet"
    if not taken.finite:
        return f"changed accuracy by {signed(-taken.mean)} points; one pair of teachers gives no interval"
    sure = between(taken)
    if taken.high < 0:
        return f"gave the attacker {points} points ({sure})"
    if taken.low <= 0:
        return f"changed accuracy by {signed(-taken.mean)} points ({between(flipped(taken))}), which is not separated from 0"
    if headroom >= taken.mean:
        return f"took {points} of {number(headroom)} points ({sure})"
    if headroom > 0:
        return f"took {points} points ({sure}), or {number(headroom)} if it falls back on predicted classes"
    return f"took {points} points ({sure}), although probabilities are worth nothing over predicted classes here"


def users(lost: float) -> str:
    """`users lose 0.3 points`."""
    if np.isnan(lost):
        return "what users lose has not been measured yet"
    if float(f"{abs(lost):.1f}") == 0:
        return "users lose nothing"
    return f"users {'lose' if lost > 0 else 'gain'} {number(abs(lost))} points"


def size(demo: Demo) -> str:
    """`12 draws of images, 6 teacher pairs`."""
    count = sum(len(draw.accuracy) == len(SOFT.teachers) for draw in demo.draws[SOFT.name])
    return f"{plural(count, 'draw')} of images, {plural(len(demo.teachers[NORMAL]), 'teacher pair')}"


def fails(demo: Demo) -> tuple[str, str]:
    """(head, text): each other attacker, with no more than its interval allows."""
    parts = [
        _plain(demo, COLD, "Probabilities distilled at temperature τ 1"),
        _plain(demo, LABELS, "Predicted classes"),
    ]
    refit, lost = demo.mean(REFIT, NASTY), demo.taken[REFIT.name]
    if refit is not None and not np.isnan(lost.mean):
        parts.append(
            f"Weights, last layer refitted: {number(refit)} % (nasty), {_apart(lost)} probabilities of the normal teacher at "
            f"τ 4{_sure(lost)}."
        )
    most = max((demo.taken[a.name].mean for a in (COLD, LABELS, REFIT)), default=0.0)
    less = most < demo.taken[SOFT.name].mean
    return "Where it helps less, or not at all" if less else "Against other attackers", " ".join(filter(None, parts))


def _plain(demo: Demo, attacker: Attacker, head: str) -> str:
    """`Predicted classes: 86.0 % (normal) and 85.1 % (nasty), 0.9 points lower (95 %: 0.2 to 1.6).`; "" where nothing is known."""
    normal, nasty, taken = demo.mean(attacker, NORMAL), demo.mean(attacker, NASTY), demo.taken[attacker.name]
    if normal is None or nasty is None or np.isnan(taken.mean):
        return ""
    lower, change = ("lower", taken) if taken.mean >= 0 else ("higher", flipped(taken))
    sure = (
        "; one pair of teachers gives no interval"
        if not taken.finite
        else ", not significant" * (taken.low <= 0 <= taken.high)
    )
    points = f"{number(change.mean)} points {lower}{_sure(change)}{sure}"
    return f"{head}: {number(normal)} % (normal) and {number(nasty)} % (nasty), {points}."


def _apart(lost: Difference) -> str:
    if float(f"{abs(lost.mean):.1f}") == 0:
        return "level with"
    return f"{number(abs(lost.mean))} points {'below' if lost.mean > 0 else 'above'}"


def between(taken: Difference) -> str:
    """`95 %: 2.1 to 5.9`."""
    return f"95 %: {number(taken.low)} to {number(taken.high)}"


def _sure(taken: Difference) -> str:
    return f" ({between(taken)})" if taken.finite else ""


def flipped(taken: Difference) -> Difference:
    """The same difference the other way round: a change of accuracy instead of what was taken."""
    return Difference(-taken.mean, -taken.upper, -taken.lower, -taken.high, -taken.low, taken.n)


def because(demo: Demo) -> str:
    """What the two teachers answer to the first image."""
    assert demo.bars is not None
    arrays = demo.bars[1]
    classes = [str(name) for name in arrays["class_names"]]
    soft = {name: softened(arrays[key], 4)[0] for name, key in ((NORMAL, "normal"), (NASTY, "hardened"))}
    tops = {name: int(shares_C.argmax()) for name, shares_C in soft.items()}
    label = classes[int(arrays["labels"][0])]
    said = (
        f"both teachers predict {classes[tops[NORMAL]]}"
        if tops[NORMAL] == tops[NASTY]
        else f"the normal teacher predicts {classes[tops[NORMAL]]}, the nasty one {classes[tops[NASTY]]}"
    )
    shares = [_shares(soft[name], classes) for name in NAMES]
    return (
        "Nasty training keeps the predicted class and changes the other probabilities. For the first test image of class "
        f"{label} {said}. At τ 4, which the student learns from, the normal teacher gives {shares[0]}, the nasty one {shares[1]}."
    )


def _shares(soft_C: np.ndarray, classes: list[str]) -> str:
    """`55.7 % to 0 and 15.4 % to 8`: the two largest."""
    first, second = np.argsort(-soft_C, kind="stable")[:2]
    return (
        f"{number(100 * soft_C[first])} % to {classes[first]} and {number(100 * soft_C[second])} % to {classes[second]}"
    )


# pictures


def paired(demo: Demo) -> Chart:
    """A line a draw from what the attacker gets with the normal teacher to what it gets with the nasty one."""
    points: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for place, attacker in enumerate(PICTURED):
        for draw, ends in _ends(demo, attacker):
            line = {"line": f"{attacker.name} {draw}", "draw": draw, "attacker": HEADS[attacker.name]}
            points += [
                {**line, "x": GAP * place + side, "teacher": NAMES[side], "accuracy": round(value, 4)}
                for side, value in enumerate(ends)
            ]
        whole = [ends for _, ends in _ends(demo, attacker)]
        if whole:
            means += [
                {
                    "line": attacker.name,
                    "x": GAP * place + side,
                    "accuracy": round(float(np.mean([e[side] for e in whole])), 4),
                }
                for side in (0, 1)
            ]
    spec = _paired_spec(points, means)
    about = (
        f"Each thin line is one draw of {QUERIES} images: accuracy of the attacker's model with the normal teacher (left "
        "end) and with the nasty one (right end). Thick lines are means. On the right, weights of the nasty teacher are compared "
        "with probabilities of the normal one."
    )
    return Chart("paired", "From the normal teacher to the nasty one", spec, about, LEGEND, draws(demo))


def _ends(demo: Demo, attacker: Attacker) -> list[tuple[int, tuple[float, float]]]:
    """(draw, (normal, nasty)) of the draws with both; the refitting attacker begins at `SOFT` on the normal teacher."""
    normal = demo.draws[SOFT.name if attacker == REFIT else attacker.name]
    left = {draw.draw: draw.accuracy[NORMAL] for draw in normal if NORMAL in draw.accuracy}
    right = {draw.draw: draw.accuracy[NASTY] for draw in demo.draws[attacker.name] if NASTY in draw.accuracy}
    return [(draw, (left[draw], right[draw])) for draw in left if draw in right]


def _paired_spec(points: list[dict[str, Any]], means: list[dict[str, Any]]) -> Spec:
    heads = [{"x": GAP * place + 0.5, "head": head} for place, head in enumerate(HEADS.values())]
    values = [point["accuracy"] for point in points] or [0.0, 100.0]
    domain = [max(0.0, float(np.floor(min(values) - 1))), min(100.0, float(np.ceil(max(values) + 1)))]
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.7, GAP * (len(HEADS) - 1) + 1.7], nice=False))
    y = alt.Y("accuracy:Q", title="accuracy on test images, %", scale=alt.Scale(domain=domain, nice=False))
    y = y.axis(tickCount=5, domain=False, ticks=False)
    tips = [
        alt.Tooltip("attacker:N"),
        alt.Tooltip("teacher:N"),
        alt.Tooltip("accuracy:Q", format=".1f"),
        alt.Tooltip("draw:N"),
    ]
    color = alt.Color("teacher:N", scale=alt.Scale(domain=list(NAMES), range=[COLORS[n] for n in NAMES]), legend=None)
    shape = alt.Shape("teacher:N", scale=alt.Scale(domain=list(NAMES), range=list(SHAPES[:2])), legend=None)
    each, mean = alt.Chart(alt.Data(values=points)), alt.Chart(alt.Data(values=means))
    lines = each.mark_line(strokeWidth=1, opacity=0.45, color=MUTED).encode(x=x, y=y, detail="line:N")
    dots = each.mark_point(size=34, filled=True, opacity=0.85).encode(x=x, y=y, color=color, shape=shape, tooltip=tips)
    thick = mean.mark_line(strokeWidth=3.5, color=INK).encode(x=x, y=y, detail="line:N")
    names = alt.Chart(alt.Data(values=heads)).mark_text(
        aria=False, color=INK, fontSize=12, fontWeight=600, baseline="top"
    )
    names = names.encode(x=x, y=alt.value(0), text="head:N")
    drawn = alt.layer(lines, dots, thick, names).properties(width="container", height=230)
    return finished(
        drawn,
        "Accuracy of the attacker's model, normal teacher to nasty teacher, a line a draw. Numbers are in the table.",
    )


def images(demo: Demo) -> list[tuple[Picture, Chart]]:
    """Each image of the figure, and both teachers' probabilities for it at τ 4."""
    if demo.bars is None:
        return []
    arrays = demo.bars[1]
    classes = [str(name) for name in arrays["class_names"]]
    labels = [classes[int(label)] for label in arrays["labels"]]
    return [
        (
            Picture(picture(arrays["images"][row]), f"a test image of class {label}", 72),
            _bars(row, label, classes, arrays),
        )
        for row, label in enumerate(labels)
    ]


def _bars(row: int, label: str, classes: list[str], arrays: dict[str, Array]) -> Chart:
    shares = {name: 100 * softened(arrays[key], 4)[row] for name, key in ((NORMAL, "normal"), (NASTY, "hardened"))}
    records: list[dict[str, Any]] = [
        {"class": each, **{name: round(float(shares_C[place]), 3) for name, shares_C in shares.items()}}
        for place, each in enumerate(classes)
    ]
    values = [{"class": r["class"], "teacher": name, "percent": r[name]} for r in records for name in NAMES]
    color = alt.Color("teacher:N", scale=alt.Scale(domain=list(NAMES), range=[COLORS[n] for n in NAMES]), legend=None)
    x = alt.X("class:N", sort=classes, title="class", axis=alt.Axis(labelAngle=0, ticks=False, labelColor=INK))
    y = alt.Y("percent:Q", title="softmax(logits / 4), %", axis=alt.Axis(tickCount=4, domain=False, ticks=False))
    tips = [alt.Tooltip("teacher:N"), alt.Tooltip("class:N"), alt.Tooltip("percent:Q", format=".1f")]
    drawn = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(x=x, y=y, xOffset=alt.XOffset("teacher:N", sort=list(NAMES)), color=color, tooltip=tips)
    )
    spec = finished(
        drawn.properties(width="container", height=170),
        f"Probabilities at τ 4 for an image of class {label}. Numbers are in the table.",
    )
    columns = {"class": Format(), **{name: Format(name, 1, "%", color=COLORS[name]) for name in NAMES}}
    numbers = table(f"image-{row}", f"Probabilities at τ 4 for a test image of class {label}.", records, columns)
    caption = "The first test image of its class."
    return Chart(
        f"image-{row}", f"What the teachers answer to an image of class {label}, at τ 4", spec, caption, LEGEND, numbers
    )


# tables


def attackers(demo: Demo) -> Table:
    """A row an attacker."""
    rows = []
    for attacker in ATTACKERS:
        taken = demo.taken.get(attacker.name)
        sure = taken is not None and taken.finite
        rows.append(
            {
                "attacker": ABOUT[attacker.name],
                "normal": demo.mean(attacker, NORMAL) if attacker.teachers else demo.mean(attacker),
                "nasty": demo.mean(attacker, NASTY),
                "taken": None if taken is None or np.isnan(taken.mean) else taken.mean,
                "low": taken.low if taken is not None and sure else None,
                "high": taken.high if taken is not None and sure else None,
            }
        )
    columns = {
        "attacker": Format(),
        NORMAL: Format("normal teacher", 1, "%", color=COLORS[NORMAL]),
        NASTY: Format("nasty teacher", 1, "%", color=COLORS[NASTY]),
        "taken": Format("points taken (95 %)", 1, interval=("low", "high")),
    }
    return table(
        "attackers",
        f"Accuracy of the attacker's model on {demo.n_test:,} test images, mean over {size(demo)}. Each attacker holds {QUERIES} "
        "images that no teacher was trained on. The baseline uses no teacher. With weights, points taken are against "
        "probabilities of the normal teacher at τ 4.",
        rows,
        columns,
    )


def teachers(demo: Demo) -> Table:
    """What users of the teachers get."""
    lost = demo.users
    rows = [
        {
            "users of": f"{name} teacher",
            "accuracy": float(np.mean(demo.teachers[name])) if demo.teachers[name] else None,
            "lost": lost.mean if name == NASTY and not np.isnan(lost.mean) else None,
            "low": lost.low if name == NASTY and lost.finite else None,
            "high": lost.high if name == NASTY and lost.finite else None,
        }
        for name in NAMES
    ]
    columns = {
        "users of": Format(),
        "accuracy": Format("", 1, "%"),
        "lost": Format("points lost (95 %)", 1, interval=("low", "high")),
    }
    return table("teachers", "The teachers' own accuracy.", rows, columns)


def draws(demo: Demo) -> Table:
    """Every accuracy."""
    rows = [
        {
            "attacker": ABOUT[attacker.name],
            "pair": draw.pair,
            "draw": draw.draw,
            NORMAL: draw.accuracy.get(NORMAL, draw.accuracy.get("")),
            NASTY: draw.accuracy.get(NASTY),
        }
        for attacker in ATTACKERS
        for draw in demo.draws[attacker.name]
    ]
    columns = {
        "attacker": Format(),
        "pair": Format("seed of the teachers"),
        "draw": Format("seed of the draw"),
        NORMAL: Format("normal teacher", 1, "%", color=COLORS[NORMAL]),
        NASTY: Format("nasty teacher", 1, "%", color=COLORS[NASTY]),
    }
    return table("draws", "Accuracy of the attacker's model, each draw of images.", rows, columns, sortable=True)


# provenance


def provenance(demo: Demo) -> dict[str, str]:
    """What fixes the numbers, and what computed them."""
    cells = [cell for cell in demo.cells if cell.kind != "figure"]
    env = cells[0].env
    facts = {
        "data": f"{cells[0].data_note} (fingerprint {cells[0].data})",
        "test images": f"{demo.n_test:,}",
        "teachers": f"recipe `digits-demo`, seeds {_seeds(demo, 'victim')}",
        "attackers": f"recipe `digits-attacker`, seeds {_seeds(demo, 'student')}",
        "training": f"{sum(cell.seconds for cell in cells):,.0f} seconds in {plural(len(cells), 'training')}",
    }
    if demo.lost:
        facts["without a result"] = plural(demo.lost, "training")
    for name in ("undistill", "commit", "torch", "python", "processor", "instructions", "threads", "system"):
        facts[name] = listed(sorted({str(cell.env.get(name)) for cell in cells}), "or") if name in env else "unknown"
    return facts


def _seeds(demo: Demo, role: str) -> str:
    found = sorted({cell.seeds[role] for cell in demo.cells if role in cell.seeds})
    return f"{found[0]} to {found[-1]}" if found else "unknown"


def command(demo: Demo) -> str:
    """The command line that computes this demo again."""
    given = demo.settings
    if given["quick"]:
        return f"undistill demo --seed {given['seed']} --quick"
    return f"undistill demo --seed {given['seed']} --teachers {given['teachers']} --draws {given['draws']}"
