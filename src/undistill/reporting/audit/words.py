"""What output accesses, cards, sides, verdicts and estimates are called on an audit's page."""

from __future__ import annotations

from statistics import fmean

from undistill.auditing.result import AttackResult, AuditResult, Estimate, ThreatModelResult, VictimResult
from undistill.reporting.document import Entry
from undistill.reporting.naming import decimals, number, parse_card, plural
from undistill.threat_model import Access

ALL = {
    Access.LABEL: "predicted class only",
    Access.PROBS: "all probabilities",
    Access.LOGITS: "all logits",
    Access.WEIGHTS: "the weights",
}
VERDICTS = {
    "nothing to defend": "no soft-label advantage",
    "worthless to this thief": "no gain over baseline",
    "reduced to labels": "label-only level",
}
"""What verdicts are called on pages, where that is not how they are stored."""
READS = {"soft": "more than labels", "labels": "predicted class only", "nothing": "nothing (control)"}
VISIBLE = 0.3
"""Points that users would see."""
LOSSES = {"accuracy": -1, "ece": 1, "brier": 1}
"""What users may lose, with the sign of a change that is a loss."""
NO_CONTROL = "no control to compare with"


def serving_text(serving: str) -> str:
    """`all probabilities`, `top 5 classes, 2 digits`, `predicted class only`; an unknown access as it is written."""
    card = parse_card(f"{serving}/labelled(1.0)/trained/random")
    if card is None:
        return serving or "not said"
    shown = ALL.get(card.access, "")
    if card.access is Access.TOPK:
        shown = f"top {card.top or 5} classes" if card.top != 1 else "top class with its probability"
    return shown if card.digits is None else f"{shown}, {plural(card.digits, 'digit')}"


def heading(card: ThreatModelResult) -> str:
    """What a threat model is called on the page."""
    if card.title:
        return card.title
    asked = f", {plural(card.queries, 'query', 'queries')}" if card.queries is not None else ""
    return f"Output access: {serving_text(card.access)}{asked}"


def questions_text(card: ThreatModelResult) -> str:
    """`1,000`, `each view of each image`, or `–` where the weights are held."""
    if card.queries is not None:
        return f"{card.queries:,}"
    return "–" if card.access == "weights" else "each view of each image"


def holds_text(card: ThreatModelResult) -> str:
    """`1,000 fresh images, no labels`."""
    if not card.images:
        return "no images"
    return f"{card.images:,} {kind_text(card)}"


def unqueried(card: ThreatModelResult) -> int:
    """Images that attackers hold beyond those that they query."""
    parsed = parse_card(card.threat_model)
    return 0 if parsed is None else parsed.unqueried


def kind_text(card: ThreatModelResult) -> str:
    """`fresh images, no labels`: what an attack holds, without its amount."""
    parsed, beyond = parse_card(card.threat_model), unqueried(card)
    whose = (
        "images" if parsed is None or parsed.pool == "none" else f"{parsed.pool} images".replace("trained", "training")
    )
    more = f", {beyond:,} more than it may query" if beyond else ""
    start = ", public weights" if parsed is not None and parsed.start == "public" else ""
    return f"{whose}, {'true' if card.labelled else 'no'} labels{more}{start}"


def controlled(judgement: AuditResult) -> bool:
    """Whether an undefended control is there to compare with."""
    return any(victim.side == "undefended" for victim in judgement.victims)


def side_text(side: str, judgement: AuditResult) -> str:
    """Whose answers an attack learnt from."""
    several = "s" if judgement.question == "method" else ""
    model = f"defended model{several}" if controlled(judgement) else f"audited model{several}"
    return {"defended": model, "undefended": f"undefended control{several}", "alone": "none: baseline"}[side]


def points_text(value: float) -> str:
    """`2 points`, `1 point`."""
    return f"{value:g} point{'' if value == 1 else 's'}"


def unfinished(judgement: AuditResult) -> list[str]:
    """That planned cells are missing, in a sentence; none where all are done."""
    if judgement.done >= judgement.planned and not judgement.failed:
        return []
    failed = f", {judgement.failed:,} failed" if judgement.failed else ""
    planned = plural(judgement.planned, "planned cell")
    return [f"{judgement.done:,} of {planned} are done{failed}. Missing cells can only weaken a verdict."]


def digits_of(judgement: AuditResult) -> int:
    """Digits behind the point that the test images deserve."""
    return decimals(max((victim.n_test for victim in judgement.victims), default=0))


