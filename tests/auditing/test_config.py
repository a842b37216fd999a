"""What an audit is asked for: refused before anything is computed, or planned as it was meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from undistill.auditing.audit import Ready, prepare
from undistill.auditing.config import AuditConfig, attackers_of
from undistill.auditing.making import EPOCHS, Attackers
from undistill.auditing.planner import knowing
from undistill.cli.audit import _only_what_counts
from undistill.data.image_set import Splits
from undistill.errors import UsageError
from undistill.experiments.plan import Subject
from undistill.models import Classifier
from undistill.models import model_folder as models
from undistill.oracle import BlackBox
from undistill.oracle.victim import Victim, resolve
from undistill.threat_model import Access, ThreatModel
from undistill.training.recipe import Recipe, read

SMALL = AuditConfig(suite="quick", queries=(6,), students=("cnn:0.0625",), steps=4, seeds=1)
Ask = Callable[..., Ready]


def owned(model: Classifier, splits: Splits, **more: Any) -> Victim:
    """The network as a victim of which it is known that it never saw the pool."""
    return replace(resolve(model, **more), fresh_pool=True, data_fingerprint=splits.fingerprint)


@pytest.fixture
def ask(make_model: Callable[..., Classifier], splits: Splits, recipe: Recipe, tmp_path: Path) -> Ask:
    """`ask(model=…, data=…, recipe=…, **request)`: an audit, planned."""

    def call(
        model: Any = "", *, data: Splits = splits, recipe: Recipe = recipe, control: Any = None, **request: Any
    ) -> Ready:
        model = owned(make_model(seed=1), splits) if model == "" else model
        given = SMALL.but(**{"delta": 60.0, **request})
        return prepare(model, data, given, control=control, recipe=recipe, out=tmp_path / "audit", bank=None)

    return call


@pytest.mark.parametrize("suite", ["quick", "standard"])
@pytest.mark.parametrize("card", ["unlabelled/fresh", "labelled/fresh", "labelled/trained"])
@pytest.mark.parametrize(
    "serve", [("probs", "label"), ("top5:2", "top1"), ("label",), ("weights",), ("label", "weights")]
)
def test_whatever_is_asked_comes_with_its_controls(
    suite: str, card: str, serve: tuple[str, ...], ask: Ask, make_model: Any, splits: Splits
) -> None:
    """`Plan` refuses a plan without them, so this fails where the planner drops one."""
    twin = owned(make_model(seed=2), splits)
    plan = ask(control=twin, suite=suite, card=card, serve=serve).plan
    for name in plan.cards:
        here = plan.of(name)
        assert {"alone", "defended", "undefended"} <= {cell.side for cell in here}
        seeds = {cell.seed for cell in here if cell.side == "defended" and cell.role != "search"}
        assert seeds <= {cell.seed for cell in here if cell.role == "alone"}


def test_a_model_and_a_method_are_one_too_many(ask: Ask) -> None:
    with pytest.raises(UsageError, match="Name a MODEL, or a defense with --method: one of the two"):
        ask(method="nasty")
    with pytest.raises(UsageError, match="one of the two"):
        ask(None)


@pytest.mark.parametrize("more", [{"behind": ("stingy",)}, {"answers": "probs"}])
def test_what_belongs_to_a_model_is_refused_for_a_method(more: dict[str, Any], ask: Ask) -> None:
    with pytest.raises(UsageError, match="--control, --output-defense and --outputs go with a MODEL"):
        ask(None, method="nasty", **more)


def test_a_model_is_no_control_of_itself(ask: Ask, make_model: Any, splits: Splits) -> None:
    with pytest.raises(UsageError, match="the control is the audited model itself"):
        ask(control=owned(make_model(seed=1), splits))


@pytest.mark.parametrize("delta", [0.0, -1.0, 100.0, float("nan")])
def test_a_difference_that_matters_is_above_nothing(delta: float, ask: Ask) -> None:
    with pytest.raises(UsageError, match="delta is a difference that matters"):
        ask(delta=delta)


def test_a_model_of_unknown_origin_needs_its_owners_word(ask: Ask, make_model: Any) -> None:
    with pytest.raises(UsageError, match="nothing says which images normal"):
        ask(resolve(make_model()))
    assert ask(resolve(make_model()), unseen=True).plan.cells


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"public": "nowhere"}, "there are no public weights at nowhere"),
        ({"card": "probs/unlabelled/fresh/public/6"}, "starts from public weights: name them with --public"),
        ({"card": "data-free"}, "an audit's attacks hold images"),
        ({"students": ("nonsense",)}, "no model called 'nonsense'"),
        ({"students": ("cnn:0",)}, "student cnn: width"),
    ],
)
def test_what_no_attacker_could_play_is_refused_at_once(change: dict[str, Any], sentence: str, ask: Ask) -> None:
    with pytest.raises(UsageError, match=sentence):
        ask(**change)


def test_report_seeds_never_meet_those_of_the_search(ask: Ask, recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="report seeds end below 10000"):
        ask(recipe=recipe.model_copy(update={"seed": 9_999}), seeds=2)


def test_a_function_is_asked_about_so_many_images_and_no_view(ask: Ask) -> None:
    box = BlackBox(lambda pixels: pixels[:, 0, 0, 0].astype("int64") % 4, Access.LABEL, 4, "box")
    with pytest.raises(UsageError, match="box would be queried on every view of every image"):
        ask(box, card="label/labelled(1.0)/trained/random", questions=())


def test_who_attacks_a_function_takes_the_network_that_the_recipe_would_train(recipe: Recipe, splits: Splits) -> None:
    small = recipe.model_copy(update={"student": recipe.student.model_copy(update={"name": "cnn", "width": 0.0625})})
    large = read({**small.dump(), "model": {"name": "cnn", "width": 0.25}})
    box = Victim(BlackBox(lambda _: None, Access.PROBS, splits.num_classes, "api"), None, "id")
    found = attackers_of(AuditConfig(), large, splits, box).students[0]
    assert (found["name"], found["width"]) == ("cnn", 0.25)


def test_a_whole_card_keeps_its_way_of_serving(ask: Ask) -> None:
    plan = ask(card="top1/unlabelled/fresh/random", questions=(6,)).plan
    assert plan.cards == ("top1/unlabelled(1.0)/fresh/random/6",)


def test_without_images_to_score_it_on_there_is_no_search_but_every_temperature(ask: Ask, splits: Splits) -> None:
    bare = replace(splits, val=None)
    plan = ask(data=bare, suite="standard", questions=(12,)).plan
    assert "standard@2 without its search" in plan.suite
    assert not [cell for cell in plan.cells if cell.role == "search"]
    tried = {c.attack["temperature"] for c in plan.cells if c.attack.get("name") == "kd" and c.side == "defended"}
    assert tried == {1.0, 2.0, 4.0, 8.0, 20.0}
    assert plan.skipped[0].what == "the search"
    assert ask(suite="standard", questions=(6,)).plan.suite == "standard@2"


def test_a_function_of_probabilities_is_robbed_at_every_temperature_without_a_search(ask: Ask) -> None:
    def says(pixels: Any) -> Any:
        import numpy as np

        return np.full((len(pixels), 4), 0.25)

    plan = ask(BlackBox(says, Access.PROBS, 4, "box"), suite="standard", unseen=True).plan
    assert "without its search" in plan.suite
    assert {c.attack["temperature"] for c in plan.cells if c.attack.get("name") == "kd"} == {1.0, 2.0, 4.0, 8.0, 20.0}


@pytest.mark.parametrize("suite", ["standard@1", "standard@2"])
def test_the_newest_suite_plays_the_attack_that_knows_the_defense(ask: Ask, suite: str) -> None:
    """On the side that has one, in the very settings of the audited defense."""
    plan = ask(behind=("stingy", "rounding digits=1"), suite=suite, questions=(6,), seeds=5).plan
    (defended,) = (subject for subject in plan.subjects if subject.side == "defended")
    played = [cell for cell in plan.cells if cell.attack.get("name") == "inverse"]
    assert bool(played) is (suite == "standard@2")
    assert {cell.side for cell in played} <= {"defended"}
    for cell in played:
        assert cell.attack["against"] == list(defended.behind)


def test_what_is_not_met_is_not_played_through(ask: Ask) -> None:
    """Who holds the weights goes around an output defense; a trained one, ours or foreign, is none."""
    plan = ask(behind=("stingy",), suite="standard", serve=("weights",), questions=(6,), seeds=5).plan
    assert "inverse" not in {cell.attack.get("name") for cell in plan.cells}
    subject = Subject(name="a", side="defended", model="a", defense={"name": "nasty", "omega": 0.1, "temperature": 4.0})
    assert knowing(subject, Access.PROBS) == ()
    behind = subject.model_copy(update={"behind": ({"name": "top1"},)})
    assert knowing(behind, Access.PROBS) == ({"name": "inverse", "against": [{"name": "top1"}]},)
    assert knowing(behind, Access.WEIGHTS) == ()


def test_who_holds_the_weights_asks_the_raw_network(ask: Ask) -> None:
    plan = ask(behind=("stingy",), suite="standard", serve=("probs", "weights"), questions=(6,), seeds=5).plan
    raw = [cell for cell in plan.cells if cell.label == "rank 1, raw answers"]
    assert {(cell.side, ThreatModel.parse(cell.card).access) for cell in raw} == {("defended", Access.WEIGHTS)}
    searched = {cell.key for cell in plan.cells if cell.role == "search" and cell.side == "undefended"}
    assert all(cell.choice is not None and set(cell.choice.among) <= searched for cell in raw)


def test_what_a_victim_has_in_front_of_it_is_seen_in_the_plan(ask: Ask, make_model: Any, splits: Splits) -> None:
    plan = ask(owned(make_model(seed=1), splits, behind=["answer-top1"])).plan
    assert plan.subjects[0].behind == ({"name": "answer-top1"},)
    assert plan.subjects[0].shows == "label"
    assert not [cell for cell in plan.cells if cell.side == "defended" and cell.role in ("soft", "naive")]


def test_an_attack_that_needs_more_than_is_served_is_told_and_left_out(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undistill.attacks.sanitise import Sanitise

    monkeypatch.setattr(Sanitise, "needs", Access.LOGITS)
    plan = ask().plan
    assert "sanitise" not in {cell.attack.get("name") for cell in plan.cells}
    assert ("the attack sanitise", "it needs logits, and probs is served") in {(s.what, s.why) for s in plan.skipped}


def test_other_public_weights_make_other_cells(ask: Ask, make_model: Any, tmp_path: Path) -> None:
    keys = []
    for seed in (1, 2):
        network = make_model(seed=seed)
        models.save(tmp_path / "public", network, tuple("abcd"), "", {})
        plan = ask(public=str(tmp_path / "public"), students=("cnn:0.125",)).plan
        keys.append({cell.key for cell in plan.cells if cell.role != "served"})
        assert {ThreatModel.parse(cell.card).start for cell in plan.cells} == {"public"}
        assert "linear-probe" in {cell.attack.get("name") for cell in plan.cells}
        assert not [cell for cell in plan.cells if "student.width" in cell.times]
    assert keys[0].isdisjoint(keys[1])


def test_a_schedule_in_epochs_is_squeezed_into_the_thiefs_own() -> None:
    for name in ("paper-cifar10", "paper-cifar100"):
        recipe = read(name)
        attackers = Attackers(recipe.dump()["training"], [], ({"name": "cnn"},), steps=400, pool=4_000, trained=50_000)
        schedule = attackers.recipe(ThreatModel.parse("api").model_copy(update={"questions": 500}))["training"][
            "schedule"
        ]
        steps = recipe.training.schedule.at
        assert schedule["at"] == [round(at * EPOCHS / recipe.training.epochs) for at in steps]
        assert 0 < schedule["at"][0] < EPOCHS
        assert steps[0] > EPOCHS


@pytest.mark.parametrize("method", ["nasty", "stingy"])
def test_teachers_are_trained_once_and_before_anybody_robs_them(method: str, ask: Ask, recipe: Recipe) -> None:
    small = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": 300, "test": 100, "pool": 60})})
    from undistill.data.load import load

    plan = ask(None, data=load(small.data), recipe=small, method=method, teachers=2, serve=("probs", "top1")).plan
    first: dict[str, str] = {}
    for cell in plan.cells:
        if cell.role == "served":
            first.setdefault(cell.victim, cell.key)
    for cell in plan.cells:
        twin = first[f"undefended-{cell.victim[-1]}"] if cell.victim else ""
        if cell.role == "served" and cell.key == first["undefended-0"]:
            assert cell.after == ()
        elif cell.side == "defended" and cell.key == first[cell.victim]:
            assert cell.after == (twin,)
        elif cell.victim and cell.key != first[cell.victim]:
            assert first[cell.victim] in cell.after
        elif not cell.victim:
            assert cell.after == (first["undefended-0"],)
    seeds = [{c.seed for c in plan.cells if c.victim == f"defended-{t}" and c.role == "soft"} for t in (0, 1)]
    assert seeds[0].isdisjoint(seeds[1])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("student.name=cnn", "--students"),
        ("attack.temperature=2", "--extra-attack"),
        ("training.epochs=3", "--steps"),
    ],
)
def test_a_setting_that_an_audit_does_not_read_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=rf"changes nothing here: .*{sentence}"):
        _only_what_counts([setting])
    _only_what_counts(["training.optimizer.lr=0.1", "data.views=[]"])


def test_an_attack_that_the_networks_do_not_suit_is_skipped_with_its_reason(ask: Ask) -> None:
    """The last layer of airbench has no bias: what trains it alone, or replaces it, cannot work with such a student."""
    for suite in ("quick", "standard"):
        plan = ask(suite=suite, access=("probs", "weights"), students=("airbench:0.0625",)).plan
        named = {cell.attack.get("name") for cell in plan.cells if cell.attack.get("variant") != "fitnet"}
        assert "feature-kd" not in named
    reasons = {left.what: left.why for left in plan.skipped}
    assert "bias" in reasons["the attack feature-kd simkd-refit"]
    assert any(cell.attack.get("variant") == "fitnet" for cell in plan.cells)


def test_attackers_train_by_the_recipe_that_the_victims_names_for_students(ask: Ask, recipe: Recipe) -> None:
    """A victim's rates may suit its network alone; students who diverge make an audit understate."""
    named = recipe.dump()
    named["student"] = {**named["student"], "recipe": "speed-cifar10-cnn"}
    for whole, optimizer in ((recipe, recipe.training.optimizer.name), (read(named), "adamw")):
        trained = [cell for cell in ask(recipe=whole).plan.cells if "training" in cell.recipe]
        assert {cell.recipe["training"]["optimizer"]["name"] for cell in trained} == {optimizer}
