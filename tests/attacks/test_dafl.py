"""DAFL: a generator and a student that learn side by side, each frozen for the other, from a victim that never changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS
from undistill.attacks.dafl import DAFL, Generated, GeneratedLesson
from undistill.attacks.generator import build as build_generator
from undistill.data.image_set import ImageSet, Splits
from undistill.errors import UsageError
from undistill.experiments.extraction import attack, hold, permit
from undistill.losses import activation_loss, information_entropy_loss, one_hot_loss, softened_kl
from undistill.models import Classifier
from undistill.models.external import Wrapped
from undistill.oracle.black_box import BlackBox
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access, ThreatModel
from undistill.training import checkpoint
from undistill.training.loop import State, fit
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

from .conftest import Digits

CPU = torch.device("cpu")
SMALL = DAFL(latent=8, batch=8, steps=3, width=0.0625)
MakeModel = Callable[..., Classifier]


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def victim(make_model: MakeModel) -> Classifier:
    return make_model(seed=11)


@pytest.fixture
def generated(victim: Classifier, recipe: Recipe) -> Generated:
    return Generated(SMALL, Oracle(victim, Access.WEIGHTS), 3, 8, recipe, CPU)


@pytest.fixture
def none(splits: Splits) -> ImageSet:
    return hold(splits, ThreatModel.parse("data-free"), SMALL, seed=0)


# -- the generator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 10, 32])
def test_images_are_pixels_of_any_size(channels: int, size: int) -> None:
    mean, std = torch.full((channels, 1, 1), 0.4), torch.full((channels, 1, 1), 0.2)
    images = build_generator(6, size, mean, std, 0.0625, seed=0)(torch.randn(16, 6))
    assert images.shape == (16, channels, size, size)
    assert images.dtype == torch.float32
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1


def test_images_start_with_the_moments_that_the_victim_normalises_by() -> None:
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.1, 0.15, 0.2]).view(3, 1, 1)
    images = build_generator(6, 8, mean, std, 0.25, seed=0)(torch.randn(64, 6)).detach()
    assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx(mean.flatten().tolist(), abs=0.02)
    assert images.std(dim=(0, 2, 3)).tolist() == pytest.approx(std.flatten().tolist(), abs=0.02)


def test_a_generator_is_drawn_at_its_seed_and_leaves_the_global_state_alone() -> None:
    before, moments = torch.get_rng_state(), (torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.2))
    one, again, other = (build_generator(8, 8, *moments, 0.0625, seed=seed).state_dict() for seed in (0, 0, 1))
    assert same(one, again)
    assert not same(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_victim_that_does_not_normalise_is_shown_plausible_pixels(recipe: Recipe) -> None:
    bare = Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), config_of((0.0, 1.0)))
    made = Generated(SMALL, Oracle(bare, Access.WEIGHTS), 3, 8, recipe, CPU)
    assert made.generator.mean_C11.flatten().tolist() == [0.5] * 3
    assert made.generator.std_C11.flatten().tolist() == [0.25] * 3


# -- who learns from what -----------------------------------------------------------------------------------------------


def test_the_generator_minimises_the_papers_three_terms(generated: Generated, victim: Classifier) -> None:
    settings = DAFL(one_hot=0.3, activation=0.2, entropy=2.0)
    generated.settings = settings
    noise = torch.randn(8, 8)
    twin = copy.deepcopy(generated.generator)
    generated.step(noise)
    victim.eval()
    images = twin(noise)
    logits = victim(images)
    terms = (one_hot_loss(logits), activation_loss(victim.features(images)), information_entropy_loss(logits))
    assert [term.item() for term in generated.terms.values()] == pytest.approx([term.item() for term in terms])
    (0.3 * terms[0] + 0.2 * terms[1] + 2.0 * terms[2]).backward()
    for mine, theirs in zip(generated.generator.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)  # type: ignore[arg-type]


def test_the_generators_step_moves_nothing_but_the_generator(generated: Generated, make_model: MakeModel) -> None:
    student = make_model(seed=1, role="thief").train()
    before, inside, drawn = snapshot(student), snapshot(generated.victim), snapshot(generated.generator)
    next(iter(generated.epoch(0)))
    assert same(before, student.state_dict())
    assert same(inside, generated.victim.state_dict())
    assert not generated.victim.training
    assert all(p.grad is None for p in generated.victim.parameters())
    moved = generated.generator.state_dict()
    assert all(not torch.equal(drawn[n], moved[n]) for n, _ in generated.generator.named_parameters() if "last" in n)


def test_the_students_step_moves_nothing_but_the_student(generated: Generated, make_model: MakeModel) -> None:
    student = make_model(seed=1, role="thief").train()
    before = snapshot(student)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    batch = next(iter(generated.epoch(0)))
    drawn, inside, adam = snapshot(generated.generator), snapshot(generated.victim), generated.state()
    adam = copy.deepcopy(adam)
    GeneratedLesson(generated, 1.0)(student, batch)["loss"].backward()
    optimizer.step()
    assert not batch.images_BCHW.requires_grad
    assert same(drawn, generated.generator.state_dict())
    assert same(adam["generator_adam"], generated.state()["generator_adam"])
    assert same(inside, generated.victim.state_dict())
    assert not same(before, student.state_dict())


def test_the_student_learns_the_victims_answers_to_the_very_images(
    generated: Generated, victim: Classifier, make_model: MakeModel
) -> None:
    student = make_model(seed=1).eval()
    batch = next(iter(generated.epoch(0)))
    with torch.no_grad():
        answers = victim.eval()(batch.images_BCHW)
        terms = GeneratedLesson(generated, 2.0)(student, batch)
        expected = softened_kl(answers, student(batch.images_BCHW), 2.0)
    assert torch.allclose(generated.answer_BC, answers, atol=1e-6)
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert {"agreement", "one_hot", "activation", "entropy"} < terms.keys()


def test_an_epoch_is_of_its_own_steps_and_batch(
    victim: Classifier, make_model: MakeModel, none: ImageSet, recipe: Recipe
) -> None:
    oracle = Oracle(victim, Access.WEIGHTS)
    records = list(SMALL.steal(oracle, make_model(seed=1), none, recipe, device=CPU))
    assert [record.images for record in records] == [24, 24]
    assert (oracle.queries, oracle.forwards) == (0, 48)


def test_bf16_keeps_terms_finite(victim: Classifier, make_model: MakeModel, none: ImageSet, recipe: Recipe) -> None:
    half = recipe.model_copy(update={"training": recipe.training.model_copy(update={"precision": "bf16"})})
    records = list(SMALL.steal(Oracle(victim, Access.WEIGHTS), make_model(seed=1), none, half, device=CPU))
    assert all(np.isfinite(list(records[-1].terms.values())))


# -- the same each time -------------------------------------------------------------------------------------------------


@pytest.fixture
def steal(
    victim: Classifier, make_model: MakeModel, none: ImageSet, recipe: Recipe
) -> Callable[..., tuple[Classifier, list[State]]]:
    def call(seed: int = 0, state: State | None = None) -> tuple[Classifier, list[State]]:
        student = make_model(seed=1 if state is None else 77)
        settings = recipe.model_copy(update={"seed": seed})
        oracle = Oracle(victim, Access.WEIGHTS)
        records = SMALL.steal(oracle, student, none, settings, device=CPU, state=state)
        return student, [copy.deepcopy(record.state) for record in records]

    return call


def test_a_run_resumed_from_disk_is_uninterrupted_to_the_bit(steal: Callable[..., Any], tmp_path: Path) -> None:
    whole, states = steal()
    checkpoint.save(tmp_path, states[0], {})
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    rest, after = steal(state=kept[0])
    assert same(whole.state_dict(), rest.state_dict())
    assert len(after) == 1
    for part in ("generator", "generator_adam"):
        assert same(states[1]["modules"][part], after[0]["modules"][part])


def test_another_seed_makes_other_images(steal: Callable[..., Any]) -> None:
    weights = [steal(seed)[0].state_dict() for seed in (0, 0, 1)]
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


# -- who can be robbed --------------------------------------------------------------------------------------------------


def config_of(moments: tuple[float, float] = (0.4, 0.2)) -> dict[str, Any]:
    config = {"name": "(foreign)", "num_classes": 4, "in_channels": 3, "image_size": 8}
    return {**config, "mean": [moments[0]] * 3, "std": [moments[1]] * 3}


def test_a_victim_without_batch_normalisation_can_be_robbed(recipe: Recipe, none: ImageSet) -> None:
    plain = Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)), config_of())
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert len(list(SMALL.steal(Oracle(plain, Access.WEIGHTS), student, none, recipe, device=CPU))) == 2


class Numb(nn.Module):
    """Answers, but lets no gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 4)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            return self.last(images_BCHW.flatten(1))


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), "dafl needs the victim's features.*no linear layer of 4"),
        (Numb(), "dafl needs the gradient of the victim's answers"),
    ],
)
def test_what_a_victim_lacks_is_said(inner: nn.Module, sentence: str, recipe: Recipe) -> None:
    oracle = Oracle(Wrapped(inner, config_of()), Access.WEIGHTS)
    with pytest.raises(UsageError, match=sentence):
        Generated(SMALL, oracle, 3, 8, recipe, CPU)


