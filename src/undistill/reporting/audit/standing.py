"""The comparison's table: what the best attack got and what users get, a row a defense."""

from __future__ import annotations

from typing import Any

from undistill.auditing.result import AuditResult
from undistill.reporting.audit import story
from undistill.reporting.audit.contest import Contest, Entrant
from undistill.reporting.audit.words import digits_of, measured, serving_text, verdict_entry
from undistill.reporting.document import Entry, Format, Table, Value, filled
from undistill.reporting.naming import number, signed


def standing(place: int, contest: Contest, audits: dict[str, AuditResult]) -> Table:
    """The table of a threat model: a row a defense, then the undefended control; `audits` are by name."""
    digits = max(digits_of(judgement) for judgement in audits.values())
    rows = [_row(entrant, contest, audits, digits) for entrant in contest.entrants]
    records = [_record(entrant, contest) for entrant in contest.entrants]
    points = Format(digits=digits)
    columns = {"defense": Format(), "best extracted model, %": points, "relative accuracy, %": Format(digits=1)}
    columns |= {"removed of headroom, points": Format(right=True), "reduction, %": Format(digits=1)}
    columns |= {"users: accuracy, %": points, "top-5, %": points, "NLL, nats": Format(digits=3)}
    columns |= {"ECE, %": points, "Brier, %": points, "verdict": Format(), "flags": Format()}
    columns["dominated by"] = Format()
    caption = (
        f"{story.heading(contest.card)}, {serving_text(contest.card.access)}. Best attack found with its 95 % interval; "
        "for users the difference to the undefended control below each number. Lower is better for attacks, NLL, ECE and Brier."
    )
    return filled(f"card-{place}", caption, columns, rows, long=records)


def _row(entrant: Entrant, contest: Contest, audits: dict[str, AuditResult], digits: int) -> list[Value | Entry]:
    card, users = entrant.card, []
    took, headroom = (card.reduction, card.headroom) if card is not None else (None, None)
    for what, value in entrant.users.items():
        places, lost = 3 if what == "nll" else digits, entrant.lost[what]
        change = "" if lost is None or card is None else signed(-lost if what in ("accuracy", "top5") else lost, places)
        users.append(Entry(value, change))
    by = [other for other in contest.entrants if other.number in entrant.beaten]
    return [
        f"{entrant.number}. {entrant.name}",
        measured(entrant.attacker, digits),
        entrant.exposure,
        f"{number(took.mean, digits)} of {number(headroom.mean, digits)}" if took and headroom else "–",
        card.reduction_share if card is not None else None,
        *users,
        verdict_entry(card, audits[entrant.name]) if card is not None else "–",
        entrant.flags,
        ", ".join(str(other.number) for other in by) or "no",
    ]


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
