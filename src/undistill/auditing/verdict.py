"""The rules: from differences between attacks to what may be said about a defense. Never imports torch.

Every rule is about the best of several attacks, and picking the best by the numbers that are then judged would fool us. So it is
an intersection-union test: to say that the best of A is at least x above the best of B, one attack of A, chosen by the search
without test images, must be x above *every* attack of B; to say that it is at most x above, *every* attack of A must be at most x
above one chosen attack of B. Each single bound is one-sided at 95 %, and a statement that needs several of them to hold at once is
wrong in at most 5 %, however many there are (Berger 1982, Technometrics 24(4)).

An attacker with a lost cell is unknown: its bounds are infinite, which no rule can use. Unknown can only take statements away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from undistill.errors import UsageError
from undistill.statistics import UNKNOWN, Difference

Arm = TypeVar("Arm")
Compare = Callable[[Arm, Arm], Difference]

INCONCLUSIVE = "inconclusive"
NOTHING = "nothing to defend"
WORTHLESS = "worthless to this thief"
REDUCED = "reduced to labels"
NO_EFFECT = "no effect"
PARTIAL = "partial"
STRENGTH: Mapping[str, int] = {INCONCLUSIVE: 0, NOTHING: 0, NO_EFFECT: 0, PARTIAL: 1, REDUCED: 2, WORTHLESS: 3}
"""How much a verdict says in a defense's favour."""


@dataclass(frozen=True)
class Side(Generic[Arm]):
    """Attacks of one kind, all that were reported, and the one that the search ranked first."""

    all: tuple[Arm, ...] = ()
    chosen: Arm | None = None


@dataclass(frozen=True)
class Arms(Generic[Arm]):
    """What a threat model's verdict is made of.

    `soft`, `labels`: attacks of the defended model that read more than labels, or labels alone; `defended`: both; `attacks`: both,
    and where the attacker holds labels also baselines, which it can always train. `soft0`: soft attacks of the undefended control.
    `alone`: students without a victim, empty where the attacker holds no labels. `floor`: `labels` and `alone`. `closed`: the
    defended model shows labels alone, so that `soft` is `labels`.
    """

    soft: Side[Arm]
    labels: Side[Arm]
    thieves: Side[Arm]
    soft0: Side[Arm]
    floor: Side[Arm]
    alone: Side[Arm] = field(default_factory=Side)
    defended: Side[Arm] = field(default_factory=Side)
    closed: bool = False


@dataclass(frozen=True)
class Contrasts:
    """The differences that a verdict rests on, in points; single ones, or arrays for many audits at once.

    `headroom` A_soft0 − floor · `gap` A_soft − floor · `took` A_soft0 − max(A_def, floor) · `over_alone` A_def − A_ref ·
    `twin_over_alone` A_soft0 − A_ref. The floor is A_label, and where the attacker holds labels the better of that and A_ref. The
    last two are unknown on cards without labels.
    """

    headroom: Difference
    gap: Difference
    took: Difference
    over_alone: Difference = UNKNOWN
    twin_over_alone: Difference = UNKNOWN


def best_minus_best(first: Side[Arm], second: Side[Arm], compare: Compare[Arm]) -> Difference:
    """Best of the first minus best of the second: the largest mean minus the largest mean, and bounds as the module says.

    `lower` is the least lower bound of the first's chosen one against all of the second; `upper` the greatest upper bound of all of
    the first against the second's chosen one. So lower ≤ mean ≤ upper. UNKNOWN where a side is empty.
    """
    if not first.all or not second.all:
        return UNKNOWN
    pairs = [[compare(a, b) for b in second.all] for a in first.all]
    mean = _fold(np.fmax, [_fold(np.fmin, [pair.mean for pair in row]) for row in pairs])
    below = [UNKNOWN] if first.chosen is None else [compare(first.chosen, b) for b in second.all]
    above = [UNKNOWN] if second.chosen is None else [compare(a, second.chosen) for a in first.all]
    return Difference(
        mean=mean,
        lower=_fold(np.minimum, [pair.lower for pair in below]),
        upper=_fold(np.maximum, [pair.upper for pair in above]),
        low=_fold(np.minimum, [pair.low for pair in below]),
        high=_fold(np.maximum, [pair.high for pair in above]),
        n=min(pair.n for row in pairs for pair in row),
    )


def contrasts(arms: Arms[Arm], compare: Compare[Arm]) -> Contrasts:
    """All differences of a threat model; `compare(a, b)` is the paired difference a − b of two attacks."""
    return Contrasts(
        headroom=best_minus_best(arms.soft0, arms.floor, compare),
        gap=_closed_gap(arms, compare) if arms.closed else best_minus_best(arms.soft, arms.floor, compare),
        took=best_minus_best(arms.soft0, arms.thieves, compare),
        over_alone=best_minus_best(arms.defended, arms.alone, compare),
        twin_over_alone=best_minus_best(arms.soft0, arms.alone, compare),
    )


def _closed_gap(arms: Arms[Arm], compare: Compare[Arm]) -> Difference:
    """A_soft − floor of a model that shows labels alone: A_label − max(A_label, A_ref), so min(0, A_label − A_ref), or 0.

    That it is at most 0 is no finding and has no width. Bounds of min(0, x) are those of x, cut at 0.
    """
    if not arms.labels.all:
        return UNKNOWN
    if not arms.alone.all:
        return Difference(0.0, 0.0, 0.0, 0.0, 0.0, min(compare(one, one).n for one in arms.labels.all))
    over = best_minus_best(arms.labels, arms.alone, compare)
    mean, lower, upper, low, high = (
        np.minimum(end, 0.0) for end in (over.mean, over.lower, over.upper, over.low, over.high)
    )
    return Difference(mean, lower, upper, low, high, over.n)


