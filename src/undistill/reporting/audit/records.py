"""Rows of an audit's tables for programs."""

from __future__ import annotations

from undistill.auditing.result import CardResult, Estimate, Thief, VictimResult
from undistill.reporting.paper.sheet import Value

Record = dict[str, Value]


def numbers_of(prefix: str, e: Estimate | None) -> Record:
    """An estimate's fields, with a prefix; None each where it is missing."""
    names = ("mean", "low", "high", "lower", "upper", "n")
    return {f"{prefix}{name}": getattr(e, name) if e else None for name in names}


def exposed(card: CardResult, best: Thief | None, other: Thief | None, got: Estimate | None) -> Record:
    """A row of the exposure table."""
    return {
        "card": card.card,
        "serving": card.serving,
        "questions": card.questions,
        "images": card.images,
        "labelled": card.labelled,
        **numbers_of("", got),
        "exposure": card.exposure,
        "label_equivalents": card.label_equivalents,
        "label_equivalents_beyond": card.label_equivalents_beyond,
        "best": best.name if best else None,
        **numbers_of("undefended_", other.accuracy if other else None),
        "exposure_undefended": card.exposure_undefended,
        "best_undefended": other.name if other else None,
        "tried": card.tried,
        "verdict": card.verdict,
        "indication": card.indication,
    }


def thief_record(card: CardResult, thief: Thief) -> Record:
    """A row of a threat model's attacks."""
    return {
        "card": card.card,
        "thief": thief.name,
        "attack": thief.attack,
        "side": thief.side,
        "role": thief.role,
        "reads": thief.reads,
        **numbers_of("", thief.accuracy),
        "held_out": thief.held_out,
        "chosen": thief.chosen,
        "lost": thief.lost,
        "queries": thief.queries,
    }


def user_record(victim: VictimResult) -> Record:
    """A row of what users get."""
    names = ("name", "side", "label", "serving", "accuracy", "top5", "nll", "ece", "brier", "spread", "n_test")
    return {name: getattr(victim, name) for name in names}
