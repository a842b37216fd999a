"""The judgement's tables: exposure, what users get, the numbers behind a verdict, attacks of a threat model, all cells."""

from __future__ import annotations

from collections.abc import Sequence

from undistill.auditing.result import AttackResult, AuditResult, Estimate, Point, ThreatModelResult, VictimResult
from undistill.auditing.text import settings_text
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
    unqueried,
    verdict_entry,
)
from undistill.reporting.document import Entry, Format, Table, Value, filled
from undistill.reporting.naming import number, signed

Record = dict[str, Value]


def exposure(judgement: AuditResult) -> Table:
    """A row a threat model: what the best attack found got, from the audited model and from its control."""
    digits, control = digits_of(judgement), controlled(judgement)
    rows, records = [], []
    for place, card in enumerate(judgement.threat_models):
        best, other = best_of(card, "defended"), best_of(card, "undefended")
        got = accuracy_of(card)
        row: list[Value | Entry] = [serving_text(card.access), questions_text(card)]
        row += [measured(got, digits), card.relative_accuracy, equivalents_text(card)]
        if control:
            row += [measured(other.accuracy if other else None, digits), card.relative_accuracy_undefended]
        row.append(measured(card.A_ref, digits))
        row += [verdict_entry(card, judgement, f"#card-{place}"), best.name if best else "–", card.tried]
        rows.append([*row, holds_text(card)])
        records.append(exposed(card, best, other, got))
    accuracy, share = Format(digits=digits), Format(digits=1)
    columns = {"output access": Format(), "queries": Format(), "best extracted model, %": accuracy}
    columns |= {"relative accuracy, %": share, "label-equivalent sample size": Format(right=True)}
    if control:
        columns |= {"control: best extracted model, %": accuracy, "control: relative accuracy, %": share}
    columns["baseline, %"] = accuracy
    columns |= dict.fromkeys(("verdict", "best attack", "attacks tried", "the attacker holds"), Format())
    caption = "Best attack found: accuracy on test images with its 95 % interval. Relative accuracy: as a share of the model's own."
    caption += " Control: the undefended one." if control else ""
    more = " and the unlabeled ones," if any(map(unqueried, judgement.threat_models)) else ","
    caption += f" Baseline: the same network on as many labeled images{more} without access to the model."
    return filled("exposure", caption, columns, rows, long=records)


def users(judgement: AuditResult) -> Table:
    """A row a victim: what its users get, and how far that is from the undefended control's."""
    digits = digits_of(judgement)
    measures = {
        "accuracy": ("accuracy, %", digits),
        "top5": ("top-5, %", digits),
        "nll": ("NLL, nats", 3),
        "ece": ("ECE, %", digits),
        "brier": ("Brier, %", digits),
    }
    columns = dict.fromkeys(("model", "stands for", "output access"), Format())
    columns |= {head: Format(digits=places) for head, places in measures.values()}
    rows, records = [], []
    for victim in judgement.victims:
        control = control_of(judgement, victim)
        row: list[Value | Entry] = _who(victim, judgement)
        for name, (_, places) in measures.items():
            value, other = getattr(victim, name), getattr(control, name) if control else None
            both = value is not None and other is not None
            row.append(Entry(value, f"{signed(value - other, places)} to the control" if both else ""))
        rows.append(row)
        records.append(user_record(victim))
    caption = (
        "What users get, on test images. NLL: negative log-likelihood, “–” where a true class got no probability at all. "
        "ECE: calibration error. For NLL, ECE and Brier lower is better."
    )
    return filled("users", caption, columns, rows, long=records)


def answers(judgement: AuditResult) -> Table:
    """A row a victim: how its answers look."""
    shown = [victim for victim in judgement.victims if victim.spread is not None or victim.second]
    temperatures = sorted({float(t) for victim in shown for t in victim.second})
    columns = dict.fromkeys(("model", "stands for", "output access"), Format())
    columns |= dict.fromkeys(("logit spread", *(f"runner-up / top, τ {t:g}" for t in temperatures)), Format(digits=2))
    rows = []
    for victim in shown:
        second = {float(t): value for t, value in victim.second.items()}
        rows.append([*_who(victim, judgement), victim.spread, *(second.get(t) for t in temperatures)])
    caption = (
        "Logit spread: mean standard deviation of an output's log-probabilities over the classes shown. "
        "Runner-up / top: mean ratio of their probabilities at temperature τ, from 0 to 1."
    )
    return filled("answers", caption, columns, rows, long=[*map(user_record, shown)])


