"""Attacks that read answers: what each minimises and asks, whose labels it knows, and what it was built to break.

Legend: B batch, C classes, N images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from undistill.attacks.average import Average, Noted, as_many_steps
from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.decoupled import Decoupled
from undistill.attacks.sanitise import CLEAN, Cleaned, by_class, class_means, completed
from undistill.attacks.standardised_kd import StandardisedKD
from undistill.data.augment import to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses.noise import Noise
from undistill.errors import Refused, UsageError
from undistill.experiments.extraction import hold
from undistill.losses import decoupled_kl, smoothed_cross_entropy, standardised_kl
from undistill.models import Classifier
from undistill.oracle.oracle import Answer, Oracle
from undistill.threat_model import Access, ThreatModel
from undistill.training.evaluate import accuracy, predict
from undistill.training.loop import State
from undistill.training.recipe import Recipe, read
from undistill.types import Batch

from .conftest import Digits

CPU = torch.device("cpu")
Settings = dict[str, Any]
Weights = dict[str, Tensor]
Row = NDArray[Any]
SANITISED: list[Settings] = [
    {"name": "sanitise", "variant": variant} for variant in ("clip", "top1", "class-means", "second")
]
SOFT: list[Settings] = [{"name": "standardised-kd"}, {"name": "decoupled"}, *SANITISED, {"name": "average"}]
ALL: list[Settings] = [{"name": "label-smooth"}, *SOFT]


def named(settings: Settings) -> str:
    return str(settings.get("variant", settings["name"]))


each = pytest.mark.parametrize("settings", ALL, ids=named)
each_soft = pytest.mark.parametrize("settings", SOFT, ids=named)


# -- victims made for one purpose -------------------------------------------------------------------------------------


class Planted(nn.Module):
    """.51 on the inner network's top class and .49 on the `step`-th behind it, drawn anew for each image where that is 0."""

    def __init__(self, inner: nn.Module, step: int = 1) -> None:
        super().__init__()
        self.inner, self.step = inner, step

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BC = self.inner(images_BCHW)
        rows_B, top_B = torch.arange(len(logits_BC)), logits_BC.argmax(1)
        address_B = 1 + (images_BCHW.flatten(1).sum(1) * 255).round().long() % (logits_BC.shape[1] - 1)
        probs_BC = torch.full_like(logits_BC, 1e-6)
        probs_BC[rows_B, top_B] = 0.51
        probs_BC[rows_B, (top_B + (self.step or address_B)) % logits_BC.shape[1]] = 0.49
        return probs_BC.log()


class Scaled(nn.Module):
    """The inner network's logits, a few times as large and shifted."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.factor * self.inner(images_BCHW) + 3


@pytest.fixture(scope="module")
def victim(make_model: Callable[..., Classifier]) -> Classifier:
    return make_model(seed=11).eval()


@pytest.fixture
def rob(
    victim: Classifier, make_model: Callable[..., Classifier], recipe: Recipe
) -> Callable[..., tuple[Weights, Oracle, list[tuple[State, int]]]]:
    """`rob(attack, images, …)`: the student's weights, the oracle, and each epoch's state with the questions so far."""

    def call(
        settings: Settings,
        images: ImageSet,
        *,
        access: Access = Access.PROBS,
        robbed: nn.Module | None = None,
        state: Any = None,
        by: Recipe | None = None,
        **oracle: Any,
    ) -> tuple[Weights, Oracle, list[tuple[State, int]]]:
        attacker = ATTACKS.make(settings)
        door = Oracle(robbed or victim, min(access, attacker.reads), **oracle)
        student = make_model(seed=1, role="thief")
        epochs = attacker.steal(door, student, images, by or recipe, device=CPU, state=state)
        kept = [(copy.deepcopy(record.state), door.queries) for record in epochs]
        return student.state_dict(), door, kept

    return call


def same(one: Weights, two: Weights) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def poisoned(images: ImageSet) -> ImageSet:
    return replace(images, labels_N=(images.labels_N + 1) % 4)


def viewed(recipe: Recipe) -> Recipe:
    return read({**recipe.dump(), "data": {"name": "digits", "views": [{"name": "crop", "padding": 2}]}})


def fidelity(digits: Digits, student: nn.Module) -> float:
    """How often a student names the victim's top class on the test split, percent."""
    return accuracy(predict(student, digits.data.test), predict(digits.victim, digits.data.test).argmax(1))


