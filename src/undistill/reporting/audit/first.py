"""The first screen of an audit: what an attacker gets, whether the defense helps, what to do; each computed from the judgement."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from undistill.auditing.flags import CHANCE
from undistill.auditing.result import AuditResult, Estimate, Outlook, ThreatModelResult
from undistill.auditing.text import without
from undistill.reporting.audit import curves
from undistill.reporting.audit.tables import points
from undistill.reporting.audit.words import (
    accuracy_of,
    controlled,
    costs,
    digits_of,
    kind_text,
    measured,
    points_text,
    served_to,
    serving_text,
    unfinished,
    unqueried,
)
from undistill.reporting.document import Chart, Columns, Document, Entry, Format, Note, Statement, Table, Value, filled
from undistill.reporting.naming import listed, number, plural

GETS, HELPS, ACTION = "What an attacker gets", "Does the defense help?", "What to do"
BASELINE, CONTROL = "baseline, no access", "undefended control, best access"
HELPED = ("partial", "reduced to labels", "worthless to this thief")


def title(judgement: AuditResult) -> str:
    """`Audit of nasty`, by the model's own name."""
    return f"Audit of {name(judgement)}"


def name(judgement: AuditResult) -> str:
    """The model's own name in back-ticks; of a method the audit's title."""
    own = judgement.outlook
    if judgement.question == "method" or own is None:
        return judgement.title.replace("`", "") or "a model"
    return f"`{own.model.replace('`', '')}`"


def lead(judgement: AuditResult) -> tuple[Columns | Note | Statement | Chart, ...]:
    """The first screen of the page: three answers, one chart, and what must be known before any number."""
    drawn = chart(judgement)
    answers = statements(judgement)
    screen: tuple[Columns | Statement | Chart, ...] = (
        (Columns((tuple(answers), (drawn,))),) if drawn is not None else tuple(answers)
    )
    return (*(Note(text) for text in warnings(judgement)), *screen)


def terminal(judgement: AuditResult) -> Document:
    """The same for a terminal of 80 × 24: the chart is a small table."""
    small = by_budget(judgement)
    notes = tuple(Note(text) for text in warnings(judgement))
    return Document(title(judgement), (*notes, *statements(judgement), *([small] if len(small) else [])))


def warnings(judgement: AuditResult) -> list[str]:
    """What must be known before any number."""
    found = []
    few = judgement.outlook.few if judgement.outlook else ""
    if few:
        found.append(f"{few[0].upper()}{few[1:]}.")
    return [*found, *_untrained(judgement), *unfinished(judgement)]


def _untrained(judgement: AuditResult) -> list[str]:
    """That students of the undefended control learnt nothing, so that the attack is at fault and not the model strong."""
    chance = judgement.outlook.chance if judgement.outlook else None
    every = (one for card in judgement.threat_models for one in card.attacks if one.side == "undefended")
    free = {one.cells or one.name: one.accuracy for one in every}  # an attack counts for several threat models
    lost = [got for got in free.values() if got and chance is not None and got.mean < CHANCE * chance]
    if not lost:
        return []
    return [
        f"{len(lost)} of {plural(len(free), 'attack')} on the control ended near guessing: unfit training, or too few queries. An "
        "attacker may get more."
    ]


def statements(judgement: AuditResult) -> list[Statement]:
    """The three answers."""
    return [gets(judgement), helps(judgement), action(judgement)]


def gets(judgement: AuditResult) -> Statement:
    """What an attacker gets with the largest query budget, by output access, beside the model, the baseline and guessing."""
    cards = [card for card in largest(judgement) if accuracy_of(card) is not None]
    if not cards:
        return Statement(GETS, "Not known yet: no attack has been computed.")
    digits = digits_of(judgement)
    named = [cards[0], *(card for card in cards[1:] if card.access in ("label", "weights"))]
    parts = []
    for place, card in enumerate(named):
        got = accuracy_of(card)
        assert got is not None
        sure = f" accuracy (95 %: {_ends(got, digits)})" if place == 0 and got.low is not None else ""
        parts.append(f"{number(got.mean, digits)} %{sure} from {_the(serving_text(card.access))}")
    queries = cards[0].queries
    budget = "querying every view of every image" if queries is None else f"{plural(queries, 'query', 'queries')}"
    budget += f" and {more:,} more images" if (more := unqueried(cards[0])) else ""
    return Statement(
        GETS, f"With {budget}, the best extracted model reaches {listed(parts)}. {_beside(judgement, cards[0], digits)}"
    )


