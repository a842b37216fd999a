"""What an owner is told first: what each output access gives away, up to how many queries, how sure that is, what is missing."""

from __future__ import annotations

from undistill.auditing.result import AuditResult, Flag, ThreatModelResult
from undistill.reporting.audit.words import (
    controlled,
    costs,
    digits_of,
    points_text,
    serving_text,
    unfinished,
    unit_text,
)
from undistill.reporting.naming import listed, number, plural

TITLE = "What does an attacker get?"
SHARE = (
    "Relative accuracy is that of the best extracted model over the model's own. “As good as” is how many images with true labels "
    "give a baseline the same accuracy; “more than” means that even the largest number tried gives less."
)
COSTS = {"accuracy": "accuracy", "ece": "calibration error", "brier": "Brier score"}


def title(judgement: AuditResult) -> str:
    """The judgement's own, or the query it answers."""
    return judgement.title or TITLE


def lead(judgement: AuditResult) -> list[str]:
    """Sentences to be read under the headline: how good the model is, what users lose, how sure all is, what is missing."""
    about = " ".join(part for part in (_model(judgement), cost(judgement)) if part)
    found = [about, _sure(judgement), _missing(judgement)]
    return [sentence for sentence in found if sentence]


def notes(judgement: AuditResult) -> list[str]:
    """What a reader must know before any number."""
    found = unfinished(judgement)
    if not controlled(judgement):
        found.append("No undefended control was given, so there are no verdicts: the effect of a defense is unknown.")
    elif not judgement.verdicts:
        found.append(f"The suite {judgement.suite} is too small for verdicts; the page gives indications only.")
    half = judgement.measured_half_width
    if half is not None and half > judgement.delta:
        found.append(
            f"Differences are resolved to {half:.1f} points here, coarser than δ = {judgement.delta:g}: verdicts that need "
            "a finer resolution are inconclusive."
        )
    return found


def flags_by_card(judgement: AuditResult) -> list[tuple[str, str, list[Flag]]]:
    """(anchor, heading, flags): those about everything first, then card by card."""
    known = {card.id: (place, card) for place, card in enumerate(judgement.threat_models)}
    found: list[tuple[str, str, list[Flag]]] = []
    general = [flag for flag in judgement.flags if flag.threat_model not in known]
    if general:
        found.append(("", "About the whole audit", general))
    for name, (place, card) in known.items():
        own = [flag for flag in judgement.flags if flag.threat_model == name]
        if own:
            found.append((f"#card-{place}", heading(card), own))
    return found


def heading(card: ThreatModelResult) -> str:
    """What a threat model is called on the page."""
    if card.title:
        return card.title
    asked = f", {plural(card.queries, 'query', 'queries')}" if card.queries is not None else ""
    return f"Output access: {serving_text(card.access)}{asked}"


def ended(text: str) -> str:
    """With a full stop; "" stays empty."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def sentence(text: str) -> str:
    """Ended, and with a capital where the first word is one: `kd`, `label-only` and `τ` stay as they are."""
    text = ended(text)
    word = text.split(maxsplit=1)[0].rstrip(".,:;") if text else ""
    return text[:1].upper() + text[1:] if len(word) > 2 and word.isascii() and word.isalpha() else text


def _model(judgement: AuditResult) -> str:
    own = [victim for victim in judgement.victims if victim.side == "defended"]
    if not own:
        return ""
    digits, tests = digits_of(judgement), max(victim.n_test for victim in own)
    images = f"{tests:,} test images" if tests else "the test images"
    who = "The audited models get" if judgement.question == "method" else "The audited model gets"
    controls = [victim.accuracy for victim in judgement.victims if victim.side == "undefended"]
    beside = f" (undefended {_spread(controls, digits)})" if controls else ""
    return f"{who} {_spread([victim.accuracy for victim in own], digits)} % of {images} right{beside}."


def _sure(judgement: AuditResult) -> str:
    counts = sorted({card.A_def.n for card in judgement.threat_models if card.A_def is not None}, reverse=True)
    if not counts:
        return ""
    if counts[-1] < 2:
        return f"From {unit_text(judgement, counts[-1])} there are no intervals: differences are hints only."
    fewer = f"; {listed([str(count) for count in counts[1:]])} where said so" if len(counts) > 1 else ""
    same = "teachers" if judgement.question == "method" else "seeds"
    return (
        f"Intervals are 95 % confidence intervals ({unit_text(judgement, counts[0])}{fewer}). Differences paired by {same} and "
        f"images have their own, narrower intervals; up to {points_text(judgement.delta)} count as none."
    )


def _missing(judgement: AuditResult) -> str:
    most = max((card.tried for card in judgement.threat_models), default=0)
    tried = (
        f"Up to {plural(most, 'attack')} {'was' if most == 1 else 'were'} tried on one output access." if most else ""
    )
    things = [_small(thing) for text in judgement.not_tried if (thing := text.split(":")[0].strip().rstrip("."))]
    asked = [card.queries for card in judgement.threat_models if card.access != "weights"]
    known = [questions for questions in asked if questions is not None]
    if known and len(known) == len(asked):
        things.append(f"more than {plural(max(known), 'query', 'queries')}")
    return f"{tried} Not tried: {'; '.join(things)}.".strip() if things else tried


def _small(text: str) -> str:
    """Without the capital of a sentence; `API` and `τ` stay as they are."""
    word = text.split(maxsplit=1)[0]
    return text[:1].lower() + text[1:] if word in ("A", "An") or word[1:].islower() else text


def searched(judgement: AuditResult) -> str:
    """On which cards attacks were searched; "" where no cell is listed."""
    own = {line.threat_model for line in judgement.lines if line.phase == "selection"}
    if not own:
        return "No search: attacks as they come." if judgement.lines else ""
    places = [card for card in judgement.threat_models if card.threat_model in own]
    if not places or len(places) == len(judgement.threat_models):
        return "Attacks were searched on every threat model." if places else ""
    soft = [card for card in places if card.access != "label"] or places
    first = (
        "the first threat model"
        if soft == [judgement.threat_models[0]]
        else listed([f"“{heading(card)}”" for card in soft])
    )
    labels = [card for card in places if card not in soft]
    beside = f" (those that read labels alone on {listed([f'“{heading(card)}”' for card in labels])})" if labels else ""
    return (
        f"Attacks were searched on {first} only{beside}; the winners were then tried on the other output accesses and other "
        "query budgets."
    )


def _spread(values: list[float], digits: int) -> str:
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def cost(judgement: AuditResult) -> str:
    """What users lose against the control, as the first threat model is served; "" without a control."""
    if not judgement.threat_models:
        return ""
    serving, digits = judgement.threat_models[0].access, digits_of(judgement)
    found = costs(judgement, serving)
    if not found:
        return ""
    worse = [
        f"{COSTS[key]} {number(mine, digits)} % (undefended {number(theirs, digits)})"
        for key, (mine, theirs, seen) in found.items()
        if seen
    ]
    served = f"Cost to users, served as {serving_text(serving)}"
    return f"{served}: {', '.join(worse) if worse else f'no loss seen in {listed([COSTS[key] for key in found])}'}."
