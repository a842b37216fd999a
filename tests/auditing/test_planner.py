"""Plans of audits: what is in them, what is left out, and what tells two cells apart."""

from __future__ import annotations

from typing import Any

import pytest

from undistill.attacks.base import ATTACKS
from undistill.auditing.making import Attackers, includes
from undistill.auditing.planner import Planner
from undistill.auditing.suite import FIRST_SEARCH_SEED, QUICK, STANDARD, SUITES, Suite, expected_resolution, suite
from undistill.auditing.suite import usual_delta as delta
from undistill.errors import UsageError
from undistill.experiments.plan import Planned, Skipped, Subject
from undistill.threat_model import Access, ThreatModel
from undistill.training.recipe import read

TRAINING = read("digits").dump()["training"]
ATTACKERS = Attackers(TRAINING, [], ({"name": "cnn", "width": 0.5},), steps=400, pool=400, trained=810)
DEFENDED = Subject(name="defended", side="defended", model="runs/nasty", id="a" * 16, label="nasty")
TWIN = Subject(name="undefended", side="undefended", model="runs/normal", id="b" * 16, label="normal")
SERVED = ("probs", "top5:2", "top1", "label")


def cards(*servings: str, questions: tuple[int, ...] = (50,)) -> list[ThreatModel]:
    return [ThreatModel.parse("api").served(s).model_copy(update={"questions": q}) for q in questions for s in servings]


def plan(
    of: Suite = STANDARD,
    subjects: tuple[Subject, ...] = (DEFENDED, TWIN),
    wanted: list[ThreatModel] | None = None,
    seeds: int = 5,
    attackers: Attackers = ATTACKERS,
) -> tuple[tuple[Planned, ...], tuple[Skipped, ...]]:
    return Planner(of, subjects, wanted or cards(*SERVED), attackers, range(seeds), "f" * 16).plan()


def test_every_suite_stays_within_its_cap_with_what_it_serves_by_itself() -> None:
    for one in SUITES.values():
        found, skipped = plan(one, wanted=cards(*(SERVED if one.verdicts else ("probs", "label"))), seeds=one.seeds)
        assert len(found) <= one.most
        assert skipped == ()


def test_keys_are_unique_and_every_need_is_planned_for_an_earlier_stage() -> None:
    found, _ = plan()
    stage = {cell.key: cell.stage for cell in found}
    assert len(stage) == len(found)
    assert all(stage[need] < cell.stage for cell in found for need in cell.needs)
    assert [cell.stage for cell in found] == sorted(stage.values())


def test_both_sides_are_searched_and_robbed_alike() -> None:
    found, _ = plan()
    sides: dict[str, list[Any]] = {"defended": [], "undefended": []}
    for cell in found:
        if cell.side != "alone" and cell.role in ("search", "soft", "labels", "naive"):
            ranked = cell.choice.rank if cell.choice else 0
            sides[cell.side].append((cell.role, str(cell.attack), ranked, str(cell.changes), cell.card, cell.seed))
    assert sides["defended"] == sides["undefended"]


def test_images_that_are_not_queried_bring_their_attack_and_their_baseline() -> None:
    wanted = [card.model_copy(update={"unqueried": 200}) for card in cards("probs", "label", questions=(50, 100))]
    found, skipped = plan(SUITES["standard@2"], wanted=wanted)
    assert skipped == ()

    def tried(side: str, card: ThreatModel, role: str = "search") -> set[str]:
        chosen = [cell for cell in found if cell.side == side and cell.role == role and cell.card == str(card)]
        return {cell.attack.get("name", "") for cell in chosen}

    for side in ("defended", "undefended"):
        assert {"semi", "active"} <= tried(side, wanted[0])
        assert {"semi", "active", "label-only"} <= tried(side, wanted[1])
        for card in (wanted[1], wanted[3]):
            assert {
                cell.label for cell in found if cell.side == side and cell.role == "labels" and cell.card == str(card)
            } >= {"semi", "active"}
    assert tried("alone", wanted[1]) == {"scratch", "semi-scratch", "active-scratch"}
    quick, _ = plan(SUITES["quick"], wanted=wanted[:2])
    assert {cell.attack["name"] for cell in quick if cell.side == "alone"} == {
        "scratch",
        "semi-scratch",
        "active-scratch",
    }
    much = [cards("probs")[0].model_copy(update={"unqueried": 320})]
    curve = [ThreatModel.parse(c.card) for c in plan(SUITES["standard@2"], wanted=much)[0] if c.role == "curve"]
    assert {card.questions for card in curve} == {25}
    assert all((card.questions or 0) + card.unqueried <= ATTACKERS.pool for card in curve)
    without, _ = plan(SUITES["standard@2"])
    assert not any("semi" in cell.attack.get("name", "") for cell in without)


def test_the_search_has_seeds_of_its_own() -> None:
    found, _ = plan()
    searched = {cell.seed for cell in found if cell.role == "search"}
    assert min(searched) == FIRST_SEARCH_SEED
    assert searched.isdisjoint({cell.seed for cell in found if cell.role != "search"})


def test_audits_with_one_twin_share_its_cells_and_no_other_cell() -> None:
    other = DEFENDED.model_copy(update={"id": "c" * 16})
    first, second = ({cell.key: cell.side for cell in plan(subjects=(s, TWIN))[0]} for s in (DEFENDED, other))
    assert {first[key] for key in first.keys() & second.keys()} == {"undefended", "alone"}
    assert {first[key] for key in first.keys() - second.keys()} == {"defended"}


