"""Defenses set side by side on the threat models that their audits share, and which of them are dominated."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from undistill.auditing.result import AuditResult, Estimate, ThreatModelResult, VictimResult
from undistill.errors import UsageError
from undistill.reporting.audit.words import accuracy_of, best_of, served_to
from undistill.reporting.naming import listed

Audits = Sequence[tuple[str, AuditResult]]
USERS = ("accuracy", "top5", "nll", "ece", "brier")
DATA = ("fingerprint", "data fingerprint", "data")
"""Keys of a judgement's provenance that say which data it is about."""


@dataclass(frozen=True)
class Entrant:
    """A defense on one card, or the undefended control: what the best attack found got, and what users get (percent; NLL in nats).

    `number` is the same on every threat model, `beaten` the numbers of those that dominate it. `lost` is what users lose against
    the control, by measure; larger is worse.
    """

    number: int
    name: str
    attacker: Estimate | None
    exposure: float | None
    users: dict[str, float | None]
    lost: dict[str, float | None]
    best: str = ""
    card: ThreatModelResult | None = None
    flags: int | None = None
    beaten: tuple[int, ...] = ()

    @property
    def defended(self) -> bool:
        """False for an undefended control."""
        return self.card is not None


@dataclass(frozen=True)
class Contest:
    """One card and everybody who was audited on it; `absent` were not."""

    card: ThreatModelResult
    entrants: tuple[Entrant, ...]
    absent: tuple[str, ...]


def contests(audits: Audits) -> list[Contest]:
    """The threat models that two audits or more share, in the first audit's order.

    Raises:
        UsageError: fewer than two audits, two of one name, different data, test images or δ, or no threat model in common.
    """
    refuse_strangers(audits)
    delta = audits[0][1].delta
    found = []
    for card in _every_card(audits):
        there = [(name, j, held) for name, j in audits if (held := _of(j, card.threat_model)) is not None]
        if len(there) < 2:
            continue
        places = {name: place for place, (name, _) in enumerate(audits, start=1)}
        numbered = [replace(_entrant(name, judgement, held), number=places[name]) for name, judgement, held in there]
        numbered += [replace(control, number=len(audits) + k) for k, control in enumerate(_controls(there), start=1)]
        judged = tuple(replace(entrant, beaten=_beaten(entrant, numbered, delta)) for entrant in numbered)
        present = {name for name, _, _ in there}
        found.append(Contest(card, judged, tuple(name for name, _ in audits if name not in present)))
    if not found:
        raise UsageError(
            f"{listed([name for name, _ in audits])} have no threat model in common; audit them on the same cards"
        )
    return found


def lonely(audits: Audits) -> list[tuple[str, str]]:
    """(card, audit) where only one audit has the threat model."""
    holders = [
        (card.threat_model, [name for name, j in audits if _of(j, card.threat_model)]) for card in _every_card(audits)
    ]
    return [(card, names[0]) for card, names in holders if len(names) == 1]


def dominates(one: Entrant, other: Entrant, delta: float) -> bool:
    """Whether `one` is no worse in attack's accuracy, users' accuracy and Brier score, and clearly better in one of them.

    Clearly: the attack's whole interval lies below the other's, or users' accuracy or Brier score is better by more than `delta`.
    What was not measured on either side is left out; without both attacks and both users' accuracies nothing is said.
    """
    mine, theirs = one.users, other.users
    if one.attacker is None or other.attacker is None or mine["accuracy"] is None or theirs["accuracy"] is None:
        return False
    gains = [mine["accuracy"] - theirs["accuracy"]]
    if mine["brier"] is not None and theirs["brier"] is not None:
        gains.append(theirs["brier"] - mine["brier"])
    if one.attacker.mean > other.attacker.mean or min(gains) < 0:
        return False
    apart = one.attacker.high is not None and other.attacker.low is not None and one.attacker.high < other.attacker.low
    return apart or max(gains) > delta


