"""The paper's claims with a sign, each judged by the one-sided 95 % t bound of a quantity paired by seed.

A case is *seen* where the lower bound lies above 0, *opposite* where the upper one lies below 0, *not shown* else, and *not judged*
below three seeds. A claim of several cases is opposite if any case is; else not judged if any case is not; seen if all are; else
not shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from undistill.paper.experiments import Direction, Experiment
from undistill.paper.published import ITSELF
from undistill.reporting.document import Format, Table, table
from undistill.reporting.naming import plural, signed
from undistill.reporting.paper.source import HEADS, Measured, Place, Source, short, symbol
from undistill.statistics import ENOUGH, Difference, interval, slope

Verdict = Literal["seen", "opposite", "not shown", "not judged"]
VERDICTS: tuple[Verdict, ...] = ("seen", "opposite", "not shown", "not judged")
FIELDS = ("experiment", "teacher", "arm", "column", "x")
Values = dict[int, float]
Fixed = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Case:
    """One quantity that the claim says is above 0. `values` by seed; `left_out` counts seeds of the plan that lack one."""

    where: Mapping[str, Any]
    values: Values
    left_out: int

    @property
    def n(self) -> int:
        """How many seeds have it."""
        return len(self.values)

    @cached_property
    def result(self) -> Difference | None:
        """Mean and bounds, infinite below three seeds; None without a value."""
        return interval(list(self.values.values()), least=ENOUGH) if self.values else None

    @property
    def mean(self) -> float | None:
        """Of the values; None without one."""
        return None if self.result is None else float(self.result.mean)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(lower, upper) one-sided 95 % t bounds of the mean; None below three seeds."""
        return None if self.result is None or not self.result.finite else (self.result.lower, self.result.upper)

    @property
    def verdict(self) -> Verdict:
        """What the bounds say."""
        if self.bounds is None:
            return "not judged"
        low, high = self.bounds
        return "seen" if low > 0 else "opposite" if high < 0 else "not shown"


