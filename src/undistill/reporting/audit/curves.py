"""Curves of an audit: accuracy by queries, by temperature of the search, the runner-up's share by temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from undistill.auditing.result import AuditResult, Point, ThreatModelResult
from undistill.reporting.audit.lanes import NAMES, SIDES, Legend
from undistill.reporting.audit.words import accuracy_of, best_of, kind_text, serving_text, side_text
from undistill.reporting.theme import DASHES, MUTED, SHAPES, Spec, colour_variable, finished

GREY = ("var(--series-0)", "circle", [2, 2])
HEIGHT = 300
DODGE = 0.02
"""Between lines at one x, as a share of it."""
CONTROL = "undefended control, best access"
Look = tuple[str, str, list[int]]
"""Colour, shape and dashes of a line."""


@dataclass(frozen=True)
class Curve:
    """Lines of points, each with its look; `rule` is a level to compare with."""

    title: str
    x: str
    y: str
    lines: tuple[tuple[str, tuple[Point, ...]], ...]
    looks: Mapping[str, Look]
    rule: float | None = None
    dodge: bool = False
    """Whether points at one x are drawn side by side, for the lines lie close together."""

    @property
    def legend(self) -> Legend:
        """(name, colour, shape) of each line, for the page to draw."""
        return [(name, self.looks[name][0], self.looks[name][1]) for name, _ in self.lines]


def by_queries(judgement: AuditResult) -> Curve | None:
    """Best extracted model by number of queries, a line an output access; the baseline by labeled images.

    None without an accuracy.
    """
    held: dict[str, list[Point]] = {}
    alike = len({kind_text(card) for card in judgement.threat_models}) > 1
    for card in judgement.threat_models:
        best = best_of(card, "defended")
        got = accuracy_of(card)
        if card.queries is None or got is None:
            continue
        name = serving_text(card.access) + (f", {kind_text(card)}" if alike else "")
        point = Point(x=card.queries, y=got.mean, low=got.low, high=got.high, name=best.name if best else "")
        held.setdefault(name, []).append(point)
    if not held:
        return None
    lines = [(name, _sorted(own)) for name, own in held.items()]
    looks = {name: _look(place) for place, (name, _) in enumerate(lines)}
    if not alike and (control := _control(judgement)):
        lines.append((CONTROL, control))
        looks[CONTROL] = _side_look("undefended")
    budgets = {point.x for _, own in lines for point in own}
    learning = tuple(point for point in judgement.learning if point.x in budgets)
    if learning:
        alone = "baseline, no access, by labeled images"
        lines.append((alone, _sorted(learning)))
        looks[alone] = GREY
    own_accuracy = [v.accuracy for v in judgement.victims if v.side == "defended"]
    rule = sum(own_accuracy) / len(own_accuracy) if own_accuracy else None
    title = "Accuracy of the best extracted model, by queries"
    return Curve(title, "queries (baseline: labeled images)", "accuracy, %", tuple(lines), looks, rule, dodge=True)


def _control(judgement: AuditResult) -> tuple[Point, ...]:
    """The best extracted model of the undefended control by query budget, over all output accesses."""
    found: dict[int, Point] = {}
    for card in judgement.threat_models:
        best = best_of(card, "undefended")
        if card.queries is None or best is None or best.accuracy is None:
            continue
        got = best.accuracy
        name = f"{best.name}, {serving_text(card.access)}"
        point = Point(x=card.queries, y=got.mean, low=got.low, high=got.high, name=name)
        if card.queries not in found or point.y > found[card.queries].y:
            found[card.queries] = point
    return _sorted(list(found.values()))


def by_temperature(card: ThreatModelResult, judgement: AuditResult) -> Curve | None:
    """What the search saw on held-out images, by temperature, a line a side."""
    lines: list[tuple[str, tuple[Point, ...]]] = []
    looks: dict[str, Look] = {}
    for side in SIDES:
        if card.search.get(side):
            name = side_text(side, judgement)
            lines.append((name, _sorted(card.search[side])))
            looks[name] = _side_look(side)
    other = [(name, _sorted(own)) for name, own in card.search.items() if name not in SIDES and own]
    for place, (name, own) in enumerate(other):
        lines.append((name, own))
        looks[name] = _look(place + 1)
    if not lines:
        return None
    title = f"Temperature response, {card.title}"
    return Curve(title, "τ of the attack", "score on held-out images, %", tuple(lines), looks)


def runners_up(judgement: AuditResult) -> Curve | None:
    """The runner-up's share against the top class, by temperature, a line a victim."""
    lines: list[tuple[str, tuple[Point, ...]]] = []
    looks: dict[str, Look] = {}
    for victim in judgement.victims:
        own = tuple(Point(x=float(t), y=share) for t, share in victim.second.items())
        name = f"{victim.label or victim.name}, {serving_text(victim.access)}"
        if own and name not in looks:
            lines.append((name, _sorted(own)))
            first = not any(look[:2] == _side_look(victim.side)[:2] for look in looks.values())
            looks[name] = _side_look(victim.side) if first else _look(len(lines) + 1)
    if not lines:
        return None
    return Curve("Runner-up's probability over the top one, by temperature", "τ", "ratio, 0 to 1", tuple(lines), looks)


