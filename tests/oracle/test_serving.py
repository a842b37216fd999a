"""Chains of answer-side defenses: how they are written, in what order they act, and what is left to show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from undistill.defenses.base import DEFENSES
from undistill.defenses.noise import Noise
from undistill.defenses.rounding import Rounding
from undistill.defenses.stingy import Stingy
from undistill.defenses.top1 import Top1
from undistill.errors import UsageError
from undistill.oracle.output_defense import ANSWER_DEFENSES, chain, keep_top, rounded, serve, shown, suits
from undistill.registry import registry
from undistill.threat_model import Access

PROBS = torch.tensor([[0.55, 0.3, 0.15]], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def behind(scores_BC: Tensor, *items: str, access: Access = Access.PROBS) -> Tensor:
    return serve(scores_BC, access, chain(items), rng())


# -- how a chain is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "made"),
    [
        ("stingy", Stingy()),
        ("rounding digits=1", Rounding(digits=1)),
        ("  noise   scale=0.5 ", Noise(scale=0.5)),
        ("noise scale=5e-1", Noise(scale=0.5)),  # which YAML 1.1 reads as text
        ({"name": "stingy", "share": 0.5}, Stingy(share=0.5)),
        (Stingy(share=0.5), Stingy(share=0.5)),
    ],
)
def test_a_defense_is_named_written_or_handed_over(item: Any, made: Any) -> None:
    assert chain([item]) == (made,)
    assert chain(item) == (made,)


def test_a_chain_keeps_its_order_and_may_be_empty() -> None:
    assert chain(["top1", "rounding"]) == (Top1(), Rounding())
    assert chain([]) == ()


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("", r"an output defense is written NAME \[SETTING=VALUE …\], such as rounding digits=1, not ''"),
        ("digits=1", r"is written NAME .* not 'digits=1'"),
        ("stingi", "no answer-defense called 'stingi'; did you mean stingy"),
        ("noise 3", "a setting of noise is written SETTING=VALUE, not '3'"),
        ("noise scale=", "a setting of noise is written SETTING=VALUE, not 'scale='"),
        ("noise =3", "a setting of noise is written SETTING=VALUE, not '=3'"),
        ("noise scale=[", r"the value of scale is no YAML: '\['"),
        ("noise scale=1 scale=2", "scale is given twice in 'noise scale=1 scale=2'"),
        ("noise name=top1", "name is given twice"),
        ("noise scale=-1", r"answer-defense noise: scale: input should be greater than 0 \(given: -1\)"),
        ("noise loudness=1", "answer-defense noise: there is no setting 'loudness'; there are name, scale"),
        ("nasty", "nasty trains a network and changes no answers: make a hardened one with protect --defense nasty"),
        ({"name": "nasty-head"}, "nasty-head trains a network"),
        ({"name": None}, "no answer-defense called"),
        (3, "an answer-defense is a name or settings"),
    ],
)
def test_what_is_no_answer_defense_is_refused_in_a_sentence(item: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        chain([item])
    assert "\n" not in str(refused.value)


def test_no_name_is_of_both_kinds() -> None:
    assert not DEFENSES.everything().keys() & ANSWER_DEFENSES.everything().keys()
    assert registry("answer-defense") is ANSWER_DEFENSES


# -- what is left to show -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "left"),
    [
        ((), list(Access)),
        (("stingy",), [Access.LABEL, Access.TOPK, Access.PROBS, Access.PROBS, Access.WEIGHTS]),
        (("rounding", "top1"), [Access.LABEL, Access.TOPK, Access.TOPK, Access.TOPK, Access.WEIGHTS]),
        (("top-k", "answer-top1", "noise"), [Access.LABEL] * 4 + [Access.WEIGHTS]),
    ],
)
def test_a_chain_shows_no_more_than_each_of_its_parts(items: tuple[str, ...], left: list[Access]) -> None:
    assert [shown(access, chain(items)) for access in Access] == left


def test_labels_go_through_nothing_that_changes_probabilities() -> None:
    suits(chain(["stingy"]), Access.TOPK, "the api")
    suits(chain(["answer-top1"]), Access.LABEL, "the api")
    suits((), Access.LABEL, "the api")
    with pytest.raises(UsageError, match="the api answers with labels, and top1 changes probabilities: leave it out"):
        suits(chain(["answer-top1", "top1"]), Access.LABEL, "the api")


# -- serving ------------------------------------------------------------------------------------------------------------


def test_the_first_defense_acts_first() -> None:
    first = behind(PROBS, "stingy share=0.5", "rounding digits=1")  # 0.55/0.85 = 0.647, 0.3/0.85 = 0.353
    second = behind(PROBS, "rounding digits=1", "stingy share=0.5")  # 0.6, 0.3, 0.2
    torch.testing.assert_close(first, torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(second, torch.tensor([[2 / 3, 1 / 3, 0.0]], dtype=torch.float64))


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    torch.testing.assert_close(behind(PROBS.log() + 7, access=Access.LOGITS), PROBS)
    assert torch.equal(behind(PROBS), PROBS)
    assert torch.equal(behind(PROBS / 2), PROBS / 2)  # a cut answer stays cut


def test_a_row_that_a_server_rounded_up_is_brought_back_to_one() -> None:
    torch.testing.assert_close(behind(PROBS * 1.01), PROBS)


def test_half_precision_is_computed_in_float32() -> None:
    served = behind(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16), "rounding", access=Access.LOGITS)
    assert served.dtype == torch.float32
    torch.testing.assert_close(served, torch.tensor([[0.09, 0.24, 0.67]]))


def test_logits_without_an_end_are_served() -> None:
    scores_BC = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf, -torch.inf], [1e4, -1e4, 0.0, 0.0, 0.0]])
    for name in ANSWER_DEFENSES.classes():
        served = behind(scores_BC, name, access=Access.LOGITS)
        assert bool(served.isfinite().all())
        assert served.argmax(dim=1).tolist() == [2, 0]


def test_an_answer_is_not_changed_in_place() -> None:
    for name in ANSWER_DEFENSES.classes():
        before = PROBS.clone()
        behind(PROBS, name)
        assert torch.equal(PROBS, before)


# -- cutting and rounding -----------------------------------------------------------------------------------------------


def test_the_k_largest_stay_and_of_equals_the_first() -> None:
    probs_BC = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]])
    assert keep_top(probs_BC, 2).tolist() == [[0.25, 0.25, 0, 0], [0, pytest.approx(0.4), 0, pytest.approx(0.4)]]
    assert (keep_top(probs_BC, 3) > 0).tolist() == [[True, True, True, False], [True, True, False, True]]
    assert torch.equal(keep_top(probs_BC, 9), probs_BC)


def test_halves_go_to_the_even_digit() -> None:
    probs_BC = torch.tensor([[0.125, 0.375, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    assert rounded(probs_BC, 2).tolist() == [[0.12, 0.38, 0.25, 0.25], [0.5, 0.25, 0.12, 0.12]]
    assert rounded(probs_BC, 1).tolist() == [[0.1, 0.4, 0.2, 0.2], [0.5, 0.2, 0.1, 0.1]]


def test_where_all_would_be_nothing_the_top_class_keeps_one_unit() -> None:
    probs_BC = torch.tensor([[0.2, 0.3, 0.3, 0.2], [0.6, 0.2, 0.1, 0.1]], dtype=torch.float64)
    assert rounded(probs_BC, 0).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert rounded(torch.full((1, 300), 1 / 300), 2).tolist() == [[pytest.approx(0.01), *[0.0] * 299]]


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(2, 40))
def test_rounding_agrees_with_numpy(seed: int, digits: int, classes: int) -> None:
    probs_BC = np.random.default_rng(seed).dirichlet([0.3] * classes, size=5)
    wanted = np.round(probs_BC, digits)
    for row, probs in zip(wanted, probs_BC, strict=True):
        if not row.any():
            row[probs.argmax()] = 10.0**-digits
    np.testing.assert_allclose(rounded(torch.from_numpy(probs_BC), digits).numpy(), wanted, rtol=0, atol=1e-12)