def _the(text: str) -> str:
    return f"the {text}" if text.startswith(("top", "predicted")) else text


def _beside(judgement: AuditResult, card: ThreatModelResult, digits: int) -> str:
    """`nasty itself: 97.4 %; baseline with 200 labeled images and no access: 94.2 %; guessing: 10 %.`"""
    own = [victim.accuracy for victim in served_to(judgement, "defended", card.access)]
    parts = [f"{name(judgement)} itself: {number(sum(own) / len(own), digits)} %"] if own else []
    if card.A_ref is not None:
        images = f"{card.images:,} labeled images" if card.images else "as many labeled images"
        images += f", {more:,} unlabeled ones" if (more := unqueried(card)) else ""
        parts.append(f"a baseline with {images} and no access: {number(card.A_ref.mean, digits)} %")
    if judgement.outlook is not None and judgement.outlook.chance is not None:
        parts.append(f"guessing: {number(judgement.outlook.chance, 0)} %")
    return f"{'; '.join(parts)}." if parts else ""


def helps(judgement: AuditResult) -> Statement:
    """Yes, no, nothing to defend, or not yet, with the command and the minutes that would tell."""
    own = judgement.outlook
    if not controlled(judgement):
        return _uncontrolled(judgement, own)
    card = deciding(judgement)
    if card is None:
        return Statement(HELPS, "Not measurable: the model and the control return the predicted class only.")
    word = card.verdict or card.indication or "inconclusive"
    queries = "" if card.queries is None else f" at {plural(card.queries, 'query', 'queries')}"
    where = f"{queries} with {serving_text(card.access)}".strip()
    sure = "" if card.verdict is not None else " (an indication; `--suite standard` gives a verdict)"
    if word in HELPED:
        took = number(card.reduction.mean) if card.reduction else "some"
        room = f" of {number(card.headroom.mean)}" if card.headroom else ""
        return Statement(
            HELPS,
            f"Yes{sure}: {where}, it removes {took}{room} points of headroom{_least(card.reduction)}.{_cost(judgement)}",
        )
    if word == "no effect":
        upper = number(max(card.reduction.upper, 0.0)) if card.reduction and card.reduction.upper is not None else "few"
        return Statement(HELPS, f"No{sure}: {where}, it removes at most {upper} points.{_cost(judgement)}")
    if word == "nothing to defend":
        upper = number(max(card.headroom.upper, 0.0)) if card.headroom and card.headroom.upper is not None else "few"
        return Statement(
            HELPS,
            f"No{sure}: {where}, there is no headroom to remove. The control's probabilities are worth at most {upper} points "
            "more than its predicted classes, which no defense that keeps them can hide.",
        )
    return _not_yet(judgement, card, own)


def _uncontrolled(judgement: AuditResult, own: Outlook | None) -> Statement:
    if own is None or own.defended:
        text = "Not known: no undefended control was given. Train the same network without the defense and name it:"
        place = own.place if own else "MODEL"
        return Statement(HELPS, text, (f"undistill audit {place} --control CONTROL",))
    text = f"Not tested: the audit was given no defended version of {name(judgement)}. To try one and measure it:"
    place = own.place
    if (
        place.startswith("(")
        or ".py:" in place
        or place.endswith((".parquet", ".csv", ".yaml", ".yml"))
        or "://" in place
    ):
        # only its outputs can be changed
        if all(card.access == "label" for card in judgement.threat_models):
            return Statement(
                HELPS, "Nothing to defend: it returns the predicted class only, which no defense can hide."
            )
        return Statement(HELPS, text, (_behind_top1(judgement, own),))
    folder = f"{place}-nasty" if ":" not in place else "runs/nasty"
    return Statement(
        HELPS, text, (f"undistill protect {place} -o {folder}", f"undistill audit {folder} --control {place}")
    )


def _behind_top1(judgement: AuditResult, own: Outlook) -> str:
    """The audit's own command, with its data and access, behind an output defense and into a folder of its own."""
    typed = next((text for text in judgement.commands if text.startswith("undistill audit ")), "")
    words = without(typed, "--out", "-o") or ["undistill", "audit", own.place]
    return shlex.join([*words, "--output-defense", "top1", *(["-o", f"{own.folder}-top1"] if own.folder else [])])