def definition(delta: float) -> str:
    """What is meant by dominated, for the page."""
    return (
        "Dominated: on the same threat model another row does no worse in the best extracted model's accuracy (lower is better), "
        "in users' accuracy and in their Brier score, and is clearly better in one of them: the 95 % interval of its extracted "
        f"model is wholly below, or its users' accuracy or Brier score is better by more than δ = {delta:g} points. Without "
        "intervals extracted models do not count as clearly apart; a Brier score that one of the two lacks is left out. The "
        "undefended control takes part."
    )


def refuse_strangers(audits: Audits) -> None:
    """UsageError where audits cannot stand in one table."""
    if len(audits) < 2:
        raise UsageError("a comparison takes two audits or more; name further folders")
    names = [name for name, _ in audits]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two audits are called {twice[0]!r}; give each a name of its own")
    first, known = audits[0]
    for name, judgement in audits[1:]:
        for what, one, other in (
            ("data", _data(known), _data(judgement)),
            ("numbers of test images", _tests(known), _tests(judgement)),
            ("δ", f"{known.delta:g}", f"{judgement.delta:g}"),
        ):
            if one != other:
                raise UsageError(
                    f"{first} and {name} have different {what} ({one} and {other}) and cannot be compared; audit both alike"
                )


def _data(judgement: AuditResult) -> str:
    return next((judgement.provenance[key] for key in DATA if key in judgement.provenance), "unknown")


def _tests(judgement: AuditResult) -> str:
    return listed(sorted({f"{victim.n_test:,}" for victim in judgement.victims})) or "none"


def _every_card(audits: Audits) -> list[ThreatModelResult]:
    found: dict[str, ThreatModelResult] = {}
    for _, judgement in audits:
        for card in judgement.threat_models:
            found.setdefault(card.threat_model, card)
    return list(found.values())


def _of(judgement: AuditResult, written: str) -> ThreatModelResult | None:
    return next((card for card in judgement.threat_models if card.threat_model == written), None)


def _entrant(name: str, judgement: AuditResult, card: ThreatModelResult) -> Entrant:
    users = _users(served_to(judgement, "defended", card.access))
    control = _users(served_to(judgement, "undefended", card.access))
    best = best_of(card, "defended")
    flags = sum(flag.threat_model in ("", card.id) for flag in judgement.flags)
    return Entrant(
        0,
        name,
        accuracy_of(card),
        card.relative_accuracy,
        users,
        {what: _worse(what, users[what], control[what]) for what in USERS},
        best.name if best else "",
        card,
        flags,
    )


def _controls(there: list[tuple[str, AuditResult, ThreatModelResult]]) -> list[Entrant]:
    """The undefended controls, each once: audits that share one have the same numbers."""
    found: dict[str, tuple[Entrant, list[str]]] = {}
    for name, judgement, card in there:
        victims, best = served_to(judgement, "undefended", card.access), best_of(card, "undefended")
        if not victims:
            continue
        users = _users(victims)
        lost = {what: None if value is None else 0.0 for what, value in users.items()}
        attacker = best.accuracy if best else None
        entrant = Entrant(
            0, "undefended", attacker, card.relative_accuracy_undefended, users, lost, best.name if best else ""
        )
        found.setdefault(f"{users} {attacker}", (entrant, []))[1].append(name)
    if len(found) == 1:
        return [entrant for entrant, _ in found.values()]
    return [replace(entrant, name=f"undefended control of {listed(names)}") for entrant, names in found.values()]


def _users(victims: list[VictimResult]) -> dict[str, float | None]:
    """What users get, the mean over teachers; None where one of them lacks the number."""
    found: dict[str, float | None] = {}
    for what in USERS:
        values = [getattr(victim, what) for victim in victims]
        there = [value for value in values if value is not None]
        found[what] = statistics.fmean(there) if there and len(there) == len(values) else None
    return found


def _worse(what: str, value: float | None, control: float | None) -> float | None:
    if value is None or control is None:
        return None
    return control - value if what in ("accuracy", "top5") else value - control


def _beaten(entrant: Entrant, everybody: list[Entrant], delta: float) -> tuple[int, ...]:
    return tuple(other.number for other in everybody if other is not entrant and dominates(other, entrant, delta))
