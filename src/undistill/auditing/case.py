"""One card's case: its attacks, what they amount to, and what stands against a verdict. Never imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from undistill.auditing.arms import SOFT, Arm
from undistill.auditing.comparing import comparer, of, shows_labels, sides
from undistill.auditing.evidence import STALE, Evidence
from undistill.auditing.verdict import INCONCLUSIVE, Arms, Contrasts, check_control, contrasts, decide, explain
from undistill.errors import UsageError
from undistill.experiments.plan import Planned
from undistill.experiments.ranking import Ranked
from undistill.statistics import Difference
from undistill.threat_model import Access, Card


@dataclass(frozen=True)
class Case:
    """One card of an audit. `text` is the threat model as the plan writes it."""

    evidence: Evidence
    text: str

    @cached_property
    def card(self) -> Card:
        """The card, read."""
        return Card.parse(self.text)

    @property
    def id(self) -> str:
        """The card as a name for files and anchors."""
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")

    @property
    def labelled(self) -> bool:
        """Whether the attacker holds true labels."""
        return self.card.data == "labelled"

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """All attacks and baselines."""
        return self.evidence.arms(self.text)

    @cached_property
    def sides(self) -> Arms[Arm]:
        """Those that a verdict compares."""
        return sides(self.arms, self.labelled, closed=shows_labels(self.evidence.plan))

    @cached_property
    def contrasts(self) -> Contrasts:
        """What they amount to."""
        return contrasts(self.sides, self.compare)

    @cached_property
    def compare(self) -> Callable[[Arm, Arm], Difference]:
        """The paired difference of two attacks."""
        return comparer(self.evidence.plan)

    def best(self, side: str, *roles: str) -> Arm | None:
        """The largest mean accuracy of a side in these roles; None without any."""
        found = [arm for arm in of(self.arms, side, *roles) if arm.runs]
        return max(found, key=lambda arm: arm.mean) if found else None

    @cached_property
    def best_found(self) -> Arm | None:
        """The best attack of the defended model, however it reads, more effort and other students among them."""
        return self.best("defended", *SOFT, "labels", "effort")

    def searched(self, side: str) -> list[Ranked]:
        """Scores of the search on a side, best first."""
        return self.evidence.groups(self.evidence.search(self.text, side))

    @property
    def needed(self) -> tuple[Planned, ...]:
        """The planned cells that the threat model's verdict rests on: its attacks, the search they come from, what users get.

        Attacks with more effort are not among them: they count for exposure alone.
        """
        plan = self.evidence.plan
        here = [p for p in plan.of(self.text) if p.role not in ("curve", "served", "effort")]
        keys = {key for p in here if p.choice is not None for key in p.choice.among}
        keys |= {p.key for p in here}
        wanted = [p for p in plan.cells if p.key in keys or p.role == "served"]
        return tuple(p for p in wanted if not self.evidence.empty(p))

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """What makes the threat model inconclusive whatever the numbers say, each a sentence."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        done = self.evidence.done
        stale = [p for p in self.needed if p.key in self.evidence.stale]
        missing = [p for p in self.needed if p.key not in done and p.key not in self.evidence.stale]
        failed = [p for p in self.needed if p.key in done and done[p.key].status == "failed"]
        if missing:
            yield f"{self._share(missing)} not computed, {told(missing[0])} among them."
        if stale:
            yield f"{self._share(stale)} out of date, {told(stale[0])} among them: {STALE}."
        if failed:
            yield (
                f"{len(failed)} of {len(self.needed)} planned cells failed, {told(failed[0])} among them: "
                f"{done[failed[0].key].why or 'no reason is known'}."
            )
        for arms, what in (
            (self.sides.labels.all, "an attack of labels"),
            (self.sides.soft.all, "an attacker that reads more than labels"),
            (self.sides.soft0.all, "such an attack of the undefended control"),
        ):
            if not (missing or stale or failed or any(arm.runs for arm in arms)):
                yield f"{what[0].upper()}{what[1:]} is missing here."
        yield from self._refused()

    def _share(self, cells: Sequence[Planned]) -> str:
        """`3 of 50 planned cells are`."""
        return f"{len(cells)} of {len(self.needed)} planned cells {'is' if len(cells) == 1 else 'are'}"

    def _refused(self) -> Iterator[str]:
        """Why the undefended control is no control."""
        reached = [self.evidence.accuracy(side, self.card.serving) for side in ("defended", "undefended")]
        if reached[0] is None or reached[1] is None:
            yield "What users get from the model or its control was not measured."
            return
        try:
            check_control(reached[0], reached[1], self.evidence.plan.delta, (self.evidence.plan.fingerprint,))
        except UsageError as error:
            yield f"The control is refused: {error}."

    @cached_property
    def judged(self) -> tuple[str | None, str]:
        """(what the rules say, why); (None, why) where there is nothing to judge by."""
        plan = self.evidence.plan
        if not plan.controlled:
            return None, "Without an undefended control there is no telling what a defense took."
        if self.card.access is Access.LABEL:
            return None, "Served as labels, there are no soft outputs to defend."
        if self.problems:
            return INCONCLUSIVE, " ".join(self.problems)
        verdict = str(decide(self.contrasts, plan.delta))
        return verdict, explain(verdict, self.contrasts, plan.delta, closed=self.sides.closed)


def told(planned: Planned) -> str:
    """A planned cell in words."""
    whose = f" of {planned.victim}" if planned.victim else ""
    return f"{planned.role} {planned.label}{whose}, seed {planned.seed}"


def cases(evidence: Evidence) -> tuple[Case, ...]:
    """The cases of an audit, in the plan's order."""
    return tuple(Case(evidence, card) for card in evidence.plan.cards)