def _not_yet(judgement: AuditResult, card: ThreatModelResult, own: Outlook | None) -> Statement:
    if own is None or own.width is None:
        return Statement(HELPS, f"Not yet known: {card.why or 'cells are missing.'}")
    delta = points_text(judgement.delta)
    seen = f"Not yet known: this audit resolves differences of {number(own.width)} points, and {delta} would matter (δ)"
    if own.seeds_needed is None:
        images = f"; about {own.images_needed:,} test images would" if own.images_needed else ""
        return Statement(HELPS, f"{seen}. No number of seeds resolves that on so few test images{images}.")
    if own.command and own.minutes is not None:
        more = f"About {own.seeds_needed} seeds would tell, {_minutes(own.minutes)} more on two cores:"
        return Statement(HELPS, f"{seen}. {more}", (own.command,))
    if own.width <= judgement.delta:
        why = card.why.rstrip(".") or "the effect is close to a boundary"
        return Statement(HELPS, f"Not clear. {why[0].upper()}{why[1:]}. More seeds may tell.")
    return Statement(HELPS, f"{seen}. About {own.seeds_needed} {_units(judgement)} would tell.")


def action(judgement: AuditResult) -> Statement:
    """What to do about it: hide the probabilities if that helps, keep the weights, limit queries."""
    if judgement.outlook and judgement.outlook.few:
        return Statement(
            ACTION, "Get more images before trying a defense: with so few, this audit cannot tell whether one helps."
        )
    cards = {card.access: card for card in largest(judgement)}
    digits, parts = digits_of(judgement), []
    soft = next((card for key, card in cards.items() if key not in ("label", "weights")), None)
    label = cards.get("label")
    gap = next((c.estimate for c in soft.contrasts if c.name == "A_soft − floor"), None) if soft else None
    own = [victim.accuracy for victim in judgement.victims if victim.side == "defended"]
    kept = f"accuracy stays {number(sum(own) / len(own), digits)} %" if own else "accuracy stays"
    mine, theirs = (accuracy_of(card) if card else None for card in (soft, label))
    if soft is not None and label is not None and mine is not None and theirs is not None:
        change = f"from {number(mine.mean, digits)} to {number(theirs.mean, digits)} %"
        if gap is not None and gap.lower is not None and gap.lower > 0 and gap.mean > judgement.delta:
            parts.append(
                f"Serve the top class only (`label`): the best extracted model falls {change}; users lose the "
                f"probabilities, {kept}."
            )
        elif gap is not None and gap.upper is not None and (gap.upper <= judgement.delta or (gap.lower or 0.0) > 0):
            before, after = number(mine.mean, digits), number(theirs.mean, digits)
            given = f"as much ({after} %)" if before == after else f"{after} instead of {before} %"
            parts.append(f"Hiding probabilities is worth little: predicted classes give an attacker {given}.")
        elif abs(mine.mean - theirs.mean) <= judgement.delta:
            parts.append(
                f"Hiding the probabilities would change nothing measurable here ({change[5:].replace(' to ', ' → ')})."
            )
        else:
            parts.append(
                f"Whether to serve the top class only is open: the best extracted model went {change}, within what this audit "
                "cannot tell apart."
            )
    parts += _limit(judgement, soft or label, digits)
    parts += _weights(cards, digits, judgement.delta)
    return Statement(
        ACTION, " ".join(parts) or "Audit it with more than one output access or query budget to see what to change."
    )


def _limit(judgement: AuditResult, card: ThreatModelResult | None, digits: int) -> list[str]:
    """What fewer queries would leave."""
    if card is None or card.queries is None:
        return []
    same = [c for c in judgement.threat_models if c.access == card.access and c.queries is not None and accuracy_of(c)]
    least = min(same, key=lambda c: c.queries or 0, default=card)
    mine, theirs = accuracy_of(card), accuracy_of(least)
    if mine is None or theirs is None or mine.mean - theirs.mean <= judgement.delta:
        return []
    if mine.low is not None and theirs.high is not None and theirs.high >= mine.mean:
        return []  # what fewer queries leave may be as much
    return [
        f"Limit queries: with {least.queries:,} instead of {card.queries:,} an attacker gets {number(theirs.mean, digits)} %."
    ]


def _weights(cards: dict[str, ThreatModelResult], digits: int, delta: float) -> list[str]:
    """Whether releasing the weights gives more than serving outputs."""
    inside = accuracy_of(cards["weights"]) if "weights" in cards else None
    others = [got.mean for key, card in cards.items() if key != "weights" and (got := accuracy_of(card)) is not None]
    if inside is None or not others or inside.mean - max(others) <= delta:
        return []
    return [f"Keep the weights: from them an attacker gets {number(inside.mean, digits)} %."]


