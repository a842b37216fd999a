"""How one cell of an audit is planned: the least access that it needs, the threat models it counts for, and its key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.auditing.suite import Settings
from undistill.experiments.plan import Choice, Planned, Role, Subject, key_of
from undistill.threat_model import Access, ThreatModel

EPOCHS = 20
"""Lines in a attacker's log; its steps are spread over them."""


@dataclass(frozen=True)
class Attackers:
    """How attacks are trained: a training section and views; with a query budget, so many steps.

    `pool` and `trained` count the fresh images and those that the victim was trained on; `public` is the digest of public weights.
    """

    training: dict[str, Any]
    views: list[dict[str, Any]]
    students: tuple[dict[str, Any], ...]
    steps: int
    pool: int
    trained: int
    public: str = ""

    def size(self, card: ThreatModel) -> int:
        """How many images a threat model's pool has."""
        return 0 if card.pool == "none" else self.pool if card.pool == "fresh" else self.trained

    def images(self, card: ThreatModel) -> int:
        """How many images the attack of a threat model holds."""
        return card.questions or round(card.share * self.size(card))

    def recipe(self, card: ThreatModel) -> dict[str, Any]:
        """Training and views on a threat model: few images are seen so often that the steps are those asked for."""
        training = dict(self.training)
        if card.questions is not None:
            training["batch"] = max(2, min(training["batch"], card.questions))
            of_a_pass = math.ceil(card.questions / training["batch"])
            training["schedule"] = _squeezed(training["schedule"], EPOCHS / training["epochs"])
            training["epochs"] = EPOCHS
            training["passes"] = max(1, round(self.steps / (EPOCHS * of_a_pass)))
        return {"training": training, "views": self.views}


@dataclass(frozen=True)
class Maker:
    """Plans single cells; `alpha` is what attacks that mix soft and hard answers weigh soft ones by."""

    cards: tuple[ThreatModel, ...]
    attackers: Attackers
    fingerprint: str
    alpha: float
    teachers: Mapping[str, str]
    """The key of the cell that trains a victim, by its name, where the audit does that itself."""
    alone_after: tuple[str, ...] = ()
    """What baselines wait for: the cell that makes the first victim."""

    def served(self, subject: Subject, card: ThreatModel) -> Planned:
        """What users get from a victim under the output access of a threat model; the first such cell of a teacher trains it."""
        key = key_of({"served": str(card), "of": _identity(subject), "data": self.fingerprint})
        label = f"{subject.label} served as {card.serving}"
        first = self.teachers.get(subject.name)
        if first == key:
            first = self.teachers.get(subject.adversary or "")
        after = () if first is None else (first,)
        return Planned(
            key=key, side=subject.side, role="served", label=label, card=str(card), victim=subject.name, after=after
        )

    def attack(
        self,
        subject: Subject | None,
        role: Role,
        card: ThreatModel,
        seed: int,
        *,
        attack: Settings | None = None,
        choice: Choice | None = None,
        changes: dict[str, Any] | None = None,
        times: dict[str, float] | None = None,
        student: dict[str, Any] | None = None,
        stage: int = 1,
        label: str = "",
    ) -> Planned:
        """An attacker of a victim, or a baseline; on the weakest threat model that shows all that its attack reads.

        Either `attack` or `choice` says which attack it is.
        """
        attack = {} if attack is None else self._weighed(attack)
        if attack and (ATTACKS.find(attack["name"]).reads is Access.LABEL or subject is None):
            card = card.served("label")
        fixed: dict[str, Any] = {
            "card": str(card),
            "attack": attack,
            "changes": changes or {},
            "times": times or {},
            "student": student or self.attackers.students[0],
            "recipe": self.attackers.recipe(card),
            "seed": seed,
        }
        if subject is None:  # alone, a threat model only says how many images there are
            card = card.served("label")
            fixed["card"] = str(card)
        phase = "selection" if role == "search" else "report"
        chosen = None if choice is None else choice.model_dump()
        public = {"public": self.attackers.public} if self.attackers.public else {}
        key = key_of(
            {**fixed, **public, "choice": chosen, "of": _identity(subject), "phase": phase, "data": self.fingerprint}
        )
        trains = self.alone_after if subject is None else self.teachers.get(subject.name)
        after = trains if isinstance(trains, tuple) else () if trains is None else (trains,)
        return Planned(
            key=key,
            side="alone" if subject is None else subject.side,
            role=role,
            label=label or attack.get("name", "") or "variation",
            victim="" if subject is None else subject.name,
            cards=self._counts(card, role),
            choice=choice,
            after=after,
            stage=stage,
            **fixed,
        )

    def _counts(self, card: ThreatModel, role: Role) -> tuple[str, ...]:
        """The audit's threat models that a cell of this threat model counts for: those that show as much or more."""
        if role in ("search", "curve", "effort"):
            return (str(card),)
        return tuple(str(other) for other in self.cards if includes(other, card))

    def _weighed(self, attack: Settings) -> Settings:
        known = ATTACKS.find(attack["name"]).model_fields
        return {"alpha": self.alpha, **attack} if "alpha" in known else dict(attack)


def _squeezed(schedule: dict[str, Any], by: float) -> dict[str, Any]:
    """A schedule for other epochs: what it counts in epochs is scaled with them."""
    found = dict(schedule)
    if found.get("warmup"):
        found["warmup"] *= by
    if found.get("at"):
        found["at"] = sorted({max(1, round(epoch * by)) for epoch in found["at"]})
    return found


def includes(strong: ThreatModel, weak: ThreatModel) -> bool:
    """Whether one threat model lets an attacker do all that the other does: the same images and budget, as much or more shown."""
    if strong.served("label") != weak.served("label") or strong.access < weak.access:
        return False
    if weak.access is Access.LABEL or strong.access >= Access.LOGITS:
        return True
    finer = strong.digits is None or (weak.digits is not None and weak.digits <= strong.digits)
    return finer and (strong.access > weak.access or (strong.top or 5) >= (weak.top or 5))


def without(cell: Planned, cards: Sequence[str]) -> Planned:
    """The cell, counting no longer for these threat models."""
    return cell.model_copy(update={"cards": tuple(card for card in cell.cards if card not in cards)})


def _identity(subject: Subject | None) -> dict[str, Any]:
    """What tells victims apart before they are loaded, or even trained."""
    if subject is None:
        return {}
    kept = subject.model_dump(mode="json", exclude={"name", "side", "label", "network", "teacher", "adversary"})
    return kept if subject.recipe is not None else {**kept, "model": ""}
