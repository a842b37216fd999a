"""Defenses as points: what the best attack found gets against what users lose."""

from __future__ import annotations

from typing import Any

import altair as alt

from undistill.reporting.audit.contest import Contest, Entrant
from undistill.reporting.audit.words import heading
from undistill.reporting.naming import number
from undistill.reporting.theme import INK, LINE, MUTED, Spec, finished

KINDS = {
    "undefended": ("undefended control", "var(--series-1)", "square"),
    "open": ("not dominated", "var(--series-2)", "triangle-up"),
    "beaten": ("dominated", "var(--series-0)", "circle"),
}
"""Name, colour and shape of what a point is."""
MEASURES = {
    "accuracy": ("accuracy that users lose, points", "Against the accuracy that users lose"),
    "brier": ("Brier score that users lose, points", "Against users' Brier score"),
    "nll": ("negative log-likelihood that users lose, nats", "Against users' negative log-likelihood"),
}
HEIGHT = 380
NAMES = 110
"""Pixels of a name at the right edge, at most."""


SMALL = 0.3
"""Points of accuracy below which users lose nothing that can be seen: then another measure is drawn first."""
APART = 0.055
"""Between names, as a share of the plot's height."""


def ordered(contest: Contest) -> list[tuple[str, tuple[str, str]]]:
    """The measures; accuracy last where no defense costs any, for then all points are on one line."""
    lost = [e.lost["accuracy"] for e in contest.entrants if e.lost.get("accuracy") is not None]
    flat = not any(abs(value or 0.0) > SMALL for value in lost)
    return sorted(MEASURES.items(), key=lambda item: flat and item[0] == "accuracy")


def kind(entrant: Entrant) -> str:
    """`undefended`, `open` or `beaten`."""
    return "undefended" if not entrant.defended else "beaten" if entrant.beaten else "open"


def legend(contest: Contest) -> list[tuple[str, str, str]]:
    """(name, colour, shape) of what is there, for the page to draw."""
    there = {kind(entrant) for entrant in contest.entrants}
    return [look for name, look in KINDS.items() if name in there]


def left_out(contest: Contest, measure: str) -> list[str]:
    """Who cannot be drawn: without an attack's accuracy, or without a control to lose against."""
    return [e.name for e in contest.entrants if e.attacker is None or e.lost[measure] is None]


def spec(contest: Contest, measure: str) -> Spec | None:
    """The chart; None with fewer than two points."""
    values = [
        _value(e, lost) for e in contest.entrants if e.attacker is not None and (lost := e.lost[measure]) is not None
    ]
    if len(values) < 2:
        return None
    title = MEASURES[measure][0]
    there = [KINDS[name] for name in KINDS if any(value["kind"] == KINDS[name][0] for value in values)]
    names = [name for name, _, _ in there]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=names, range=[c for _, c, _ in there]), legend=None)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[s for _, _, s in there]), legend=None)
    axis = alt.Axis(tickCount=6, domain=False, ticks=False, labelOverlap=True)
    x = alt.X("x:Q", title=title, scale=_scale(values), axis=axis)
    domain = _domain(values)
    y = alt.Y(
        "y:Q",
        title="best extracted model, %",
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(tickCount=6, grid=False),
    )
    base = alt.Chart(alt.Data(values=values))
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(aria=False, color=LINE, strokeWidth=1.5).encode(x=x)
    layers: list[Any] = [zero]
    sure = [value for value in values if value["low"] is not None]
    if sure:
        bars = alt.Chart(alt.Data(values=sure)).mark_rule(strokeWidth=2, opacity=0.5, aria=False)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", title="best extracted model, %"), y2="high:Q", color=colour))
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("y:Q", title="best extracted model, %", format=".2f"),
        alt.Tooltip("sure:N", title="95 % interval"),
        alt.Tooltip("x:Q", title=title, format=".3~f"),
        alt.Tooltip("kind:N", title="which is"),
    ]
    dots = base.mark_point(size=90, filled=True, opacity=1)
    layers.append(dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips, description="told:N"))
    named = alt.Chart(alt.Data(values=_placed(values, domain)))
    right = alt.value({"expr": "width + 14"})
    leader = named.mark_rule(aria=False, color=MUTED, strokeWidth=0.75, opacity=0.6).encode(
        x=x, y=y, x2=right, y2="at:Q"
    )
    layers.insert(0, leader)
    text = named.mark_text(aria=False, align="left", baseline="middle", dx=4, fontSize=11, limit=NAMES)
    layers.append(
        text.encode(
            x=right, y=alt.Y("at:Q", scale=alt.Scale(domain=domain, nice=False)), text="name:N", color=alt.value(INK)
        )
    )
    about = f"{heading(contest.card)}: best attack's accuracy by {title}. The same numbers are in the table."
    drawn = alt.layer(*layers).properties(width="container", height=HEIGHT)
    # Names are drawn in a column at the right edge, so that none covers another one or a point.
    return finished(drawn, about)


def _scale(values: list[dict[str, Any]]) -> alt.Scale:
    """Linear; logarithmic on both sides of 0 where one loss would press all others together."""
    losses = sorted(abs(value["x"]) for value in values if value["x"])
    middle = losses[len(losses) // 2] if losses else 0.0
    if middle and losses[-1] > 8 * middle:
        return alt.Scale(type="symlog", constant=middle, zero=True, nice=False, padding=12)
    return alt.Scale(zero=True, nice=True, padding=12)


def _domain(values: list[dict[str, Any]]) -> list[float]:
    """Room for all points, their intervals and as many names one below the other."""
    ends = [value[key] for value in values for key in ("y", "low", "high") if value[key] is not None]
    room = max(0.06 * (max(ends) - min(ends)), 0.5)
    return [round(min(ends) - room, 2), round(max(ends) + room, 2)]


def _placed(values: list[dict[str, Any]], domain: list[float]) -> list[dict[str, Any]]:
    """The values with `at`, where each name is drawn: near its point, and apart from the others."""
    gap = min(APART, 1 / len(values)) * (domain[1] - domain[0])
    found = []
    last = domain[1] + gap
    for value in sorted(values, key=lambda one: -one["y"]):
        last = min(value["y"], last - gap)
        found.append({**value, "at": last})
    lowest = domain[0] - gap / 2
    for value in reversed(found):  # push up what fell out below
        lowest = max(value["at"], lowest + gap)
        value["at"] = round(lowest, 4)
    return found


def _value(entrant: Entrant, lost: float) -> dict[str, Any]:
    attacker = entrant.attacker
    assert attacker is not None
    sure = attacker.low is not None and attacker.high is not None
    return {
        "number": str(entrant.number),
        "name": entrant.name,
        "kind": KINDS[kind(entrant)][0],
        "x": round(lost, 5),
        "y": round(attacker.mean, 4),
        "low": attacker.low if sure else None,
        "high": attacker.high if sure else None,
        "sure": f"{number(attacker.low, 2)} to {number(attacker.high, 2)}" if sure else "no interval",
        "told": f"{entrant.name}: best extracted model {number(attacker.mean, 2)} %, users lose {number(lost, 3)}",
    }
