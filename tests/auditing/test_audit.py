"""An audit as it runs: cells that can be computed in any process, once, and that no label or test image leaks into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from undistill.attacks.base import ATTACKS
from undistill.attacks.kd import KD
from undistill.auditing import compute as computing
from undistill.auditing import making
from undistill.auditing.audit import Ready, prepare, run
from undistill.auditing.compute import compute, resolved
from undistill.auditing.config import AuditConfig
from undistill.data.image_set import ImageSet, Splits
from undistill.errors import RunError, UsageError
from undistill.experiments import extraction as holding
from undistill.experiments import plan as planned
from undistill.experiments.cell import Cell
from undistill.experiments.plan import FILE, Plan, read
from undistill.models import Classifier
from undistill.oracle import BlackBox
from undistill.oracle.victim import Victim, resolve
from undistill.training.evaluate import predict
from undistill.training.recipe import Recipe

Make = Callable[..., Ready]
SMALL = AuditConfig(suite="quick", access=("probs", "label"), queries=(6,), students=("cnn:0.0625",), steps=4, seeds=1)


def owned(model: Classifier, splits: Splits) -> Victim:
    """The network as a victim of which it is known that it never saw the pool."""
    return replace(resolve(model), fresh_pool=True, data_fingerprint=splits.fingerprint)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines of a log instead of twenty."""
    monkeypatch.setattr(making, "EPOCHS", 2)


@pytest.fixture
def made(make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path) -> Make:
    """`made(request, control=True, data=splits)`: a small audit of two networks, not begun."""

    def call(request: AuditConfig = SMALL, *, control: bool = True, data: Splits = splits, out: str = "audit") -> Ready:
        victim = owned(make_model(seed=1), splits)
        twin = owned(make_model(seed=1, role="nasty"), splits) if control else None
        given = request.but(delta=request.delta or 99.0)
        return prepare(victim, data, given, control=twin, recipe=recipe, out=tmp_path / out, bank=None)

    return call


def cells(ready: Ready) -> dict[str, Cell]:
    found = {wanted.key: ready.folder.done(wanted.key) for wanted in ready.plan.cells}
    return {key: cell for key, cell in found.items() if cell is not None}


def test_every_planned_cell_is_computed_once(made: Make) -> None:
    ready, said = made(), list[str]()
    run(ready, say=said.append)
    found = cells(ready)
    assert len(found) == len(ready.plan.cells) == len(said)
    assert {cell.status for cell in found.values()} == {"ok"}
    before = {path: path.stat().st_mtime_ns for path in ready.folder.folder.rglob("*.json")}
    run(made(), say=said.append)
    assert said[-1] == f"{len(found)} of {len(found)} cells are there already"
    after = {path: path.stat().st_mtime_ns for path in ready.folder.folder.rglob("*.json")}
    assert {path.name for path in before if after[path] != before[path]} <= {FILE}
    assert not (ready.folder.folder / "work").exists()


def test_a_cell_alone_gives_what_the_whole_audit_gives(made: Make) -> None:
    whole, single = made(), made(out="single")
    run(whole)
    run(replace(single, plan=single.plan), say=None)
    ours, theirs = cells(whole), cells(single)
    assert {key: (c.accuracy, c.held_out, c.queries) for key, c in ours.items()} == {
        key: (c.accuracy, c.held_out, c.queries) for key, c in theirs.items()
    }


def test_a_changed_plan_on_old_cells_is_refused(made: Make) -> None:
    run(made())
    with pytest.raises(UsageError, match="holds another audit"):
        run(made(SMALL.but(steps=400)))
    with pytest.raises(UsageError, match=r"holds another audit .*: delta was 99.0, now 50.0"):
        run(made(SMALL.but(delta=50.0)))


def test_a_cell_waits_for_those_it_rests_on(made: Make) -> None:
    ready = made(SMALL.but(suite="standard", questions=(6,), serve=("label",)))
    planned.write(ready.folder.folder, ready.plan)
    last = ready.plan.cells[-1]
    assert last.needs
    with pytest.raises(UsageError, match=rf"{last.key} needs \d+ cells that are not computed.*do stage 1 first"):
        compute(ready.folder, last.key)


