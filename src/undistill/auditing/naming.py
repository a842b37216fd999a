"""What thieves and cards are called on pages. Never imports torch."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from undistill.auditing.arms import Arm
from undistill.threat_model import Access, Card

SYMBOLS = {"temperature": "τ", "alpha": "α", "beta": "β", "gamma": "γ", "smoothing": "smoothing"}


def settings_text(settings: dict[str, Any]) -> str:
    """`τ 4, α 0.9, variant clip`."""
    return ", ".join(f"{SYMBOLS.get(key, key)} {_short(value)}" for key, value in settings.items() if value is not None)


def name_of(arm: Arm) -> str:
    """A thief by its attack and settings: `kd (τ 4, α 1)`; `naive kd`, `alone` and what was done with more effort say so."""
    if not arm.cells:
        return arm.label
    cell = arm.cells[0]
    if arm.side == "alone":
        return "a baseline"
    if arm.role == "effort":
        return arm.label
    settings = settings_text(cell.attack_settings)
    name = f"{cell.attack} ({settings})" if settings else cell.attack
    return ("naive " if arm.role == "naive" else "") + name


def unique_names(arms: tuple[Arm, ...]) -> dict[Arm, str]:
    """A name for each, no two of a side alike: what tells them apart is added, such as the access, the network, or their place."""
    names = {arm: name_of(arm) for arm in arms}
    for suffix in (_served, _network, _rank):
        for group in _alike(names):
            if len({suffix(arm) for arm in group}) > 1:
                names |= {arm: names[arm] + suffix(arm) for arm in group if not names[arm].endswith(suffix(arm))}
    for group in _alike(names):
        names |= {arm: f"{names[arm]}, no. {place}" for place, arm in enumerate(group, start=1)}
    return names


def _alike(names: dict[Arm, str]) -> list[list[Arm]]:
    """Groups of one side that share a name."""
    alike: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for arm, name in names.items():
        alike[arm.side, name].append(arm)
    return [group for group in alike.values() if len(group) > 1]


def _served(arm: Arm) -> str:
    return f", from {arm.cells[0].card.split('/')[0]}" if arm.cells else ""


def student_text(name: str, settings: dict[str, Any]) -> str:
    """`cnn, width 0.5`."""
    shown = settings_text(settings)
    return f"{name}, {shown}" if shown else name


def title(card: Card, images: int) -> str:
    """A card in a few words: `1,000 unlabeled images, probabilities`."""
    if card.data == "none":
        return f"no images, {serving(card)}"
    pool = "" if card.pool == "fresh" else " that the model was trained on"
    start = ", starting from public weights" if card.start == "public" else ""
    held = {"labelled": "labeled", "unlabelled": "unlabeled"}.get(card.data, card.data)
    return f"{images:,} {held} images{pool}, {serving(card)}{start}"


def serving(card: Card) -> str:
    """The output access, in words."""
    return {"weights": "released weights", "label": "labels only"}.get(card.serving, shown(card))


def shown(card: Card) -> str:
    """What the thief sees of an answer: `probabilities`, `the top 5 probabilities with 2 digits`."""
    if card.access is Access.LABEL:
        return "labels"
    if card.access in (Access.LOGITS, Access.WEIGHTS):
        return card.serving
    digits = "" if card.digits is None else " with 1 digit" if card.digits == 1 else f" with {card.digits} digits"
    if card.top == 1:
        return f"the top class with its probability{digits}"
    return (f"the top {card.top or 5} probabilities" if card.access is Access.TOPK else "probabilities") + digits


def _network(arm: Arm) -> str:
    if not arm.cells:
        return ""
    return f", {student_text(arm.cells[0].student, arm.cells[0].student_settings)}"


def _rank(arm: Arm) -> str:
    return f", {arm.label}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