@dataclass(frozen=True)
class Claim:
    """A direction of an experiment, and its cases in one reproduction."""

    experiment: Experiment
    direction: Direction
    source: Source = field(repr=False)
    cases: tuple[Case, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all cases together."""
        found = {case.verdict for case in self.cases}
        if "opposite" in found:
            return "opposite"
        if "not judged" in found or not found:
            return "not judged"
        return "seen" if found == {"seen"} else "not shown"


def claims(experiments: list[Experiment], source: Source) -> list[Claim]:
    """Every claim that the plan covers, in order."""
    found = [
        Claim(experiment, direction, source, tuple(_cases(experiment, direction, source)))
        for experiment in experiments
        for direction in experiment.directions
    ]
    return [claim for claim in found if claim.cases]


def _cases(experiment: Experiment, direction: Direction, source: Source) -> Iterator[Case]:
    places = source.of(experiment.name)
    judge = {"difference": _difference, "slope": _slope, "numbers": _numbers}[direction.kind]
    for fixed in _fixed(direction, places):
        found = judge(direction, fixed, places)
        if found is not None:
            values, seeds = found
            exact = {seed: round(value, 9) for seed, value in values.items()}  # what is nothing stays nothing
            yield Case(dict(fixed), exact, len(seeds) - len(values))


def _fixed(direction: Direction, places: dict[Place, Measured]) -> list[Fixed]:
    """The values of the fields `each`, from the places that a selector which fixes none of them picks."""
    picks = [direction.first] if direction.kind != "difference" else [direction.first, direction.second]
    free = [pick for pick in picks if not set(pick) & set(direction.each)]
    rows = [
        dict(zip(FIELDS, place, strict=True)) for pick in free or picks for place in places if _matches(place, pick)
    ]
    named = any("column" in pick for pick in picks)
    kept = [row for row in rows if direction.kind == "numbers" or named or row["column"] != ITSELF]
    return list(dict.fromkeys(tuple((name, row[name]) for name in direction.each) for row in kept))


def _matches(place: Place, pick: Mapping[str, Any]) -> bool:
    row = dict(zip(FIELDS, place, strict=True))
    return all(row[name] == value for name, value in pick.items())


def _one(places: dict[Place, Measured], pick: Mapping[str, Any]) -> Measured | None:
    found = [measured for place, measured in places.items() if _matches(place, pick)]
    return found[0] if len(found) == 1 else None


def _seeds(*measured: Measured) -> set[int]:
    return {point.seed for each in measured for point in each.points}


def _difference(direction: Direction, fixed: Fixed, places: dict[Place, Measured]) -> tuple[Values, set[int]] | None:
    first, second = (_one(places, {**dict(fixed), **pick}) for pick in (direction.first, direction.second))
    if first is None or second is None:
        return None
    shared = sorted(first.values.keys() & second.values.keys())
    return {seed: first.values[seed] - second.values[seed] for seed in shared}, _seeds(first, second)


def _slope(direction: Direction, fixed: Fixed, places: dict[Place, Measured]) -> tuple[Values, set[int]] | None:
    """One slope a seed that was measured at every x of the plan, so that all slopes are over the same x."""
    pick = {**direction.first, **dict(fixed)}
    start = max(0.0, direction.beyond) if direction.log else direction.beyond
    line = {
        float(place[4]): measured
        for place, measured in places.items()
        if _matches(place, pick) and isinstance(place[4], int | float) and place[4] > start
    }
    if len(line) < 2:
        return None
    xs = [math.log(x) if direction.log else x for x in line]
    seeds = _seeds(*line.values())
    whole = sorted(seed for seed in seeds if all(seed in measured.values for measured in line.values()))
    return {
        seed: direction.sign * slope(xs, [measured.values[seed] for measured in line.values()]) for seed in whole
    }, seeds


def _numbers(direction: Direction, fixed: Fixed, places: dict[Place, Measured]) -> tuple[Values, set[int]] | None:
    measured = _one(places, dict(fixed) | {"column": ""})
    if measured is None:
        return None
    whole = {
        seed: cell.numbers
        for seed, cell in measured.cells.items()
        if all(name in cell.numbers for name in direction.weights)
    }
    return {
        seed: math.fsum(weight * numbers[name] for name, weight in direction.weights.items())
        for seed, numbers in whole.items()
    }, _seeds(measured)


# tables


def overview(claims: Sequence[Claim], sources: Sequence[Source]) -> Table:
    """A row a claim: for each reproduction the verdict and how many cases it stands on."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for claim in claims:
        name = claim.experiment.name
        row = {"experiment": claim.experiment.title, "at": f"#{name}", "claim": claim.direction.text}
        found = rows.setdefault((name, claim.direction.text), row)
        found |= {claim.source.title: claim.verdict, f"{claim.source.title} note": _about(claim)}
    titles = [source.title for source in sources]
    for row in rows.values():
        row |= {title: "not planned" for title in titles if title not in row}
    columns = {"experiment": Format(link="at"), "claim": Format()}
    columns |= {title: Format(title, verdict=True, note=f"{title} note") for title in titles}
    caption = "What the article claims with a direction, and what was found."
    return table("overview", caption, list(rows.values()), columns, grouped=True, stacked=True)


def cases(claims: Sequence[Claim]) -> Table:
    """Every case with its bounds."""
    rows: list[dict[str, Any]] = []
    for claim in claims:
        digits = _digits(claim)
        for case in claim.cases:
            texts = [
                "–" if value is None else signed(value, digits) for value in (case.mean, *(case.bounds or (None, None)))
            ]
            left = f"({case.left_out} without a value)" if case.left_out else ""
            head = {"claim": f"{claim.experiment.title}: {claim.direction.text}", "case": case_text(case, claim)}
            numbers = dict(zip(("mean", "low", "high"), texts, strict=True))
            each = {"from": claim.source.title, **numbers, "unit": unit(claim), "n": case.n, "left": left}
            rows.append({**head, **each, "verdict": case.verdict})
    columns = {
        **{name: Format() for name in ("claim", "case", "from")},
        "mean": Format(right=True),
        "low": Format("lower bound", right=True),
        "high": Format("upper bound", right=True),
        "unit": Format("in"),
        "n": Format("seeds", note="left"),
        "verdict": Format(verdict=True),
    }
    caption = "Every case of every claim: a quantity that the claim says is above 0, and its one-sided 95 % t bounds."
    long = [_record(case, claim) for claim in claims for case in claim.cases]
    return table("claims", caption, rows, columns, grouped=True, long=long)


def case_text(case: Case, claim: Claim) -> str:
    """`ResNet18, CNN`, or `CNN, share of images 0.25`."""
    parts = []
    for name, value in case.where.items():
        if name == "x":
            parts.append(f"{symbol(claim.experiment) or 'x'} {value:g}" if isinstance(value, float) else str(value))
        else:
            parts.append(HEADS.get(value, value))
    return ", ".join(parts) or "the one case"


def unit(claim: Claim) -> str:
    """What a case's number is in."""
    if claim.direction.kind == "slope":
        return f"points per {'ln ' if claim.direction.log else 'unit of '}{symbol(claim.experiment)}"
    return "silhouette" if claim.direction.kind == "numbers" else "points"


def _about(claim: Claim) -> str:
    digits, means = _digits(claim), [case.mean for case in claim.cases if case.mean is not None]
    if len(claim.cases) == 1:
        mean = signed(means[0], digits) if means else "–"
        return f"{mean} {unit(claim)} over {plural(claim.cases[0].n, 'seed')}"
    counts = Counter(case.verdict for case in claim.cases)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    span = f"; means {signed(min(means), digits)} to {signed(max(means), digits)} {unit(claim)}" if means else ""
    return f"{plural(len(claim.cases), 'case')}: {', '.join(parts)}{span}"


def _record(case: Case, claim: Claim) -> dict[str, Any]:
    low, high = case.bounds or (None, None)
    return {
        "experiment": claim.experiment.name,
        "claim": claim.direction.text,
        "claim verdict": claim.verdict,
        "plan": claim.source.title,
        **{name: case.where.get(name) for name in ("teacher", "column", "x")},
        "mean": short(case.mean),
        "lower bound": short(low),
        "upper bound": short(high),
        "unit": unit(claim),
        "n": case.n,
        "left out": case.left_out,
        "verdict": case.verdict,
        "values": " ".join(f"{seed}:{value:.6g}" for seed, value in case.values.items()),
    }


def _digits(claim: Claim) -> int:
    return 3 if claim.direction.kind == "numbers" else claim.source.digits(claim.experiment.name)
