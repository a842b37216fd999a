"""The nasty teacher: the paper's loss, a frozen adversary, and an effect that ordinary training does not have."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.data.augment import to_float
from undistill.data.image_set import ImageSet
from undistill.defenses.base import DEFENSES
from undistill.defenses.nasty import SelfUndermining
from undistill.losses import softened_kl
from undistill.models import Classifier
from undistill.oracle.inference import Frozen
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe, read
from undistill.training.train import image_batches
from undistill.types import Batch

CPU = torch.device("cpu")
Weights = dict[str, Tensor]


class Says(nn.Module):
    """Answers every image with the same logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits_C = nn.Parameter(torch.tensor(logits))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.logits_C.expand(len(images_BCHW), -1)


def ask(adversary: nn.Module) -> Callable[[Batch], Tensor]:
    """A frozen adversary's answers to a batch, as `harden` gets them."""
    frozen = Frozen(adversary)
    return lambda batch: frozen(batch.images_BCHW)


def batch_of(*labels: int) -> Batch:
    return Batch(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), torch.arange(len(labels)), 0)


def with_training(recipe: Recipe, **settings: Any) -> Recipe:
    values = recipe.dump()
    values["training"] |= settings
    return read(values)


@pytest.fixture
def harden(images: ImageSet, make_model: Callable[..., Classifier]) -> Callable[..., Classifier]:
    """`harden(adversary, recipe, omega=…)`: a nasty network."""

    def call(adversary: Classifier, recipe: Recipe, **settings: Any) -> Classifier:
        network = make_model(role="nasty")
        list(DEFENSES.make({"name": "nasty", **settings}).harden(network, adversary, images, recipe, device=CPU))
        return network

    return call


def same(one: Weights, two: Weights) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_loss_is_cross_entropy_minus_omega_tau_squared_kl() -> None:
    objective = SelfUndermining(ask(Says(0.0, 0.0)), omega=0.04, temperature=4)
    terms = objective(Says(4 * math.log(3), 0.0), batch_of(0, 0, 1))
    cross_entropy = math.log(82 / 81) * 2 / 3 + math.log(82) / 3
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert terms["loss"].item() == pytest.approx(cross_entropy - 0.04 * 16 * kl, rel=1e-5)
    assert terms["accuracy"].item() == pytest.approx(200 / 3)


def test_gradients_reach_the_nasty_network_alone() -> None:
    nasty, adversary = Says(1.0, 0.0), Says(0.0, 0.5)
    SelfUndermining(ask(adversary), omega=1, temperature=2)(nasty, batch_of(0, 1))["loss"].backward()
    assert nasty.logits_C.grad is not None
    assert adversary.logits_C.grad is None


def test_the_adversary_is_not_among_the_trained_modules() -> None:
    assert dict(SelfUndermining(ask(Says(0.0, 0.0)), 1, 1).modules) == {}


def test_omega_zero_is_ordinary_training_to_the_bit(
    harden: Callable[..., Classifier], make_model: Callable[..., Classifier], images: ImageSet, recipe: Recipe
) -> None:
    ordinary = make_model(role="nasty")
    batches = image_batches(images, recipe, role="nasty", device="cpu")
    list(fit(ordinary, batches, CrossEntropy(), recipe.training, seed=recipe.seed))
    assert same(harden(make_model(), recipe, omega=0).state_dict(), ordinary.state_dict())


def test_omega_above_zero_is_not_ordinary_training(
    harden: Callable[..., Classifier], make_model: Callable[..., Classifier], recipe: Recipe
) -> None:
    adversary = make_model()
    weights = [harden(adversary, recipe, omega=omega).state_dict() for omega in (0, 0.04)]
    assert not same(*weights)


@pytest.mark.parametrize("mode", [True, False])
def test_the_adversary_answers_in_evaluation_mode_and_is_never_changed(
    harden: Callable[..., Classifier],
    make_model: Callable[..., Classifier],
    images: ImageSet,
    recipe: Recipe,
    mode: bool,
) -> None:
    adversary = make_model()
    adversary(to_float(images.images_NCHW[:]))
    before = copy.deepcopy(adversary.state_dict())
    from_this = harden(adversary.train(mode), recipe, omega=1).state_dict()
    assert adversary.training is mode
    assert same(before, adversary.state_dict())
    assert same(from_this, harden(adversary.eval(), recipe, omega=1).state_dict())