def learned(
    digits: Digits,
    settings: Settings,
    robbed: nn.Module | None = None,
    access: Access = Access.PROBS,
    **served: Any,
) -> float:
    """The student's fidelity after a few epochs without any label, percent."""
    attacker, student = ATTACKS.make(settings), digits.student()
    training = {"epochs": 5, "batch": 32, "optimizer": {"name": "adam", "lr": 0.01}}
    recipe = read({**digits.recipe.dump(), "training": training})
    oracle = Oracle(robbed or digits.victim, min(access, attacker.reads), **served)
    list(attacker.steal(oracle, student, digits.data.train.unlabelled(), recipe, device=CPU))
    return fidelity(digits, student)


# -- what they win ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unlearned(digits: Digits) -> float:
    """The control: the fidelity of a student that asked nothing."""
    return fidelity(digits, digits.student())


@pytest.mark.learning
@each
def test_an_undefended_victim_is_learned(digits: Digits, unlearned: float, settings: Settings) -> None:
    assert learned(digits, settings) > unlearned + 40


@pytest.mark.learning
@pytest.mark.parametrize("settings", [*SOFT[:2], SANITISED[1], SOFT[-1]], ids=named)
def test_one_class_with_its_confidence_is_learned(digits: Digits, unlearned: float, settings: Settings) -> None:
    assert learned(digits, settings, access=Access.TOPK, top_k=1) > unlearned + 40


@pytest.fixture(scope="module")
def misled(digits: Digits) -> float:
    """What plain distillation gets from a victim whose second class is planted."""
    return learned(digits, {"name": "kd"}, Planted(digits.victim))


@pytest.mark.learning
def test_a_planted_second_class_misleads_plain_distillation(digits: Digits, misled: float) -> None:
    assert misled < learned(digits, {"name": "kd"}) - 10


@pytest.mark.learning
@pytest.mark.parametrize(
    "settings", [{"name": "decoupled"}, {"name": "sanitise", "variant": "clip"}, *SANITISED[1::2]], ids=named
)
def test_a_planted_second_class_is_seen_through(digits: Digits, misled: float, settings: Settings) -> None:
    assert learned(digits, settings, Planted(digits.victim)) > misled + 10


@pytest.mark.learning
def test_the_term_among_the_others_brings_the_planted_class_back(digits: Digits, misled: float) -> None:
    deaf, listening = (
        learned(digits, {"name": "decoupled", "beta": beta, "hard": 0.1}, Planted(digits.victim)) for beta in (0, 2)
    )
    assert deaf > listening + 10


@pytest.mark.learning
def test_class_means_see_through_peaks_that_differ_within_a_class(digits: Digits, unlearned: float) -> None:
    robbed = Planted(digits.victim, step=0)
    assert learned(digits, {"name": "sanitise", "variant": "class-means"}, robbed) > unlearned + 40


def test_standardised_kd_does_not_see_the_scale_of_logits(
    rob: Callable[..., Any], images: ImageSet, victim: Classifier
) -> None:
    held = images.unlabelled()
    for name, alike in (("standardised-kd", True), ("kd", False)):
        plain, scaled = (
            rob({"name": name}, held, access=Access.LOGITS, robbed=Scaled(victim, factor))[0] for factor in (4.0, 32.0)
        )
        far = max(float((plain[key] - scaled[key]).abs().max()) for key in plain if plain[key].is_floating_point())
        assert (far < 1e-3) is alike