def test_where_a_model_lies_does_not_count_but_what_stands_before_it_does() -> None:
    moved = DEFENDED.model_copy(update={"model": "elsewhere"})
    hidden = DEFENDED.model_copy(update={"behind": ({"name": "stingy", "share": 0.2},)})
    keys = [
        {cell.key for cell in plan(subjects=(s, TWIN))[0] if cell.side == "defended"} for s in (DEFENDED, moved, hidden)
    ]
    assert keys[0] == keys[1]
    assert keys[0].isdisjoint(keys[2])


def test_attackers_of_labels_count_for_every_way_of_serving() -> None:
    found, _ = plan()
    for cell in found:
        if cell.role == "labels":
            assert ThreatModel.parse(cell.card).access is Access.LABEL
            assert set(cell.cards) == {str(card) for card in cards(*SERVED)}


def test_a_attacker_of_probabilities_does_not_count_where_only_the_top_class_is_served() -> None:
    found, _ = plan()
    top1 = str(cards("top1")[0])
    assert all(
        ThreatModel.parse(cell.card).access <= Access.TOPK
        for cell in found
        if top1 in cell.cards and cell.side != "alone"
    )


@pytest.mark.parametrize(
    ("strong", "weak", "can"),
    [
        ("probs", "label", True),
        ("label", "probs", False),
        ("probs", "top5:2", True),
        ("probs:1", "top5:2", False),
        ("probs:2", "top5:2", True),
        ("top5:2", "top1", False),
        ("top5", "top1:1", True),
        ("top1", "top5", False),
        ("weights", "probs", True),
        ("logits", "probs:1", True),
    ],
)
def test_who_can_do_what_another_can(strong: str, weak: str, can: bool) -> None:
    first, second = (ThreatModel.parse("api").served(text) for text in (strong, weak))
    assert includes(first, second) is can
    assert not includes(first, second.model_copy(update={"questions": 7}))


def test_what_there_is_no_room_for_is_named_and_its_card_is_not_reported() -> None:
    found, skipped = plan(QUICK, wanted=cards("probs", "label", questions=(50, 100)), seeds=2)
    assert "100 questions, probs" in [left.what for left in skipped]
    assert all("30 cells" in left.why or left.why == "its controls are left out" for left in skipped)
    assert not [cell for cell in found for card in cell.cards if card.endswith("/100")]


def test_more_seeds_make_more_room() -> None:
    found, _ = plan(QUICK, wanted=cards("probs", "label"), seeds=5)
    assert 30 < len(found) <= 75


def test_without_a_twin_nothing_is_undefended_and_a_student_alone_is_there_all_the_same() -> None:
    found, _ = plan(subjects=(DEFENDED,))
    assert {cell.side for cell in found} == {"defended", "alone"}


def test_weights_are_attacked_from_the_inside() -> None:
    found, _ = plan(wanted=cards("weights", "probs"), seeds=1)
    inside = {settings["name"] for settings in STANDARD.inside}
    for cell in found:
        if cell.attack.get("name") in inside:
            assert ThreatModel.parse(cell.card).access is Access.WEIGHTS
    assert {cell.attack.get("name") for cell in found} >= inside


def test_few_images_are_seen_as_often_as_the_steps_need() -> None:
    for count in (20, 50, 100, 400):
        training = ATTACKERS.recipe(cards("probs", questions=(count,))[0])["training"]
        steps = training["epochs"] * training["passes"] * -(-count // training["batch"])
        assert 0.7 * 400 <= steps <= 1.3 * 400


def test_with_labels_soft_and_hard_answers_are_mixed_and_without_they_are_not() -> None:
    for data, alpha in (("unlabelled", 1.0), ("labelled", 0.9)):
        held = [card.model_copy(update={"data": data}) for card in cards("probs", "label")]
        found, _ = plan(QUICK, wanted=held, seeds=2)
        assert {cell.attack["alpha"] for cell in found if cell.attack.get("name") == "kd"} == {alpha}


def test_every_attack_of_a_suite_exists_and_takes_its_settings() -> None:
    for one in SUITES.values():
        for settings in (*one.soft, *one.labels, *one.inside, *one.public):
            ATTACKS.make(settings)


def test_a_suite_nobody_wrote_is_refused() -> None:
    with pytest.raises(UsageError, match="no suite called 'standart'; did you mean standard"):
        suite("standart")


def test_delta_is_half_a_point_on_ten_thousand_images_and_two_on_five_hundred() -> None:
    assert [delta(n) for n in (497, 2_500, 10_000, 50_000)] == [2.0, 1.0, 0.5, 0.5]


def test_more_units_resolve_smaller_differences() -> None:
    found = [expected_resolution(n, 497) for n in (1, 2, 3, 5, 10)]
    assert found[0] is None
    assert found[1:] == sorted(found[1:], reverse=True)  # type: ignore[type-var]


def test_weights_alone_are_attacked_from_the_inside_too() -> None:
    for one in (QUICK, STANDARD):
        found, _ = plan(one, wanted=cards("weights"), seeds=1)
        assert [cell for cell in found if cell.role == "soft" and (cell.label.startswith(("inside", "head-refit")))]
