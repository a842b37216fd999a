"""What a thief may do and holds on a card, and by which recipe it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill import plugins
from undistill.attacks.base import Attack
from undistill.data import ImageBatches, ImageSet, Splits
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.oracle.black_box import BlackBox, to_bytes
from undistill.oracle.inference import Frozen
from undistill.oracle.logit_cache import Bank, recalled
from undistill.oracle.oracle import cut
from undistill.oracle.query_log import Answers, Ledger, same_victim
from undistill.oracle.victim import Victim, finite_logits
from undistill.seeds import generator
from undistill.threat_model import Access, Card
from undistill.training.evaluate import batch_for
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
    if isinstance(student, str) and ":" in student:
        plugins.trust(student)
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
    if thief.holds_images and card.data == "none":
        raise UsageError(f"{thief.name} learns from images, and the card {card} leaves the thief none")
    if not thief.holds_images and card.data != "none":
        raise UsageError(
            f"{thief.name} makes its own images: take a card that holds none, such as data-free, not {card}"
        )
    if thief.needs is not None and thief.needs > card.access:
        raise UsageError(f"{thief.name} needs {thief.needs.label}; the card gives {card.access.label}")
    return min(thief.reads, card.access)


def answerable(victim: Victim, card: Card, thief: Attack) -> None:
    """UsageError where a black box cannot play the card: it says too little, or each view of each image would be a question."""
    if not isinstance(victim.model, BlackBox) or thief.control:
        return
    if card.data == "none":
        raise UsageError(f"{victim.label} only answers: a thief without images needs the network itself")
    if card.access > victim.model.kind:
        raise UsageError(
            f"{victim.label} answers with {victim.model.kind.label}, the card gives {card.access.label}: take a lesser one"
        )
    if card.questions is None:
        raise UsageError(
            f"{victim.label} would be asked about every view of every image; take a card with a number of questions, such as "
            f"{card.access.label}/{card.data}/{card.pool}/random/1000"
        )


def remembering(victim: Victim, path: Path) -> Victim:
    """The victim; where each answer may cost something, with a ledger at `path`, so that none is asked for twice."""
    box = victim.model
    if not isinstance(box, BlackBox) or isinstance(box.predict, Ledger):
        return victim
    answers = Answers(box.kind, box.num_classes, victim=victim.network_id)
    if path.is_file():
        kept = Answers.read(path, kind=box.kind, num_classes=box.num_classes)
        same_victim(kept, victim.network_id, path)
        if kept.num_classes != box.num_classes:
            raise UsageError(
                f"{path} holds answers for {kept.num_classes} classes, {victim.label} tells {box.num_classes} apart"
            )
        answers = replace(kept, victim=victim.network_id)
    return replace(victim, model=replace(box, predict=Ledger(answers, box, path)))


def top_class(
    victim: Classifier | BlackBox, images: ImageSet, *, ask: bool = False, bank: Bank | None = None
) -> Tensor | None:
    """N classes, what the victim says about each image; None for a black box that has not said it, unless it is to be asked.

    A `bank` spares a network from answering about the same images for each of its thieves.
    """
    if not isinstance(victim, BlackBox):
        name = f"the victim {victim.config['name']}"
        if bank is None or len(images) < 2:
            return finite_logits(victim, images, name).argmax(dim=1)
        device = next(victim.parameters(), torch.empty(0)).device
        recall = recalled(Frozen(victim), ImageBatches(images, 2, seed=0, role="test", device=device), 1, bank)
        return (finite_logits(victim, images, name) if recall is None else recall.of(0)).argmax(dim=1)
    parts = []
    for chunk in images.chunks(batch_for(images)):
        seen_BCHW = images.seen(chunk)
        ledger = victim.predict
        if (
            isinstance(ledger, Ledger)
            and not (ask and ledger.ask)
            and not ledger.holds(to_bytes(seen_BCHW).numpy()).all()
        ):
            return None
        parts.append(cut(victim.answer(seen_BCHW), Access.LABEL, given=victim.kind))
    return torch.cat(parts)


def hold(data: Splits, card: Card, thief: Attack, seed: int, victim: Victim | None = None) -> ImageSet:
    """The images a thief holds on this card, drawn at (seed, "thief", "pick"); without labels where the card has none.

    Of a closed victim only images that it has answered about can be held. On a card without data it is a set of 0 images, which
    still tells their classes, channels and size.
    """
    if card.data == "none":
        return data.train.take(torch.empty(0, dtype=torch.int64)).unlabelled()
    pool = data.train if card.pool == "trained" else data.pool
    if pool is None:
        raise UsageError(
            "the card wants fresh images that no victim has seen, but none were set aside: train it anew with -s data.pool=…"
        )
    answered = _answered(pool, victim)
    if answered is not None:
        pool = pool.take(answered)
    count = round(card.share * len(pool)) if card.questions is None else card.questions
    if count > len(pool):
        found = f"the {card.pool} pool has {len(pool)}" + (" with an answer" if answered is not None else "")
        raise UsageError(f"the card asks about {count} images; {found}")
    if count < 2:
        raise UsageError(f"the card leaves the thief {count} of {len(pool)} images; training needs at least 2")
    if count < len(pool):
        picked = torch.randperm(len(pool), generator=generator(seed, "thief", "pick"))[:count]
        pool = pool.take(picked.sort().values)
    return pool if card.data == "labelled" or thief.control else pool.unlabelled()


SPARE = 2_000
"""Images that a search is scored on, at most, of each split."""


def spare(data: Splits, held: ImageSet) -> tuple[ImageSet, ...]:
    """Images to score a search on: the validation split, and of the fresh pool what this thief does not hold. Never test images."""
    found = [] if data.val is None else [data.val.take(torch.arange(min(SPARE, len(data.val))))]
    if data.pool is not None:
        unheld = (~torch.isin(data.pool.index_N, held.index_N)).nonzero().squeeze(1)
        found.append(data.pool.take(unheld[:SPARE]))
    return tuple(found)


def _answered(pool: ImageSet, victim: Victim | None) -> Tensor | None:
    """Rows of the pool that a closed victim has answered about; None for a victim that can be asked."""
    box = None if victim is None else victim.model
    if not isinstance(box, BlackBox) or not isinstance(box.predict, Ledger) or box.predict.ask is not None:
        return None
    known = [box.predict.knows(to_bytes(pool.seen(chunk)).numpy()) for chunk in pool.chunks(batch_for(pool))]
    return torch.from_numpy(np.concatenate(known)).nonzero().squeeze(1)
