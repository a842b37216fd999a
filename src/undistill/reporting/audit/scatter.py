"""Defenses as points: what the best thief found gets against what users lose."""

from __future__ import annotations

from typing import Any

import altair as alt

from undistill.reporting.audit.contest import Contest, Entrant
from undistill.reporting.audit.story import heading
from undistill.reporting.naming import number
from undistill.reporting.theme import INK, LINE, Spec, finished

KINDS = {
    "undefended": ("undefended twin", "var(--series-1)", "square"),
    "open": ("not dominated", "var(--series-2)", "triangle-up"),
    "beaten": ("dominated", "var(--series-0)", "circle"),
}
"""Name, colour and shape of what a point is."""
MEASURES = {
    "accuracy": ("accuracy that users lose, points", "Against the accuracy that users lose"),
    "brier": ("Brier score that users lose, points", "Against users' Brier score"),
    "nll": ("negative log-likelihood that users lose, nats", "Against users' negative log-likelihood"),
}
HEIGHT = 340


def kind(entrant: Entrant) -> str:
    """`undefended`, `open` or `beaten`."""
    return "undefended" if not entrant.defended else "beaten" if entrant.beaten else "open"


def legend(contest: Contest) -> list[tuple[str, str, str]]:
    """(name, colour, shape) of what is there, for the page to draw."""
    there = {kind(entrant) for entrant in contest.entrants}
    return [look for name, look in KINDS.items() if name in there]


def left_out(contest: Contest, measure: str) -> list[str]:
    """Who cannot be drawn: without a thief's accuracy, or without a twin to lose against."""
    return [e.name for e in contest.entrants if e.thief is None or e.lost[measure] is None]


def spec(contest: Contest, measure: str) -> Spec | None:
    """The chart; None with fewer than two points."""
    values = [
        _value(e, lost) for e in contest.entrants if e.thief is not None and (lost := e.lost[measure]) is not None
    ]
    if len(values) < 2:
        return None
    title = MEASURES[measure][0]
    there = [KINDS[name] for name in KINDS if any(value["kind"] == KINDS[name][0] for value in values)]
    names = [name for name, _, _ in there]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=names, range=[c for _, c, _ in there]), legend=None)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[s for _, _, s in there]), legend=None)
    axis = alt.Axis(tickCount=6, domain=False, ticks=False)
    x = alt.X("x:Q", title=title, scale=alt.Scale(zero=True, nice=True, padding=12), axis=axis)
    y = alt.Y("y:Q", title="best thief found, %", scale=alt.Scale(zero=False, nice=True), axis=axis)
    base = alt.Chart(alt.Data(values=values))
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(aria=False, color=LINE, strokeWidth=1.5).encode(x=x)
    layers: list[Any] = [zero]
    sure = [value for value in values if value["low"] is not None]
    if sure:
        bars = alt.Chart(alt.Data(values=sure)).mark_rule(strokeWidth=2, opacity=0.5, aria=False)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", title="best thief found, %"), y2="high:Q", color=colour))
    tips = [
        alt.Tooltip("name:N"),
        alt.Tooltip("y:Q", title="best thief, %", format=".2f"),
        alt.Tooltip("sure:N", title="95 % interval"),
        alt.Tooltip("x:Q", title=title, format=".3~f"),
        alt.Tooltip("kind:N", title="which is"),
    ]
    dots = base.mark_point(size=90, filled=True, opacity=1)
    layers.append(dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips, description="told:N"))
    text = base.mark_text(aria=False, align="left", baseline="middle", dx=9, dy=-7, fontSize=12, fontWeight=600)
    layers.append(text.encode(x=x, y=y, text="number:N", color=alt.value(INK)))
    about = f"{heading(contest.card)}: best thief's accuracy by {title}. The same numbers are in the table."
    drawn = alt.layer(*layers).properties(width="container", height=HEIGHT)
    return finished(drawn, about)


def _value(entrant: Entrant, lost: float) -> dict[str, Any]:
    thief = entrant.thief
    assert thief is not None
    sure = thief.low is not None and thief.high is not None
    return {
        "number": str(entrant.number),
        "name": entrant.name,
        "kind": KINDS[kind(entrant)][0],
        "x": round(lost, 5),
        "y": round(thief.mean, 4),
        "low": thief.low if sure else None,
        "high": thief.high if sure else None,
        "sure": f"{number(thief.low, 2)} to {number(thief.high, 2)}" if sure else "no interval",
        "told": f"{entrant.number}, {entrant.name}: best thief {number(thief.mean, 2)} %, users lose {number(lost, 3)}",
    }