def test_a_module_without_features_is_refused(recipe: Recipe) -> None:
    oracle = Oracle(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), Access.WEIGHTS)
    with pytest.raises(UsageError, match="dafl needs a victim's features; Sequential has none"):
        Generated(SMALL, oracle, 3, 8, recipe, CPU)


@pytest.mark.parametrize("name", ["kd", "label-only", "scratch"])
def test_an_attack_that_learns_from_images_does_not_play_without(name: str) -> None:
    with pytest.raises(
        UsageError, match=f"{name} learns from images, and the threat model weights/none/none/random leaves"
    ):
        permit(ATTACKS.make(name), ThreatModel.parse("data-free"))


@pytest.mark.parametrize("card", ["paper", "weights/unlabelled/fresh/random"])
@pytest.mark.parametrize("name", ["dafl", "deep-inversion"])
def test_an_attack_that_makes_its_images_takes_no_others(name: str, card: str) -> None:
    with pytest.raises(
        UsageError, match=f"{name} makes its own images: take a threat model that holds none, such as data-free"
    ):
        permit(ATTACKS.make(name), ThreatModel.parse(card))


@pytest.mark.parametrize("name", ["dafl", "deep-inversion"])
def test_less_than_weights_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} needs weights; the threat model gives logits"):
        permit(ATTACKS.make(name), ThreatModel.parse("logits/none/none/random"))


