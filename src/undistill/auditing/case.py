"""One threat model of an audit: its arms compared, and the verdict. Never imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from undistill.auditing.evidence import SOFT, Arm, Evidence, comparer
from undistill.auditing.verdict import (
    INCONCLUSIVE,
    Candidates,
    Comparison,
    Contrasts,
    check_control,
    contrasts,
    decide,
)
from undistill.errors import UsageError
from undistill.experiments.plan import Planned
from undistill.experiments.ranking import Ranked
from undistill.statistics import Difference
from undistill.threat_model import Access, ThreatModel

Kind = Literal["missing", "stale", "failed", "no attack", "unmeasured", "refused"]


@dataclass(frozen=True)
class Problem:
    """What makes a threat model inconclusive whatever the numbers say.

    `cells`: those that are missing, stale or failed. `what`: the kind of attack that is absent (`labels`, `soft`, `soft0`), or why
    the control was refused.
    """

    kind: Kind
    cells: tuple[Planned, ...] = ()
    what: str = ""


@dataclass(frozen=True)
class Case:
    """One threat model of an audit. `text` is how the plan writes it; `without` names attacks that are taken for never tried."""

    evidence: Evidence
    text: str
    without: frozenset[str] = frozenset()

    @cached_property
    def threat_model(self) -> ThreatModel:
        """The threat model, parsed."""
        return ThreatModel.parse(self.text)

    @property
    def id(self) -> str:
        """The threat model as a name for files and anchors."""
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")

    @property
    def delta(self) -> float:
        """The smallest difference that matters, points."""
        return self.evidence.plan.delta

    @property
    def labelled(self) -> bool:
        """Whether the attacker holds true labels."""
        return self.threat_model.data == "labelled"

    @property
    def label_only(self) -> bool:
        """Whether outputs are labels alone at this access."""
        return self.threat_model.access is Access.LABEL

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """All attacks and baselines."""
        return tuple(arm for arm in self.evidence.arms(self.text) if attack_of(arm) not in self.without)

    @cached_property
    def comparison(self) -> Comparison[Arm]:
        """The arms that a verdict compares."""
        ours = [subject for subject in self.evidence.plan.subjects if subject.side == "defended"]
        shows_labels = bool(ours) and all(subject.shows == Access.LABEL.label for subject in ours)
        return comparison(self.arms, self.labelled, labels_only=shows_labels)

    @cached_property
    def contrasts(self) -> Contrasts:
        """The differences that a verdict rests on."""
        return contrasts(self.comparison, self.compare)

    @cached_property
    def compare(self) -> Callable[[Arm, Arm], Difference]:
        """The paired difference of two arms."""
        return comparer(self.evidence.plan)

    def best(self, side: str, *roles: str) -> Arm | None:
        """The arm of the largest mean accuracy on a side in these roles; None without any."""
        return max((arm for arm in of(self.arms, side, *roles) if arm.runs), key=lambda arm: arm.mean, default=None)

    @cached_property
    def best_found(self) -> Arm | None:
        """The best attack on the defended model, those with more effort and other students among them."""
        return self.best("defended", *SOFT, "labels", "effort")

    @cached_property
    def best_undefended(self) -> Arm | None:
        """The best attack on the undefended control."""
        return self.best("undefended", *SOFT, "labels")

    def searched(self, side: str) -> list[Ranked]:
        """Scores of the search on a side, best first."""
        return self.evidence.scores(self.evidence.search(self.text, side))

    @cached_property
    def needed(self) -> tuple[Planned, ...]:
        """The planned cells that the verdict rests on: its arms, the search they come from, what users get.

        Attacks with more effort are not among them: they count for relative accuracy alone.
        """
        plan = self.evidence.plan
        here = [p for p in plan.of(self.text) if p.role not in ("curve", "served", "effort")]
        keys = {p.key for p in here} | {key for p in here if p.choice is not None for key in p.choice.among}
        wanted = [p for p in plan.cells if p.key in keys or p.role == "served"]
        return tuple(p for p in wanted if not self.evidence.empty(p))

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """What makes it inconclusive whatever the numbers say."""
        return tuple(self._problems())

    @cached_property
    def verdict(self) -> str | None:
        """What the rules say; None without a control, and where there are no soft outputs to defend."""
        if not self.evidence.plan.controlled or self.label_only:
            return None
        return INCONCLUSIVE if self.problems else str(decide(self.contrasts, self.delta))

    def _problems(self) -> Iterator[Problem]:
        done, stale = self.evidence.done, self.evidence.stale
        cells: dict[Kind, tuple[Planned, ...]] = {
            "missing": tuple(p for p in self.needed if p.key not in done and p.key not in stale),
            "stale": tuple(p for p in self.needed if p.key in stale),
            "failed": tuple(p for p in self.needed if p.key in done and done[p.key].status == "failed"),
        }
        yield from (Problem(kind, found) for kind, found in cells.items() if found)
        if not any(cells.values()):
            for name in ("labels", "soft", "soft0"):
                if not any(arm.runs for arm in getattr(self.comparison, name).all):
                    yield Problem("no attack", what=name)
        access = self.threat_model.serving
        ours, control = (self.evidence.accuracy(side, access) for side in ("defended", "undefended"))
        if ours is None or control is None:
            yield Problem("unmeasured")
            return
        try:
            check_control(ours, control, self.delta, (self.evidence.plan.fingerprint,))
        except UsageError as error:
            yield Problem("refused", what=str(error))


def cases(evidence: Evidence) -> tuple[Case, ...]:
    """The threat models of an audit, in the plan's order."""
    return tuple(Case(evidence, text) for text in evidence.plan.cards)


def comparison(arms: Sequence[Arm], labelled: bool, *, labels_only: bool = False) -> Comparison[Arm]:
    """A threat model's arms in their places. Attacks with more effort than the control's are left out.

    Of a model that returns labels alone, label-only attacks read all there is: they are the soft ones too.
    """
    soft = of(arms, "defended", *SOFT)
    labels = of(arms, "defended", "labels")
    baseline = of(arms, "alone", "alone") if labelled else ()
    labels_only = labels_only and not soft
    return Comparison(
        soft=ranked_first(labels if labels_only else soft),
        labels=ranked_first(labels),
        attacks=ranked_first((*soft, *labels, *baseline)),
        soft0=ranked_first(of(arms, "undefended", *SOFT)),
        floor=ranked_first((*labels, *baseline)),
        baseline=ranked_first(baseline),
        defended=ranked_first((*soft, *labels)),
        labels_only=labels_only,
    )


def attack_of(arm: Arm) -> str:
    """The name of an arm's attack, whatever its settings; its label where nothing says which it is."""
    return arm.cells[0].attack if arm.cells else str(arm.planned[0].attack.get("name", arm.label))


def of(arms: Sequence[Arm], side: str, *roles: str) -> tuple[Arm, ...]:
    """Those of a side in these roles."""
    return tuple(arm for arm in arms if arm.side == side and arm.role in roles)


def ranked_first(arms: Sequence[Arm]) -> Candidates[Arm]:
    """All of them, and the one with the best score in the search; without any score, the first.

    Equal scores belong to one choice tried with several students: then the one with more right on held-out images. Test images are
    not used.
    """

    def score(arm: Arm) -> tuple[float, float]:
        return (-math.inf, -math.inf) if arm.score is None else (arm.score, arm.held_out)

    return Candidates(tuple(arms), max(arms, key=score, default=None))
