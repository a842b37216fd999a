"""What components, threat models and numbers are called in text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undistill.auditing.text import settings_text
from undistill.errors import UsageError
from undistill.experiments.cell import Cell
from undistill.threat_model import NAMED, Access, ThreatModel

HEADS = {
    "dafl": "DAFL",
    "deep-inversion": "DeepInversion",
    "kd": "KD",
    "label-only": "victim's labels only",
    "scratch": "baseline",
}
ENVIRONMENT = {
    "undistill": "undistill",
    "commit": "commit",
    "torch": "torch",
    "python": "Python",
    "device": "device",
    "processor": "processor",
    "threads": "threads a process",
    "system": "system",
}
"""What a cell's `env` holds of the machine, and what reports call it."""
ALONE = "baseline"
NORMAL = "normal"


def is_normal(victim: str) -> bool:
    """Whether a victim's name in reports is that of one without a defense, with or without what tells its weights apart."""
    return victim == NORMAL or victim.startswith(f"{NORMAL} (")


GIVES = {
    Access.LABEL: "the predicted class alone",
    Access.TOPK: "the top few classes with their probabilities",
    Access.PROBS: "the probability of every class",
    Access.LOGITS: "the logit (raw score) of every class",
    Access.WEIGHTS: "the victim's weights themselves",
}


def number(value: float | None, decimals: int = 1) -> str:
    """`97.2`, with a true minus sign; `–` for a value that is not there."""
    if value is None:
        return "–"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float, decimals: int = 1) -> str:
    """`+1.2` or `−0.4`; a rounded zero has no sign."""
    text = number(value, decimals)
    return f"+{text}" if float(text.replace("−", "-")) > 0 else text


def decimals(n_test: int) -> int:
    """Digits behind the point that a percentage of so many images deserves."""
    return 2 if n_test >= 5000 else 1 if n_test >= 100 else 0


def plural(count: int, thing: str, things: str = "") -> str:
    """`1 seed`, `3 seeds`, `1,297 images`."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def listed(parts: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def arm_text(attack: str, settings: Mapping[str, Any], *, control: bool = False) -> str:
    """What a student was taught by: `KD, τ 4, α 0.9`, `victim's labels only`, `baseline (control)`."""
    head = HEADS.get(attack, attack or "unnamed attack")
    name = ", ".join(part for part in (head, settings_text(settings)) if part)
    return f"{name} (control)" if control else name


def network_text(name: str, settings: Mapping[str, Any]) -> str:
    """`cnn, width 0.125`."""
    return ", ".join(part for part in (name or "unnamed network", settings_text(settings)) if part)


def parse_card(text: str) -> ThreatModel | None:
    """The threat model, or None if this version cannot parse it."""
    try:
        return ThreatModel.parse(text)
    except UsageError:
        return None


def card_title(text: str) -> str:
    """`The paper's threat model`, `An API threat model`, `The data-free threat model`, or the threat model as it is written."""
    card = parse_card(text)
    if card == NAMED["paper"]:
        return "The paper's threat model"
    if card == NAMED["data-free"]:
        return "The data-free threat model"
    if card is not None and card.access <= Access.PROBS and card.pool == "fresh":
        return "An API threat model"
    return f"Threat model {text}" if text else "No threat model"


def card_sentence(text: str, cells: list[Cell]) -> str:
    """What the attacker holds, sees and may query; counts are those of the cells."""
    card = parse_card(text)
    if card is None:
        return (
            f"The threat model of these attacks is written {text!r}." if text else "These cells name no threat model."
        )
    attackers = [cell for cell in cells if cell.kind == "cell"]
    if card.data == "none":
        told = f"It {'has' if card.access == Access.WEIGHTS else 'sees'} {GIVES[card.access]}."
        return f"The attacker holds no images. {told} It starts from random weights."
    images = sorted({cell.images for cell in attackers or cells})
    every = "all " if card.questions is None and card.share == 1 else ""
    held = listed([f"{count:,}" for count in images])
    whose = (
        "of the victim's own training images"
        if card.pool == "trained"
        else "fresh images that no victim was trained on"
    )
    if any(cell.vouched for cell in attackers):
        whose = "images that are asserted, not verified, to be fresh"
    with_ = "with their true labels" if card.data == "labelled" else "without labels"
    more = f" It holds {card.unqueried:,} more, without labels, than it may query." if card.unqueried else ""
    return f"The attacker holds {every}{held} {whose}, {with_}. {_asks(card, attackers)}{more} It starts from random weights."


def _asks(card: ThreatModel, attackers: list[Cell]) -> str:
    if card.access == Access.WEIGHTS:
        return f"It has {GIVES[card.access]}."
    if card.questions is not None:
        return f"It queries each of them once and sees {GIVES[card.access]}; it trains on augmented copies of these images."
    asked = listed([f"{count:,}" for count in sorted({cell.queries for cell in attackers})], "or")
    counted = f" ({asked} queries each here)" if asked else ""
    return f"It queries every augmented view of them, in every epoch{counted}, and sees {GIVES[card.access]}."