def test_the_mean_of_noisy_answers_is_nearer_to_the_truth(digits: Digits) -> None:
    images = digits.data.test
    batches = ImageBatches(images, 32, seed=0, role="thief")
    truth_NC = predict(digits.victim, images).softmax(1)

    def error(copies: int, seed: int) -> float:
        oracle = Oracle(digits.victim, Access.PROBS, behind=(Noise(scale=0.5),), seed=seed)
        mean_NC = Average.model_construct(copies=copies).mean(oracle, batches)
        assert oracle.queries == copies * len(images)
        return float((mean_NC - truth_NC).square().mean())

    for seed in (0, 1):
        once, thrice, often = (error(copies, seed) for copies in (1, 3, 10))
        assert thrice < 0.6 * once
        assert often < 0.6 * thrice


# -- who knows labels ---------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("questions", [None, 12])
def test_a_card_without_labels_makes_poisoned_ones_harmless(
    rob: Callable[..., Any], splits: Splits, settings: Settings, questions: int | None
) -> None:
    card = ThreatModel(access=Access.PROBS, data="unlabelled", questions=questions)
    won = [
        rob(settings, hold(replace(splits, train=train), card, ATTACKS.make(settings), 0), budget=questions)[0]
        for train in (splits.train, poisoned(splits.train))
    ]
    assert same(*won)


@each_soft
def test_labels_that_are_held_are_used(rob: Callable[..., Any], images: ImageSet, settings: Settings) -> None:
    assert not same(rob(settings, images)[0], rob(settings, poisoned(images))[0])


@pytest.mark.parametrize("budget", [None, 24])
def test_label_smooth_never_reads_labels_that_it_holds(
    rob: Callable[..., Any], images: ImageSet, budget: int | None
) -> None:
    honest = rob({"name": "label-smooth"}, images, budget=budget)[0]
    for other in (poisoned(images), images.unlabelled()):
        assert same(honest, rob({"name": "label-smooth"}, other, budget=budget)[0])


def test_label_smooth_is_label_only_under_smoothing_of_its_own(
    rob: Callable[..., Any], images: ImageSet, recipe: Recipe
) -> None:
    def smoothed(amount: float) -> Recipe:
        return read({**recipe.dump(), "training": {**recipe.dump()["training"], "smoothing": amount}})

    mine = rob({"name": "label-smooth", "smoothing": 0.3}, images, by=smoothed(0.1))[0]
    assert same(mine, rob({"name": "label-only"}, images, by=smoothed(0.3))[0])
    assert not same(mine, rob({"name": "label-only"}, images, by=smoothed(0.1))[0])


@pytest.mark.parametrize("smoothing", [0, 1])
def test_label_smooth_smooths(smoothing: float) -> None:
    with pytest.raises(UsageError, match="smoothing"):
        ATTACKS.make({"name": "label-smooth", "smoothing": smoothing})


def test_a_label_is_all_that_label_smooth_gets_by_with() -> None:
    assert [ATTACKS.make(settings).needs for settings in ALL] == [Access.LABEL] + [Access.TOPK] * len(SOFT)
    assert ATTACKS.make("label-smooth").reads is Access.LABEL


# -- what is asked ------------------------------------------------------------------------------------------------------


@each
def test_a_budget_is_spent_once(rob: Callable[..., Any], images: ImageSet, settings: Settings) -> None:
    assert rob(settings, images, budget=24)[1].queries == 24


@each
def test_without_a_budget_each_view_is_a_question(
    rob: Callable[..., Any], images: ImageSet, settings: Settings
) -> None:
    first = {"class-means": 24 + 48, "average": 3 * 24}.get(named(settings), 48)
    _, oracle, _ = rob(settings, images)
    assert (oracle.queries, oracle.forwards) == (first, first)


@each
@pytest.mark.parametrize("budget", [None, 24])
def test_a_resumed_attacker_counts_no_question_twice_and_hears_the_same_noise(
    rob: Callable[..., Any], images: ImageSet, settings: Settings, budget: int | None
) -> None:
    served = {"budget": budget, "behind": (Noise(),)}
    whole, oracle, kept = rob(settings, images, **served)
    state, asked = kept[0]
    queries = asked if budget is None else 0  # with a budget the same few questions are asked again
    rest, again, later = rob(settings, images, state=state, queries=queries, **served)
    assert len(later) == 1
    assert again.queries == oracle.queries
    assert same(rest, whole)


