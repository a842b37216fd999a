"""Attacks: what each may know, what it minimises, and that no student begins as its victim."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks import base, scratch
from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.kd import KD
from undistill.data.augment import to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses import nasty
from undistill.defenses.protect import protect
from undistill.errors import UsageError
from undistill.experiments.extraction import attack, hold, permit
from undistill.models import Classifier
from undistill.oracle import Oracle, Questions
from undistill.threat_model import Access, ThreatModel
from undistill.training import train as training
from undistill.training.loop import EpochRecord, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe, Training
from undistill.types import Batch

CPU = torch.device("cpu")
each_attack = pytest.mark.parametrize("name", ATTACKS.classes())
Weights = dict[str, Tensor]
FREE = {
    "dafl": {"name": "dafl", "latent": 8, "batch": 8, "steps": 3, "width": 0.0625},
    "deep-inversion": {"name": "deep-inversion", "iterations": 2, "batch": 8, "images": 24},
    "finetune": {"name": "finetune", "epochs": 2},
}
"""Small settings of attacks that do more than train a student."""
BEFORE = {"deep-inversion": 3, "finetune": 2}
"""Epochs that come before the student's own, at these settings."""


def made(name: str | dict[str, Any]) -> Any:
    return ATTACKS.make(FREE.get(name, name) if isinstance(name, str) else name)


def relabelled(images: ImageSet, labels_N: Tensor) -> ImageSet:
    return ImageSet.of(images.images_NCHW, labels_N, images.class_names)


def poisoned(images: ImageSet) -> ImageSet:
    return relabelled(images, (images.labels_N + 2) % 4)


@pytest.fixture(scope="module")
def victim(make_model: Callable[..., Classifier], images: ImageSet) -> Classifier:
    """A victim that is sure of itself and always wrong, so that its answers and the true labels never agree."""
    model, wrong = make_model(seed=11), relabelled(images, (images.labels_N + 1) % 4)
    settings = Training.model_validate({"epochs": 40, "optimizer": {"name": "adam", "lr": 0.02}})
    list(fit(model, ImageBatches(wrong, 24, seed=0, role="teacher"), CrossEntropy(), settings, seed=0))
    model.eval()
    assert torch.equal(model(to_float(images.images_NCHW[:])).argmax(1), wrong.labels_N)
    return model


@pytest.fixture
def rob(
    victim: Classifier, make_model: Callable[..., Classifier], recipe: Recipe
) -> Callable[..., tuple[Weights, Oracle, list[EpochRecord]]]:
    """`rob(attack, images, access)`: the student's weights, the oracle behind it, and the epochs."""

    def call(
        name: str | dict[str, Any], images: ImageSet, access: Access = Access.LOGITS, budget: int | None = None
    ) -> tuple[Weights, Oracle, list[EpochRecord]]:
        attacker = made(name)
        oracle = Oracle(victim, max(access, attacker.needs or access), budget=budget)
        student = make_model(seed=1, role="thief")
        epochs = list(attacker.steal(oracle, student, images, recipe, device=CPU))
        return student.state_dict(), oracle, epochs

    return call


def same(one: Weights, two: Weights) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


# -- the contract -------------------------------------------------------------------------------------------------------


@each_attack
def test_an_attack_survives_json(name: str) -> None:
    attacker = made(name)
    assert ATTACKS.make(json.loads(json.dumps(attacker.model_dump(mode="json")))) == attacker


@each_attack
def test_an_attack_states_promise_and_need(name: str) -> None:
    attacker = ATTACKS.make(name)
    assert (type(attacker).__doc__ or "").strip()
    assert attacker.needs is None or attacker.needs <= attacker.reads
    assert attacker.control == (attacker.needs is None)
    assert attacker.holds_images or not attacker.control


@each_attack
def test_an_attack_trains_the_student_it_is_given(
    name: str, rob: Callable[..., Any], images: ImageSet, make_model: Callable[..., Classifier]
) -> None:
    weights, _, epochs = rob(name, images)
    invented = [record for record in epochs if record.phase != "fit"]
    trained = 1 if name == "public" else 2  # which solves, and trains nothing
    assert [record.epoch for record in epochs] == list(range(1, trained + 1 + len(invented)))
    assert len(invented) == BEFORE.get(name, 0)
    assert not same(weights, make_model(seed=1, role="thief").state_dict())
    assert all(math.isfinite(record.terms["loss"]) for record in epochs)


@each_attack
def test_an_attack_is_the_same_each_time(name: str, rob: Callable[..., Any], images: ImageSet) -> None:
    assert same(rob(name, images)[0], rob(name, images)[0])


@each_attack
def test_an_attack_resumes_to_the_bit(
    name: str,
    rob: Callable[..., Any],
    victim: Classifier,
    images: ImageSet,
    make_model: Callable[..., Classifier],
    recipe: Recipe,
) -> None:
    whole = rob(name, images)[0]
    access = max(Access.LOGITS, made(name).reads)
    oracle, student = Oracle(victim, access), make_model(seed=1, role="thief")
    records = made(name).steal(oracle, student, images, recipe, device=CPU)
    for state in [copy.deepcopy(record.state) for record in records]:
        rest = make_model(seed=5)
        list(made(name).steal(Oracle(victim, access), rest, images, recipe, device=CPU, state=copy.deepcopy(state)))
        assert same(rest.state_dict(), whole)


