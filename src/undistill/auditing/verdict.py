"""The rules: from differences between attacks to a verdict on a defense. Never imports torch.

Every rule is about the best of several attacks, and choosing the best by the numbers that are then tested would bias the test. So
it is an intersection-union test: to say that the best of A is at least x above the best of B, one attack of A, chosen by the search
without test images, must be x above *every* attack of B; to say that it is at most x above, *every* attack of A must be at most x
above one chosen attack of B. Each bound is one-sided at 95 %, and a statement that needs several of them at once is wrong in at
most 5 %, however many there are (Berger 1982, Technometrics 24(4)).

An attack with a lost cell is unknown: its bounds are infinite, so it can only weaken a verdict.
"""

from __future__ import annotations

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
NO_ADVANTAGE = "nothing to defend"
NO_GAIN = "worthless to this thief"
LABEL_LEVEL = "reduced to labels"
NO_EFFECT = "no effect"
PARTIAL = "partial"
STRENGTH: Mapping[str, int] = {INCONCLUSIVE: 0, NO_ADVANTAGE: 0, NO_EFFECT: 0, PARTIAL: 1, LABEL_LEVEL: 2, NO_GAIN: 3}
"""The verdicts as they are stored, and how much each says in a defense's favor."""


@dataclass(frozen=True)
class Candidates(Generic[Arm]):
    """Attacks of one kind: all that were reported, and the one that the search ranked first."""

    all: tuple[Arm, ...] = ()
    chosen: Arm | None = None


@dataclass(frozen=True)
class Comparison(Generic[Arm]):
    """What a threat model's verdict compares.

    `soft`, `labels`: attacks on the defended model that read more than labels, or labels alone; `defended`: both; `attacks`: both,
    and the baselines where the attacker holds labels and can always train one. `soft0`: soft attacks on the undefended control.
    `baseline`: students without a victim, empty where the attacker holds no labels. `floor`: `labels` and `baseline`.
    `labels_only`: the defended model returns labels alone, so that `soft` is `labels`.
    """

    soft: Candidates[Arm]
    labels: Candidates[Arm]
    attacks: Candidates[Arm]
    soft0: Candidates[Arm]
    floor: Candidates[Arm]
    baseline: Candidates[Arm] = field(default_factory=Candidates)
    defended: Candidates[Arm] = field(default_factory=Candidates)
    labels_only: bool = False


@dataclass(frozen=True)
class Contrasts:
    """The differences that a verdict rests on, in points; single ones, or arrays for many audits at once.

    `headroom` A_soft0 − floor · `gap` A_soft − floor · `reduction` A_soft0 − max(A_def, floor) · `over_baseline` A_def − A_ref ·
    `control_over_baseline` A_soft0 − A_ref. The floor is A_label, and where the attacker holds labels the better of that and A_ref.
    The last two are unknown where it holds none.
    """

    headroom: Difference
    gap: Difference
    reduction: Difference
    over_baseline: Difference = UNKNOWN
    control_over_baseline: Difference = UNKNOWN

    @property
    def half_width(self) -> float:
        """What these cells resolve, in points: the larger half-width of headroom and gap. Infinite without any."""
        return float(max(self.headroom.half, self.gap.half))


def best_minus_best(first: Candidates[Arm], second: Candidates[Arm], compare: Compare[Arm]) -> Difference:
    """Best of the first minus best of the second: the largest mean minus the largest mean, and bounds as the module says.

    `lower` is the least lower bound of the first's chosen one against all of the second; `upper` the greatest upper bound of all of
    the first against the second's chosen one. So lower ≤ mean ≤ upper. UNKNOWN where one of them is empty.
    """
    if not first.all or not second.all:
        return UNKNOWN
    pairs = [[compare(a, b) for b in second.all] for a in first.all]
    below = [UNKNOWN] if first.chosen is None else [compare(first.chosen, b) for b in second.all]
    above = [UNKNOWN] if second.chosen is None else [compare(a, second.chosen) for a in first.all]
    return Difference(
        mean=_fold(np.fmax, [_fold(np.fmin, [pair.mean for pair in row]) for row in pairs]),
        lower=_fold(np.minimum, [pair.lower for pair in below]),
        upper=_fold(np.maximum, [pair.upper for pair in above]),
        low=_fold(np.minimum, [pair.low for pair in below]),
        high=_fold(np.maximum, [pair.high for pair in above]),
        n=min(pair.n for row in pairs for pair in row),
    )


