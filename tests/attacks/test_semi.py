"""An attacker who learns from images that it does not query, and the baseline that has the same ones."""

from __future__ import annotations

import copy
import math
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS
from undistill.attacks.semi import Consistent, Semi, Unqueried
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.experiments.extraction import hold, permit, spare, with_unqueried
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access, ThreatModel
from undistill.training.loop import EpochRecord
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Batch

from .conftest import Digits
from .test_inside_attacks import changed

CARD = ThreatModel.parse("probs/unlabelled/fresh/random/50+200")
CPU = torch.device("cpu")


def recipe_of(digits: Digits, seed: int = 0, **training: Any) -> Recipe:
    found = changed(digits.recipe, **{"epochs": 5, "passes": 12, "batch": 32, **training})
    return found.model_copy(update={"seed": seed})


def held(digits: Digits, name: str, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """(what may be queried, that and all the rest)"""
    images = hold(digits.data, CARD, ATTACKS.make(name), seed)
    return images, with_unqueried(digits.data, CARD, ATTACKS.make(name), seed, images)


def others(digits: Digits, name: str) -> tuple[ImageSet, ImageSet]:
    """(what may be queried, the rest)"""
    images, every = held(digits, name)
    return images, every.take((~torch.isin(every.index_N, images.index_N)).nonzero().squeeze(1))


def robbed(
    digits: Digits,
    attack: dict[str, Any] | str,
    seed: int = 0,
    *,
    access: Access = Access.PROBS,
    shuffled: bool = False,
    without: bool = False,
    state: dict[str, Any] | None = None,
    stop: int = 0,
    **training: Any,
) -> tuple[Any, list[EpochRecord]]:
    """(the student, the records) of 50 queries and 200 more images."""
    attacker = ATTACKS.make(attack)
    images, every = held(digits, attacker.name, seed)
    if shuffled:
        every = with_pixels(every, shuffle(every.images_NCHW))  # type: ignore[arg-type]
    student, recipe = digits.student(seed=seed), recipe_of(digits, seed, **training)
    more = {"held": every} if attacker.uses_unqueried and not without else {}
    oracle = Oracle(digits.victim, access, budget=50, seed=seed)
    records = []
    for record in attacker.steal(oracle, student, images, recipe, device=CPU, state=state, **more):
        records.append(record)
        if record.epoch == stop:
            break
    return student, records


def shuffle(images_NCHW: Tensor) -> Tensor:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    return images_NCHW.flatten(2)[:, :, order].view_as(images_NCHW)


def with_pixels(images: ImageSet, pixels: Tensor) -> ImageSet:
    found = copy.copy(images)
    object.__setattr__(found, "images_NCHW", pixels)
    return found


# -- the equation ------------------------------------------------------------------------------------------------------


def test_sure_classes_of_weak_views_are_what_strong_views_learn() -> None:
    """Two images: 0.9 for class 0 on the weak view, and 0.6, which is below the threshold."""
    weak = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log().requires_grad_()
    strong = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log().requires_grad_()
    term, sure = Semi(threshold=0.8).consistency(weak, strong)
    assert term.item() == pytest.approx(
        -torch.tensor(0.25).log().item() / 2
    )  # the mean is over all images, sure or not
    assert sure.item() == 50.0
    (to_weak, to_strong) = torch.autograd.grad(term, (weak, strong), allow_unused=True)
    assert to_weak is None
    assert torch.allclose(to_strong, torch.tensor([[-0.375, 0.375], [0.0, 0.0]]))


class Black(nn.Module):
    """Sure of class 0 on a black image, and of nothing on a white one."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        sure_B = 20 * (1 - images_BCHW.flatten(1).mean(dim=1))
        return torch.stack([sure_B, torch.zeros_like(sure_B)], dim=1)


def test_the_sure_views_are_the_weak_ones() -> None:
    black, white = torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
    objective = Consistent(CrossEntropy(), Semi(), SimpleNamespace(views=lambda batch: (black, white)))  # type: ignore[arg-type]
    batch = Batch(white[:2], torch.zeros(2, dtype=torch.int64), torch.arange(2), 0)
    terms = objective(Black(), batch)
    assert terms["sure"].item() == 100
    assert terms["semi"].item() == pytest.approx(math.log(2))
    assert terms["loss"].item() == pytest.approx(2 * math.log(2))


def test_without_other_images_it_is_kd_to_the_bit(digits: Digits) -> None:
    alone, _ = robbed(digits, "semi", without=True)
    plain, _ = robbed(digits, "kd")
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), plain.parameters(), strict=True))


def test_a_weight_of_zero_leaves_the_loss_of_kd(digits: Digits) -> None:
    _, records = robbed(digits, {"name": "semi", "weight": 0.0}, epochs=1)
    terms = records[0].terms
    assert terms["semi"] > 0
    both = 0.9 * terms["kd"] + 0.1 * terms["ce"]
    assert terms["loss"] == pytest.approx(both, rel=1e-4)


# -- which images ------------------------------------------------------------------------------------------------------


def test_each_round_shows_every_image_once_and_a_pass_begins_anew(digits: Digits) -> None:
    images, rest = others(digits, "semi")
    recipe = recipe_of(digits).model_copy(update={"data": digits.recipe.data.model_copy(update={"views": ()})})
    batches = image_batches(images, recipe, role="thief", device="cpu")
    source = Unqueried(rest, batches, recipe, ratio=5)

    def shown(number: int) -> Tensor:
        parts = [
            source.views(batch)[0] for batch in batches.epoch(number) if batch.epoch == number * recipe.training.passes
        ]
        return torch.cat(parts).flatten(1)

    first = shown(0)
    assert len(first) == 5 * 50
    assert len(first[:200].unique(dim=0)) == len(first[:200])
    again = Unqueried(rest, batches, recipe, ratio=5)
    assert torch.equal(first[:160], again.views(next(iter(batches.epoch(0))))[0].flatten(1))


def test_what_is_not_queried_is_not_held_for_scoring_and_has_no_labels(digits: Digits) -> None:
    images, every = held(digits, "semi")
    assert (len(images), len(every)) == (50, 250)
    assert torch.isin(images.index_N, every.index_N).all()
    assert not every.labelled
    for left in spare(digits.data, every):
        assert not torch.isin(left.index_N, every.index_N).any()
    without = CARD.model_copy(update={"unqueried": 0})
    assert torch.equal(hold(digits.data, without, ATTACKS.make("kd"), 0).index_N, images.index_N)
    baseline, same = held(digits, "semi-scratch")
    assert torch.equal(baseline.index_N, images.index_N)
    assert torch.equal(same.index_N, every.index_N)


def test_an_attack_that_goes_on_ends_as_one_that_was_never_stopped(digits: Digits) -> None:
    whole, _ = robbed(digits, "semi", epochs=3)
    _, begun = robbed(digits, "semi", epochs=3, stop=2)
    state = copy.deepcopy(begun[-1].state)
    rest, _ = robbed(digits, "semi", epochs=3, state=state)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


# -- threat models -----------------------------------------------------------------------------------------------------


def test_a_threat_model_says_how_many_more_images_there_are() -> None:
    assert (CARD.questions, CARD.unqueried) == (50, 200)
    assert str(CARD) == "probs/unlabelled(1.0)/fresh/random/50+200"
    assert ThreatModel.parse(str(CARD)) == CARD
    for wrong in (
        "probs/unlabelled/fresh/random/+200",
        "probs/unlabelled/fresh/random/50+x",
        "probs/unlabelled/fresh/random/50+",
    ):
        with pytest.raises(UsageError, match="threat model"):
            ThreatModel.parse(wrong)
    with pytest.raises(UsageError, match="has none: write how many behind its budget"):
        permit(ATTACKS.make("semi"), CARD.model_copy(update={"unqueried": 0}))


def test_more_images_than_a_pool_has_are_refused(digits: Digits) -> None:
    with pytest.raises(UsageError, match="queries 50 images and holds 1000 more; the fresh pool has"):
        hold(digits.data, CARD.model_copy(update={"unqueried": 1000}), ATTACKS.make("semi"), 0)


# -- what it gets ------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_other_images_help_an_attacker_and_its_baseline_unless_their_pixels_are_shuffled(able: Digits) -> None:
    def got(attack: dict[str, Any], **how: Any) -> float:
        rounds: dict[str, Any] = {"epochs": 10, "passes": 20, "batch": 50}
        return fmean(able.accuracy(robbed(able, attack, seed, **rounds, **how)[0]) for seed in (1, 2, 3))

    semi = {"name": "semi", "alpha": 1.0, "ratio": 1}
    plain, more, nonsense = got({"name": "kd", "alpha": 1.0}), got(semi), got(semi, shuffled=True)
    assert more > plain + 1
    assert nonsense < plain + 1
    assert got({"name": "semi-scratch", "ratio": 1}) > got({"name": "scratch"}) + 1
