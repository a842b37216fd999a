"""Rows of an audit's tables for programs."""

from __future__ import annotations

from undistill.auditing.result import AttackResult, Estimate, ThreatModelResult, VictimResult
from undistill.reporting.document import Value

Record = dict[str, Value]


def numbers_of(prefix: str, e: Estimate | None) -> Record:
    """An estimate's fields, with a prefix; None each where it is missing."""
    names = ("mean", "low", "high", "lower", "upper", "n")
    return {f"{prefix}{name}": getattr(e, name) if e else None for name in names}


def exposed(
    card: ThreatModelResult, best: AttackResult | None, other: AttackResult | None, got: Estimate | None
) -> Record:
    """A row of the exposure table."""
    return {
        "card": card.threat_model,
        "serving": card.access,
        "questions": card.queries,
        "images": card.images,
        "labelled": card.labelled,
        **numbers_of("", got),
        "exposure": card.relative_accuracy,
        "label_equivalents": card.label_equivalents,
        "label_equivalents_beyond": card.label_equivalents_beyond,
        "best": best.name if best else None,
        **numbers_of("undefended_", other.accuracy if other else None),
        "exposure_undefended": card.relative_accuracy_undefended,
        "best_undefended": other.name if other else None,
        "tried": card.tried,
        "verdict": card.verdict,
        "indication": card.indication,
    }


def attacker_record(card: ThreatModelResult, attacker: AttackResult) -> Record:
    """A row of a threat model's attacks."""
    return {
        "card": card.threat_model,
        "thief": attacker.name,
        "attack": attacker.attack,
        "side": attacker.side,
        "role": attacker.role,
        "reads": attacker.reads,
        **numbers_of("", attacker.accuracy),
        "held_out": attacker.held_out,
        "chosen": attacker.chosen,
        "lost": attacker.lost,
        "queries": attacker.queries,
    }


def user_record(victim: VictimResult) -> Record:
    """A row of what users get."""
    names = ("name", "side", "label", "access", "accuracy", "top5", "nll", "ece", "brier", "spread", "n_test")
    return {"serving" if name == "access" else name: getattr(victim, name) for name in names}