def spec(curve: Curve) -> Spec:
    """Lines through points with interval bars, told apart by colour, shape and dash."""
    values = _values(curve)
    names = [name for name, _ in curve.lines]
    looks = [curve.looks[name] for name in names]
    colour = alt.Color("line:N", scale=alt.Scale(domain=names, range=[look[0] for look in looks]), legend=None)
    shape = alt.Shape("line:N", scale=alt.Scale(domain=names, range=[look[1] for look in looks]), legend=None)
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=[look[2] for look in looks]), legend=None)
    x, scale = _x(curve, values), alt.Scale(zero=False, nice=True)
    y = alt.Y("y:Q", title=curve.y, scale=scale, axis=alt.Axis(tickCount=5, domain=False, ticks=False))
    layers: list[Any] = []
    if curve.rule is not None:
        rule = alt.Chart(alt.Data(values=[{"y": round(curve.rule, 4)}])).mark_rule(color=MUTED, strokeDash=[6, 3])
        layers.append(rule.encode(y=y, tooltip=[alt.Tooltip("y:Q", title="the model itself", format=".1f")]))
    base = alt.Chart(alt.Data(values=values))
    layers.append(base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y, color=colour, strokeDash=dash))
    sure = [value for value in values if value["low"] is not None]
    if sure:
        bars = alt.Chart(alt.Data(values=sure)).mark_rule(strokeWidth=2, opacity=0.55, aria=False)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q", title=curve.y), y2="high:Q", color=colour))
    tips = [
        alt.Tooltip("line:N"),
        alt.Tooltip("at:Q", title=curve.x, format=",~g"),
        alt.Tooltip("y:Q", title=curve.y, format=".2f"),
        alt.Tooltip("what:N", title="attack"),
    ]
    dots = base.mark_point(size=56, filled=True, opacity=1)
    layers.append(dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips, description="told:N"))
    about = f"{curve.title}: {curve.y} by {curve.x}. The same numbers are in the table."
    return finished(alt.layer(*layers).properties(width="container", height=HEIGHT), about)


def _x(curve: Curve, values: list[dict[str, Any]]) -> alt.X:
    places = sorted({value["at"] for value in values})
    log = _logarithmic(curve)
    scale = alt.Scale(type="log", nice=False, padding=14) if log else alt.Scale(zero=False, nice=False, padding=14)
    axis = alt.Axis(
        grid=False, values=_apart(places) if log else places, format=",~g", labelOverlap=True, labelFlush=False
    )
    return alt.X("x:Q", title=curve.x, scale=scale, axis=axis)


def _apart(places: list[float]) -> list[float]:
    """Those whose labels do not touch on a logarithmic axis."""
    kept = places[:1]
    for place in places[1:]:
        if place / kept[-1] >= (places[-1] / places[0]) ** 0.1:
            kept.append(place)
    return kept


def _values(curve: Curve) -> list[dict[str, Any]]:
    """Records of all points, at their own x."""
    middle = (len(curve.lines) - 1) / 2
    step = DODGE if curve.dodge and _logarithmic(curve) else 0.0
    return [
        _value(name, point, x=point.x * (1 + step * (place - middle)), unit=" %" if "%" in curve.y else "")
        for place, (name, own) in enumerate(curve.lines)
        for point in own
    ]


def _logarithmic(curve: Curve) -> bool:
    places = [point.x for _, own in curve.lines for point in own]
    return min(places) > 0 and (max(places) / min(places) > 4 or curve.dodge)


def _value(name: str, point: Point, *, x: float, unit: str) -> dict[str, Any]:
    return {
        "line": name,
        "x": round(x, 4),
        "at": point.x,
        "y": round(point.y, 4),
        "low": None if point.low is None or point.high is None else round(point.low, 4),
        "high": None if point.low is None or point.high is None else round(point.high, 4),
        "what": point.name or "–",
        "told": f"{name}, {point.x:,g}: {point.y:.2f}{unit}",
    }


def _sorted(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: (point.x, point.y)))


def _look(place: int) -> Look:
    """The looks of further lines, after the grey of the baseline."""
    turn = [2, 3, 4, 5, 6, 1][place % 6]
    return f"var(--series-{turn})", SHAPES[turn % len(SHAPES)], DASHES[1 if place == 0 else turn]


def _side_look(side: str) -> Look:
    place = NAMES.index(SIDES[side])
    return colour_variable(SIDES[side], NAMES), SHAPES[place], ([2, 2], [6, 3], [1, 0])[place]