def attackers(card: ThreatModelResult, judgement: AuditResult) -> Table:
    """A row an attack of the threat model, in the order of the dot plot."""
    digits = digits_of(judgement)
    columns = dict.fromkeys(("attack", "reads", "trained on outputs of", "settings"), Format())
    columns |= {
        "accuracy, %": Format(digits=digits),
        "over predicted class only, points": Format(digits=digits, signed=True),
    }
    columns |= {"seeds": Format(), "lost": Format()}
    columns |= {"search score, %": Format(digits=digits), "queries": Format()}
    rows: list[list[Value | Entry]] = []
    records = []
    for attacker in ranked(card):
        told = READS[attacker.reads], side_text(attacker.side, judgement), settings_text(attacker.settings) or "–"
        got = attacker.accuracy
        score = Entry(attacker.held_out, "ranked first" if attacker.chosen else "")
        row: list[Value | Entry] = [
            attacker.name,
            *told,
            measured(got, digits),
            measured(attacker.gain, digits),
            got.n if got else 0,
            attacker.lost,
            score,
            attacker.queries,
        ]
        rows.append(row)
        records.append(attacker_record(card, attacker))
    caption = (
        f"Attacks and controls, {card.title}: accuracy on test images with its 95 % interval. "
        "Over predicted class only: the gain over the best label-only attack, on the seeds that both have. "
        "Lost: cells without an accuracy."
    )
    return filled("thieves", caption, columns, rows, long=records)


def behind(card: ThreatModelResult, judgement: AuditResult) -> Table:
    """The differences that the verdict rests on, with headroom and what was taken."""
    digits = digits_of(judgement)
    parts: list[tuple[str, str, Estimate]] = [(c.name, c.about, c.estimate) for c in card.contrasts]
    known = {estimate for _, _, estimate in parts}
    more = (
        ("headroom", "what reading more than labels gains on the undefended control", card.headroom),
        ("removed", "how much of it the defense removed", card.reduction),
    )
    parts += [(name, about, estimate) for name, about, estimate in more if estimate and estimate not in known]
    rows: list[list[Value | Entry]] = [
        [name, about, e.mean, interval_text(e, digits), e.lower, e.upper, e.n] for name, about, e in parts
    ]
    points = Format(digits=digits)
    columns = {"difference": Format(), "what it is": Format(), "mean": Format(digits=digits, signed=True)}
    columns |= {"95 % interval": Format(right=True), "lower bound": points, "upper bound": points, "n": Format()}
    records: list[Record] = [
        {"card": card.threat_model, "name": name, "about": about, **numbers_of("", e)} for name, about, e in parts
    ]
    judged = "Differences that the verdict rests on" if card.verdict else "Differences measured"
    caption = (
        f"{judged}, in points of accuracy; bounds are one-sided, 95 %. n: seeds or teachers. δ is {judgement.delta:g}."
    )
    return filled("contrasts", caption, columns, rows, long=records)


def points(
    name: str, caption: str, heads: tuple[str, str], lines: Sequence[tuple[str, tuple[Point, ...]]], digits: int
) -> Table:
    """The numbers behind a curve; `heads` say what x and y are."""
    x, y = heads
    columns = {"line": Format(), "attack": Format(), x: Format(), y: Format(digits=digits)}
    rows: list[list[Value | Entry]] = [
        [who, point.name or "–", point.x, Entry(point.y, _range(point, digits))]
        for who, held in lines
        for point in held
    ]
    return filled(name, caption, columns, rows)


def cells(judgement: AuditResult) -> Table:
    """A row a planned cell, sortable, with the command that computes it again."""
    digits = digits_of(judgement)
    texts = ("cell", "trained on outputs of", "role", "victim", "attack", "settings", "student", "threat model")
    columns = dict.fromkeys(texts, Format())
    columns |= {"seed": Format(), "phase": Format(), "accuracy, %": Format(digits=digits)}
    columns |= {"search score, %": Format(digits=digits), "queries": Format(), "seconds": Format(digits=1)}
    columns |= {"status": Format(), "command": Format()}
    rows: list[list[Value | Entry]] = []
    for line in judgement.lines:
        told = (line.victim, line.attack, line.settings, line.student, line.threat_model)
        row: list[Value | Entry] = [line.key, line.side, line.role, *(text or "–" for text in told)]
        row += [line.seed, line.phase or "–", line.accuracy, line.held_out, line.queries, line.seconds]
        rows.append([*row, line.status + (f": {line.why}" if line.why else ""), line.command])
    caption = f"All {len(rows):,} planned cells, with the command that computes each again."
    return filled("cells", caption, columns, rows, sortable=True)


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


def _who(victim: VictimResult, judgement: AuditResult) -> list[Value | Entry]:
    return [victim.label or victim.name, side_text(victim.side, judgement), serving_text(victim.access)]


# for programs


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
        **numbers_of("alone_", card.A_ref),
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
