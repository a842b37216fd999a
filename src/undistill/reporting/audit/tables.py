"""The judgement's tables: exposure, what users get, the numbers behind a verdict, attacks of a threat model, all cells."""

from __future__ import annotations

from undistill.auditing.result import AttackResult, AuditResult, Estimate, Point, ThreatModelResult
from undistill.auditing.text import settings_text
from undistill.reporting.audit.grid import Entry, Grid, Row
from undistill.reporting.audit.records import Record, attacker_record, exposed, numbers_of, user_record
from undistill.reporting.audit.words import (
    READS,
    accuracy_of,
    best_of,
    control_of,
    controlled,
    digits_of,
    equivalents_text,
    holds_text,
    interval_text,
    measured,
    questions_text,
    serving_text,
    side_text,
    verdict_entry,
)
from undistill.reporting.naming import number, signed


def exposure(judgement: AuditResult) -> Grid:
    """A row a threat model: what the best attack found got, from the audited model and from its control."""
    digits, control = digits_of(judgement), controlled(judgement)
    rows, records = [], []
    for place, card in enumerate(judgement.threat_models):
        best, other = best_of(card, "defended"), best_of(card, "undefended")
        got = accuracy_of(card)
        row = [Entry(serving_text(card.access)), Entry(questions_text(card))]
        row += [measured(got, digits), Entry(number(card.relative_accuracy)), Entry(equivalents_text(card))]
        if control:
            row += [
                measured(other.accuracy if other else None, digits),
                Entry(number(card.relative_accuracy_undefended)),
            ]
        row += [verdict_entry(card, judgement, f"#card-{place}"), Entry(best.name if best else "–")]
        rows.append((*row, Entry(f"{card.tried:,}"), Entry(holds_text(card))))
        records.append(exposed(card, best, other, got))
    heads = [
        "output access",
        "queries",
        "best extracted model, %",
        "relative accuracy, %",
        "label-equivalent sample size",
    ]
    heads += ["control: best extracted model, %", "control: relative accuracy, %"] if control else []
    heads += ["verdict", "best attack", "attacks tried", "the attacker holds"]
    caption = "Best attack found: accuracy on test images with its 95 % interval. Relative accuracy: as a share of the model's own."
    caption += " Control: the undefended one." if control else ""
    return Grid("exposure", caption, tuple(heads), tuple(rows), tuple(records), 2, "exposure")


def users(judgement: AuditResult) -> Grid:
    """A row a victim: what its users get, and how far that is from the undefended control's."""
    digits = digits_of(judgement)
    heads = ("model", "stands for", "output access", "accuracy, %", "top-5, %", "NLL, nats", "ECE, %", "Brier, %")
    rows, records = [], []
    for victim in judgement.victims:
        control = control_of(judgement, victim)
        row = [
            Entry(victim.label or victim.name),
            Entry(side_text(victim.side, judgement)),
            Entry(serving_text(victim.access)),
        ]
        for name, places in (("accuracy", digits), ("top5", digits), ("nll", 3), ("ece", digits), ("brier", digits)):
            value, other = getattr(victim, name), getattr(control, name) if control else None
            change = (
                f"{signed(value - other, places)} to the control" if value is not None and other is not None else ""
            )
            row.append(Entry(number(value, places), change))
        rows.append(tuple(row))
        records.append(user_record(victim))
    caption = (
        "What users get, on test images. NLL: negative log-likelihood, “–” where a true class got no probability at all. "
        "ECE: calibration error. For NLL, ECE and Brier lower is better."
    )
    return Grid("users", caption, heads, tuple(rows), tuple(records), 3, "users")


def answers(judgement: AuditResult) -> Grid:
    """A row a victim: how its answers look."""
    shown = [victim for victim in judgement.victims if victim.spread is not None or victim.second]
    temperatures = sorted({float(t) for victim in shown for t in victim.second})
    heads = (
        "model",
        "stands for",
        "output access",
        "logit spread",
        *(f"runner-up / top, τ {t:g}" for t in temperatures),
    )
    rows = []
    for victim in shown:
        second = {float(t): value for t, value in victim.second.items()}
        texts = [victim.label or victim.name, side_text(victim.side, judgement), serving_text(victim.access)]
        texts += [number(victim.spread, 2), *(number(second.get(t), 2) for t in temperatures)]
        rows.append(tuple(map(Entry, texts)))
    caption = (
        "Logit spread: mean standard deviation of an output's log-probabilities over the classes shown. "
        "Runner-up / top: mean ratio of their probabilities at temperature τ, from 0 to 1."
    )
    return Grid("answers", caption, heads, tuple(rows), tuple(map(user_record, shown)), 3, "users")


