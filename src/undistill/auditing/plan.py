"""What a thief may do and holds on a card, and by which recipe it trains."""

from __future__ import annotations

from typing import Any

import torch

from undistill.access import Access, Card
from undistill.attacks.base import Attack
from undistill.data import ImageSet, Splits
from undistill.errors import UsageError
from undistill.seeds import generator
from undistill.training.recipe import Recipe, Student, component, read
from undistill.training.train import with_seed


def plan_recipe(
    recipe: Recipe,
    attack: str | dict[str, Any] | Attack | None = None,
    student: str | dict[str, Any] | Student | None = None,
    seed: int | None = None,
) -> Recipe:
    """The thief's recipe: the victim's with the attack and the student in place, `training` the student's own.

    A recipe that the student names is resolved into `training` and named no more, so planning twice changes nothing.
    """
    values = with_seed(recipe, seed).dump()
    if attack is not None:
        values = component(values, "attack", attack)
    if student is not None:
        values = component(values, "student", student)
    if own := values["student"].get("recipe"):
        values["training"] = read(own).dump()["training"]
        values["student"]["recipe"] = None
    return read(values)


def permit(thief: Attack, card: Card) -> Access:
    """The access that the oracle is opened with: what the attack reads, cut to what the card gives."""
    if thief.needs is not None and thief.needs > card.access:
        raise UsageError(f"{thief.name} needs {thief.needs.label}; the card gives {card.access.label}")
    return min(thief.reads, card.access)


def hold(data: Splits, card: Card, thief: Attack, seed: int) -> ImageSet:
    """The images a thief holds on this card, drawn at (seed, "thief", "pick"); without labels where the card has none."""
    pool = data.train if card.pool == "trained" else data.pool
    if pool is None:
        raise UsageError(
            "the card wants fresh images that no victim has seen, but none were set aside: train it anew with -s data.pool=…"
        )
    count = round(card.share * len(pool)) if card.questions is None else card.questions
    if count > len(pool):
        raise UsageError(f"the card asks about {count} images; the {card.pool} pool has {len(pool)}")
    if count < 2:
        raise UsageError(f"the card leaves the thief {count} of {len(pool)} images; training needs at least 2")
    if count < len(pool):
        picked = torch.randperm(len(pool), generator=generator(seed, "thief", "pick"))[:count]
        pool = pool.take(picked.sort().values)
    return pool if card.data == "labelled" or thief.control else pool.unlabelled()
