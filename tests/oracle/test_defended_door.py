"""A victim behind answer-side defenses: what is shown, what is kept, what is counted, and who it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from undistill.data.augment import Crop, to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import Refused, UsageError
from undistill.models import Classifier
from undistill.oracle import Answer, BlackBox, LogitCache, Oracle, Questions
from undistill.oracle.logit_cache import Entry
from undistill.oracle.output_defense import ANSWER_DEFENSES, chain, rounded
from undistill.oracle.victim import Victim, resolve
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.recipe import Training

PASSES = 2
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.3, 0.0, 0.0]])
each = pytest.mark.parametrize("name", [*ANSWER_DEFENSES.classes()])


@pytest.fixture(scope="module")
def victim(make_model: Callable[..., Classifier], images: ImageSet) -> Classifier:
    """A victim whose batch norms have seen data, sure enough of itself that defenses show."""
    model = make_model()
    model(to_float(images.images_NCHW[:]))
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(8)
    return model.eval()


@pytest.fixture
def bank(tmp_path: Path) -> LogitCache:
    return LogitCache(tmp_path / "bank")


def batches_of(images: ImageSet, *, views: bool = True, batch: int = 7) -> ImageBatches:
    return ImageBatches(images, batch, (Crop(padding=2),) if views else (), seed=0, role="thief")


def pixels(images: ImageSet, count: int = 24) -> Tensor:
    return to_float(images.images_NCHW[:count])


def box(said: Any = PROBS, kind: Access = Access.PROBS) -> BlackBox:
    return BlackBox(lambda _: said, kind, 4, "the api")


def heard(oracle: Oracle, images: ImageSet, *, views: bool = True) -> list[Answer]:
    """The answers to all batches of some passes, as an attacker hears them."""
    batches = batches_of(images, views=views)
    questions = Questions(oracle, batches, Training(epochs=PASSES))
    return [questions(batch) for epoch in range(PASSES) for batch in batches.epoch(epoch)]


def differ(one: list[Answer], two: list[Answer]) -> float:
    assert [a.access for a in one] == [a.access for a in two]
    return max(float((a.values - b.values).abs().max()) for a, b in zip(one, two, strict=True))


# -- what is shown ------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("access", [access for access in Access if access < Access.WEIGHTS])
def test_an_answer_is_the_defended_one_cut_to_the_access(
    victim: Classifier, images: ImageSet, name: str, access: Access
) -> None:
    defense = ANSWER_DEFENSES.make(name)
    oracle = Oracle(victim, access, behind=(defense,), top_k=2)
    answer = oracle.ask(pixels(images))
    assert answer.access is oracle.access is min(access, Access.PROBS, defense.shows)
    if name == "noise":
        return
    sent_BC = defense.answer(victim(pixels(images)).detach().softmax(1), torch.Generator())
    if answer.access is Access.LABEL:
        assert torch.equal(answer.values, sent_BC.argmax(1))
    elif answer.access is Access.TOPK:
        assert bool(((answer.values > 0).sum(1) <= 2).all())
        torch.testing.assert_close(answer.values.max(1), sent_BC.max(1))
    else:
        torch.testing.assert_close(answer.values, sent_BC)


def test_nothing_in_front_changes_nothing(victim: Classifier, images: ImageSet) -> None:
    for access in Access:
        plain = Oracle(victim, access).ask(pixels(images))
        same = Oracle(victim, access, behind=()).ask(pixels(images))
        assert (plain.access, plain.access) == (same.access, access)
        assert torch.equal(plain.values, same.values)


def test_logits_are_not_shown_once_something_stands_in_front(victim: Classifier, images: ImageSet) -> None:
    answer = Oracle(victim, Access.LOGITS, behind=chain(["stingy share=1.0"])).ask(pixels(images))
    assert answer.access is Access.PROBS
    torch.testing.assert_close(answer.values.sum(1), torch.ones(24))
    torch.testing.assert_close(answer.scores_BC, victim(pixels(images)).detach().log_softmax(1), rtol=1e-4, atol=1e-4)


def test_a_class_that_a_defense_hides_has_a_score_of_minus_infinity(victim: Classifier, images: ImageSet) -> None:
    answer = Oracle(victim, Access.LOGITS, behind=chain(["stingy share=0.5"])).ask(pixels(images))
    assert (answer.scores_BC == -torch.inf).sum(1).tolist() == [2] * 24


def test_no_answer_hides_weights(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.WEIGHTS, behind=chain(["answer-top1"]), digits=0)
    assert oracle.access is Access.WEIGHTS
    torch.testing.assert_close(oracle.ask(pixels(images)).values, victim(pixels(images)).detach())
    torch.testing.assert_close(oracle.weights()(pixels(images)), victim(pixels(images)))


@pytest.mark.parametrize("access", [Access.TOPK, Access.PROBS])
def test_digits_round_what_was_cut(victim: Classifier, images: ImageSet, access: Access) -> None:
    shown, whole = (Oracle(victim, access, top_k=2, digits=digits).ask(pixels(images)).values for digits in (1, None))
    assert torch.equal(shown, rounded(whole, 1))
    assert not torch.equal(shown, whole)


@pytest.mark.parametrize("access", [Access.LABEL, Access.LOGITS])
def test_digits_touch_probabilities_alone(victim: Classifier, images: ImageSet, access: Access) -> None:
    shown, whole = (Oracle(victim, access, digits=digits).ask(pixels(images)).values for digits in (0, None))
    assert torch.equal(shown, whole)


def test_digits_round_behind_a_defense(victim: Classifier, images: ImageSet) -> None:
    front = chain(["reverse-sigmoid"])
    shown, whole = (Oracle(victim, Access.LOGITS, behind=front, digits=d).ask(pixels(images)).values for d in (1, None))
    assert torch.equal(shown, rounded(whole, 1))


# -- random answers -----------------------------------------------------------------------------------------------------


def test_the_same_question_is_answered_with_new_noise(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.PROBS, behind=chain(["noise"]))
    first, second = (oracle.ask(pixels(images)).values for _ in range(2))
    assert not torch.allclose(first, second, atol=0.05)


def test_noise_is_drawn_where_its_address_says(victim: Classifier, images: ImageSet) -> None:
    (noise,) = front = chain(["noise"])
    oracle = Oracle(victim, Access.PROBS, behind=front, seed=3)
    raw_BC = victim(pixels(images)).detach().softmax(1)
    for asked in (0, 24):
        wanted = noise.answer(raw_BC, generator(3, "victim", f"answers/{asked}"))
        torch.testing.assert_close(oracle.ask(pixels(images)).values, wanted, rtol=1e-3, atol=1e-5)


def test_a_run_that_goes_on_hears_what_it_would_have_heard(victim: Classifier, images: ImageSet) -> None:
    settings: dict[str, Any] = {"behind": chain(["noise"]), "seed": 3}
    whole = Oracle(victim, Access.PROBS, **settings)
    whole.ask(pixels(images, 10))
    rest = Oracle(victim, Access.PROBS, queries=10, **settings).ask(pixels(images)).values
    assert torch.equal(whole.ask(pixels(images)).values, rest)
    other = Oracle(victim, Access.PROBS, queries=10, behind=chain(["noise"]), seed=4).ask(pixels(images)).values
    assert not torch.allclose(rest, other, atol=0.05)


# -- the bank -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize("name", ["answer-top1", "reverse-sigmoid", "stingy", "noise"])
def test_a_defended_answer_never_leaks_through_the_bank(
    victim: Classifier, images: ImageSet, bank: LogitCache, name: str, views: bool
) -> None:
    behind = chain([name])
    access = Access.LABEL if name == "answer-top1" else Access.PROBS

    def opened(*, defended: bool, kept: bool) -> Oracle:
        return Oracle(victim, access, behind=behind if defended else (), bank=bank if kept else None, top_k=2)

    wanted = {defended: heard(opened(defended=defended, kept=False), images, views=views) for defended in (True, False)}
    if name != "answer-top1":
        assert differ(wanted[True], wanted[False]) > 0.02  # the control: a leak would show
    for filler in (True, False):
        for path in bank.place.glob("*/*.safetensors"):
            path.unlink()
        first = opened(defended=filler, kept=True)
        assert differ(heard(first, images, views=views), wanted[filler]) < 1e-4
        assert first.forwards >= 24
        for reader in (not filler, filler):
            oracle = opened(defended=reader, kept=True)
            assert differ(heard(oracle, images, views=views), wanted[reader]) < 1e-4
            assert oracle.forwards < first.forwards  # it did read the bank
        logits = Oracle(victim, Access.LOGITS, bank=bank)
        assert (
            differ(heard(logits, images, views=views), heard(Oracle(victim, Access.LOGITS), images, views=views)) < 1e-3
        )


def test_the_bank_holds_what_the_network_said_before_any_defense(
    victim: Classifier, images: ImageSet, bank: LogitCache
) -> None:
    heard(Oracle(victim, Access.PROBS, behind=chain(["stingy"]), bank=bank), images, views=False)
    (file,) = bank.place.glob("*/*.safetensors")
    held = Entry(file.parent, {"classes": 4, "source_size": 24}).read(0)
    assert held is not None
    raw_NC = victim(pixels(images)).detach()
    torch.testing.assert_close(held.logits_MC, raw_NC[held.index_M], rtol=1e-4, atol=1e-4)


# -- what is counted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5, 12, 24])
@pytest.mark.parametrize("items", [(), ("top1", "rounding")])
@pytest.mark.parametrize("kept", [True, False])
def test_questions_are_counted_per_image_not_per_batch(
    victim: Classifier, images: ImageSet, bank: LogitCache, size: int, items: tuple[str, ...], kept: bool
) -> None:
    batches = batches_of(images, batch=size)
    settings: dict[str, Any] = {"behind": chain(items), "bank": bank if kept else None}
    free = Oracle(victim, Access.PROBS, **settings)
    questions, seen = Questions(free, batches, Training(epochs=PASSES)), 0
    for epoch in range(PASSES):
        for batch in batches.epoch(epoch):
            assert len(questions(batch).values) == len(batch.images_BCHW)
            seen += len(batch.images_BCHW)
            assert free.queries == seen
    assert seen == PASSES * (24 - (24 % size == 1))
    tight = Oracle(victim, Access.PROBS, budget=24, **settings)
    stored = Questions(tight, batches, Training(epochs=PASSES))
    for epoch in range(PASSES):
        for batch in batches.epoch(epoch):
            stored(batch)
    assert tight.queries == 24
    with pytest.raises(Refused, match="1 more questions exceed the budget of 24"):
        tight.ask(pixels(images, 1))
    with pytest.raises(Refused, match="24 more questions exceed the budget of 23"):
        Questions(Oracle(victim, Access.PROBS, budget=23, **settings), batches, Training(epochs=PASSES))


@pytest.mark.parametrize("count", [1, 3, 24])
def test_asking_counts_images(victim: Classifier, images: ImageSet, count: int) -> None:
    oracle = Oracle(victim, Access.PROBS, behind=chain(["stingy"]), budget=2 * count)
    for asked in (count, 2 * count):
        oracle.ask(pixels(images, count))
        assert (oracle.queries, oracle.forwards) == (asked, asked)
    with pytest.raises(Refused):
        oracle.ask(pixels(images, 1))


# -- black boxes --------------------------------------------------------------------------------------------------------


def test_a_black_box_goes_through_the_same_chain() -> None:
    answer = Oracle(box(), Access.PROBS, behind=chain(["top1", "rounding digits=1"])).ask(torch.zeros(2, 3, 8, 8))
    assert answer.access is Access.TOPK
    torch.testing.assert_close(answer.values, torch.tensor([[0, 0, 0, 0.4], [0.7, 0, 0, 0]]))


def test_the_top_k_of_a_black_box_goes_through_it_too() -> None:
    said = (np.array([[3, 2], [0, 1]]), np.array([[0.4, 0.3], [0.7, 0.3]]))
    answer = Oracle(box(said, Access.TOPK), Access.TOPK, behind=chain(["stingy share=0.25"])).ask(
        torch.zeros(2, 3, 8, 8)
    )
    assert answer.access is Access.TOPK
    assert answer.values.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_a_card_may_show_fewer_classes_than_a_black_box_says() -> None:
    answer = Oracle(box(PROBS, Access.TOPK), Access.TOPK, top_k=1).ask(torch.zeros(2, 3, 8, 8))
    assert (answer.values > 0).sum(1).tolist() == [1, 1]


def test_labels_of_a_black_box_pass_as_they_are() -> None:
    labels = box(np.array([3, 0]), Access.LABEL)
    for behind in ((), chain(["answer-top1"])):
        assert Oracle(labels, Access.LABEL, behind=behind).ask(torch.zeros(2, 3, 8, 8)).values.tolist() == [3, 0]
    for fails in (
        lambda: Oracle(labels, Access.LABEL, behind=chain(["noise"])),
        lambda: resolve(labels, behind=["noise"]),
    ):
        with pytest.raises(UsageError, match="the api answers with labels, and noise changes probabilities"):
            fails()


# -- who it is ----------------------------------------------------------------------------------------------------------


def test_a_victim_is_called_by_all_its_defenses(victim: Classifier) -> None:
    plain = resolve(victim)
    assert (plain.label, plain.behind) == ("normal", ())
    assert resolve(victim, behind=["stingy"]).label == "stingy"
    assert resolve(victim, behind=["stingy", "rounding digits=1"]).label == "stingy + rounding"
    assert replace(resolve(victim, behind=["stingy"]), defense={"name": "nasty"}).label == "nasty + stingy"
    assert resolve(box(), behind=["top1"]).label == "the api + top1"
    assert resolve(victim, behind=["stingy"], called="ours").label == "ours"


def test_a_victim_is_known_by_its_weights_and_what_stands_in_front(victim: Classifier) -> None:
    plain = resolve(victim)
    chains = [[], ["stingy"], ["stingy share=0.5"], ["stingy", "top1"], ["top1", "stingy"]]
    served = [resolve(victim, behind=items) for items in chains]
    assert {one.network_id for one in served} == {plain.id} == {plain.network_id}
    assert served[0].id == plain.id
    assert len({one.id for one in served}) == len(chains)
    assert resolve(victim, behind=[{"name": "stingy", "share": 0.2}]).id == served[1].id
    assert all(len(one.id) == 16 and int(one.id, 16) >= 0 for one in served)


def test_two_functions_of_one_name_stay_apart_behind_a_chain() -> None:
    ids = {resolve(box(), behind=behind, called=called).id for behind in ([], ["top1"]) for called in (None, "a", "b")}
    assert len(ids) == 6


def test_what_is_put_in_front_of_a_chain_acts_after_it(victim: Classifier) -> None:
    inner = resolve(victim, behind=["stingy"])
    assert resolve(inner) is inner
    assert resolve(inner, behind=["rounding"]).behind == chain(["stingy", "rounding"])
    assert resolve(inner, behind=["rounding"]).id == resolve(victim, behind=["stingy", "rounding"]).id


def test_a_victim_made_by_hand_has_nothing_in_front(victim: Classifier) -> None:
    assert (Victim(victim, None, "x").id, Victim(victim, None, "x").behind) == ("x", ())
