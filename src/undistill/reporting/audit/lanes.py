"""A lane an attack: what it got, with intervals."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from undistill.auditing.result import AttackResult, AuditResult, Estimate, ThreatModelResult
from undistill.reporting.audit.tables import ranked
from undistill.reporting.audit.words import side_text
from undistill.reporting.naming import ALONE, NORMAL, number
from undistill.reporting.theme import INK, LINE, MUTED, SHAPES, Spec, colour_variable, finished, styles

SIDES = {"defended": "defended", "undefended": NORMAL, "alone": ALONE}
"""What a side is called where colours and shapes are given out: the control looks normal, the baseline is grey."""
NAMES = (ALONE, NORMAL, "defended")
HEAD, MARK, GAP = 18, 12, 9
"""Heights in a lane, pixels."""
Legend = list[tuple[str, str, str]]
Record = dict[str, Any]


def legend(judgement: AuditResult, sides: list[str]) -> Legend:
    """(name, colour, shape) of each side, for the page to draw."""
    looks = styles([SIDES[side] for side in sides], NAMES, SHAPES)
    return [(side_text(side, judgement), _colour(side), look) for side, look in zip(sides, looks, strict=True)]


def sides_of(card: ThreatModelResult) -> list[str]:
    """The sides that any attack of the threat model learnt from, in a legend's order."""
    return [side for side in SIDES if any(attacker.side == side for attacker in card.attacks)]


def accuracies(card: ThreatModelResult, judgement: AuditResult) -> Spec | None:
    """What every attack got; rules mark the model's own accuracy and the best attack of labels. None where nothing was measured."""
    points = [
        _point(attacker, attacker.accuracy, judgement) for attacker in ranked(card) if attacker.accuracy is not None
    ]
    own = [v.accuracy for v in judgement.victims if v.side == "defended"]
    rules: list[Record] = [{"v": sum(own) / len(own), "dash": [6, 3], "what": "the model itself"}] if own else []
    rules += [{"v": card.A_label.mean, "dash": [2, 2], "what": "best attack of labels"}] if card.A_label else []
    about = f"{card.title}: accuracy of every attack and control, percent. The same numbers are in the table."
    title = "accuracy on test images, %"
    if not points:
        return None
    heads, height = _place(points)
    present = [side for side in SIDES if any(point["key"] == side for point in points)]
    named = [side_text(side, judgement) for side in present]
    y = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=None)
    scale = alt.Scale(domain=_domain(points, rules), nice=False, zero=False)
    x = alt.X("v:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5, domain=False, ticks=False))
    colour = alt.Color("side:N", scale=alt.Scale(domain=named, range=[_colour(s) for s in present]), legend=None)
    looks = styles([SIDES[side] for side in present], NAMES, SHAPES)
    shape = alt.Shape("side:N", scale=alt.Scale(domain=named, range=looks), legend=None)
    layers: list[Any] = [
        alt.Chart(alt.Data(values=[rule]))
        .mark_rule(color=MUTED, strokeDash=rule["dash"])
        .encode(x=x, tooltip=[alt.Tooltip("what:N", title="line"), alt.Tooltip("v:Q", title="at", format=".2f")])
        for rule in rules
    ]
    lines = alt.Chart(alt.Data(values=[{"y": head["top"]} for head in heads[1:]]))
    layers.append(lines.mark_rule(aria=False, color=LINE).encode(y=y))
    text = alt.Chart(alt.Data(values=heads)).mark_text(
        aria=False, align="left", baseline="middle", color=INK, fontSize=12, dx=2, limit=alt.ExprRef("width")
    )
    layers.append(text.encode(x=alt.value(0), y=y, text="thief:N"))
    sure = [point for point in points if point["low"] is not None]
    if sure:
        bars = alt.Chart(alt.Data(values=sure)).mark_rule(strokeWidth=2, opacity=0.55, aria=False)
        layers.append(bars.encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q", y=y, color=colour))
    tips = [
        alt.Tooltip("thief:N"),
        alt.Tooltip("side:N", title="learnt from"),
        alt.Tooltip("v:Q", format=".2f", title=title),
    ]
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=70, filled=True, opacity=0.95)
    dots = dots.encode(
        x=x,
        y=y,
        color=colour,
        shape=shape,
        tooltip=[*tips, alt.Tooltip("sure:N", title="95 % interval")],
        description="told:N",
    )
    return finished(alt.layer(*layers, dots).properties(width="container", height=height), about)


def _point(attacker: AttackResult, got: Estimate, judgement: AuditResult) -> Record:
    name = attacker.name + {"labels": " (predicted class only)", "nothing": " (control)"}.get(attacker.reads, "")
    known = got.low is not None and got.high is not None
    sure = f"{number(got.low, 2)} to {number(got.high, 2)}" if known else "no interval"
    side = side_text(attacker.side, judgement)
    return {
        "lane": f"{attacker.reads} {attacker.name}",
        "thief": name,
        "key": attacker.side,
        "side": side,
        "v": round(got.mean, 4),
        "low": None if got.low is None else round(got.low, 4),
        "high": None if got.high is None else round(got.high, 4),
        "sure": sure,
        "told": f"{name}, {side}: {number(got.mean, 2)} %, {sure}",
    }


def _place(points: list[Record]) -> tuple[list[Record], int]:
    """Give each point its y, pixels from the top; returns (lane heads, height)."""
    heads: list[Record] = []
    y = 0.0
    for lane in dict.fromkeys(point["lane"] for point in points):
        own = [point for point in points if point["lane"] == lane]
        heads.append({"thief": own[0]["thief"], "top": y, "y": y + HEAD / 2 + 2})
        y += HEAD
        for point in own:
            y += MARK
            point["y"] = y - MARK / 2 + 3
        y += GAP
    return heads, math.ceil(y)


def _domain(points: list[Record], rules: list[Record]) -> list[float]:
    """Room around all points, intervals and rules; never less than two points of accuracy."""
    values = [rule["v"] for rule in rules]
    values += [point[key] for point in points for key in ("v", "low", "high") if point[key] is not None]
    low, high = min(values), max(values)
    room = max(0.05 * (high - low), 1 - (high - low) / 2, 0.2)
    return [round(low - room, 2), round(high + room, 2)]


def _colour(side: str) -> str:
    return colour_variable(SIDES[side], NAMES)
