"""The comparison's table: what the best attack got and what users get, a row a defense."""

from __future__ import annotations

from typing import Any

from undistill.auditing.result import AuditResult
from undistill.reporting.audit import story
from undistill.reporting.audit.contest import Contest, Entrant
from undistill.reporting.audit.grid import Entry, Grid, Row
from undistill.reporting.audit.words import digits_of, measured, serving_text, verdict_entry
from undistill.reporting.naming import number, signed

HEADS = (
    "defense",
    "best extracted model, %",
    "relative accuracy, %",
    "removed of headroom, points",
    "reduction, %",
    "users: accuracy, %",
    "top-5, %",
    "NLL, nats",
    "ECE, %",
    "Brier, %",
    "verdict",
    "flags",
    "dominated by",
)


def standing(place: int, contest: Contest, audits: dict[str, AuditResult]) -> Grid:
    """The table of a threat model: a row a defense, then the undefended control; `audits` are by name."""
    digits = max(digits_of(judgement) for judgement in audits.values())
    rows = tuple(_row(entrant, contest, audits, digits) for entrant in contest.entrants)
    records = tuple(_record(entrant, contest) for entrant in contest.entrants)
    caption = (
        f"{story.heading(contest.card)}, {serving_text(contest.card.access)}. Best attack found with its 95 % interval; "
        "for users the difference to the undefended control below each number. Lower is better for attacks, NLL, ECE and Brier."
    )
    return Grid(f"card-{place}", caption, HEADS, rows, records, 1, "compare")


def _row(entrant: Entrant, contest: Contest, audits: dict[str, AuditResult], digits: int) -> Row:
    card = entrant.card
    took = headroom = None
    if card is not None:
        took, headroom = card.reduction, card.headroom
    taken = (
        Entry(f"{number(took.mean, digits)} of {number(headroom.mean, digits)}") if took and headroom else Entry("–")
    )
    users = []
    for what, value in entrant.users.items():
        places, lost = 3 if what == "nll" else digits, entrant.lost[what]
        change = "" if lost is None or card is None else signed(-lost if what in ("accuracy", "top5") else lost, places)
        users.append(Entry(number(value, places), change))
    verdict = verdict_entry(card, audits[entrant.name]) if card is not None else Entry("–")
    by = [other for other in contest.entrants if other.number in entrant.beaten]
    return (
        Entry(f"{entrant.number}. {entrant.name}"),
        measured(entrant.attacker, digits),
        Entry(number(entrant.exposure)),
        taken,
        Entry(number(card.reduction_share) if card is not None else "–"),
        *users,
        verdict,
        Entry("–" if entrant.flags is None else str(entrant.flags)),
        Entry(", ".join(str(other.number) for other in by) or "no"),
    )


def _record(entrant: Entrant, contest: Contest) -> dict[str, Any]:
    card, attacker = entrant.card, entrant.attacker
    names = {other.number: other.name for other in contest.entrants}
    return {
        "card": contest.card.threat_model,
        "defense": entrant.name,
        "defended": entrant.defended,
        "thief": attacker.mean if attacker else None,
        "thief_low": attacker.low if attacker else None,
        "thief_high": attacker.high if attacker else None,
        "best": entrant.best,
        "exposure": entrant.exposure,
        "took": card.reduction.mean if card is not None and card.reduction else None,
        "headroom": card.headroom.mean if card is not None and card.headroom else None,
        "removed": card.reduction_share if card is not None else None,
        **entrant.users,
        **{f"{what}_lost": value for what, value in entrant.lost.items()},
        "verdict": card.verdict if card is not None else None,
        "indication": card.indication if card is not None else None,
        "flags": entrant.flags,
        "dominated_by": [names[place] for place in entrant.beaten],
    }