@each_attack
def test_an_attack_makes_do_with_the_access_it_needs(name: str, rob: Callable[..., Any], images: ImageSet) -> None:
    need = ATTACKS.make(name).needs
    rob(name, images, Access.LABEL if need is None else need)


@pytest.mark.parametrize("name", [name for name, cls in ATTACKS.classes().items() if cls.reads < Access.WEIGHTS])
def test_an_attack_stays_below_weights(
    name: str, rob: Callable[..., Any], images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Oracle) -> nn.Module:
        raise AssertionError("weights")

    monkeypatch.setattr(Oracle, "weights", refuse)
    rob(name, images)


@each_attack
def test_an_attack_leaves_the_victim_alone(
    name: str, rob: Callable[..., Any], images: ImageSet, victim: Classifier
) -> None:
    before = copy.deepcopy(victim.state_dict())
    _, oracle, _ = rob(name, images, Access.WEIGHTS)
    assert same(before, victim.state_dict())
    assert same(before, oracle.weights().state_dict())


@pytest.mark.parametrize("name", [name for name, cls in ATTACKS.classes().items() if not cls.holds_images])
def test_a_data_free_attack_looks_at_no_image(
    name: str, rob: Callable[..., Any], images: ImageSet, splits: Splits
) -> None:
    none = hold(splits, ThreatModel.parse("data-free"), made(name), seed=0)
    assert len(none) == 0
    weights, oracle, _ = rob(name, images)
    assert same(weights, rob(name, none)[0])
    assert oracle.queries == 0
    assert oracle.forwards > 0


# -- who knows labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 24])
def test_label_only_never_reads_true_labels(rob: Callable[..., Any], images: ImageSet, budget: int | None) -> None:
    honest, _, _ = rob("label-only", images, Access.LABEL, budget)
    for other in (poisoned(images), images.unlabelled()):
        assert same(honest, rob("label-only", other, Access.LABEL, budget)[0])


def test_poisoned_labels_would_have_been_noticed(rob: Callable[..., Any], images: ImageSet) -> None:
    for reader in ("kd", "scratch"):
        assert not same(rob(reader, images)[0], rob(reader, poisoned(images))[0])


def test_kd_without_labels_uses_the_victims_top_class(
    rob: Callable[..., Any], images: ImageSet, victim: Classifier
) -> None:
    answered = relabelled(images, victim(to_float(images.images_NCHW[:])).argmax(1))
    assert same(rob("kd", images.unlabelled())[0], rob("kd", answered)[0])


def test_label_only_is_scratch_on_the_victims_labels(
    rob: Callable[..., Any], images: ImageSet, victim: Classifier
) -> None:
    answered = relabelled(images, victim(to_float(images.images_NCHW[:])).argmax(1))
    assert same(rob("label-only", images, Access.LABEL)[0], rob("scratch", answered)[0])


def test_a_card_without_labels_hands_over_none(splits: Splits) -> None:
    card = ThreatModel(data="unlabelled")
    for name in ATTACKS.classes():
        held = hold(splits, card, ATTACKS.make(name), seed=0)
        assert held.labelled is ATTACKS.make(name).control
        assert held.labelled or bool((held.labels_N == -1).all())


def test_a_attacker_holds_what_the_card_says(splits: Splits) -> None:
    attacker = ATTACKS.make("kd")
    sizes = [
        len(hold(splits, card, attacker, 0))
        for card in (ThreatModel(), ThreatModel(share=0.5), ThreatModel(pool="fresh", questions=5))
    ]
    assert sizes == [24, 12, 5]


