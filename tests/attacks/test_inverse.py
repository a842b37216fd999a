"""The way back through a defense whose form is known, and what no way leads back from."""

from __future__ import annotations

import copy
from statistics import fmean
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from undistill.attacks.base import ATTACKS
from undistill.attacks.inverse import Inverse, Served, Sorted, around, every_sharpness, learned
from undistill.errors import Refused, UsageError
from undistill.oracle.oracle import Oracle
from undistill.oracle.output_defense import ANSWER_DEFENSES, AnswerDefense, chain
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord

from .conftest import ADAM, Digits
from .test_inside_attacks import changed

CPU = torch.device("cpu")
CLASSES = 10


class Tempered(AnswerDefense):
    """The softmax at temperature 4."""

    name: Literal["tempered"] = "tempered"

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        return (probs_BC.log() / 4).softmax(dim=1)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defense above, by its name."""
    monkeypatch.setitem(ANSWER_DEFENSES._classes, "tempered", Tempered)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def victim_says(count: int, seed: int) -> Tensor:
    """From sure to unsure, as a classifier's outputs are."""
    peaks = F.one_hot(torch.randint(0, CLASSES, (count,), generator=rng(seed)), CLASSES)
    height = 6 * torch.rand(count, 1, generator=rng(seed + 1))
    return (1.5 * torch.randn(count, CLASSES, generator=rng(seed + 2)) + height * peaks).softmax(dim=1)


def l1(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum(dim=1).mean())


