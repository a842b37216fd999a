"""From victims, cards and a suite to the cells of an audit, in an order in which each finds what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.auditing.making import Attackers, Maker, without
from undistill.auditing.suite import FIRST_SEARCH_SEED, NAIVE, Settings, Suite
from undistill.experiments.plan import Choice, Planned, Role, Skipped, Subject
from undistill.threat_model import Access, ThreatModel

FEW = 3
"""Report seeds where only a curve or a doubt rests on them."""
BASELINE: Settings = {"name": "scratch"}
MORE_IMAGES: tuple[Settings, ...] = ({"name": "semi"}, {"name": "active"})
"""Of attackers that hold images beyond those that they query."""
MORE_BASELINES: tuple[Settings, ...] = ({"name": "semi-scratch"}, {"name": "active-scratch"})


@dataclass
class Group:
    """Cells that are planned together or not at all; `cards` are reported only if it is, `behind` names a group it needs."""

    name: str
    cells: list[Planned] = field(default_factory=list)
    cards: tuple[str, ...] = ()
    behind: str = ""


class Planner:
    """Fills groups of cells, the most needed first, and leaves out those that the suite has no room for.

    `unfit` says why an attack cannot work with the networks at hand, "" if it can; such an attack is skipped with that reason.
    """

    def __init__(
        self,
        suite: Suite,
        subjects: Sequence[Subject],
        cards: Sequence[ThreatModel],
        attackers: Attackers,
        seeds: Sequence[int],
        fingerprint: str,
        unfit: Callable[[Settings], str] = lambda _: "",
    ) -> None:
        self.unfit = unfit
        self.suite, self.subjects, self.cards = suite, tuple(subjects), tuple(cards)
        self.attackers, self.seeds, self.first = attackers, tuple(seeds), cards[0]
        self.alpha = 0.9 if self.first.data == "labelled" else 1.0
        self.more = MORE_IMAGES if self.first.unqueried else ()
        self.labels, self.fewest_labels = (*suite.labels, *self.more), (*suite.labels[:1], *self.more)
        self.baselines = (BASELINE, *(MORE_BASELINES if self.first.unqueried else ()))
        plain = Maker(self.cards, attackers, fingerprint, self.alpha, {})
        trains = {s.name: plain.served(s, self._shown()[0]).key for s in subjects if s.recipe is not None}
        alone = tuple(trains[s.name] for s in subjects[:1] if s.name in trains)
        self.make = Maker(self.cards, attackers, fingerprint, self.alpha, trains, alone)
        self.unplayed: dict[str, Skipped] = {}
        self.found: dict[tuple[str, str], tuple[str, ...]] = {}
        """Keys of the search, by side and by what was searched: `soft`, `inside`, an attack of labels, `alone`."""

    def plan(self) -> tuple[tuple[Planned, ...], tuple[Skipped, ...]]:
        """All cells, by stage, and what was left out. A stage may hold cells that wait for others of it, which come first."""
        main = [card for card in self.cards if card.questions == self.first.questions]
        served = [self.make.served(subject, card) for subject in self.subjects for card in self._shown()]
        groups = [Group("what users get", served), Group("the first card", list(self._main()))]
        groups += [
            Group(f"served as {card.serving}", list(self._other(card, self.seeds)), (str(card),)) for card in main[1:]
        ]
        few = self.seeds[:FEW]
        for card in (card for card in self.cards if card not in main):
            first = next(c for c in self.cards if c.questions == card.questions)
            cells = self._more(card, few) if card == first else self._other(card, few)
            needs = "" if card == first else _called(first)
            groups.append(Group(_called(card), list(cells), (str(card),), needs))
        groups += [
            Group(f"student {student['name']}", list(self._student(student))) for student in self.attackers.students[1:]
        ]
        return self._kept(groups)

    def _shown(self) -> list[ThreatModel]:
        """The first threat model's output accesses, to measure what users get. Weights are served with probabilities beside them.

        A suite without verdicts does not measure what users of bare labels get: their accuracy is that of any other answer.
        """
        main = [card for card in self.cards if card.questions == self.first.questions and card.access < Access.WEIGHTS]
        if not self.suite.verdicts and len(main) > 1:
            main = [card for card in main if card.access > Access.LABEL]
        return main or [self.first.served("probs")]

    # -- groups ------------------------------------------------------------------------------------------------------

    def _main(self) -> Iterable[Planned]:
        """The search, and every attack and control of the first threat model."""
        card = self.first
        yield from self._search()
        for subject in self.subjects:
            seeds = self._own(subject, self.seeds)
            if _readable(subject, card):
                naive = {**NAIVE, "alpha": self.alpha}
                yield from (self.make.attack(subject, "naive", card, seed, attack=naive) for seed in seeds)
            yield from self._soft(subject, card, seeds, self.suite.ranks)
            if card.access is Access.WEIGHTS:
                yield from self._inside(subject, card, seeds)
            yield from self._labels(subject, card, seeds, self.labels)
        yield from self._alone("alone", card, self.seeds)
        yield from self._curve()
        yield from self._effort()

    def _other(self, card: ThreatModel, seeds: Sequence[int]) -> Iterable[Planned]:
        """Another output access: the best attack of the first threat model, and what is made for this one."""
        shared = seeds
        for subject in self.subjects:
            seeds = self._own(subject, shared)
            if card.access is Access.WEIGHTS:
                yield from self._inside(subject, card, seeds)
            elif _readable(subject, card):
                yield from self._soft(subject, card, seeds, 1)
                if card.top == 1:
                    made = [s for s in self.suite.soft if s.get("variant") == "top1"]
                    yield from self._each(subject, "soft", card, made, seeds)

    def _more(self, card: ThreatModel, seeds: Sequence[int]) -> Iterable[Planned]:
        """Another query budget: the best attack, a label-only attack, and a baseline."""
        shared = seeds
        for subject in self.subjects:
            seeds = self._own(subject, shared)
            if card.access is Access.WEIGHTS:
                yield from self._inside(subject, card, seeds)
            elif _readable(subject, card):
                yield from self._soft(subject, card, seeds, 1)
            yield from self._labels(subject, card, seeds, self.fewest_labels)
        yield from self._alone("alone", card, shared)

    def _student(self, student: dict[str, Any]) -> Iterable[Planned]:
        """Another network for the attack, on the first threat model."""
        for subject in self.subjects:
            seeds = self._own(subject, self.seeds)
            yield from self._soft(subject, self.first, seeds, 1, student)
            yield from self._labels(subject, self.first, seeds, self.fewest_labels, student)
        yield from self._alone("alone", self.first, self.seeds, student)

    # -- the search --------------------------------------------------------------------------------------------------

    def _search(self) -> Iterable[Planned]:
        """Each attack as it comes and `kd` over τ; then α, learning rate and clipping around the best. The same on every side."""
        seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + self.suite.search)
        for subject in self._searched() if seeds else ():
            if _readable(subject, self.first):
                yield from self._search_soft(subject, seeds)
            yield from self._search_labels(subject, seeds)
            weights = next((card for card in self.cards if card.access is Access.WEIGHTS), None)
            if weights is not None:
                inside = self._played(self.suite.inside, weights)
                cells = list(self._each(subject, "search", weights, inside, seeds))
                if cells:
                    self.found[subject.side, "inside"] = _keys(cells)
                yield from cells
        if seeds:
            cells = [
                self.make.attack(None, "search", self.first, seed, attack=baseline, times=times)
                for baseline in self.baselines
                for times in self._rates()
                for seed in seeds
            ]
            self.found["alone", "alone"] = _keys(cells)
            yield from cells

    def _search_soft(self, subject: Subject, seeds: Sequence[int]) -> Iterable[Planned]:
        card = self.first
        grid = [{**NAIVE, "alpha": self.alpha, "temperature": t} for t in self.suite.temperatures]
        kd = list(self._each(subject, "search", card, grid, seeds))
        cells = [*kd, *self._each(subject, "search", card, self._soft_attacks(subject, card), seeds)]
        tried: list[dict[str, Any]] = [
            {"choice": Choice(among=_keys(kd)), "changes": {"attack.alpha": alpha}}
            for alpha in self.suite.alphas
            if alpha != self.alpha
        ]
        clip = None if self.attackers.training.get("clip") else 1.0
        for rank in (1, 2):
            best = Choice(among=_keys(cells), rank=rank)
            tried += [{"choice": best, "times": times} for times in self._rates()[1:]]
            tried += [{"choice": best, "changes": {"training.clip": clip}}] if rank == 1 else []
        cells += [self.make.attack(subject, "search", card, s, stage=2, **how) for how in tried for s in seeds]
        self.found[subject.side, "soft"] = _keys(cells)
        yield from cells

    def _search_labels(self, subject: Subject, seeds: Sequence[int]) -> Iterable[Planned]:
        """Labels alone: the learning rate of the first of these attacks is searched, the others are taken as they come."""
        for number, settings in enumerate(self.labels):
            cells = [
                self.make.attack(subject, "search", self.first.served("label"), seed, attack=settings, times=times)
                for times in (self._rates() if number == 0 else [{}])
                for seed in seeds
            ]
            self.found[subject.side, settings["name"]] = _keys(cells)
            yield from cells

    def _rates(self) -> list[dict[str, float]]:
        return [{}, *({"training.optimizer.lr": rate} for rate in self.suite.rates)]

    def _searched(self) -> tuple[Subject, ...]:
        """The victims that are searched on: the first teacher of each side."""
        return tuple(subject for subject in self.subjects if subject.teacher == 0)

    def _own(self, subject: Subject, seeds: Sequence[int]) -> list[int]:
        """The seeds of one teacher's attackers: its own, so that teachers are independent units."""
        return [seed + subject.teacher * len(self.seeds) for seed in seeds]

    # -- attacks and controls ----------------------------------------------------------------------------------------

    def _each(
        self,
        subject: Subject,
        role: Role,
        card: ThreatModel,
        attacks: Iterable[Settings],
        seeds: Sequence[int],
        student: dict[str, Any] | None = None,
    ) -> Iterable[Planned]:
        """Each of these attacks, as it comes, on each seed."""
        return [
            self.make.attack(subject, role, card, s, attack=settings, student=student)
            for settings in attacks
            for s in seeds
        ]

    def _soft(
        self,
        subject: Subject,
        card: ThreatModel,
        seeds: Sequence[int],
        ranks: int,
        student: dict[str, Any] | None = None,
    ) -> Iterable[Planned]:
        if (subject.side, "soft") in self.found:
            yield from self._best(subject, card, seeds, "soft", ranks, student)
        elif _readable(subject, card):
            yield from self._each(subject, "soft", card, self._soft_attacks(subject, card), seeds, student)

    def _inside(self, subject: Subject, card: ThreatModel, seeds: Sequence[int]) -> Iterable[Planned]:
        """Attackers who hold the weights: inside attacks, and soft ones where no weaker access has these of the raw network."""
        if (subject.side, "inside") in self.found:
            yield from self._best(subject, card, seeds, "inside", 1)
        else:
            yield from self._each(subject, "soft", card, self._played(self.suite.inside, card), seeds)
        scored = any(_readable(subject, other) for other in self.cards if other.access < Access.WEIGHTS)
        if subject.behind or not scored:
            side = "undefended" if ("undefended", "soft") in self.found else subject.side
            if (side, "soft") in self.found:
                choice = Choice(among=self.found[side, "soft"])
                for seed in seeds:
                    yield self.make.attack(
                        subject, "soft", card, seed, choice=choice, stage=3, label="rank 1, raw answers"
                    )
            else:
                yield from self._each(subject, "soft", card, self._soft_attacks(subject, card), seeds)

    def _best(
        self,
        subject: Subject,
        card: ThreatModel,
        seeds: Sequence[int],
        what: str,
        ranks: int,
        student: dict[str, Any] | None = None,
    ) -> Iterable[Planned]:
        """The best attacks of the search, by rank."""
        named = "rank " if what == "soft" else "inside, rank "
        for rank in range(1, ranks + 1):
            choice = Choice(among=self.found[subject.side, what], rank=rank)
            for seed in seeds:
                yield self.make.attack(
                    subject,
                    "soft",
                    card,
                    seed,
                    choice=choice,
                    student=student,
                    stage=3,
                    label=named + str(rank),
                )

    def _labels(
        self,
        subject: Subject,
        card: ThreatModel,
        seeds: Sequence[int],
        attacks: Sequence[Settings],
        student: dict[str, Any] | None = None,
    ) -> Iterable[Planned]:
        card = card.served("label")
        for settings in attacks:
            among = self.found.get((subject.side, settings["name"]))
            if among is None:
                yield from self._each(subject, "labels", card, [settings], seeds, student)
                continue
            for seed in seeds:
                yield self.make.attack(
                    subject, "labels", card, seed, choice=Choice(among=among), student=student, stage=3,
                    label=settings["name"],
                )  # fmt: skip

    def _alone(
        self, role: Role, card: ThreatModel, seeds: Sequence[int], student: dict[str, Any] | None = None
    ) -> Iterable[Planned]:
        if card.data == "none":
            return
        among = self.found.get(("alone", "alone"))
        hows: list[dict[str, Any]] = (
            [{"attack": baseline} for baseline in self.baselines]
            if among is None
            else [{"choice": Choice(among=among), "stage": 3, "label": "alone"}]
        )
        every = dict.fromkeys(seed for subject in self.subjects for seed in self._own(subject, seeds))
        yield from (self.make.attack(None, role, card, s, student=student, **how) for how in hows for s in every)

    def _curve(self) -> Iterable[Planned]:
        """A baseline on fewer and more labelled images, for label-equivalents."""
        for times in self.suite.curve:
            count = round(times * self.attackers.images(self.first))
            most = self.attackers.size(self.first) - self.first.unqueried
            if self.first.questions is not None and 2 <= count <= most:
                role: Role = "alone" if any(card.questions == count for card in self.cards) else "curve"
                yield from self._alone(role, self.first.model_copy(update={"questions": count}), self.seeds[:2])

    def _effort(self) -> Iterable[Planned]:
        """The best attack of the defended model with twice the steps, and with a student twice as wide."""
        defended = next(subject for subject in self.subjects if subject.side == "defended")
        what = "soft" if ("defended", "soft") in self.found else self.suite.labels[0]["name"]
        card = self.first if what == "soft" else self.first.served("label")
        if ("defended", what) not in self.found:
            return
        choice = Choice(among=self.found["defended", what])
        fixed_width = self.first.start == "public" or ":" in str(self.attackers.students[0]["name"])
        more = [("steps", "training.passes")] + ([] if fixed_width else [("width", "student.width")])
        for name, times in more:
            for seed in self.seeds[: self.suite.effort]:
                yield self.make.attack(
                    defended,
                    "effort",
                    card,
                    seed,
                    choice=choice,
                    times={times: 2.0},
                    stage=3,
                    label=f"twice the {name}",
                )

    def _soft_attacks(self, subject: Subject, card: ThreatModel) -> tuple[Settings, ...]:
        """The suite's attacks on scores that can be played on a victim, and that there are enough queries for."""
        more = self.suite.public if self.first.start == "public" else ()
        more += self.more
        found = self._played(
            (*self.suite.soft, *more, *(knowing(subject, card.access) if self.suite.adaptive else ())), self.first
        )
        few = self.first.questions is not None and self.first.questions < 6
        return tuple(settings for settings in found if not (few and settings["name"] == "average"))

    def _played(self, attacks: Iterable[Settings], card: ThreatModel) -> tuple[Settings, ...]:
        """Those that a threat model shows enough for; the others are told as left out."""
        found = []
        for settings in attacks:
            needs = ATTACKS.find(settings["name"]).needs
            if needs is not None and needs > card.access:
                why = f"it needs {needs.label}, and {card.serving} is served"
                self.unplayed[settings["name"]] = Skipped(what=f"the attack {settings['name']}", why=why)
            elif why := self.unfit(settings):
                what = " ".join(str(value) for value in settings.values())
                self.unplayed[what] = Skipped(what=f"the attack {what}", why=why)
            else:
                found.append(settings)
        return tuple(found)

    def _kept(self, groups: Sequence[Group]) -> tuple[tuple[Planned, ...], tuple[Skipped, ...]]:
        """The groups that there is room for, by stage; a cell that two groups want is there once."""
        most = math.ceil(self.suite.most * max(1.0, len(self.seeds) / self.suite.seeds)) * (2 if self.more else 1)
        most *= len({subject.teacher for subject in self.subjects})
        kept: dict[str, Planned] = {}
        skipped: dict[str, Skipped] = {}
        lost: list[str] = []
        for group in groups:
            new = {cell.key: cell for cell in group.cells if cell.key not in kept}
            if group.behind in skipped or (group.cards and len(kept) + len(new) > most):
                why = f"{self.suite.name} allows {most} cells at {len(self.seeds)} seeds, these are {len(new)} more"
                if not new:
                    why = "its controls are left out"
                skipped[group.name] = Skipped(what=group.name, why=why)
                lost += group.cards
                continue
            kept |= new
        ordered = sorted(kept.values(), key=lambda cell: cell.stage)
        return tuple(without(cell, lost) for cell in ordered), (*skipped.values(), *self.unplayed.values())


def knowing(subject: Subject, access: Access) -> tuple[Settings, ...]:
    """The attack that knows the form of a victim's output defenses; none without them, or for who holds the weights.

    Their settings are taken as known, too: a defense must not rest on what an attacker can guess (Kerckhoffs).
    """
    if not subject.behind or access is Access.WEIGHTS:
        return ()
    return ({"name": "inverse", "against": [dict(defense) for defense in subject.behind]},)


def _readable(subject: Subject, card: ThreatModel) -> bool:
    """Whether an attacker of this threat model gets more than labels from a victim."""
    return min(card.access, Access.parse(subject.shows)) > Access.LABEL


def _called(card: ThreatModel) -> str:
    return f"{card.questions:,} questions, {card.serving}"


def _keys(cells: Iterable[Planned]) -> tuple[str, ...]:
    return tuple(cell.key for cell in cells)
