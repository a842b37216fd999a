"""From a folder to a judgement: verdicts, lost cells, exposure, label-equivalents, sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auditing.made import FLOOR, LABELLED, MadeAudit, change, fail, keys, only_card, remove
from undistill.auditing.analyze import analyze
from undistill.auditing.case import comparison
from undistill.auditing.evidence import Arm
from undistill.auditing.result import AuditResult
from undistill.auditing.text import shown
from undistill.auditing.verdict import STRENGTH
from undistill.errors import UsageError
from undistill.experiments.plan import Planned, Role, Side
from undistill.threat_model import Card

BANNED = re.compile(r"undistillable|\bsecure|\bsafe|\bprove|protected|best attack gets", re.IGNORECASE)
SAME = {"kd": 90.0, "decoupled": 88.0, "standardised-kd": 87.0}


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (MadeAudit(soft=FLOOR, naive=70.0), "reduced to labels"),
        (MadeAudit(soft=SAME), "no effect"),
        (MadeAudit(soft={"kd": 84.0, "decoupled": 83.0}), "partial"),
        (MadeAudit(soft=FLOOR, soft0=FLOOR, naive=70, naive0=70, labels0={"label-only": 79.0}), "nothing to defend"),
        (MadeAudit(card=LABELLED, alone=80.0, soft=FLOOR, naive=70.0), "worthless to this thief"),
        (MadeAudit(soft=FLOOR, naive=70.0, seeds=(0,)), "inconclusive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_verdict_from_cells(made: MadeAudit, verdict: str, tmp_path: Path) -> None:
    made.write(tmp_path)
    card = only_card(tmp_path)
    assert (card.verdict, card.indication) == (verdict, None)
    assert card.why.endswith(".")


def test_a_small_suite_gives_an_indication(tmp_path: Path) -> None:
    MadeAudit(soft=FLOOR, naive=70.0, plan={"verdicts": False}).write(tmp_path)
    card = only_card(tmp_path)
    assert (card.verdict, card.indication) == (None, "reduced to labels")


def test_without_a_twin_there_is_exposure_and_no_verdict(tmp_path: Path) -> None:
    MadeAudit(twin=False).write(tmp_path)
    card = only_card(tmp_path)
    assert (card.verdict, card.indication, card.headroom) == (None, None, None)
    assert card.relative_accuracy == pytest.approx(100 * 80 / 95)
    assert "Undefended" not in card.sentence


def test_a_twin_that_is_worse_is_no_control(tmp_path: Path) -> None:
    MadeAudit(served=(95.0, 90.0)).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == "inconclusive"
    assert "The control is refused" in card.why
    assert card.relative_accuracy is not None


def test_a_thief_that_ties_by_score_is_not_chosen_by_test_images(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    chosen = [thief.name for thief in only_card(tmp_path).attacks if thief.chosen and thief.side == "defended"]
    assert chosen == ["kd (τ 4, α 1)", "label-only"]
    for name, score in (("label-smooth", 90.0), ("label-only", 10.0)):
        for key in keys(plan, side="defended", role="search", label=name):
            change(tmp_path, key, held_out=score)
    chosen = [thief.name for thief in only_card(tmp_path).attacks if thief.chosen and thief.side == "defended"]
    assert "label-smooth" in chosen


# -- cells that are lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [fail, remove])
def test_each_lost_cell_makes_it_inconclusive_or_leaves_it_alone(
    how: Callable[[Path, str], None], tmp_path: Path
) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0, seeds=(0, 1, 2)).write(tmp_path)
    assert only_card(tmp_path).verdict == "reduced to labels"
    for cell in plan.cells:
        if cell.seed not in (0, 10_000):
            continue
        kept = {path: path.read_bytes() for path in tmp_path.glob(f"*/*{cell.key[1:]}.json")}
        how(tmp_path, cell.key)
        card = only_card(tmp_path)
        assert card.verdict == ("reduced to labels" if cell.role == "curve" else "inconclusive"), cell
        for path, content in kept.items():
            path.write_bytes(content)


def test_an_attack_that_crashes_is_told(tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    fail(tmp_path, keys(plan, side="defended", label="soft, rank 3")[2])
    judgement = analyze(tmp_path)
    assert judgement.threat_models[0].verdict == "inconclusive"
    assert "1 of" in judgement.threat_models[0].why
    assert "it broke" in judgement.threat_models[0].why
    assert judgement.failed == 1
    assert judgement.done == judgement.planned - 1


@pytest.mark.parametrize("label", ["soft, rank 1", "soft, rank 2", "naive kd", "label-only"])
@pytest.mark.parametrize("side", ["defended", "undefended"])
def test_a_diverged_thief_never_says_more_for_the_defense(label: str, side: str, tmp_path: Path) -> None:
    plan = MadeAudit(soft=FLOOR, naive=70.0).write(tmp_path)
    before = only_card(tmp_path).verdict
    for key in keys(plan, side=side, label=label)[:2]:
        if plan.cell(key).role != "search":
            fail(tmp_path, key, "diverged")
    after = only_card(tmp_path).verdict
    assert before is not None
    assert after is not None
    assert STRENGTH[after] <= STRENGTH[before]


def test_a_rank_that_the_search_does_not_have_is_no_loss(tmp_path: Path) -> None:
    made = MadeAudit(soft=FLOOR, naive=70.0)
    plan = made.write(tmp_path)
    for key in keys(plan, side="defended", role="search", label="standardised-kd"):
        fail(tmp_path, key, "diverged")
    for key in keys(plan, side="defended", label="soft, rank 3"):
        fail(tmp_path, key)
    card = only_card(tmp_path)
    assert card.verdict == "reduced to labels"
    assert not any(thief.attack == "standardised-kd" and thief.side == "defended" for thief in card.attacks)


# -- a model that shows labels alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        ({}, "reduced to labels"),
        ({"noise": 1.5, "labels": {"label-only": 79.0, "label-smooth": 78.9}}, "reduced to labels"),
        ({"soft0": FLOOR, "naive0": 70.0}, "nothing to defend"),
        ({"card": LABELLED, "alone": 81.0}, "worthless to this thief"),
        ({"card": LABELLED, "alone": 70.0}, "reduced to labels"),
        ({"seeds": (0,)}, "inconclusive"),
        ({"shows": "weights"}, "inconclusive"),
    ],
)
def test_a_model_that_answers_with_labels_alone(made: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    MadeAudit(**{"soft": {}, "naive": None, "shows": "label", **made}).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == verdict
    assert card.relative_accuracy is not None
    if "shows" not in made:
        assert card.A_soft == card.A_label
        gap = next(found.estimate for found in card.contrasts if found.name.startswith("A_soft − floor"))
        assert gap.upper is not None
        assert gap.upper <= 0
        assert (card.reduction, card.reduction_share) == (
            card.headroom,
            100.0 if card.reduction_share is not None else None,
        )


def test_a_lost_thief_of_labels_is_no_reduction(tmp_path: Path) -> None:
    plan = MadeAudit(soft={}, naive=None, shows="label").write(tmp_path)
    fail(tmp_path, next(k for k in keys(plan, side="defended", role="labels")), "diverged")
    assert only_card(tmp_path).verdict == "inconclusive"


def test_no_audit_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no audit"):
        analyze(tmp_path)


def test_nothing_computed_is_told(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    for cell in plan.cells:
        remove(tmp_path, cell.key)
    with pytest.raises(UsageError, match=r"nothing of .* is computed yet: begin with stage 0"):
        analyze(tmp_path)


def test_no_thief_computed_is_told(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    for cell in plan.cells:
        if cell.role != "served":
            remove(tmp_path, cell.key)
    card = only_card(tmp_path)
    assert card.verdict == "inconclusive"
    assert card.sentence == "No attack on your model has been computed yet."


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_levels_are_the_best_of_their_kind(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    card = only_card(tmp_path)
    levels = [card.A_def, card.A_soft, card.A_label, card.A_soft0, card.A_label0, card.A_ref]
    means = [level.mean for level in levels if level is not None]
    assert means == pytest.approx([80, 80, 79, 90, 79.5, 78], abs=0.11)
    assert card.headroom is not None
    assert card.reduction is not None
    assert card.headroom.mean == pytest.approx(11, abs=0.11)
    assert card.reduction.mean == pytest.approx(10, abs=0.11)
    assert card.reduction_share == pytest.approx(100 * card.reduction.mean / card.headroom.mean, abs=0.01)
    assert card.tried == 3 + 2 + 2


def test_took_is_never_negative_in_print(tmp_path: Path) -> None:
    MadeAudit(soft={"kd": 95.0, "decoupled": 88.0}).write(tmp_path)
    card = only_card(tmp_path)
    assert card.reduction is not None
    assert card.reduction.mean == 0
    assert card.reduction.upper is not None
    assert card.reduction.upper < 0


def test_more_effort_counts_for_exposure_and_for_no_verdict(tmp_path: Path) -> None:
    MadeAudit(soft=FLOOR, naive=70.0, effort=88.0).write(tmp_path)
    card = only_card(tmp_path)
    assert card.verdict == "reduced to labels"
    assert card.best == "the best thief, twice the steps"
    assert card.relative_accuracy == pytest.approx(100 * 88 / 95, abs=0.2)


def test_the_sentence_is_that_of_the_protocol(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    text = only_card(tmp_path).sentence
    assert text.startswith(
        "With 50 unlabeled images and your probabilities, the best of 7 attacks found reached 80.0 %"
    )
    assert "; your model has 95.0. Undefended: 90.0; labels alone: 79.0." in text
    assert text.endswith("points that a defense keeping the class can remove.")


def test_the_chosen_thief_of_the_model_is_no_student_alone() -> None:
    def arm(side: Side, role: Role, score: float) -> Arm:
        return Arm((Planned(key="k", side=side, role=role, label=role, card=LABELLED),), score=score)

    found = comparison([arm("defended", "soft", 60), arm("defended", "labels", 70), arm("alone", "alone", 90)], True)
    assert (found.attacks.chosen, found.defended.chosen) == (found.baseline.all[0], found.labels.all[0])


def test_one_is_not_told_as_several(tmp_path: Path) -> None:
    assert shown(Card.parse("probs:1/unlabelled/fresh/random/50")) == "probabilities with 1 digit"
    plan = MadeAudit().write(tmp_path)
    remove(tmp_path, keys(plan, role="naive")[0])
    assert "1 of 88 planned cells is not computed" in only_card(tmp_path).why


def test_words_that_claim_too_much_are_nowhere(tmp_path: Path) -> None:
    for number, made in enumerate((MadeAudit(), MadeAudit(soft=FLOOR, naive=70.0), MadeAudit(soft=SAME))):
        made.write(tmp_path / str(number))
        judgement = analyze(tmp_path / str(number))
        text = json.dumps([c.sentence + c.why for c in judgement.threat_models] + [f.about for f in judgement.flags])
        assert BANNED.search(text + " ".join(judgement.not_tried)) is None


def test_a_method_is_judged_by_its_teachers(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    method = plan.model_copy(update={"question": "method"})
    (tmp_path / "audit.json").write_text(json.dumps(method.dump()))
    card = only_card(tmp_path)
    assert card.verdict == "inconclusive"  # one teacher is one unit
    assert card.A_def is not None
    assert (card.A_def.n, card.A_def.low) == (1, None)


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    judgement = analyze(tmp_path)
    assert AuditResult.model_validate(json.loads(json.dumps(judgement.dump()))) == judgement


def test_every_planned_cell_has_a_line_with_its_command(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    remove(tmp_path, plan.cells[5].key)
    lines = analyze(tmp_path).lines
    assert [line.key for line in lines] == [cell.key for cell in plan.cells]
    assert lines[5].status == "missing"
    assert all(line.command == f"undistill audit cell {tmp_path} {line.key}" for line in lines)


def test_an_accuracy_lies_between_nothing_and_all(tmp_path: Path) -> None:
    MadeAudit(seeds=(0, 1), noise=8.0).write(tmp_path)
    found = [thief.accuracy for thief in only_card(tmp_path).attacks]
    assert any(one is not None and one.high == 100 for one in found)
    assert all(one is not None and one.low is not None and 0 <= one.low <= one.mean for one in found)
