"""Suites of attacks, as data: what is tried, how often, on how many cells at most. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from undistill.errors import unknown
from undistill.statistics import half_width

Settings = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """A fixed set of attacks. A suite with a version never changes: what would change its numbers gets a new version.

    `soft`: attacks that read more than labels; `labels`: those that read labels alone; `inside`: those that need the weights;
    `public`: those that start from public weights. A suite with `search` seeds tries them and the grids first and reports its
    `ranks` best attacks; one without reports them all. `most` caps the cells of one victim and its controls, at `seeds` report
    seeds. A suite that `grows` begins with `seeds` and adds more until differences of δ are resolved or its time is used. An
    `adaptive` one adds the attack that is written knowing the audited defense.
    """

    name: str
    verdicts: bool
    seeds: int
    most: int
    soft: tuple[Settings, ...]
    labels: tuple[Settings, ...]
    inside: tuple[Settings, ...]
    public: tuple[Settings, ...]
    search: int = 0
    ranks: int = 3
    temperatures: tuple[float, ...] = ()
    alphas: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    effort: int = 0
    grows: bool = False
    adaptive: bool = False


NAIVE: Settings = {"name": "kd", "temperature": 4.0}
"""The paper's student; its α is 0.9 where the attacker holds labels and 1 where it does not."""

QUICK = Suite(
    name="quick",
    verdicts=False,
    seeds=3,
    most=30,
    soft=({"name": "kd", "temperature": 1.0}, {"name": "sanitise", "variant": "second"}),
    labels=({"name": "label-only"},),
    inside=({"name": "head-refit"},),
    public=({"name": "linear-probe"},),
)
TIMED = Suite(
    name="timed@1",
    verdicts=False,
    seeds=2,
    most=250,
    soft=QUICK.soft,
    labels=QUICK.labels,
    inside=QUICK.inside,
    public=QUICK.public,
    grows=True,
)
STANDARD = Suite(
    name="standard@1",
    verdicts=True,
    seeds=5,
    most=250,
    soft=(
        {"name": "standardised-kd"},
        {"name": "decoupled"},
        {"name": "sanitise", "variant": "clip"},
        {"name": "sanitise", "variant": "top1"},
        {"name": "sanitise", "variant": "class-means"},
        {"name": "sanitise", "variant": "second"},
        {"name": "average"},
    ),
    labels=({"name": "label-only"}, {"name": "label-smooth"}),
    inside=(
        {"name": "head-refit"},
        {"name": "finetune"},
        {"name": "feature-kd", "variant": "simkd-refit"},
        {"name": "feature-kd", "variant": "fitnet"},
    ),
    public=({"name": "linear-probe"},),
    search=2,
    temperatures=(1.0, 2.0, 4.0, 8.0, 20.0),
    alphas=(0.1, 0.5, 0.9, 1.0),
    rates=(1 / 3, 3.0),
    curve=(0.5, 2.0, 4.0),
    effort=3,
)
STANDARD_2 = replace(
    STANDARD, name="standard@2", most=300, public=(*STANDARD.public, {"name": "public"}), adaptive=True
)
NEWEST = {"timed": TIMED, "quick": QUICK, "standard": STANDARD_2}
SUITES = NEWEST | {known.name: known for known in (TIMED, STANDARD, STANDARD_2)}
FIRST_SEARCH_SEED = 10_000
"""Seeds of the search start here, so that none is ever reported."""


def suite(name: str) -> Suite:
    """A suite by its name; `standard` is the newest of that name. UsageError otherwise."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]


def usual_delta(test_images: int) -> float:
    """The smallest difference that matters, in points: half a point on 10,000 test images, two on 500; in halves of a point.

    In between as the standard error of an accuracy goes, 50 / √N.
    """
    return max(0.5, round(2 * 50 / test_images**0.5) / 2)


def expected_resolution(units: int, test_images: int) -> float | None:
    """The one-sided 95 % half-width to expect of a paired difference of two attacks, in points; None for one unit.

    Assumed: differences of two students of one seed vary by 1 point between seeds on thousands of test images and by 1.8 on
    hundreds (about the medians in `evidence`, CIFAR-10 and digits), and the mean difference disagrees about 2 % of the test
    images.
    """
    if units < 2:
        return None
    spread = 1.0 if test_images >= 5_000 else 1.8
    return round(float(half_width(spread, units, 100 * (0.02 / test_images) ** 0.5)), 2)


MEASURED = (0.7, 2.3)
"""Half-width of a verdict's differences over `expected_resolution`, lowest and highest of the audits in `evidence`: a verdict
compares the best of several attacks, so its bounds are those of the widest pair."""


def resolution_range(units: int, test_images: int) -> tuple[float, float] | None:
    """The smallest difference that an audit is expected to resolve, in points, as a range; None for one unit."""
    usual = expected_resolution(units, test_images)
    return None if usual is None else (MEASURED[0] * usual, MEASURED[1] * usual)


def seeds_for(wanted: float, test_images: int, most: int = 200) -> int | None:
    """Seeds at which the middle of that range is at most `wanted` points; None where `most` seeds are not enough."""
    middle = (MEASURED[0] * MEASURED[1]) ** 0.5
    found = (n for n in range(2, most + 1) if middle * (expected_resolution(n, test_images) or 0.0) <= wanted)
    return next(found, None)