@pytest.mark.parametrize("name", ["dafl", "deep-inversion"])
def test_a_black_box_is_refused_in_a_sentence(name: str, splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    box = BlackBox(lambda pixels: np.zeros((len(pixels), 4)), Access.LOGITS, 4, "api")
    with pytest.raises(UsageError, match="api only answers: an attack without images needs the network itself"):
        attack(box, splits, name, card="data-free", recipe=recipe, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "config.yaml").exists()


# -- the whole way ------------------------------------------------------------------------------------------------------


FREE: list[dict[str, Any]] = [
    SMALL.model_dump(),
    {"name": "deep-inversion", "iterations": 2, "batch": 8, "images": 12},
]


@pytest.mark.parametrize("attacker", FREE, ids=lambda attacker: attacker["name"])
def test_a_cell_says_that_no_image_was_held_and_nothing_asked(
    attacker: dict[str, Any], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    teacher = train(None, splits, recipe, out=tmp_path / "teacher", device="cpu")
    cell = attack(teacher, splits, attacker, card="data-free", out=tmp_path / "student", device="cpu")
    assert (cell.card, cell.images, cell.queries) == ("weights/none/none/random", 0, 0)
    assert cell.forwards > 0
    assert cell.status == "ok"
    assert cell.attack_settings == {k: v for k, v in ATTACKS.make(attacker).settings.items() if k != "name"}
    assert [line["epoch"] for line in cell.curve] == list(range(1, len(cell.curve) + 1))


@pytest.mark.parametrize("attacker", FREE, ids=lambda attacker: attacker["name"])
def test_a_foreign_network_can_be_robbed(
    attacker: dict[str, Any], splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    before = snapshot(foreign)
    cell = attack(foreign, splits, attacker, card="data-free", recipe=recipe, out=tmp_path / "student", device="cpu")
    assert cell.status == "ok"
    assert same(before, foreign.state_dict())


def test_the_student_normalises_as_its_victim_does(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    teacher = train(None, splits, recipe, out=tmp_path / "teacher", device="cpu")
    attack(teacher, splits, FREE[0], card="data-free", out=tmp_path / "student", device="cpu")
    mine, theirs = Run.open(tmp_path / "student").model().config, teacher.model().config
    assert (mine["mean"], mine["std"]) == (theirs["mean"], theirs["std"])


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`cut_short(n)`: the n-th checkpoint is the last thing that happens."""
    keep = checkpoint.save

    def set_up(count: int) -> None:
        left = [count]

        def save(folder: Path, state: State, extra: dict[str, Any]) -> None:
            keep(folder, state, extra)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint, "save", save)

    return set_up


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("attacker", FREE, ids=lambda attacker: attacker["name"])
def test_an_interrupted_theft_is_taken_up_again(
    attacker: dict[str, Any],
    after: int,
    splits: Splits,
    tmp_path: Path,
    recipe: Recipe,
    cut_short: Callable[[int], None],
) -> None:
    recipe = read({**recipe.dump(), "training": recipe.training.model_dump() | {"epochs": 4}})
    teacher = train(None, splits, recipe, out=tmp_path / "teacher", device="cpu")

    def go(out: str, *, resume: bool = False) -> Any:
        return attack(teacher, splits, attacker, card="data-free", out=tmp_path / out, resume=resume, device="cpu")

    whole = go("whole")
    cut_short(after)
    with pytest.raises(KeyboardInterrupt):
        go("cut")
    again = go("cut", resume=True)
    assert again.forwards == whole.forwards
    drop = {"seconds"}
    curves = [[{k: v for k, v in line.items() if k not in drop} for line in cell.curve] for cell in (whole, again)]
    assert curves[0] == curves[1]
    assert again.id == whole.id
    weights = [(tmp_path / out / "model" / "model.safetensors").read_bytes() for out in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.learning
def test_a_student_learns_digits_that_it_never_saw(digits: Digits) -> None:
    attacker = {"name": "dafl", "batch": 64, "steps": 100, "width": 0.25, "latent": 64, "lr": 0.005}
    student, records = digits.rob(attacker, epochs=3)
    assert records[-1].terms["entropy"] < -0.5  # −1 where all classes are made alike
    assert digits.accuracy(student) > digits.accuracy(digits.student()) + 10


@pytest.mark.learning
def test_the_entropy_term_is_what_makes_all_classes(digits: Digits) -> None:
    base = {"name": "dafl", "batch": 64, "steps": 40, "width": 0.125, "latent": 16, "lr": 0.005}
    aimed = digits.rob(base, epochs=1)[1][-1].terms
    blind = digits.rob({**base, "entropy": 0}, epochs=1)[1][-1].terms
    assert aimed["entropy"] < blind["entropy"] - 0.05


def test_the_objective_is_what_fit_takes(generated: Generated, make_model: MakeModel, recipe: Recipe) -> None:
    student = make_model(seed=1)
    (record, *_) = list(fit(student, generated, GeneratedLesson(generated, 1.0), recipe.training, seed=0))
    assert record.state["modules"] == {}
    assert len(generated) == 3