def contrasts(given: Comparison[Arm], compare: Compare[Arm]) -> Contrasts:
    """All differences of a threat model; `compare(a, b)` is the paired difference a − b of two attacks."""
    return Contrasts(
        headroom=best_minus_best(given.soft0, given.floor, compare),
        gap=_label_gap(given, compare) if given.labels_only else best_minus_best(given.soft, given.floor, compare),
        reduction=best_minus_best(given.soft0, given.attacks, compare),
        over_baseline=best_minus_best(given.defended, given.baseline, compare),
        control_over_baseline=best_minus_best(given.soft0, given.baseline, compare),
    )


def _label_gap(given: Comparison[Arm], compare: Compare[Arm]) -> Difference:
    """A_soft − floor of a model that returns labels alone: A_label − max(A_label, A_ref), so min(0, A_label − A_ref), or 0.

    That it is at most 0 is no finding and has no width. Bounds of min(0, x) are those of x, cut at 0.
    """
    if not given.labels.all:
        return UNKNOWN
    if not given.baseline.all:
        return Difference(0.0, 0.0, 0.0, 0.0, 0.0, min(compare(one, one).n for one in given.labels.all))
    over = best_minus_best(given.labels, given.baseline, compare)
    ends = (over.mean, over.lower, over.upper, over.low, over.high)
    mean, lower, upper, low, high = (np.minimum(end, 0.0) for end in ends)
    return Difference(mean, lower, upper, low, high, over.n)


def decide(found: Contrasts, delta: float) -> NDArray[np.str_]:
    """The verdict of the first rule that holds; an array of the contrasts' shape, without axes for single ones.

    No soft-label advantage: upper(H) ≤ δ. All others need lower(H) > δ, which excludes it. No effect: upper(reduction) ≤ δ.
    Partial: lower(reduction) > 0, and upper(reduction) known. Label-only level: partial, and upper(A_soft − floor) ≤ δ. No gain
    over baseline: label-only level, upper(A_def − A_ref) ≤ δ and lower(A_soft0 − A_ref) > δ.

    The two strong verdicts come before no effect: where headroom is below 2δ both can be true, and the one that says more about
    what remains is given. Each needs all that the weaker one does, so that less evidence never says more, and so that the chance
    of a false statement in a defense's favor is that of one bound; two tried beside each other would have two chances.
    """
    room = found.headroom.lower > delta
    reduced = room & (found.reduction.lower > 0) & np.isfinite(found.reduction.upper)
    to_labels = reduced & (found.gap.upper <= delta)
    rules = {
        NO_ADVANTAGE: found.headroom.upper <= delta,
        NO_GAIN: to_labels & (found.over_baseline.upper <= delta) & (found.control_over_baseline.lower > delta),
        LABEL_LEVEL: to_labels,
        NO_EFFECT: room & (found.reduction.upper <= delta),
        PARTIAL: reduced,
    }
    return np.asarray(np.select([np.asarray(rule) for rule in rules.values()], list(rules), INCONCLUSIVE))


def check_control(
    defended_accuracy: float, undefended_accuracy: float, delta: float, fingerprints: Sequence[str]
) -> None:
    """UsageError for an undefended control that cannot be compared with: other data, or more than δ points less accurate.

    Attacks on a worse control learn less, so that any defense would seem to remove little, or its labels to be worth much.
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


def _fold(function: Callable[[Any, Any], Any], values: Sequence[Any]) -> Any:
    return reduce(function, values)