def test_a_resumed_attacker_cannot_stretch_its_budget(rob: Callable[..., Any], images: ImageSet) -> None:
    state = rob({"name": "average"}, images, budget=24)[2][0][0]
    with pytest.raises(Refused, match="exceed the budget of 24; 20 were asked"):
        rob({"name": "average"}, images, budget=24, queries=20, state=state)


# -- average ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "copies", "queries"), [(24, 3, 24), (23, 3, 21), (12, 5, 10), (1000, 2, 48), (None, 4, 96)]
)
def test_average_asks_as_many_copies_as_it_can_pay(
    rob: Callable[..., Any], images: ImageSet, recipe: Recipe, budget: int | None, copies: int, queries: int
) -> None:
    attacker = {"name": "average", "copies": copies}
    assert rob(attacker, images, budget=budget, by=viewed(recipe))[1].queries == queries


def passing(recipe: Recipe, passes: int, batch: int = 8) -> Recipe:
    values = recipe.dump()
    return read({**values, "training": {**values["training"], "passes": passes, "batch": batch}})


def test_average_trains_on_the_images_it_paid_for(rob: Callable[..., Any], images: ImageSet, recipe: Recipe) -> None:
    attacker = Average()
    held = attacker.affordable(images, 23, seed=0)
    assert len(held) == 7
    assert set(held.index_N.tolist()) < set(range(24))
    assert held.index_N.tolist() == attacker.affordable(images, 21, seed=0).index_N.tolist()
    assert held.index_N.tolist() != attacker.affordable(images, 21, seed=1).index_N.tolist()
    assert set(held.index_N.tolist()) < set(attacker.affordable(images, 36, seed=0).index_N.tolist())
    as_often = passing(recipe, 3)  # 24 images are three batches, 7 are one
    assert same(rob({"name": "average"}, images, budget=23)[0], rob({"name": "average"}, held, by=as_often)[0])
    assert attacker.affordable(images, None, seed=0) is images


@pytest.mark.parametrize(
    ("images", "held", "batch", "passes", "wanted"),
    [
        (500, 166, 64, 3, 8),  # 8 steps a pass become 3: 3 · 8 / 3
        (500, 166, 64, 1, 3),  # 8 / 3, to the nearest pass
        (50, 16, 50, 5, 5),  # one batch either way
        (500, 500, 64, 3, 3),
        (17, 5, 16, 2, 2),  # a last batch of one image is none
        (3, 2, 2, 4, 4),
    ],
)
def test_average_takes_as_many_steps_on_fewer_images(
    recipe: Recipe, images: int, held: int, batch: int, passes: int, wanted: int
) -> None:
    planned = passing(recipe, passes, batch)
    assert as_many_steps(planned, images, held).training.passes == wanted
    assert as_many_steps(planned, images, held) == passing(recipe, wanted, batch)


def test_average_counts_as_many_steps_as_others(rob: Callable[..., Any], images: ImageSet) -> None:
    def seen(name: str) -> int:
        kept = rob({"name": name}, images, budget=24)[2]
        return int(next(iter(kept[-1][0]["model"][key] for key in kept[-1][0]["model"] if "num_batches" in key)))

    assert seen("average") == seen("kd") == 6


@pytest.mark.parametrize("budget", [1, 5])
def test_average_refuses_what_pays_for_no_two_images(rob: Callable[..., Any], images: ImageSet, budget: int) -> None:
    with pytest.raises(UsageError, match=f"at least 6 of them, not {budget}"):
        rob({"name": "average"}, images, budget=budget)


def test_the_mean_is_over_the_views_of_the_first_passes(victim: Classifier, images: ImageSet, recipe: Recipe) -> None:
    batches = ImageBatches(images, 8, viewed(recipe).data.views, seed=3, role="thief")
    means_NC = Average(copies=2).mean(Oracle(victim, Access.PROBS), batches)
    seen: dict[int, dict[int, Tensor]] = {0: {}, 1: {}}
    for number, answers in seen.items():
        for batch in batches.epoch(number):
            answers |= dict(zip(batch.index_B.tolist(), victim(batch.images_BCHW).softmax(1), strict=True))
    for row, index in enumerate(images.index_N.tolist()):
        torch.testing.assert_close(means_NC[row], (seen[0][index] + seen[1][index]) / 2, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen[0][3], seen[1][3], atol=1e-4)