def attackers(card: ThreatModelResult, judgement: AuditResult) -> Grid:
    """A row an attack of the threat model, in the order of the dot plot."""
    digits = digits_of(judgement)
    heads = (
        "attack",
        "reads",
        "trained on outputs of",
        "settings",
        "accuracy, %",
        "seeds",
        "lost",
        "search score, %",
        "queries",
    )
    rows, records = [], []
    for attacker in ranked(card):
        score = Entry(number(attacker.held_out, digits), "ranked first" if attacker.chosen else "")
        row: Row = (
            Entry(attacker.name),
            Entry(READS[attacker.reads]),
            Entry(side_text(attacker.side, judgement)),
            Entry(settings_text(attacker.settings) or "–"),
            measured(attacker.accuracy, digits),
            Entry(str(attacker.accuracy.n if attacker.accuracy else 0)),
            Entry(str(attacker.lost)),
            score,
            Entry(f"{attacker.queries:,}"),
        )
        rows.append(row)
        records.append(attacker_record(card, attacker))
    caption = (
        f"Attacks and controls, {card.title}: accuracy on test images with its 95 % interval. "
        "Lost: cells without an accuracy."
    )
    return Grid("thieves", caption, heads, tuple(rows), tuple(records), 4, "long")


def behind(card: ThreatModelResult, judgement: AuditResult) -> Grid:
    """The differences that the verdict rests on, with headroom and what was taken."""
    digits = digits_of(judgement)
    parts: list[tuple[str, str, Estimate]] = [(c.name, c.about, c.estimate) for c in card.contrasts]
    known = {estimate for _, _, estimate in parts}
    more = (
        ("headroom", "what reading more than labels gains on the undefended control", card.headroom),
        ("took", "how much of it the defense removed", card.reduction),
    )
    parts += [(name, about, estimate) for name, about, estimate in more if estimate and estimate not in known]
    rows = [
        (
            Entry(name),
            Entry(about),
            Entry(signed(e.mean, digits)),
            Entry(interval_text(e, digits)),
            Entry(number(e.lower, digits)),
            Entry(number(e.upper, digits)),
            Entry(str(e.n)),
        )
        for name, about, e in parts
    ]
    heads = ("difference", "what it is", "mean", "95 % interval", "lower bound", "upper bound", "n")
    records: list[Record] = [
        {"card": card.threat_model, "name": name, "about": about, **numbers_of("", e)} for name, about, e in parts
    ]
    caption = f"Differences that a verdict rests on, in points of accuracy; bounds are one-sided, 95 %. δ is {judgement.delta:g}."
    return Grid("contrasts", caption, heads, tuple(rows), tuple(records), 2, "contrasts")


def points(
    name: str, caption: str, heads: tuple[str, str], lines: list[tuple[str, tuple[Point, ...]]], digits: int
) -> Grid:
    """The numbers behind a curve; `heads` say what x and y are."""
    rows = tuple(
        (
            Entry(who),
            Entry(point.name or "–"),
            Entry(f"{point.x:,g}"),
            Entry(number(point.y, digits), _range(point, digits)),
        )
        for who, held in lines
        for point in held
    )
    records: list[Record] = [
        {"line": who, "name": p.name, "x": p.x, "y": p.y, "low": p.low, "high": p.high}
        for who, held in lines
        for p in held
    ]
    return Grid(name, caption, ("line", "point", *heads), rows, tuple(records), 2, "slim")


def ranked(card: ThreatModelResult) -> list[AttackResult]:
    """Attacks that read more first, then labels, then controls; within each by what that attack got from the audited model."""
    kinds = list(READS)
    top: dict[tuple[str, str], float] = {}
    for attacker in card.attacks:
        value = attacker.accuracy.mean if attacker.accuracy else -1.0
        bonus = 1000.0 if attacker.side == "defended" else 0.0
        key = (attacker.reads, attacker.name)
        top[key] = max(top.get(key, -1.0), value + bonus)
    sides = ("defended", "undefended", "alone")
    return sorted(
        card.attacks,
        key=lambda t: (
            kinds.index(t.reads),
            -top[t.reads, t.name],
            t.name,
            sides.index(t.side),
            t.attack,
            str(t.settings),
        ),
    )


def _range(point: Point, digits: int) -> str:
    return (
        ""
        if point.low is None or point.high is None
        else f"{number(point.low, digits)} to {number(point.high, digits)}"
    )
