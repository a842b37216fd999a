"""What an owner reads first: how good the best copy is, by output access and queries, and what users pay for that."""

from __future__ import annotations

from statistics import fmean

from undistill.auditing.result import AuditResult
from undistill.reporting.audit.records import Record, numbers_of
from undistill.reporting.audit.words import (
    accuracy_of,
    best_of,
    control_of,
    controlled,
    digits_of,
    kind_text,
    measured,
    questions_text,
    served_to,
    serving_text,
)
from undistill.reporting.document import Entry, Format, Table, Value, filled
from undistill.reporting.naming import listed, number

VISIBLE = 0.3
"""By how many points users must lose before it is named as a cost."""
COSTS = (("accuracy", "accuracy", -1), ("ece", "calibration error", 1), ("brier", "Brier score", 1))
"""(field, name, which sign of a change is a loss)."""


def headline(judgement: AuditResult) -> Table:
    """A row a threat model: the best extracted model, of the control too, and a baseline on as many labeled images."""
    digits, control = digits_of(judgement), controlled(judgement)
    several = len({kind_text(card) for card in judgement.threat_models}) > 1
    rows, records = [], []
    for card in judgement.threat_models:
        got, other = accuracy_of(card), best_of(card, "undefended")
        held = f" ({kind_text(card)})" if several else ""
        row: list[Value | Entry] = [serving_text(card.access) + held, questions_text(card), measured(got, digits)]
        row += [measured(other.accuracy if other else None, digits)] if control else []
        rows.append([*row, measured(card.A_ref, digits), got.n if got else None])
        record: Record = {"card": card.threat_model, "serving": card.access, "questions": card.queries}
        record |= {**numbers_of("", got), **numbers_of("undefended_", other.accuracy if other else None)}
        records.append({**record, **numbers_of("alone_", card.A_ref)})
    accuracy = Format(digits=digits)
    columns = {"output access": Format(), "queries": Format()}
    columns["best extracted model of the audited model, %"] = accuracy
    columns |= {"best extracted model of the undefended control, %": accuracy} if control else {}
    columns["a baseline on as many labeled images, %"] = accuracy
    columns["teachers" if judgement.question == "method" else "seeds"] = Format()
    caption = (
        "Accuracy on test images of the best extracted model found, with its 95 % interval; a better one may exist. The baseline "
        "is the same network, trained on as many labeled images without access to the model."
    )
    return filled("headline", caption, columns, rows, long=records)


def cost(judgement: AuditResult) -> str:
    """What users lose against the control, as the first threat model is served; "" without a control."""
    if not judgement.threat_models:
        return ""
    serving = judgement.threat_models[0].access
    found = [(victim, control_of(judgement, victim)) for victim in served_to(judgement, "defended", serving)]
    pairs = [(victim, control) for victim, control in found if control is not None]
    if not pairs:
        return ""
    digits, worse, known = digits_of(judgement), [], []
    for field, name, sign in COSTS:
        both = [(getattr(victim, field), getattr(control, field)) for victim, control in pairs]
        both = [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]
        if not both:
            continue
        known.append(name)
        mine, theirs = fmean(one for one, _ in both), fmean(other for _, other in both)
        if sign * (mine - theirs) >= VISIBLE:
            worse.append(f"{name} {number(mine, digits)} % (undefended {number(theirs, digits)})")
    served = f"Cost to users, served as {serving_text(serving)}"
    return f"{served}: {', '.join(worse) if worse else f'no loss seen in {listed(known)}'}."