def test_what_was_noted_is_found_by_the_images_index(images: ImageSet) -> None:
    some = images.take(torch.tensor([5, 2, 20]))
    noted = Noted.of(ImageBatches(some, 2, seed=0, role="thief"), torch.eye(3))
    answer = noted(Batch(some.seen(), None, torch.tensor([20, 5]), 7))
    assert answer.values.tolist() == [[0, 0, 1], [1, 0, 0]]


# -- what is minimised --------------------------------------------------------------------------------------------------

ANSWER = torch.tensor([[0.6, 0.3, 0.1, 0.0], [0.2, 0.2, 0.5, 0.1]])
TRUE = torch.tensor([3, 3])


@pytest.mark.parametrize("labels_B", [TRUE, None])
def test_objectives_are_their_formulas(images: ImageSet, labels_B: Tensor | None) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    batch = Batch(to_float(images.images_NCHW[:2]), labels_B, torch.arange(2), 0)
    said, top_B = Answer(Access.PROBS, ANSWER), torch.tensor([0, 2])
    logits_BC = student(batch.images_BCHW)
    hard = smoothed_cross_entropy(logits_BC, top_B if labels_B is None else labels_B, 0.1)
    by_z = Lesson(StandardisedKD().loss, lambda _: said, 0.1)(student, batch)
    torch.testing.assert_close(by_z["loss"], 9 * standardised_kl(ANSWER.log(), logits_BC, 2) + hard)
    settings = Decoupled(temperature=3, target=2, beta=0.5, hard=0.7)
    by_part = Lesson(settings.loss, lambda _: said, 0.1)(student, batch)
    soft = decoupled_kl(ANSWER.log(), logits_BC, top_B, temperature=3, target=2, beta=0.5)
    torch.testing.assert_close(by_part["loss"], soft + 0.7 * hard)
    for terms in (by_z, by_part):
        assert terms.keys() == {"loss", "kd", "ce", "agreement"}
        assert terms["ce"].item() == pytest.approx(hard.item())
        assert terms["agreement"].item() == 100 * (logits_BC.argmax(1) == top_B).float().mean().item()


def test_decoupled_believes_the_confidence_of_a_lone_class(images: ImageSet) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    batch = Batch(to_float(images.images_NCHW[:1]), None, torch.arange(1), 0)
    logits_BC = student(batch.images_BCHW)
    for sure in (0.4, 0.9):
        lone = Answer(Access.TOPK, torch.tensor([[0.0, sure, 0.0, 0.0]]))
        whole_BC = torch.full((1, 4), (1 - sure) / 3)
        whole_BC[0, 1] = sure
        loss = Lesson(Decoupled(hard=0).loss, lambda _, lone=lone: lone)(student, batch)["loss"]  # type: ignore[misc]
        expected = decoupled_kl(whole_BC.log(), logits_BC, torch.tensor([1]), temperature=4)
        torch.testing.assert_close(loss, expected)


def test_what_is_cleaned_is_what_was_answered(images: ImageSet) -> None:
    batch = Batch(images.seen(slice(2)), None, torch.arange(2), 0)
    for said in (Answer(Access.PROBS, ANSWER), Answer(Access.LOGITS, ANSWER.log() + 5)):
        answer = Cleaned(lambda _, said=said: said, CLEAN["second"])(batch)  # type: ignore[misc]
        assert answer.access is Access.PROBS
        torch.testing.assert_close(answer.values, torch.tensor([[6 / 7, 0, 1 / 7, 0], [0, 0.25, 0.625, 0.125]]))


# -- cleaning -----------------------------------------------------------------------------------------------------------