def test_a_standard_audit_searches_and_then_reports_what_it_found(made: Make) -> None:
    ready = made(SMALL.but(suite="standard", serve=("label",)))
    run(ready)
    found = cells(ready)
    assert {cell.status for cell in found.values()} == {"ok"}
    for wanted in ready.plan.cells:
        cell = found[wanted.key]
        assert (cell.phase == "selection") == (wanted.role == "search")
        assert (cell.accuracy is None) == (wanted.role == "search")
        if wanted.role == "search":
            assert cell.n_test == 0
            assert cell.arrays is None
            assert cell.held_out is not None
        if wanted.choice is not None and wanted.role in ("labels", "alone"):
            rates = {need: found[need] for need in wanted.choice.among}
            scores = {lr: _mean(rates, lr) for lr in {c.recipe["training"]["optimizer"]["lr"] for c in rates.values()}}
            assert scores[cell.recipe["training"]["optimizer"]["lr"]] == max(scores.values())


def _mean(cells: dict[str, Cell], lr: float) -> float:
    of = [c.held_out or 0.0 for c in cells.values() if c.recipe["training"]["optimizer"]["lr"] == lr]
    return sum(of) / len(of)


def test_the_search_never_looks_at_test_images(made: Make, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, seen = made(SMALL.but(suite="standard", serve=("label",))), list[ImageSet]()

    def watched(network: nn.Module, images: ImageSet) -> torch.Tensor:
        seen.append(images)
        return predict(network, images)

    monkeypatch.setattr("undistill.experiments.extraction.predict", watched)
    planned.write(ready.folder.folder, ready.plan)
    for cell in ready.plan.cells:
        if cell.role == "search":
            compute(ready.folder, cell.key)
    assert seen
    assert not [images for images in seen if images is splits.test]


def relabelled(images: ImageSet | None) -> Any:
    return None if images is None else replace(images, labels_N=(images.labels_N + 1) % 4)


def test_an_unlabelled_card_never_sees_a_label(made: Make, splits: Splits) -> None:
    """True labels of everything but the test images are poisoned: no number of an attacker moves, those of controls do."""
    poisoned = replace(
        splits,
        train=relabelled(splits.train),
        pool=relabelled(splits.pool),
        val=relabelled(splits.val),
    )
    honest, fooled = made(), made(data=poisoned, out="poisoned")
    run(honest)
    run(fooled)
    ours, theirs = cells(honest), cells(fooled)
    attackers = [p for p in honest.plan.cells if p.side != "alone" and p.role != "served"]
    assert attackers
    for wanted in attackers:
        one, other = ours[wanted.key], theirs[wanted.key]
        assert (one.accuracy, one.held_out, one.curve[-1]["loss"]) == (
            other.accuracy,
            other.held_out,
            other.curve[-1]["loss"],
        )
    alone = next(p for p in honest.plan.cells if p.side == "alone")
    assert ours[alone.key].curve[-1]["loss"] != theirs[alone.key].curve[-1]["loss"]


def test_an_attack_given_true_labels_would_be_noticed(
    made: Make, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above fails where an attacker is handed the pool as it is."""
    poisoned = replace(splits, pool=relabelled(splits.pool))
    real = holding.hold
    monkeypatch.setattr(
        "undistill.experiments.extraction.hold",
        lambda data, card, attacker, seed, victim=None: real(
            data, card.model_copy(update={"data": "labelled"}), attacker, seed, victim
        ),
    )
    kd = {"name": "kd", "alpha": 0.5}
    request = SMALL.but(also=(kd,))
    honest, fooled = made(request), made(request, data=poisoned, out="poisoned")
    run(honest)
    run(fooled)
    ours, theirs = cells(honest), cells(fooled)
    moved = [
        p
        for p in honest.plan.cells
        if p.attack == kd | {"temperature": 4.0} and ours[p.key].curve != theirs[p.key].curve
    ]
    assert moved


def test_an_attack_that_crashes_is_a_failed_cell_and_is_tried_again(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(KD, "steal", broken)
        ready = made()
        run(ready)
    failed = [cell for cell in cells(ready).values() if cell.status == "failed"]
    assert {cell.why for cell in failed} == {"ZeroDivisionError: no such luck"}
    assert {cell.attack for cell in failed} == {"kd"}
    run(made())
    assert {cell.status for cell in cells(made()).values()} == {"ok"}


def test_a_full_disk_is_no_result(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RunError("no space left to write there")

    monkeypatch.setattr(computing, "attack", full)
    ready = made()
    with pytest.raises(RunError, match="no space left"):
        run(ready)
    assert not [cell for cell in cells(ready).values() if cell.status == "failed"]


def test_a_model_that_changed_since_the_plan_is_refused(
    made: Make, make_model: Callable[..., Classifier], splits: Splits
) -> None:
    ready = made()
    planned.write(ready.folder.folder, ready.plan)
    other = replace(ready.folder, victims={**ready.folder.victims, "defended": owned(make_model(seed=9), splits)})
    attacker = next(p for p in ready.plan.cells if p.victim == "defended")
    with pytest.raises(UsageError, match="is not the model that was planned for"):
        compute(other, attacker.key)


def test_data_that_changed_since_the_plan_are_refused(made: Make, splits: Splits) -> None:
    ready = made()
    planned.write(ready.folder.folder, ready.plan)
    other = replace(ready.folder, data=replace(splits, fingerprint="another"))
    with pytest.raises(UsageError, match="the data are not those that were planned for"):
        compute(other, ready.plan.cells[0].key)


def test_cells_are_shared_with_an_audit_of_the_same_twin(made: Make, tmp_path: Path) -> None:
    shared = tmp_path / "cells"
    first, second = (replace(made(out=o), folder=replace(made(out=o).folder, shared=shared)) for o in ("one", "two"))
    run(first)
    attackers = [path for path in shared.glob("*.json") if json.loads(path.read_text())["kind"] != "victim"]
    before = {path: path.stat().st_mtime_ns for path in attackers}
    run(second)
    assert len(list(shared.glob("*.npz"))) < len(cells(first)) + len(cells(second))
    assert {path: path.stat().st_mtime_ns for path in attackers} == before
    assert json.loads(next((second.folder.folder / "done").iterdir()).read_text())["cells"] == "../cells"


def test_questions_of_an_audit_are_counted_for_each_image(made: Make) -> None:
    ready = made()
    run(ready)
    found = cells(ready)
    for wanted in ready.plan.cells:
        if wanted.role in ("naive", "labels"):
            assert found[wanted.key].queries == 6


def test_a_model_of_unknown_origin_needs_its_owners_word(
    make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nothing says which images"):
        prepare(make_model(), splits, SMALL, recipe=recipe, out=tmp_path / "audit", bank=None)
    ready = prepare(make_model(), splits, SMALL.but(unseen=True), recipe=recipe, out=tmp_path / "audit", bank=None)
    run(ready)
    assert {cell.why for cell in cells(ready).values()} == {""}


def test_a_function_is_audited_by_what_it_answers(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    def says(pixels: Any) -> Any:
        return pixels.reshape(len(pixels), -1).sum(1).astype("int64") % 4

    from undistill.threat_model import Access

    box = BlackBox(says, Access.LABEL, 4, "box")
    request = SMALL.but(unseen=True)
    ready = prepare(box, splits, request, recipe=recipe, out=tmp_path / "audit", bank=None)
    assert {card.split("/")[0] for card in ready.plan.cards} == {"label"}
    run(ready)
    assert {cell.why for cell in cells(ready).values()} == {""}


def test_a_function_of_labels_alone_cannot_be_served_with_probabilities(
    splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    from undistill.threat_model import Access

    box = BlackBox(lambda pixels: pixels[:, 0, 0, 0].astype("int64") % 4, Access.LABEL, 4, "box")
    with pytest.raises(UsageError, match="label is all that the model returns: none of --access probs can be had"):
        prepare(box, splits, SMALL.but(serve=("probs",)), recipe=recipe, out=tmp_path / "audit")


def test_behind_a_defense_the_twin_is_the_model_itself(
    make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    victim = owned(make_model(seed=1), splits)
    ready = prepare(victim, splits, SMALL.but(behind=("top1",)), recipe=recipe, out=tmp_path / "audit", bank=None)
    assert [subject.side for subject in ready.plan.subjects] == ["defended", "undefended"]
    assert ready.plan.subjects[0].behind == ({"name": "top1"},)
    run(ready)
    assert {cell.status for cell in cells(ready).values()} == {"ok"}


def test_a_twin_that_is_much_worse_is_refused(
    make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    first = replace(splits, test=splits.test.take((splits.test.labels_N == 0).nonzero().squeeze(1)))
    models = [make_model(seed=1), make_model(seed=2)]
    for place, model in enumerate(models):
        assert isinstance(model.head, nn.Linear)
        with torch.no_grad():
            model.head.bias[place] += 1e3
    with pytest.raises(UsageError, match=r"the control reaches 0\.0 %, the defended model 100\.0"):
        prepare(
            owned(models[0], first),
            first,
            SMALL,
            control=owned(models[1], first),
            recipe=recipe,
            out=tmp_path / "audit",
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"questions": (500,)}, "the fresh pool has 12 images; 500 queries need as many"),
        ({"suite": "slow"}, "no suite called 'slow'"),
        ({"also": ("scratch",)}, "scratch queries no images"),
        ({"also": ("kdd",)}, "no attack called 'kdd'"),
        ({"serve": ("everything",)}, "no access called 'everything'"),
        ({"seeds": 0}, "at least 1 seed"),
        ({"behind": ("nasty",)}, "nasty trains a network"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_a_sentence(made: Make, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        made(SMALL.but(**change))


def test_settings_found_by_the_search_are_taken_over_with_the_changes(made: Make) -> None:
    ready = made(SMALL.but(suite="standard", serve=("probs",)))
    wanted = next(p for p in ready.plan.cells if p.changes == {"training.clip": 1.0})
    kd = {"temperature": 8.0, "alpha": 1.0}
    training = {**wanted.recipe["training"], "optimizer": {"name": "sgd", "lr": 0.7}, "clip": None}
    cell = Cell(
        id="0" * 16,
        victim="v",
        victim_id="",
        attack="kd",
        attack_settings=kd,
        held_out=90.0,
        recipe={"training": training},
    )
    found = resolved(ready.plan, wanted, [cell])
    assert found.attack == ATTACKS.make({"name": "kd", **kd})
    assert (found.training.optimizer.lr, found.training.clip) == (0.7, 1.0)
    effort = next(p for p in ready.plan.cells if p.times == {"student.width": 2.0})
    assert resolved(ready.plan, effort, [cell]).student.width == 0.125


def test_a_plan_is_read_back_as_it_was_written(made: Make) -> None:
    ready = made()
    run(ready)
    assert read(ready.folder.folder).cells == ready.plan.cells
    assert Plan.model_validate(json.loads(json.dumps(ready.plan.dump()))) == ready.plan


@pytest.mark.slow
def test_a_method_is_audited_on_teachers_trained_for_it(recipe: Recipe, tmp_path: Path) -> None:
    from undistill.data.load import load

    request = SMALL.but(method="nasty", teachers=2, questions=(20,))
    small = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"limit": 300, "test": 100, "pool": 60, "val": 0})}
    )
    data = load(small.data)
    ready = prepare(None, data, request, recipe=small, out=tmp_path / "audit", bank=None, jobs=1)
    assert [s.name for s in ready.plan.subjects] == ["undefended-0", "defended-0", "undefended-1", "defended-1"]
    run(ready)
    found = cells(ready)
    assert {cell.status for cell in found.values()} == {"ok"}
    assert len({cell.victim_id for cell in found.values() if cell.kind == "victim"}) == 4


def test_an_untrained_network_in_a_model_folder_keeps_its_weights(made: Make) -> None:
    ready = made()
    victim = ready.folder.victims["defended"]
    before = {name: value.clone() for name, value in victim.network.state_dict().items()}
    run(ready)
    assert all(torch.equal(value, before[name]) for name, value in victim.network.state_dict().items())
    assert isinstance(victim.network, nn.Module)