def test_the_adversary_answers_in_full_precision(make_model: Callable[..., Classifier], images: ImageSet) -> None:
    seen: list[Tensor] = []
    adversary, nasty = make_model().eval(), make_model(role="nasty").eval()
    frozen = ask(adversary)

    def overheard(batch: Batch) -> Tensor:
        seen.append(frozen(batch))
        return seen[-1]

    batch = Batch(to_float(images.images_NCHW[:]), images.labels_N, images.index_N, 0)
    with torch.autocast("cpu", torch.bfloat16):
        SelfUndermining(overheard, 1, 4)(nasty, batch)
        rounded = adversary(batch.images_BCHW).float()
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], adversary(batch.images_BCHW))
    assert not torch.allclose(rounded, seen[0], rtol=1e-4, atol=1e-5)  # the control: bf16 would show


def test_hardening_is_the_same_each_time(
    harden: Callable[..., Classifier], make_model: Callable[..., Classifier], recipe: Recipe
) -> None:
    assert same(harden(make_model(), recipe).state_dict(), harden(make_model(), recipe).state_dict())


def test_hardening_resumes_to_the_bit(
    harden: Callable[..., Classifier], make_model: Callable[..., Classifier], images: ImageSet, recipe: Recipe
) -> None:
    whole, nasty = harden(make_model(), recipe), DEFENSES.make("nasty")
    first = next(nasty.harden(make_model(role="nasty"), make_model(), images, recipe, device=CPU))
    state, rest = copy.deepcopy(first.state), make_model(seed=9)
    list(nasty.harden(rest, make_model(), images, recipe, device=CPU, state=state))
    assert same(rest.state_dict(), whole.state_dict())


def test_hardening_needs_labels(make_model: Callable[..., Classifier], images: ImageSet, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="a nasty teacher is trained on labels"):
        list(DEFENSES.make("nasty").harden(make_model(), make_model(), images.unlabelled(), recipe, device=CPU))


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_omega_pushes_answers_away_while_the_control_stays(images: ImageSet, recipe: Recipe, seed: int) -> None:
    recipe, pixels = (
        with_training(recipe, epochs=20, optimizer={"name": "adam", "lr": 0.01}),
        to_float(images.images_NCHW[:]),
    )

    def fresh(seed: int) -> Any:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) / 30)
        return network

    def hardened(omega: float) -> Tensor:
        network = fresh(seed + 10)
        list(DEFENSES.make({"name": "nasty", "omega": omega}).harden(network, adversary, images, recipe, device=CPU))
        return network(pixels)

    adversary = fresh(seed)
    batches = image_batches(images, recipe, role="teacher", device="cpu")
    list(fit(adversary, batches, CrossEntropy(), recipe.training, seed=0))
    answers = [hardened(0), hardened(0.2)]
    control, pushed = (softened_kl(logits, adversary(pixels), 4).item() for logits in answers)
    assert pushed > 10 * control
    assert all(torch.equal(logits.argmax(1), images.labels_N) for logits in answers)


@pytest.mark.parametrize("settings", [{"omega": -1}, {"temperature": 0}, {"omega": math.inf}, {"alpha": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^defense nasty: "):
        DEFENSES.make({"name": "nasty", **settings})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_adversary_answers_in_the_precision_of_the_run(
    make_model: Callable[..., Classifier],
    images: ImageSet,
    recipe: Recipe,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from undistill.defenses import nasty as module

    used: list[str] = []

    class Spy(Frozen):
        def __call__(self, images_BCHW: Tensor) -> Tensor:
            used.append(self.precision)
            return super().__call__(images_BCHW)

    monkeypatch.setattr(module, "Frozen", Spy)
    training = recipe.training.model_copy(update={"precision": precision})
    chosen = recipe.model_copy(update={"training": training})
    next(DEFENSES.make("nasty").harden(make_model(role="nasty"), make_model(), images, chosen, device=CPU))
    assert set(used) == {precision}
