"""Access levels and cards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from undistill.errors import UsageError
from undistill.threat_model import NAMED, Access, ThreatModel


def test_access_is_ordered_by_what_it_shows() -> None:
    assert Access.WEIGHTS > Access.LOGITS > Access.PROBS > Access.TOPK > Access.LABEL


@pytest.mark.parametrize("access", Access)
def test_access_is_read_back_from_its_label(access: Access) -> None:
    assert Access.parse(access.label) is access


def test_unknown_access_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no access called 'logit'; there are label, topk, probs, logits, weights"):
        Access.parse("logit")


def test_the_paper_sees_logits_labels_and_the_victims_own_images() -> None:
    assert str(ThreatModel.parse("paper")) == "logits/labelled(1.0)/trained/random"


def test_an_api_attacker_asks_fifty_questions_about_fresh_images_without_labels() -> None:
    assert str(ThreatModel.parse("api")) == "probs/unlabelled(1.0)/fresh/random/50"


def test_a_data_free_attacker_holds_the_weights_and_no_image() -> None:
    card = ThreatModel.parse("data-free")
    assert str(card) == "weights/none/none/random"
    assert ThreatModel.parse(str(card)) == ThreatModel(access=Access.WEIGHTS, data="none", pool="none") == card


cards = st.builds(
    lambda access, data, pool, held: ThreatModel(access=access, data=data, pool=pool, share=held[0], questions=held[1]),
    st.sampled_from(Access),
    st.sampled_from(["labelled", "unlabelled"]),
    st.sampled_from(["trained", "fresh"]),
    st.tuples(st.floats(0.001, 1.0), st.none()) | st.tuples(st.just(1.0), st.integers(1, 10**9)),
)


@given(cards)
def test_a_card_is_read_back_from_its_text(card: ThreatModel) -> None:
    assert ThreatModel.parse(str(card)) == card


def test_a_tiny_share_is_read_back_from_its_text() -> None:
    card = ThreatModel(share=1e-5)
    assert ThreatModel.parse(str(card)) == card


@pytest.mark.parametrize("card", NAMED.values())
def test_a_card_survives_json(card: ThreatModel) -> None:
    assert ThreatModel.model_validate_json(card.model_dump_json()) == card


def test_a_card_passes_through_parse() -> None:
    assert ThreatModel.parse(card := ThreatModel(questions=3)) is card


def test_a_card_without_a_share_holds_the_whole_pool() -> None:
    assert ThreatModel.parse("label/unlabelled/fresh/random").share == 1.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("papre", "threat model 'papre' is neither one of paper, api, data-free nor of the form"),
        ("", "threat model '' is neither one of"),
        ("logits/labelled(1.0)/trained", "is neither one of"),
        ("logits/labelled(1.0)/trained/random/5/6", "is neither one of"),
        ("logits/labelled[1]/trained/random", "is neither one of"),
        ("scores/labelled/trained/random", "no access called 'scores'"),
        ("logits/stolen/trained/random", "data: "),
        ("logits/labelled(0)/trained/random", "share: "),
        ("logits/labelled(1.5)/trained/random", "share: "),
        ("logits/labelled(..)/trained/random", "share: "),
        ("logits/labelled/found/random", "pool: "),
        ("logits/labelled/trained/random/0", "questions: "),
        ("logits/labelled/trained/random/many", "questions: "),
        ("weights/none/fresh/random", "an attacker has a pool or no images: data none does not go with pool fresh"),
        (
            "weights/labelled/none/random",
            "an attacker has a pool or no images: data labelled does not go with pool none",
        ),
        ("weights/none/none/random/5", "an attacker without images queries nothing: leave the query budget out"),
        ("weights/none(0.5)/none/random", "an attacker without images holds no share of a pool: leave it out"),
        ("logits/labelled(0.5)/trained/random/5", "a threat model takes either a share of the pool or a query budget"),
    ],
)
def test_what_is_no_card_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        ThreatModel.parse(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_refusal_speaks_english_not_pydantic() -> None:
    with pytest.raises(UsageError) as refused:
        ThreatModel.parse("logits/labelled(0.5)/trained/random/5")
    assert "Value error" not in str(refused.value)


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ThreatModel().share = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "access", "top", "digits"),
    [
        ("probs", Access.PROBS, None, None),
        ("probs:2", Access.PROBS, None, 2),
        ("top5:2", Access.TOPK, 5, 2),
        ("top1", Access.TOPK, 1, None),
        ("labels", Access.LABEL, None, None),
        ("weights", Access.WEIGHTS, None, None),
    ],
)
def test_a_card_says_how_the_victim_is_served(text: str, access: Access, top: int | None, digits: int | None) -> None:
    card = ThreatModel.parse(f"{text}/unlabelled/fresh/public/50")
    assert (card.access, card.top, card.digits, card.start) == (access, top, digits, "public")
    assert (
        ThreatModel.parse(str(card))
        == card
        == ThreatModel.parse("api").served(text).model_copy(update={"start": "public"})
    )


@pytest.mark.parametrize("text", ["top0", "top", "top5:", "label:2", "logits:3", "probs:x", "top5:2:3", ""])
def test_what_is_no_way_of_serving_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ThreatModel.parse("api").served(text)
