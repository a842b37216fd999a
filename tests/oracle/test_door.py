"""The oracle enforces access and budget, counts, and never lets a victim train."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from undistill.data.augment import Crop, to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import Refused
from undistill.models import Classifier
from undistill.oracle import Answer, Oracle, Questions
from undistill.threat_model import Access
from undistill.training.recipe import Training

LOGITS_BC = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 3.5, 1.0]])
BELOW_WEIGHTS = [access for access in Access if access < Access.WEIGHTS]


class Parrot(nn.Module):
    """Answers each image with its first pixels; counts how often it was asked."""

    asked: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("asked", torch.zeros((), dtype=torch.int64))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.asked += len(images_BCHW)
        return self.weight * images_BCHW.flatten(1)[:, :4]


@pytest.fixture
def victim(make_model: Callable[..., Classifier], images: ImageSet) -> Classifier:
    """A victim whose batch norms have seen data, so that training and evaluation differ."""
    model = make_model()
    model(to_float(images.images_NCHW[:]))
    return model.eval()


def pixels(images: ImageSet, count: int = 24) -> Tensor:
    return to_float(images.images_NCHW[:count])


# -- the victim ---------------------------------------------------------------------------------------------------------


def test_victim_is_never_in_train_mode(victim: Classifier, images: ImageSet) -> None:
    expected = victim(pixels(images))
    oracle = Oracle(victim.train(), Access.WEIGHTS)
    before = copy.deepcopy(oracle.weights().state_dict())
    answers = oracle.ask(pixels(images)).values
    torch.testing.assert_close(answers, expected)
    assert not torch.allclose(victim(pixels(images)), expected)  # the control: in training mode it answers otherwise
    after = oracle.weights().state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(module.training for module in oracle.weights().modules())


def test_asking_leaves_the_owners_network_alone(victim: Classifier, images: ImageSet) -> None:
    before = copy.deepcopy(victim.train().state_dict())
    Oracle(victim, Access.LOGITS).ask(pixels(images))
    assert victim.training
    assert all(p.requires_grad for p in victim.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in victim.state_dict().items())


def test_training_the_owners_network_leaves_the_oracle_alone(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LOGITS)
    before = oracle.ask(pixels(images)).values
    with torch.no_grad():
        victim.get_parameter("head.weight").zero_()
    assert torch.equal(oracle.ask(pixels(images)).values, before)


def test_answers_carry_no_gradient(victim: Classifier, images: ImageSet) -> None:
    answer = Oracle(victim, Access.LOGITS).ask(pixels(images).requires_grad_())
    assert not answer.values.requires_grad
    assert not answer.scores_BC.requires_grad


def test_answers_are_float32_also_under_autocast(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LOGITS)
    with torch.autocast("cpu", torch.bfloat16):
        values = oracle.ask(pixels(images)).values
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, victim(pixels(images)))


# -- access -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked() -> Callable[..., Answer]:
    """`asked(access)`: the answer to `LOGITS_BC`."""

    def ask(access: Access, top_k: int = 5) -> Answer:
        return Oracle(Parrot(), access, top_k=top_k).ask(LOGITS_BC.view(2, 1, 2, 2))

    return ask


@pytest.mark.parametrize("access", [Access.LOGITS, Access.WEIGHTS])
def test_logits_are_shown_as_they_are(asked: Callable[..., Answer], access: Access) -> None:
    assert torch.equal(asked(access).values, LOGITS_BC)
    assert torch.equal(asked(access).scores_BC, LOGITS_BC)


def test_probabilities_hide_the_scale_of_logits(asked: Callable[..., Answer]) -> None:
    assert torch.equal(asked(Access.PROBS).values, LOGITS_BC.softmax(1))
    torch.testing.assert_close(asked(Access.PROBS).scores_BC, LOGITS_BC.log_softmax(1))


def test_the_top_k_keep_their_probabilities_and_the_rest_none(asked: Callable[..., Answer]) -> None:
    probs = LOGITS_BC.softmax(1)
    shown = asked(Access.TOPK, top_k=2)
    assert torch.equal(shown.values > 0, torch.tensor([[True, True, False, False], [False, True, True, False]]))
    assert torch.equal(shown.values[shown.values > 0], probs[shown.values > 0])
    assert shown.scores_BC[0, 2] == -torch.inf


def test_a_k_beyond_the_classes_shows_all(asked: Callable[..., Answer]) -> None:
    assert torch.equal(asked(Access.TOPK, top_k=9).values, LOGITS_BC.softmax(1))


def test_a_label_shows_the_top_class_alone(asked: Callable[..., Answer]) -> None:
    assert asked(Access.LABEL).values.tolist() == [0, 2]
    assert asked(Access.LABEL).values.dtype == torch.int64


@pytest.mark.parametrize("access", Access)
def test_the_top_class_is_known_on_every_access(asked: Callable[..., Answer], access: Access) -> None:
    assert asked(access).labels_B.tolist() == [0, 2]


def test_a_label_is_no_score(asked: Callable[..., Answer]) -> None:
    with pytest.raises(PermissionError, match="a label is no score"):
        _ = asked(Access.LABEL).scores_BC


def test_answers_are_taken_by_row(asked: Callable[..., Answer]) -> None:
    taken = asked(Access.PROBS).take(torch.tensor([1, 1, 0]))
    assert taken.access is Access.PROBS
    assert taken.labels_B.tolist() == [2, 2, 0]


@pytest.mark.parametrize("access", BELOW_WEIGHTS)
def test_weights_are_refused_below_weights(victim: Classifier, access: Access) -> None:
    with pytest.raises(PermissionError, match=f"weights are beyond the access {access.label}"):
        Oracle(victim, access).weights()


def test_weights_are_a_frozen_copy(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.WEIGHTS)
    stolen = oracle.weights()
    before = oracle.ask(pixels(images)).values
    assert not any(p.requires_grad for p in stolen.parameters())
    with torch.no_grad():
        for weight in stolen.parameters():
            weight.zero_()
    assert torch.equal(oracle.ask(pixels(images)).values, before)


# -- counts and budget --------------------------------------------------------------------------------------------------


def test_each_image_is_a_question(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LABEL)
    for count in (3, 24):
        oracle.ask(pixels(images, count))
    assert (oracle.queries, oracle.forwards) == (27, 27)


def test_counts_go_on_from_where_they_were(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LABEL, queries=100, forwards=50)
    oracle.ask(pixels(images, 3))
    assert (oracle.queries, oracle.forwards) == (103, 53)


def test_a_question_over_budget_is_refused_and_neither_counted_nor_computed(images: ImageSet) -> None:
    oracle = Oracle(Parrot(), Access.WEIGHTS, budget=5)
    oracle.ask(pixels(images, 3))
    computed = oracle.weights().get_buffer("asked")
    with pytest.raises(PermissionError, match="3 more questions exceed the budget of 5; 3 were asked"):
        oracle.ask(pixels(images, 3))
    assert (oracle.queries, oracle.forwards) == (3, 3)
    assert oracle.weights().get_buffer("asked") == computed
    oracle.ask(pixels(images, 2))
    assert oracle.weights().get_buffer("asked") == computed + 2  # the control: it would show


def test_a_budget_may_be_used_up(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LABEL, budget=5)
    oracle.ask(pixels(images, 3))
    oracle.ask(pixels(images, 2))
    assert oracle.queries == 5


def test_a_refusal_is_one_of_ours() -> None:
    with pytest.raises(Refused):
        Oracle(Parrot(), Access.LOGITS, budget=0).ask(torch.zeros(1, 1, 2, 2))


# -- questions ----------------------------------------------------------------------------------------------------------


def batches_of(images: ImageSet) -> ImageBatches:
    return ImageBatches(images, 7, (Crop(padding=2),), seed=0, role="thief")


def test_without_a_budget_each_view_is_a_question(victim: Classifier, images: ImageSet) -> None:
    oracle = Oracle(victim, Access.LOGITS)
    questions = Questions(oracle, batches_of(images), Training(epochs=3))
    assert oracle.queries == 0
    for epoch in range(3):
        for batch in batches_of(images).epoch(epoch):
            torch.testing.assert_close(questions(batch).values, victim(batch.images_BCHW))
    assert (oracle.queries, oracle.forwards) == (72, 72)


@pytest.mark.parametrize("chunk", [5, 1024])
def test_with_a_budget_each_image_is_asked_once_as_it_is(
    victim: Classifier, images: ImageSet, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undistill.oracle.oracle.batch_for", lambda *_: chunk)
    held = images.take(torch.tensor([20, 3, 11, 4, 9, 17]))
    oracle = Oracle(victim, Access.LOGITS, budget=6)
    questions = Questions(oracle, batches_of(held), Training())
    plain = victim(pixels(images))
    for epoch in range(3):
        for batch in batches_of(held).epoch(epoch):
            torch.testing.assert_close(questions(batch).values, plain[batch.index_B])
    assert (oracle.queries, oracle.forwards) == (6, 6)


@pytest.mark.parametrize("access", BELOW_WEIGHTS)
def test_kept_answers_show_no_more_than_the_access(victim: Classifier, images: ImageSet, access: Access) -> None:
    bought = Questions(Oracle(victim, access, budget=24, top_k=2), batches_of(images), Training())
    fresh = Oracle(victim, access, top_k=2)
    for batch in batches_of(images).epoch(0):
        answer = bought(batch)
        assert answer.access is access
        torch.testing.assert_close(answer.values, fresh.ask(pixels(images)[batch.index_B]).values)


def test_more_images_than_the_budget_are_refused(victim: Classifier, images: ImageSet) -> None:
    with pytest.raises(PermissionError, match="24 more questions exceed the budget of 5"):
        Questions(Oracle(victim, Access.LOGITS, budget=5), batches_of(images), Training())