def undo(
    defenses: tuple[AnswerDefense, ...], access: Access = Access.PROBS, **served: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """(clean, served, undone) probabilities of images that the attacker has not queried."""
    shown = Served(defenses, access, served.get("top_k", 5), served.get("digits"), seed=0)
    attack = Inverse(against=defenses, pairs=6000, steps=700)
    given = shown(victim_says(300, 1))
    clean = victim_says(500, 9)
    return clean, shown(clean), attack.undone(shown, given, seed=0)(shown(clean))


@pytest.mark.parametrize(("defense", "left"), [("tempered", 0.2), ("reverse-sigmoid", 0.5), ("stingy", 0.8)])
def test_most_of_what_a_defense_adds_is_undone(defense: str, left: float) -> None:
    clean, given, undone = undo((Tempered(),) if defense == "tempered" else chain([defense]))
    assert l1(undone, clean) < left * l1(given, clean)
    torch.testing.assert_close(undone.sum(dim=1), torch.ones(len(undone)))
    assert l1(given, clean) > 0.3


def test_from_labels_nothing_comes_back() -> None:
    """A response that is one of C values becomes one of C values, however many pairs were tried."""
    _, _, undone = undo(chain(["answer-top1"]))
    assert len({tuple(row) for row in undone.tolist()}) == CLASSES


def test_what_the_threat_model_does_behind_the_defense_is_played_through() -> None:
    probs = victim_says(50, 3)
    plain = chain(["reverse-sigmoid"])
    for access, digits, nonzero in ((Access.PROBS, 2, None), (Access.TOPK, None, 2)):
        shown = Served(plain, access, 2, digits, 0)(probs)
        torch.testing.assert_close(shown.sum(dim=1), torch.ones(50), rtol=1e-5, atol=1e-6)
        if nonzero is not None:
            given = plain[0].answer(probs, rng(0))
            assert torch.equal(shown.topk(2).indices, given.topk(2).indices)
        else:
            assert ((shown * 100).round() - shown * 100).abs().max() < 1.0


def test_classes_are_treated_alike() -> None:
    network = Sorted(5).eval()
    probs = torch.randn(20, 5, generator=rng(0)).softmax(dim=1)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(network(probs[:, order]), network(probs)[:, order])


def test_simulated_probabilities_are_of_every_sharpness_and_stay_near() -> None:
    broad = every_sharpness(4000, CLASSES, rng(0))
    top = broad.amax(dim=1)
    torch.testing.assert_close(broad.sum(dim=1), torch.ones(4000))
    assert (float(top.min()) < 0.2, float(top.max()) > 0.999) == (True, True)
    row = victim_says(1, 4)
    near = around(row.expand(4000, -1), rng(1))
    torch.testing.assert_close(near.mean(dim=0, keepdim=True), row, atol=0.01, rtol=0.1)
    variance = row * (1 - row) / (8 * CLASSES + 1)
    torch.testing.assert_close(near.var(dim=0, keepdim=True), variance, rtol=0.2, atol=2e-4)


def test_a_fit_depends_on_its_seed_alone() -> None:
    clean = every_sharpness(500, CLASSES, rng(0))
    given = Tempered().answer(clean, rng(0))
    torch.manual_seed(1)
    first = learned(given, clean, 30, seed=5)(given[:9])
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(learned(given, clean, 30, seed=5)(given[:9]), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(learned(given, clean, 30, seed=6)(given[:9]), first)


# -- as an attack -------------------------------------------------------------------------------------------------------


def steal(
    digits: Digits, attack: Any, behind: tuple[AnswerDefense, ...] = (), state: Any = None, **training: Any
) -> tuple[Any, Oracle, list[EpochRecord]]:
    assert digits.data.pool is not None
    student = digits.student(0.25)
    oracle = Oracle(digits.victim, Access.PROBS, budget=100, behind=behind)
    recipe = changed(digits.recipe, batch=50, optimizer=ADAM, **training)
    held = digits.data.pool.take(torch.arange(100)).unlabelled()
    records = [copy.deepcopy(r) for r in attack.steal(oracle, student, held, recipe, device=CPU, state=state)]
    return student, oracle, records


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_pays_each_query_once_and_resumes(digits: Digits, precision: str) -> None:
    attack = Inverse(pairs=500, steps=20, against=["reverse-sigmoid"])
    student, oracle, records = steal(digits, attack, chain(["reverse-sigmoid"]), epochs=2, precision=precision)
    assert oracle.queries == 100
    again, oracle, rest = steal(
        digits, attack, chain(["reverse-sigmoid"]), state=records[0].state, epochs=2, precision=precision
    )
    assert oracle.queries == 100
    assert [r.terms for r in rest] == [records[1].terms]
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.learning
def test_a_defense_that_is_undone_defends_no_more(digits: Digits) -> None:
    """With responses at temperature 4 a student of `kd` at τ 1 learns soft targets; undone, it learns the victim's."""
    gained = []
    for seed in range(2):
        reached = []
        for attack in (
            ATTACKS.make({"name": "kd", "temperature": 1.0, "alpha": 1.0}),
            Inverse(against=[Tempered()], temperature=1.0, alpha=1.0, pairs=6000, steps=700),
        ):
            student = digits.student(0.25, seed)
            oracle = Oracle(digits.victim, Access.PROBS, behind=(Tempered(),), budget=100)
            assert digits.data.pool is not None
            held = digits.data.pool.take(torch.arange(100)).unlabelled()
            recipe = changed(digits.recipe, epochs=60, batch=50, optimizer=ADAM)
            list(attack.steal(oracle, student, held, recipe, device=CPU))
            with torch.no_grad():
                seen = digits.data.test.seen()
                reached.append(l1(student.eval()(seen).softmax(1), digits.victim.eval()(seen).softmax(1)))
        gained.append(reached[0] - reached[1])
    assert fmean(gained) > 0.1


def test_it_needs_a_form_and_scores(digits: Digits) -> None:
    with pytest.raises(UsageError, match="nasty trains a network and changes no answers"):
        ATTACKS.make({"name": "inverse", "against": ["nasty"]})
    assert digits.data.pool is not None
    held = digits.data.pool.take(torch.arange(10)).unlabelled()
    oracle, student = Oracle(digits.victim, Access.LABEL), digits.student()
    with pytest.raises(Refused, match="a label is no score"):
        Inverse(against=["top1"]).steal(oracle, student, held, digits.recipe, device=CPU)


def test_its_settings_survive_json() -> None:
    attack = Inverse(against=["rounding digits=1", "noise"])
    values = attack.model_dump(mode="json", by_alias=True)
    assert ATTACKS.make(values) == attack
    assert [entry["name"] for entry in values["against"]] == ["rounding", "noise"]