def deciding(judgement: AuditResult) -> ThreatModelResult | None:
    """The card that the second answer is about: the smallest budget, the most that is served short of the weights."""
    budgets = [card.queries for card in judgement.threat_models if card.queries is not None]
    least = min(budgets, default=None)
    soft = [c for c in judgement.threat_models if c.access not in ("label", "weights") and c.queries in (least, None)]
    inside = [c for c in judgement.threat_models if c.access == "weights" and c.queries in (least, None)]
    return next(iter([*soft, *inside]), None)


def largest(judgement: AuditResult) -> list[ThreatModelResult]:
    """The cards of the largest query budget of which anything is known, each output access once."""
    known = [card for card in judgement.threat_models if accuracy_of(card) is not None] or list(judgement.threat_models)
    most = max((card.queries for card in known if card.queries is not None), default=None)
    found: dict[str, ThreatModelResult] = {}
    for card in judgement.threat_models:
        if card.queries in (most, None):
            found.setdefault(card.access, card)
    return weights_last(found.values())


def weights_last(cards: Iterable[ThreatModelResult]) -> list[ThreatModelResult]:
    """In their order, but those of released weights at the end: most owners serve outputs."""
    return sorted(cards, key=lambda card: card.access == "weights")


def chart(judgement: AuditResult) -> Chart | None:
    """Accuracy of the best extracted model against queries: a line an access, the baseline, the control, the model itself."""
    drawn = curves.by_queries(judgement)
    if drawn is None:
        return None
    numbers = points("queries-numbers", f"{drawn.title}.", (drawn.x, drawn.y), drawn.lines, digits_of(judgement))
    dashed = f"Dashed line: {name(judgement)} itself."
    sure = (
        " Bars: 95 % intervals; differences on the same seeds have narrower ones."
        if any(p.low is not None for _, own in drawn.lines for p in own)
        else ""
    )
    return Chart("queries", drawn.title, curves.spec(drawn), dashed + sure, drawn.legend, numbers)


def by_budget(judgement: AuditResult) -> Table:
    """A row an output access, a column a query budget: accuracy of the best extracted model, with its interval if there is room."""
    digits = digits_of(judgement)
    budgets = list(dict.fromkeys(card.queries for card in judgement.threat_models))
    found: dict[str, dict[int | None, Estimate | None]] = {}
    several = len({kind_text(card) for card in judgement.threat_models}) > 1
    for card in weights_last(judgement.threat_models):
        access = serving_text(card.access) + (f", {kind_text(card)}" if several else "")
        found.setdefault(access, {})[card.queries] = accuracy_of(card)
    if base := {card.queries: card.A_ref for card in judgement.threat_models if card.A_ref is not None}:
        found[BASELINE] = dict(base)
    rows: list[list[Value | Entry]] = [
        [access, *(measured(own.get(count), digits) for count in budgets)] for access, own in found.items()
    ]
    columns = {"best extracted model, %": Format()} | {_column(count): Format(digits=digits) for count in budgets}
    return filled("by-budget", "", columns, rows)


def _column(queries: int | None) -> str:
    return "all views" if queries is None else plural(queries, "query", "queries")


def _cost(judgement: AuditResult) -> str:
    """What users lose in accuracy, calibration or Brier score against the control; said only where it can be seen."""
    card = deciding(judgement)
    found = {} if card is None else costs(judgement, card.access)
    lost = {key: number(abs(mine - theirs)) for key, (mine, theirs, seen) in found.items() if seen}
    names = {"ece": "calibration", "brier": "the Brier score"}
    parts = [f"Users lose {lost['accuracy']} points of accuracy"] if "accuracy" in lost else []
    parts += [f"{what} is {lost[key]} points worse" for key, what in names.items() if key in lost]
    if not parts:
        return " No loss to users was seen." if found else ""
    text = "; ".join(parts)
    return f" {text[0].upper()}{text[1:]}."


def _least(estimate: Estimate | None) -> str:
    """The one-sided bound that the verdict rests on."""
    if estimate is None or estimate.lower is None:
        return ""
    return f" (at least {number(max(estimate.lower, 0.0))} with 95 % confidence)"


def _ends(estimate: Estimate, digits: int) -> str:
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def _units(judgement: AuditResult) -> str:
    return "teachers" if judgement.question == "method" else "seeds"