def test_attackers_of_one_seed_hold_the_same_images(splits: Splits) -> None:
    card = ThreatModel(share=0.5)
    first, again, other = (hold(splits, card, ATTACKS.make("kd"), seed).index_N.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_attacker_sees_what_it_reads_and_the_card_gives() -> None:
    assert permit(ATTACKS.make("kd"), ThreatModel(access=Access.WEIGHTS)) is Access.LOGITS
    assert permit(ATTACKS.make("kd"), ThreatModel(access=Access.PROBS)) is Access.PROBS
    assert permit(ATTACKS.make("label-only"), ThreatModel()) is Access.LABEL


def test_a_card_that_gives_too_little_is_refused() -> None:
    with pytest.raises(UsageError, match="kd needs topk; the threat model gives label"):
        permit(ATTACKS.make("kd"), ThreatModel(access=Access.LABEL))


# -- what is asked ------------------------------------------------------------------------------------------------------


def test_scratch_asks_nothing(rob: Callable[..., Any], images: ImageSet) -> None:
    _, oracle, _ = rob("scratch", images)
    assert (oracle.queries, oracle.forwards) == (0, 0)


@pytest.mark.parametrize("name", ["kd", "label-only"])
@pytest.mark.parametrize(("budget", "queries"), [(None, 48), (24, 24)])
def test_a_attacker_asks_each_view_or_each_image_once(
    rob: Callable[..., Any], images: ImageSet, name: str, budget: int | None, queries: int
) -> None:
    assert rob(name, images, Access.PROBS, budget)[1].queries == queries


# -- what is minimised --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels_B", [torch.tensor([3, 3, 3, 3]), None])
def test_kd_minimises_the_papers_loss(victim: Classifier, images: ImageSet, labels_B: Tensor | None) -> None:
    pixels, rows = to_float(images.images_NCHW[:4]), torch.arange(4)
    questions = Questions(Oracle(victim, Access.LOGITS), ImageBatches(images, 4, seed=0, role="thief"), Training())
    objective = Lesson(KD().loss, questions)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    terms = objective(student, Batch(pixels, labels_B, rows, 0))
    answers, given = victim(pixels).double(), student(pixels).double()
    labels = answers.argmax(1) if labels_B is None else labels_B
    soft = (answers / 4).softmax(1)
    kl = (soft * ((answers / 4).log_softmax(1) - (given / 4).log_softmax(1))).sum(1).mean()
    hard = -given.log_softmax(1)[rows, labels].mean()
    assert terms["loss"].item() == pytest.approx((0.9 * 16 * kl + 0.1 * hard).item(), rel=1e-5)
    assert terms["kd"].item() == pytest.approx((16 * kl).item(), rel=1e-5)
    assert terms["ce"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert terms["agreement"].item() == pytest.approx(
        100 * (given.argmax(1) == answers.argmax(1)).double().mean().item()
    )


def test_kd_of_alpha_one_reads_no_labels(rob: Callable[..., Any], images: ImageSet) -> None:
    pure = {"name": "kd", "alpha": 1.0}
    assert same(rob(pure, images)[0], rob(pure, poisoned(images))[0])


def test_kd_learns_alike_from_logits_and_probabilities(rob: Callable[..., Any], images: ImageSet) -> None:
    by_logits, by_probs = (rob("kd", images, access)[2][-1].terms["loss"] for access in (Access.LOGITS, Access.PROBS))
    assert by_logits == pytest.approx(by_probs, rel=1e-4)


def test_kd_learns_from_the_top_k(rob: Callable[..., Any], images: ImageSet, victim: Classifier) -> None:
    assert math.isfinite(rob("kd", images, Access.TOPK)[2][-1].terms["loss"])


# -- initial weights ----------------------------------------------------------------------------------------------------


@pytest.fixture
def initial(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The weights that each training began with, in order."""
    kept: list[Weights] = []

    def spy(model: nn.Module, *arguments: Any, **settings: Any) -> Iterator[EpochRecord]:
        kept.append(copy.deepcopy(model.state_dict()))
        return fit(model, *arguments, **settings)

    for module in (training, nasty, base, scratch):
        monkeypatch.setattr(module, "fit", spy)
    return kept


def shared(one: Weights, two: Weights) -> list[str]:
    return [name for name, weight in one.items() if weight.ndim > 1 and torch.equal(weight, two[name])]


def begin(splits: Splits, recipe: Recipe, out: Path) -> None:
    """A teacher, a nasty teacher and three students, all of one seed and one architecture."""
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 1})})
    teacher = training.train(None, splits, recipe, seed=0, out=out / "teacher", device="cpu")
    protect(teacher, splits, seed=0, out=out / "nasty", device="cpu")
    for name in ("kd", "label-only", "scratch"):
        attack(teacher, splits, name, seed=0, out=out / name, device="cpu")


def test_student_does_not_share_victim_initial_weights(
    splits: Splits, recipe: Recipe, initial: list[Weights], tmp_path: Path
) -> None:
    begin(splits, recipe, tmp_path)
    teacher, hardened, student, *_ = initial
    assert {name: weight.shape for name, weight in teacher.items()} == {n: w.shape for n, w in student.items()}
    assert shared(teacher, student) == []
    assert shared(hardened, student) == []
    assert shared(teacher, hardened) == []


def test_students_of_one_seed_share_initial_weights(
    splits: Splits, recipe: Recipe, initial: list[Weights], tmp_path: Path
) -> None:
    begin(splits, recipe, tmp_path)
    _, _, student, *others = initial
    assert len(others) == 2
    assert all(same(student, other) for other in others)


def test_students_of_one_seed_see_the_same_batches(
    victim: Classifier, images: ImageSet, make_model: Callable[..., Classifier], recipe: Recipe
) -> None:
    def seen(name: str) -> list[Any]:
        student, batches = make_model(role="thief"), []
        student.register_forward_pre_hook(lambda _, given: batches.append(given[0].tolist()))
        list(ATTACKS.make(name).steal(Oracle(victim, Access.LOGITS), student, images, recipe, device=CPU))
        return batches

    assert len(seen("kd")) == 6
    assert seen("kd") == seen("label-only") == seen("scratch")
