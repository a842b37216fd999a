"""What an owner is told first: what each way of serving gives away, up to how many questions, how sure that is, what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from undistill.auditing.judgement import CardResult, Flag, Judgement
from undistill.reporting.audit.words import (
    accuracy_of,
    brief,
    controlled,
    digits_of,
    equivalents_text,
    kind_text,
    serving_text,
    told,
    unit_text,
    verdict_sentence,
)
from undistill.reporting.naming import number, plural

TITLE = "What does a thief still get?"
GIVES = "The best thief found makes a copy that is right this often, by what the model serves and how many questions it answers:"
SHARE = (
    "Share of the model is the best thief's accuracy over the model's own. “As good as” is how many images with true labels give a \
student alone the same accuracy; “more than” means that even the largest number tried gives less."
)


def title(judgement: Judgement) -> str:
    """The judgement's own, or the question it answers."""
    return judgement.title or TITLE


def lead(judgement: Judgement) -> list[str]:
    """Sentences for somebody who owns the model, to be read with `gives`: how good it is, how sure all is, what is missing."""
    found = [_model(judgement), _sure(judgement), _missing(judgement)]
    return [sentence for sentence in found if sentence]


def notes(judgement: Judgement) -> list[str]:
    """What a reader must know before any number."""
    found = []
    lost = judgement.planned - judgement.done
    if lost > 0 or judgement.failed:
        failed = f", {judgement.failed:,} failed" if judgement.failed else ""
        found.append(
            f"{judgement.done:,} of {plural(judgement.planned, 'planned cell')} are done{failed}. A cell that is missing can "
            "lower a verdict and never raises one."
        )
    if not controlled(judgement):
        found.append(
            "No undefended twin was given, so there are no verdicts: how much of this is a defense's doing stays open."
        )
    elif not judgement.verdicts:
        found.append(
            f"The suite {judgement.suite} is too small for verdicts: where one would stand, the page gives an indication only."
        )
    if judgement.resolves is not None and judgement.resolves > judgement.delta:
        found.append(
            f"This plan was expected to tell differences of about {judgement.resolves:.2g} points apart, more than δ = "
            f"{judgement.delta:g}: verdicts that need finer ones come out inconclusive."
        )
    return found


def flags_by_card(judgement: Judgement) -> list[tuple[str, str, list[Flag]]]:
    """(anchor, heading, flags): those about everything first, then card by card."""
    known = {card.id: (place, card) for place, card in enumerate(judgement.cards)}
    found: list[tuple[str, str, list[Flag]]] = []
    general = [flag for flag in judgement.flags if flag.card not in known]
    if general:
        found.append(("", "About the whole audit", general))
    for name, (place, card) in known.items():
        own = [flag for flag in judgement.flags if flag.card == name]
        if own:
            found.append((f"#card-{place}", heading(card), own))
    return found


def heading(card: CardResult) -> str:
    """What a card is called on the page."""
    if card.title:
        return card.title
    asked = f", {plural(card.questions, 'question')}" if card.questions is not None else ""
    return f"Served as {serving_text(card.serving)}{asked}"


def verdict_lines(judgement: Judgement) -> Iterator[str]:
    """A line a card, for a terminal."""
    for card in judgement.cards:
        yield f"{heading(card)}: {verdict_sentence(card, judgement)} {sentence(card.why)}"


def ended(text: str) -> str:
    """With a full stop; "" stays empty."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def sentence(text: str) -> str:
    """Ended, and with a capital where the first word is one: `kd`, `label-only` and `τ` stay as they are."""
    text = ended(text)
    word = text.split(maxsplit=1)[0].rstrip(".,:;") if text else ""
    return text[:1].upper() + text[1:] if len(word) > 2 and word.isascii() and word.isalpha() else text


def _model(judgement: Judgement) -> str:
    own = [victim for victim in judgement.victims if victim.side == "defended"]
    if not own:
        return ""
    digits, tests = digits_of(judgement), max(victim.n_test for victim in own)
    images = f"{tests:,} test images" if tests else "the test images"
    who = "The audited models get" if judgement.question == "method" else "The audited model gets"
    twins = [victim.accuracy for victim in judgement.victims if victim.side == "undefended"]
    beside = f"; undefended, {_spread(twins, digits)} %" if twins else ""
    return f"{who} {_spread([victim.accuracy for victim in own], digits)} % of {images} right{beside}."


def gives(judgement: Judgement) -> list[tuple[str, str]]:
    """(way of serving, what it gives away by number of questions), in the judgement's order."""
    found: dict[str, list[CardResult]] = {}
    several = len({kind_text(card) for card in judgement.cards}) > 1
    for card in judgement.cards:
        held = f" ({kind_text(card)})" if several else ""
        found.setdefault(serving_text(card.serving) + held, []).append(card)
    return [(name, _climb(sorted(cards, key=_reach), judgement)) for name, cards in found.items()]


def _climb(cards: list[CardResult], judgement: Judgement) -> str:
    """`92.1 % after 50 questions, 97.2 % (95 % interval …) after 1,000, as good as 1,500 labelled images`."""
    digits = digits_of(judgement)
    parts = []
    for card in cards:
        got = accuracy_of(card)
        text = (told if card is cards[-1] else brief)(got, digits)
        parts.append(f"{text}{_asked(card, first=card is cards[0])}")
    last = cards[-1]
    worth = (
        f"; like a student alone on {equivalents_text(last)} labelled images"
        if last.label_equivalents is not None
        else ""
    )
    return ", ".join(parts) + worth


def _asked(card: CardResult, *, first: bool) -> str:
    if card.serving == "weights":
        return ""
    if card.questions is None:
        return " asking about every view of every image"
    return f" after {plural(card.questions, 'question') if first else f'{card.questions:,}'}"


def _sure(judgement: Judgement) -> str:
    counts = [card.A_def.n for card in judgement.cards if card.A_def is not None]
    if not counts:
        return ""
    fewest = min(counts)
    if fewest < 2:
        return f"From {unit_text(judgement, fewest)} there are no intervals: take every difference as a hint."
    most, half = max(counts), judgement.measured_half_width
    units = unit_text(judgement, most) + ("" if most == fewest else f" (some over {fewest})")
    width = f", which is about ± {number(half, digits_of(judgement))} points" if half is not None else ""
    points = f"{judgement.delta:g} point{'' if judgement.delta == 1 else 's'}"
    return (
        "Each number is the best thief found, so a lower bound on what can be had; intervals are over "
        f"{units}{width}, and differences of up to {points} count as none."
    )


def _missing(judgement: Judgement) -> str:
    most = max((card.tried for card in judgement.cards), default=0)
    tried = (
        f"Up to {plural(most, 'thief', 'thieves')} {'was' if most == 1 else 'were'} tried against a way of serving"
        if most
        else ""
    )
    if not judgement.not_tried:
        return f"{tried}." if tried else ""
    first, left = sentence(judgement.not_tried[0]), len(judgement.not_tried)
    more = f" ({left - 1} more such, all listed below.)" if left > 1 else ""
    return f"{tried}{'. ' if tried else ''}Not tried: {first}{more}"


def _reach(card: CardResult) -> float:
    return float("inf") if card.questions is None else card.questions


def _spread(values: list[float], digits: int) -> str:
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"