def decide(found: Contrasts, delta: float) -> NDArray[np.str_]:
    """The verdict of the first rule that holds; an array of the contrasts' shape, without axes for single ones.

    Nothing to defend: upper(H) ≤ δ. All others need lower(H) > δ, which excludes it. No effect: upper(took) ≤ δ. Partial:
    lower(took) > 0, and upper(took) known. Reduced to labels: partial, and upper(A_soft − floor) ≤ δ. Worthless to this thief:
    reduced, upper(A_def − A_ref) ≤ δ and lower(A_soft0 − A_ref) > δ.

    Worthless and reduced come before no effect: where headroom is below 2δ both can be true, and the one that says more about
    what is left is said. Each needs all that the weaker one does, so that less evidence never says more, and so that the chance
    of a false word in a defense's favour is that of one bound: two that were tried beside each other would have two chances.
    """
    room = found.headroom.lower > delta
    took = room & (found.took.lower > 0) & np.isfinite(found.took.upper)
    reduced = took & (found.gap.upper <= delta)
    rules = {
        NOTHING: found.headroom.upper <= delta,
        WORTHLESS: reduced & (found.over_alone.upper <= delta) & (found.twin_over_alone.lower > delta),
        REDUCED: reduced,
        NO_EFFECT: room & (found.took.upper <= delta),
        PARTIAL: took,
    }
    return np.asarray(np.select([np.asarray(rule) for rule in rules.values()], list(rules), INCONCLUSIVE))


def check_control(
    defended_accuracy: float, undefended_accuracy: float, delta: float, fingerprints: Sequence[str]
) -> None:
    """UsageError for an undefended control that cannot be compared with: other data, or more than δ points less accurate.

    A worse control teaches its attacks less, so that any defense would seem to take little, or its labels to be worth much.
    """
    if len(set(fingerprints)) > 1:
        raise UsageError(
            f"the control was made from other data: fingerprints {', '.join(sorted(set(fingerprints)))}; "
            "train the undefended control on the defended model's data"
        )
    if defended_accuracy - undefended_accuracy > delta:
        raise UsageError(
            f"the control reaches {undefended_accuracy:.1f} %, the defended model {defended_accuracy:.1f}: less by more "
            f"than δ = {delta:g}; train the control for longer, until it is as good, or audit without it "
            "(--accept-accuracy compares them all the same)"
        )


def explain(verdict: str, found: Contrasts, delta: float, *, closed: bool = False) -> str:
    """Why, in one sentence with numbers; `closed` as in `Arms`."""
    room, took, gap = found.headroom, found.took, found.gap
    if verdict == NOTHING:
        return (
            f"The undefended control's soft outputs are worth at most {room.upper:.1f} points over what works without them; "
            f"less than {delta:g} counts as none."
        )
    if verdict == WORTHLESS:
        return (
            f"The best attack found is at most {max(found.over_alone.upper, 0):.1f} points above the baseline; from "
            f"the undefended control it would be at least {found.twin_over_alone.lower:.1f} above."
        )
    if verdict == REDUCED and closed:
        return (
            "It returns labels alone, so label-only attacks are all that remain; undefended, soft outputs are worth at least "
            f"{room.lower:.1f} points."
        )
    if verdict == REDUCED:
        return (
            f"The best attack found that reads more than labels is at most {max(gap.upper, 0):.1f} points above the best on "
            f"labels alone; undefended, soft outputs are worth at least {room.lower:.1f} points."
        )
    if verdict == NO_EFFECT:
        return (
            f"The defense removed at most {max(took.upper, 0):.1f} of at least {room.lower:.1f} points; less than {delta:g} counts "
            "as none."
        )
    if verdict == PARTIAL:
        left = (
            ""
            if gap.half <= delta
            else f"; an uncertainty of ±{gap.half:.1f} points leaves open whether all is removed"
        )
        return f"The defense removed {span(took)} of {span(room)} points that soft outputs are worth{left}."
    return _unresolved(found, delta)


def span(difference: Difference) -> str:
    """`0.9 (0.4 to 1.3)`: mean and one-sided bounds."""
    if not difference.finite:
        return f"{difference.mean:.1f}"
    return f"{difference.mean:.1f} ({difference.lower:.1f} to {difference.upper:.1f})"


def half_width(found: Contrasts) -> float:
    """What these cells resolve, in points: the larger half-width of headroom and of soft over labels. Infinite without any."""
    return float(max(found.headroom.half, found.gap.half))


def _unresolved(found: Contrasts, delta: float) -> str:
    half = half_width(found)
    if not math.isfinite(half):
        return "There are no intervals: an attacker that is compared has lost cells, or there is one unit alone."
    if half > delta:
        return f"These cells resolve {half:.1f} points, δ is {delta:g}: more seeds are needed."
    return (
        f"Headroom is {span(found.headroom)} points, of which {span(found.took)} were taken: at δ = {delta:g} no rule holds, the "
        "truth lies too near to a boundary."
    )


def _fold(function: Callable[[Any, Any], Any], values: Sequence[Any]) -> Any:
    return reduce(function, values)
