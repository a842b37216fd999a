"""Victims that only answer: what they say is checked, cut to what the card gives, and never more than was declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from undistill.errors import Refused, RunError, UsageError
from undistill.oracle import BlackBox, Oracle
from undistill.oracle.black_box import to_bytes
from undistill.oracle.oracle import cut
from undistill.threat_model import Access

PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.3, 0.0, 0.0]])
SCORES = {Access.LOGITS: np.log(PROBS + 1e-3), Access.PROBS: PROBS, Access.LABEL: np.array([3, 0])}
TOP_TWO = (np.array([[3, 2], [0, 1]]), np.array([[0.4, 0.3], [0.7, 0.3]]))
SAYS: list[tuple[Access, Any]] = [*SCORES.items(), (Access.TOPK, TOP_TWO), (Access.TOPK, PROBS * (PROBS >= 0.3))]


def box(said: Any, kind: Access = Access.PROBS, classes: int = 4) -> BlackBox:
    return BlackBox(lambda _: said, kind, classes, "the api")


def images(count: int = 2) -> Tensor:
    return torch.zeros(count, 3, 8, 8)


# -- what it is asked ---------------------------------------------------------------------------------------------------


def test_every_uint8_value_reaches_the_function_as_it_was() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_bytes(pixels.float() / 255), pixels)
    for side in (-1.0, 2.0):  # also where arithmetic on the way moved the last bit
        assert torch.equal(to_bytes(torch.nextafter(pixels.float() / 255, torch.tensor(side))), pixels)


def test_what_leaves_the_range_is_clamped_not_wrapped() -> None:
    assert to_bytes(torch.tensor([-1.0, -0.001, 1.001, 2.0])).tolist() == [0, 0, 255, 255]


def test_the_images_of_the_asker_stay_as_they_are() -> None:
    mine = torch.full((2, 3, 8, 8), 0.5)
    box(PROBS).answer(mine)
    assert torch.equal(mine, torch.full((2, 3, 8, 8), 0.5))


def test_the_function_sees_uint8_images() -> None:
    seen: list[Any] = []

    def predict(pixels: Any) -> Any:
        seen.append(pixels)
        return PROBS

    BlackBox(predict, Access.PROBS, 4, "the api").answer(images())
    assert seen[0].dtype == np.uint8
    assert seen[0].shape == (2, 3, 8, 8)


# -- what it says -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(
    "wrap", [np.asarray, lambda said: said.tolist(), torch.as_tensor], ids=["numpy", "list", "torch"]
)
def test_answers_are_taken_as_arrays_lists_and_tensors(kind: Access, wrap: Callable[[Any], Any]) -> None:
    answer = box(wrap(SCORES[kind]), kind).answer(images())
    assert answer.dtype == (torch.int64 if kind is Access.LABEL else torch.float32)
    assert np.allclose(answer.numpy(), SCORES[kind], atol=1e-7)


@pytest.mark.parametrize(("kind", "said"), SAYS[3:], ids=["pair", "matrix"])
def test_the_top_k_may_be_said_as_a_pair_or_as_a_matrix(kind: Access, said: Any) -> None:
    expected = [[0, 0, 0.3, 0.4], [0.7, 0.3, 0, 0]]
    assert np.allclose(box(said, kind).answer(images()).numpy(), expected)


WRONG: list[tuple[str, Access, Any, str]] = [
    ("too few rows", Access.LOGITS, PROBS[:1], r"logits: 2 × 4 numbers; it gave an array of \(1, 4\)"),
    ("too many classes", Access.LOGITS, np.zeros((2, 5)), r"2 × 4 numbers; it gave an array of \(2, 5\)"),
    ("flat", Access.PROBS, PROBS.ravel(), r"2 × 4 numbers; it gave an array of \(8,\)"),
    ("one label a row", Access.LOGITS, np.array([1, 2]), "2 × 4 numbers"),
    ("text", Access.LOGITS, "cat", "numbers; it gave str"),
    ("nothing", Access.PROBS, None, "numbers|finite"),
    ("ragged", Access.PROBS, [[0.5], [0.5, 0.5]], "numbers; it gave list"),
    ("NaN", Access.LOGITS, PROBS * np.nan, "finite numbers; it gave NaN or infinity"),
    ("infinity", Access.LOGITS, PROBS + np.inf, "finite numbers"),
    (
        "logits for probabilities",
        Access.PROBS,
        PROBS * 9,
        "probabilities, at least 0 and 1 in all; it gave rows from 9",
    ),
    ("half probabilities", Access.PROBS, PROBS / 2, "1 in all; it gave rows from 0.5 to 0.5"),
    ("below zero", Access.PROBS, PROBS - [[0.2, -0.2, 0, 0]], "the least value -0.1"),
    ("nothing in the top k", Access.TOPK, np.zeros((2, 4)), "at most 1 in all; it gave rows from 0 to 0"),
    ("more than one in the top k", Access.TOPK, PROBS * 2, "at most 1 in all"),
    ("another class", Access.TOPK, (TOP_TWO[0] + 1, TOP_TWO[1]), "classes from 0 to 3; it gave 1 to 4"),
    ("a class below 0", Access.TOPK, (TOP_TWO[0] - 1, TOP_TWO[1]), "classes from 0 to 3; it gave -1 to 2"),
    ("classes that are no numbers", Access.TOPK, (TOP_TWO[1], TOP_TWO[1]), "two arrays of 2 × k"),
    (
        "shapes that differ",
        Access.TOPK,
        (TOP_TWO[0], TOP_TWO[1][:, :1]),
        r"two arrays of 2 × k, classes first; it gave \(2, 2\) and \(2, 1\)",
    ),
    ("torch's order", Access.TOPK, TOP_TWO[::-1], "classes first; it gave probabilities first"),
    ("probabilities for logits", Access.LOGITS, PROBS, "declare them with --outputs probs"),
    ("rounded probabilities for logits", Access.LOGITS, PROBS.round(1), "--outputs probs"),
    ("percent", Access.PROBS, PROBS * 100, "percent.* divide by 100"),
    ("logits for probabilities, some below 0", Access.PROBS, PROBS * 9 - 1, "--outputs logits"),
    ("the top k for probabilities", Access.PROBS, PROBS * (PROBS > 0.3), "--outputs topk"),
    ("nothing in one row", Access.PROBS, PROBS * [[1], [0]], "return more digits"),
    ("integers for probabilities", Access.PROBS, np.array([[0, 1, 2, 0], [1, 0, 0, 0]]), "1 in all"),
    ("half of rounded probabilities", Access.PROBS, (PROBS / 2).round(2), "1 in all"),
    ("a dictionary of several", Access.LOGITS, {"scores": PROBS, "features": PROBS}, "dictionary of scores, features"),
    ("an empty dictionary", Access.LOGITS, {}, "dictionary of nothing"),
    ("logits with features", Access.LOGITS, (PROBS, PROBS[:, :2]), "numbers; it gave tuple"),
    ("a network", Access.LOGITS, torch.nn.Linear(2, 2), "a factory, leave --outputs out"),
    ("a triple", Access.TOPK, (*TOP_TWO, 1), r"\(classes, probabilities\); it gave 3 parts"),
    ("too few labels", Access.LABEL, [1], "2 whole numbers"),
    ("scores for labels", Access.LABEL, PROBS, r"2 whole numbers; it gave float64 of shape \(2, 4\)"),
    ("fractions", Access.LABEL, [0.5, 1.0], "2 whole numbers; it gave float64"),
    ("a label out of range", Access.LABEL, [0, 4], "classes from 0 to 3; it gave 0 to 4"),
    ("a label below 0", Access.LABEL, [-1, 0], "classes from 0 to 3; it gave -1 to 0"),
]


@pytest.mark.parametrize(("kind", "said", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_answers_that_were_not_declared_are_refused(kind: Access, said: Any, words: str) -> None:
    with pytest.raises(RunError, match=f"^the api was declared to answer with {kind.label}: .*") as refused:
        box(said, kind).answer(images())
    assert refused.match(words)


def tracked(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


RESPONSES: list[tuple[str, Access, Any]] = [
    ("axes of length 1", Access.PROBS, PROBS[:, :, None, None]),
    ("an axis before the classes", Access.PROBS, PROBS[:, None]),
    ("bf16", Access.PROBS, torch.tensor(PROBS).bfloat16()),
    ("half", Access.PROBS, torch.tensor(PROBS).half()),
    ("grad", Access.PROBS, tracked(PROBS)),
    ("bf16 with grad", Access.PROBS, tracked(PROBS, torch.bfloat16)),
    ("sparse", Access.PROBS, torch.tensor(PROBS).to_sparse()),
    ("list of rows", Access.PROBS, [tracked(row) for row in PROBS]),
    ("tuple of rows", Access.PROBS, tuple(tracked(row) for row in PROBS)),
    ("list of lists of numbers", Access.PROBS, [[tracked(value) for value in row] for row in PROBS]),
    ("dictionary", Access.PROBS, {"probs": tracked(PROBS), "features": tracked(PROBS)}),
    ("dictionary of one", Access.PROBS, {"predictions": tracked(PROBS).tolist()}),
    ("pair", Access.TOPK, (torch.tensor(TOP_TWO[0]), tracked(TOP_TWO[1]))),
    ("bf16 pair", Access.TOPK, (torch.tensor(TOP_TWO[0]), tracked(TOP_TWO[1], torch.bfloat16))),
    ("list of two", Access.TOPK, [torch.tensor(TOP_TWO[0]), tracked(TOP_TWO[1])]),
    ("lists of two", Access.TOPK, [TOP_TWO[0].tolist(), TOP_TWO[1].tolist()]),
    ("dictionary of a pair", Access.TOPK, {"topk": (TOP_TWO[0], tracked(TOP_TWO[1]))}),
    ("labels", Access.LABEL, [torch.tensor(3), torch.tensor(0)]),
    ("labels in a column", Access.LABEL, torch.tensor([[3], [0]])),
    ("whole labels as floats", Access.LABEL, torch.tensor([3.0, 0.0])),
    ("dictionary of labels", Access.LABEL, {"labels": torch.tensor([3, 0])}),
]


@pytest.mark.parametrize(("kind", "said"), [case[1:] for case in RESPONSES], ids=[case[0] for case in RESPONSES])
def test_responses_of_tensors_are_taken_in_every_usual_form(kind: Access, said: Any) -> None:
    expected: dict[Access, Any] = {
        Access.PROBS: PROBS,
        Access.TOPK: [[0, 0, 0.3, 0.4], [0.7, 0.3, 0, 0]],
        Access.LABEL: [3, 0],
    }
    assert np.allclose(box(said, kind).answer(images()).numpy(), expected[kind], atol=2e-3)


@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("classes", [4, 10, 100])
def test_rounded_probabilities_are_taken_as_they_are(digits: int, classes: int) -> None:
    probs = np.random.default_rng(0).dirichlet(np.full(classes, 0.1), 50).round(digits)
    probs = probs[probs.sum(axis=1) > 0]
    assert np.array_equal(box(probs, classes=classes).answer(images(len(probs))).numpy(), probs.astype(np.float32))


def test_probabilities_a_little_below_zero_become_zero() -> None:
    said = PROBS + np.array([[0, 0, 0, 0], [0, 1e-9, -1e-9, 0]])
    answer = box(said).answer(images())
    assert answer.min() == 0
    assert np.allclose(answer.numpy(), PROBS)


def test_images_without_a_finite_answer_are_counted() -> None:
    said = np.log(PROBS + 1e-3)
    said[1, 2] = np.nan
    with pytest.raises(RunError, match=r"the api .* NaN or infinity for 1 of 2 images"):
        box(said, Access.LOGITS).answer(images())


def test_a_pair_of_text_is_refused() -> None:
    with pytest.raises(RunError, match=r"^the api was declared to answer with topk: numbers; it gave <U1$"):
        box((TOP_TWO[0], np.array([["a", "b"], ["c", "d"]])), Access.TOPK).answer(images())


def test_a_function_that_fails_is_named() -> None:
    def predict(_: Any) -> Any:
        raise ConnectionError("out of credit")

    with pytest.raises(RunError, match=r"^the api failed on 2 images: ConnectionError: out of credit$"):
        BlackBox(predict, Access.PROBS, 4, "the api").answer(images())


def test_a_function_gives_no_weights() -> None:
    with pytest.raises(UsageError, match="gives no weights; its answers are logits, probs, topk or label"):
        box(PROBS, Access.WEIGHTS)


# -- behind the door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "said"), SAYS, ids=["logits", "probs", "label", "pair", "matrix"])
def test_no_access_above_what_is_declared(kind: Access, said: Any) -> None:
    for access in Access:
        if access <= kind:
            assert Oracle(box(said, kind), access).ask(images()).access is access
        else:
            with pytest.raises(Refused, match=f"answers with {kind.label}, which is less than {access.label}"):
                Oracle(box(said, kind), access)


@pytest.mark.parametrize("access", [access for access in Access if access < Access.WEIGHTS])
def test_a_black_box_shows_no_weights(access: Access) -> None:
    with pytest.raises(Refused, match="weights are beyond"):
        Oracle(box(SCORES[Access.LOGITS], Access.LOGITS), access).weights()


@pytest.mark.parametrize("kind", [Access.LOGITS, Access.PROBS, Access.TOPK, Access.LABEL])
def test_less_is_cut_from_each_kind_as_from_logits(kind: Access) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 3.5, 1.0]])
    given = cut(logits, kind, 2)
    for access in (access for access in Access if access <= kind):
        assert torch.allclose(cut(given, access, 2, given=kind), cut(logits, access, 2)), access


def test_fewer_of_the_top_k_are_cut_to_fewer() -> None:
    assert cut(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), Access.TOPK, 1, given=Access.PROBS).tolist() == [
        [0, 0, 0, pytest.approx(0.4)]
    ]


def test_an_oracle_counts_and_limits_a_black_box() -> None:
    oracle = Oracle(box(PROBS), Access.LABEL, budget=3)
    assert oracle.ask(images()).values.tolist() == [3, 0]
    with pytest.raises(Refused, match="2 more questions exceed the budget of 3; 2 were asked"):
        oracle.ask(images())
    assert (oracle.queries, oracle.forwards) == (2, 2)


def test_probabilities_become_scores_that_attacks_read() -> None:
    answer = Oracle(box(PROBS), Access.PROBS).ask(images())
    assert torch.allclose(answer.scores_BC.softmax(1), torch.from_numpy(PROBS).float())
    assert replace(answer).labels_B.tolist() == [3, 0]