def twin(variant: str, probs: Row) -> Row:
    """One row, cleaned the long way."""
    top = int(probs.argmax())
    others = [place for place in range(len(probs)) if place != top]
    mean = sum(probs[place] for place in others) / len(others)
    cleaned = probs.copy()
    if variant == "second":
        cleaned[max(others, key=lambda place: (probs[place], -place))] = 0
    for place in others:
        if variant == "top1" or (variant == "clip" and probs[place] > mean):
            cleaned[place] = mean
    return cleaned / cleaned.sum()


def rows(seed: int, count: int = 6, classes: int = 5) -> Row:
    drawn: Row = np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), count)
    return drawn


def clean(variant: str, probs_BC: Row) -> Tensor:
    given_BC = torch.from_numpy(probs_BC)
    return by_class(given_BC, class_means(given_BC)) if variant == "class-means" else CLEAN[variant](given_BC)


@pytest.mark.parametrize("variant", CLEAN)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_cleaning_equals_the_twin(variant: str, seed: int, classes: int) -> None:
    probs_BC = rows(seed, classes=classes)
    expected = np.stack([twin(variant, row) for row in probs_BC])
    np.testing.assert_allclose(clean(variant, probs_BC).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("variant", [*CLEAN, "class-means"])
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 6))
def test_cleaned_rows_sum_to_one_and_keep_their_top_class(variant: str, seed: int, count: int, classes: int) -> None:
    probs_BC = rows(seed, count, classes)
    cleaned_BC = clean(variant, probs_BC)
    assert cleaned_BC.shape == probs_BC.shape
    assert bool((cleaned_BC >= 0).all())
    np.testing.assert_allclose(cleaned_BC.sum(1).numpy(), 1, atol=1e-12)
    assert cleaned_BC.argmax(1).tolist() == probs_BC.argmax(1).tolist()


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("clip", [0.51 / (0.51 + 0.49 / 3), 0.49 / 3 / (0.51 + 0.49 / 3), 0, 0]),
        ("top1", [0.51, 0.49 / 3, 0.49 / 3, 0.49 / 3]),
        ("second", [1, 0, 0, 0]),
    ],
)
def test_a_false_peak_is_cut_away(variant: str, expected: list[float]) -> None:
    np.testing.assert_allclose(clean(variant, np.array([[0.51, 0.49, 0, 0]]))[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("variant", [*CLEAN, "class-means"])
@pytest.mark.parametrize("row", [[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])
def test_even_and_certain_answers_can_be_cleaned(variant: str, row: list[float]) -> None:
    cleaned = clean(variant, np.array([row]))[0]
    assert bool(cleaned.isfinite().all())
    assert cleaned.sum().item() == pytest.approx(1)
    assert cleaned.argmax().item() == int(np.argmax(row))


def test_class_means_equal_the_twin_and_leave_strangers_alone() -> None:
    probs_NC = rows(4, 40)
    top_N, means_CC = probs_NC.argmax(1), class_means(torch.from_numpy(probs_NC))
    for c in range(5):
        np.testing.assert_allclose(means_CC[c].numpy(), probs_NC[top_N == c].mean(0), atol=1e-12)
    few_CC = class_means(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]]))
    assert not few_CC[1:].any()
    answers = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(by_class(answers, few_CC), torch.tensor([[0.6, 0.15, 0.25], [0.1, 0.8, 0.1]]))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([0.7, 0.0, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1]),
        ([0.0, 0.5, 0.3, 0.0], [0.1, 0.5, 0.3, 0.1]),
        ([0.6, 0.1, 0.0, 0.0], [2 / 3, 1 / 9, 1 / 9, 1 / 9]),
        ([0.0, 0.0, 0.0, 0.0], [0.25] * 4),
        ([0.4, 0.4, 0.1, 0.0], [0.4, 0.4, 0.1, 0.1]),
        ([0.6, 0.6, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]),
        ([0.3, 0.3, 0.3, 0.09], [30 / 99, 30 / 99, 30 / 99, 9 / 99]),
        ([0.25, 0.25, 0.3, 0.2], [0.25, 0.25, 0.3, 0.2]),
    ],
)
def test_hidden_classes_share_what_a_row_lacks(shown: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(completed(torch.tensor([shown])), torch.tensor([expected]))