def interval_text(estimate: Estimate, digits: int) -> str:
    """`92.7 to 93.5`, or that there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"n = {estimate.n}, no interval"
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def measured(estimate: Estimate | None, digits: int) -> Entry:
    """A mean above its interval."""
    return Entry(None) if estimate is None else Entry(estimate.mean, interval_text(estimate, digits))


def accuracy_of(card: ThreatModelResult) -> Estimate | None:
    """What the best attack of the audited model got."""
    best = best_of(card, "defended")
    return card.A_def or (best.accuracy if best else None)


def equivalents_text(card: ThreatModelResult) -> str:
    """`850 labeled images`, `more than 4,000 labeled images`, `–`."""
    if card.label_equivalents is None:
        return "–"
    more = "more than " if card.label_equivalents_beyond else ""
    return f"{more}{round(card.label_equivalents):,}"


def shown(verdict: str) -> str:
    """A verdict as a page names it."""
    return VERDICTS.get(verdict, verdict)


def verdict_entry(card: ThreatModelResult, judgement: AuditResult, href: str = "") -> Entry:
    """The verdict, or why there is none."""
    if card.verdict is not None:
        return Entry(shown(card.verdict), link=href)
    return Entry("no verdict", missing_text(card, judgement), href)


def missing_text(card: ThreatModelResult, judgement: AuditResult) -> str:
    """Why a threat model has no verdict."""
    if not controlled(judgement):
        return NO_CONTROL
    if card.access == "label":
        return "no defense hides the predicted class"
    return f"an indication only: {shown(card.indication)}" if card.indication else "the suite gives none"


def verdict_sentence(card: ThreatModelResult, judgement: AuditResult) -> str:
    """`Verdict: reduced to labels.`, `An indication only, no verdict: partial.`, `No verdict: no control to compare with.`"""
    if card.verdict is not None:
        return f"Verdict: {shown(card.verdict)}."
    if controlled(judgement) and card.indication:
        return f"An indication only, no verdict: {shown(card.indication)}."
    return f"No verdict: {missing_text(card, judgement)}."


def decides_text(card: ThreatModelResult) -> str:
    """Which attack the result hangs on, how far the next one is behind, and what the verdict would be without it."""
    found = card.decides
    if found is None:
        return ""
    behind = ""
    if found.ahead is not None:
        ends = (found.ahead.low, found.ahead.high)
        sure = "" if None in ends else f" (95 %: {number(ends[0])} to {number(ends[1])})"
        behind = f", {number(found.ahead.mean)} points behind{sure}"
    text = f"What decides: {found.best}. The best other attack is {found.runner_up}{behind}."
    verdict = card.verdict or card.indication
    if found.without is None or verdict is None:
        return text
    kind = "verdict" if card.verdict else "indication"
    same = f"the {kind} is the same" if found.without == verdict else f"the {kind} would be: {shown(found.without)}"
    return f"{text} Without {found.attack}, {same}."


def meanings(judgement: AuditResult) -> dict[str, str]:
    """What the verdicts that appear here mean."""
    d = f"δ = {points_text(judgement.delta)}"
    every = {
        "inconclusive": "Something is missing, or the uncertainty is larger than the effect.",
        "nothing to defend": f"Even the control's soft outputs are worth no more than its predicted classes, within {d}: "
        "there is nothing that an output defense could remove.",
        "worthless to this thief": f"The model's outputs gave an attacker with true labels no more than {d} over the baseline; "
        "the undefended control's gave more.",
        "reduced to labels": f"The best model extracted from soft outputs is at most {d} better than one from predicted classes; "
        "from the undefended control it is.",
        "no effect": f"The best extracted model is as good as one of the undefended control, within {d}.",
        "partial": "The defense lowered the best extracted model; soft outputs may still be worth more than predicted classes.",
    }
    used = {word for card in judgement.threat_models for word in (card.verdict, card.indication) if word}
    return {shown(word): text for word, text in every.items() if word in used}


def best_of(card: ThreatModelResult, side: str) -> AttackResult | None:
    """The best attack found of a side: the one the judge names, else the one with the highest mean."""
    own = [attacker for attacker in card.attacks if attacker.side == side and attacker.accuracy is not None]
    name = card.best if side == "defended" else card.best_undefended
    named = [attacker for attacker in own if attacker.name == name]
    ranked = sorted(named or own, key=lambda attacker: -(attacker.accuracy.mean if attacker.accuracy else 0.0))
    return ranked[0] if ranked else None


def served_to(judgement: AuditResult, side: str, serving: str) -> list[VictimResult]:
    """The victims of a side as they are served on a threat model; those that are only measured otherwise, where none is."""
    own = [victim for victim in judgement.victims if victim.side == side]
    fitting = [victim for victim in own if serving_text(victim.access) == serving_text(serving)]
    return fitting or own


def control_of(judgement: AuditResult, victim: VictimResult) -> VictimResult | None:
    """The undefended control of a defended victim that is served alike: the one at the same place, else the only one."""
    mine = served_to(judgement, "defended", victim.access)
    others = served_to(judgement, "undefended", victim.access)
    if victim.side == "undefended" or not others:
        return None
    place = mine.index(victim)
    return others[place] if len(others) == len(mine) else others[0] if len(others) == 1 else None


def costs(judgement: AuditResult, serving: str) -> dict[str, tuple[float, float, bool]]:
    """What users of a model and of its control get, as served: (mean of both in percent, whether users lose) by `LOSSES`' name."""
    found: dict[str, tuple[float, float, bool]] = {}
    pairs = [(victim, control_of(judgement, victim)) for victim in served_to(judgement, "defended", serving)]
    for field, sign in LOSSES.items():
        both = [(getattr(one, field), getattr(other, field)) for one, other in pairs if other is not None]
        known = [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]
        if known:
            mine, theirs = (fmean(values) for values in zip(*known, strict=True))
            found[field] = mine, theirs, sign * (mine - theirs) >= VISIBLE
    return found


def ended(text: str) -> str:
    """With a full stop; "" stays empty."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def sentence(text: str) -> str:
    """Ended, and with a capital where the first word is one: `kd`, `label-only` and `τ` stay as they are."""
    text = ended(text)
    word = text.split(maxsplit=1)[0].rstrip(".,:;") if text else ""
    return text[:1].upper() + text[1:] if len(word) > 2 and word.isascii() and word.isalpha() else text
