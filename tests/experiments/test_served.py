"""What users get, against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from undistill.data.augment import to_float
from undistill.data.image_set import ImageSet, Splits
from undistill.errors import Refused, UsageError
from undistill.experiments.victim_metrics import completed, facts_of, served, summary
from undistill.models import Classifier
from undistill.oracle import BlackBox, LogitCache
from undistill.oracle.output_defense import chain
from undistill.oracle.query_log import Answers, Ledger
from undistill.oracle.victim import Victim, resolve
from undistill.threat_model import Access, ThreatModel
from undistill.training.evaluate import predict, score

KEYS = [
    *("accuracy", "top5", "nll", "lost", "ece", "brier", "spread"),
    *("second_1", "second_2", "second_4", "second_8", "second_20", "repeat"),
    *("confidence_trained", "confidence_fresh", "accuracy_trained", "accuracy_fresh", "classes"),
]


def card(serving: str) -> ThreatModel:
    return ThreatModel.parse(f"{serving}/unlabelled/fresh/random/8")


def numbers(rows: Any, labels: list[int], access: Access = Access.PROBS) -> dict[str, Any]:
    probs_BC = torch.tensor(rows, dtype=torch.float64)
    return summary(facts_of(probs_BC, torch.tensor(labels)), access, probs_BC.shape[1])


@pytest.fixture(scope="module")
def network(make_model: Callable[..., Classifier], images: ImageSet) -> Classifier:
    """A network whose batch norms have seen data and whose answers differ from class to class."""
    model = make_model()
    model(to_float(images.images_NCHW[:]))
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(8)
    return model.eval()


class Api:
    """A function that answers by the first pixels of each image and counts what it is asked."""

    def __init__(self, kind: Access = Access.PROBS, *, drift: float = 0.0, classes: int = 4) -> None:
        self.kind, self.drift, self.classes, self.asked = kind, drift, classes, 0

    def __call__(self, pixels: Any) -> Any:
        self.asked += len(pixels)
        scores = pixels.reshape(len(pixels), -1)[:, : self.classes] / 50.0
        scores[:, 0] += self.drift * (self.asked > 20)
        probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        return probs.argmax(1) if self.kind is Access.LABEL else probs

    @property
    def box(self) -> BlackBox:
        return BlackBox(self, self.kind, self.classes, "the api")


# -- completing an answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "whole"),
    [
        ([0.7, 0.2, 0.1, 0.0], [0.7, 0.2, 0.1, 0.0]),
        ([0.7, 0.0, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1]),
        ([0.5, 0.3, 0.0, 0.0], [0.5, 0.3, 0.1, 0.1]),
        ([0.5, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]),  # a server that rounded up
        ([0.4, 0.2, 0.1, 0.1], [0.5, 0.25, 0.125, 0.125]),  # nothing is hidden that could take the rest
        ([1 - 1e-7, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),  # float32's rounding hides nothing
    ],
)
def test_a_user_completes_an_answer(shown: list[float], whole: list[float]) -> None:
    ours = completed(torch.tensor([shown], dtype=torch.float64))
    torch.testing.assert_close(ours, torch.tensor([whole], dtype=torch.float64), rtol=0, atol=1e-12)


# -- numbers by hand ----------------------------------------------------------------------------------------------------


def test_the_numbers_of_two_answers_are_those_of_a_calculator() -> None:
    found = numbers([[0.5, 0.3, 0.0, 0.0], [0.1, 0.6, 0.2, 0.1]], [2, 1])
    assert found["accuracy"] == 50
    assert found["top5"] is None  # four classes
    assert found["nll"] == pytest.approx(-(math.log(0.1) + math.log(0.6)) / 2)
    assert found["lost"] == 0
    assert found["ece"] == pytest.approx(100 * (abs(0 - 0.5) + abs(1 - 0.6)) / 2)
    first = 0.5**2 + 0.3**2 + 0.9**2 + 0.1**2
    second = 0.1**2 + 0.4**2 + 0.2**2 + 0.1**2
    assert found["brier"] == pytest.approx((first + second) / 2)
    spread = [np.std(np.log([0.5, 0.3])), np.std(np.log([0.1, 0.6, 0.2, 0.1]))]
    assert found["spread"] == pytest.approx(np.mean(spread))
    for t in (1, 2, 4, 8, 20):
        assert found[f"second_{t}"] == pytest.approx((0.6 ** (1 / t) + (1 / 3) ** (1 / t)) / 2)


def test_the_runner_up_is_measured_as_the_softmax_at_a_temperature_has_it() -> None:
    row = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    soft = (row.log() / 8).softmax(dim=0)
    assert numbers([row.tolist()], [0])["second_8"] == pytest.approx(float(soft[1] / soft[0]))


def test_a_true_class_without_any_probability_is_lost_and_has_no_likelihood() -> None:
    found = numbers([[0.6, 0.4, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0]], [3, 0, 1])
    assert (found["nll"], found["lost"]) == (None, pytest.approx(100 / 3))
    kept = numbers([[0.6, 0.4, 0.0, 0.0]], [0])
    assert (kept["nll"], kept["lost"]) == (pytest.approx(-math.log(0.6)), 0)


def test_of_equal_classes_the_first_is_named() -> None:
    assert numbers([[0.4, 0.4, 0.2]], [0])["accuracy"] == 100
    assert numbers([[0.4, 0.4, 0.2]], [1])["accuracy"] == 0


@pytest.mark.parametrize(("label", "found"), [(0, 100), (4, 100), (5, 0), (6, 0)])
def test_the_top_five_are_those_shown_first(label: int, found: int) -> None:
    row = [0.3, 0.2, 0.2, 0.1, 0.08, 0.08, 0.04]
    assert numbers([row], [label])["top5"] == found


@pytest.mark.parametrize(("label", "found"), [(0, 100), (1, 0)])
def test_a_class_that_is_not_shown_is_not_among_the_top_five(label: int, found: int) -> None:
    assert numbers([[0.9, *[0.0] * 6]], [label])["top5"] == found


def test_one_class_has_no_spread_and_no_runner_up() -> None:
    found = numbers([[0.9, 0.0, 0.0], [0.8, 0.0, 0.0]], [0, 1])
    assert (found["spread"], found["second_1"], found["second_20"]) == (None, 0, 0)
    mixed = numbers([[0.9, 0.0, 0.0], [0.6, 0.4, 0.0]], [0, 1])
    assert mixed["spread"] == pytest.approx(np.std(np.log([0.6, 0.4])))


def test_a_label_says_nothing_of_confidence() -> None:
    found = numbers([[1.0, *[0.0] * 6], [0.0, 1.0, *[0.0] * 5]], [0, 0], Access.LABEL)
    silent = ["top5", "nll", "ece", "spread", *(f"second_{t}" for t in (1, 2, 4, 8, 20))]
    assert [name for name, value in found.items() if value is None] == silent
    assert (found["accuracy"], found["lost"], found["brier"]) == (50, 50, 1.0)


# -- a network ----------------------------------------------------------------------------------------------------------


def test_an_undefended_network_is_measured_as_everywhere_else(network: Classifier, splits: Splits) -> None:
    for serving in ("probs", "logits", "weights"):
        found, predicted_N = served(resolve(network), splits, card(serving))
        logits_NC = predict(network, splits.test)
        usual = score(logits_NC, splits.test.labels_N)
        assert sorted(found) == sorted(KEYS)
        assert (found["accuracy"], found["repeat"], found["classes"]) == (usual.accuracy, 0, 4)
        assert found["nll"] == pytest.approx(usual.nll, rel=1e-5)
        assert found["ece"] == pytest.approx(usual.ece, rel=1e-4)
        assert found["spread"] == pytest.approx(float(logits_NC.double().std(dim=1, correction=0).mean()), rel=1e-4)
        assert torch.equal(predicted_N, logits_NC.argmax(dim=1))
        for name, images in (("trained", splits.train), ("fresh", splits.pool)):
            assert images is not None
            own_NC = predict(network, images)
            assert found[f"confidence_{name}"] == pytest.approx(100 * float(own_NC.softmax(1).max(1).values.mean()))
            assert found[f"accuracy_{name}"] == pytest.approx(score(own_NC, images.labels_N).accuracy)


def test_the_chain_and_the_card_decide_what_users_get(network: Classifier, splits: Splits) -> None:
    probs_NC = predict(network, splits.test).softmax(1)
    top_N = probs_NC.max(1).values.double()
    found, _ = served(resolve(network, behind=["top1"]), splits, card("probs"))
    right_N = probs_NC.argmax(1) == splits.test.labels_N
    truth_N = torch.where(right_N, top_N, (1 - top_N) / 3)
    assert found["nll"] == pytest.approx(float(-truth_N.log().mean()), rel=1e-4)
    assert (found["spread"], found["second_4"]) == (None, 0)
    same, _ = served(resolve(network), splits, card("top1"))
    assert {k: v for k, v in same.items() if k != "repeat"} == {k: v for k, v in found.items() if k != "repeat"}
    coarse, _ = served(resolve(network), splits, card("top1:0"))
    assert coarse["confidence_trained"] == 100
    label, named_N = served(resolve(network, behind=["answer-top1"]), splits, card("probs"))
    assert (label["ece"], label["confidence_fresh"]) == (None, None)
    assert label["accuracy"] == found["accuracy"]
    assert label["accuracy_fresh"] is not None
    assert torch.equal(named_N, probs_NC.argmax(1))


def test_weights_hide_behind_nothing(network: Classifier, splits: Splits) -> None:
    plain, _ = served(resolve(network), splits, card("weights"))
    assert served(resolve(network, behind=["answer-top1"]), splits, card("weights"))[0] == plain


def test_random_answers_show_when_a_question_is_asked_twice(network: Classifier, splits: Splits) -> None:
    noisy = resolve(network, behind=["noise"])
    found, _ = served(noisy, splits, card("probs"))
    assert found["repeat"] is not None
    assert found["repeat"] > 0.05
    assert served(noisy, splits, card("probs"))[0] == found
    assert served(noisy, splits, card("probs"), seed=1)[0]["nll"] != found["nll"]


def test_a_bank_changes_no_number(network: Classifier, splits: Splits, tmp_path: Path) -> None:
    defended, bank = resolve(network, behind=["reverse-sigmoid"]), LogitCache(tmp_path / "bank")
    plain, predicted_N = served(defended, splits, card("probs"))
    for _ in range(2):
        found, again_N = served(defended, splits, card("probs"), bank=bank)
        assert [name for name, value in found.items() if value is None] == ["top5"]
        assert {k: v or 0 for k, v in found.items()} == pytest.approx({k: v or 0 for k, v in plain.items()}, rel=1e-4)
        assert found["repeat"] == 0  # asked twice, not read twice
        assert torch.equal(again_N, predicted_N)
    assert len(list(bank.place.glob("*/about.json"))) > 0


def test_without_a_pool_nothing_is_said_of_fresh_images(network: Classifier, splits: Splits) -> None:
    bare = Splits("bare", splits.train, None, None, splits.test, "0")
    found, _ = served(resolve(network), bare, card("probs"))
    assert (found["confidence_fresh"], found["accuracy_fresh"]) == (None, None)
    assert found["confidence_trained"] is not None


def test_more_images_than_one_batch_keep_their_order(
    network: Classifier, make_images: Callable[..., ImageSet], splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undistill.experiments.victim_metrics.batch_for", lambda *_: 16)
    many = make_images(75, seed=5)
    data = Splits("many", splits.train, None, None, many, "0")
    _, predicted_N = served(resolve(network), data, card("probs"))
    assert torch.equal(predicted_N, predict(network, many).argmax(1))


# -- black boxes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 32, 75])
def test_a_black_box_is_asked_about_the_test_images_and_few_again(
    make_images: Callable[..., ImageSet], splits: Splits, count: int
) -> None:
    api, test = Api(), make_images(count, seed=5)
    data = Splits("many", splits.train, splits.pool, None, test, "0")
    found, predicted_N = served(resolve(api.box), data, card("probs"))
    assert api.asked == count + min(32, count)
    assert (found["repeat"], found["confidence_trained"], found["accuracy_fresh"]) == (0, None, None)
    wanted = api.box.checked_answer(test.images_NCHW[:].numpy()).argmax(1)
    assert predicted_N.tolist() == wanted.tolist()


def test_a_function_that_changes_its_mind_is_noticed(splits: Splits) -> None:
    assert served(resolve(Api().box), splits, card("probs"))[0]["repeat"] == 0
    moved = served(resolve(Api(drift=2.0).box), splits, card("probs"))[0]["repeat"]
    assert moved is not None
    assert moved > 0.1


def test_labels_of_a_black_box_are_measured(splits: Splits) -> None:
    found, predicted_N = served(resolve(Api(Access.LABEL).box), splits, card("label"))
    assert found["accuracy"] == pytest.approx(100 * float((predicted_N == splits.test.labels_N).double().mean()))
    assert found["repeat"] == 0
    assert found["ece"] is None


def test_a_card_beyond_what_a_black_box_says_is_refused(splits: Splits) -> None:
    with pytest.raises(Refused, match="answers with label, which is less than probs"):
        served(resolve(Api(Access.LABEL).box), splits, card("probs"))


def remembered(api: Api, *, closed: bool, images: Tensor) -> Victim:
    ledger = Ledger(Answers(Access.PROBS, 4), api.box, None)
    ledger(images.numpy())
    if closed:
        ledger.ask = None
    return resolve(BlackBox(ledger, Access.PROBS, 4, "kept"))


def test_a_ledger_is_not_taken_for_the_victims_memory(splits: Splits) -> None:
    open_one = remembered(api := Api(drift=2.0), closed=False, images=splits.test.images_NCHW[:])
    asked = api.asked
    moved = served(open_one, splits, card("probs"))[0]["repeat"]
    assert api.asked == asked + 20  # the second time alone
    assert moved is not None
    assert moved > 0.1


def test_a_file_of_answers_cannot_be_asked_twice(splits: Splits) -> None:
    closed = remembered(Api(), closed=True, images=splits.test.images_NCHW[:])
    assert served(closed, splits, card("probs"))[0]["repeat"] is None
    noisy, _ = served(Victim(closed.model, None, "x", behind=chain(["noise"])), splits, card("probs"))
    assert noisy["repeat"] is not None
    assert noisy["repeat"] > 0.05
    with pytest.raises(UsageError, match="have no answer among those given"):
        served(remembered(Api(), closed=True, images=splits.train.images_NCHW[:]), splits, card("probs"))
