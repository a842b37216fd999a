"""A frozen network answers as the network does, folded or not, and leaves it as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.models import MODELS, Classifier, build
from undistill.models.external import Wrapped
from undistill.oracle import inference
from undistill.oracle.inference import CLOSE, Frozen, identity
from undistill.training.precision import Precision

CPU = torch.device("cpu")


def pixels(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def seasoned(network: Any) -> Any:
    """The network after its batch norms have seen data, and with scales and shifts of their own, so that folding matters."""
    rng = torch.Generator().manual_seed(1)
    network.train()
    for seed in range(3):
        network(2 * pixels(seed=seed) + 0.5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=rng) + 0.5)
                layer.bias.copy_(torch.rand(layer.bias.shape, generator=rng))
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def folded(frozen: Frozen) -> nn.Module:
    assert frozen._folded is not None
    return frozen._folded


each_model = pytest.mark.parametrize("name", MODELS.classes())


@pytest.fixture
def network(make_model: Callable[..., Classifier]) -> Classifier:
    made: Classifier = seasoned(make_model())
    return made


# -- what it answers ----------------------------------------------------------------------------------------------------


@each_model
def test_a_frozen_network_answers_as_the_network_does(name: str) -> None:
    network = seasoned(build(name, num_classes=4, in_channels=3, image_size=8, width=0.125, seed=0))
    frozen = Frozen(network)
    with torch.no_grad():
        expected = network(pixels())
    found = frozen(pixels())
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * scale)
    assert found.is_contiguous()


@each_model
def test_bf16_answers_lie_within_its_rounding_and_are_float32(name: str) -> None:
    network = seasoned(build(name, num_classes=4, in_channels=3, image_size=8, width=0.125, seed=0))
    found = Frozen(network, "bf16")(pixels())
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert Frozen(network, "bf16").alike(found, network(pixels()), CPU)


def test_bf16_computes_in_bf16(network: Classifier) -> None:
    exact, rounded = Frozen(network)(pixels()), Frozen(network, "bf16")(pixels())
    assert not torch.equal(rounded, exact)
    assert torch.equal(rounded, rounded.bfloat16().float())


@pytest.mark.parametrize(("name", "left"), [("cnn", 0), ("resnet18", 0), ("resnetc20", 10)])
def test_batch_norms_behind_convolutions_are_folded(name: str, left: int) -> None:
    network = seasoned(build(name, num_classes=4, in_channels=3, image_size=8, width=0.125, seed=0))
    frozen = Frozen(network)
    frozen(pixels())
    assert norms(network) > left
    assert norms(folded(frozen)) <= left  # those before a convolution stay


def test_answers_do_not_hang_on_the_first_batch(network: Classifier) -> None:
    one, two = Frozen(network), Frozen(network)
    one(pixels(1, seed=3))
    two(pixels(6))
    torch.testing.assert_close(one(pixels()), two(pixels()))


def test_under_autocast_fp32_stays_fp32(network: Classifier) -> None:
    inside, outside = Frozen(network), Frozen(network)
    with torch.autocast("cpu", torch.bfloat16):
        found = inside(pixels())
        again = inside(pixels())
    assert torch.equal(found, outside(pixels()))
    assert torch.equal(again, found)


def test_under_no_autocast_bf16_stays_bf16(network: Classifier) -> None:
    plain = Frozen(network, "bf16")(pixels())
    with torch.autocast("cpu", enabled=False):
        assert torch.equal(Frozen(network, "bf16")(pixels()), plain)


# -- what it leaves alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_is_never_changed(network: Classifier, training: bool, precision: Precision) -> None:
    network.train(training)
    network(pixels()).sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert gradients
    before, kinds = copy.deepcopy(network.state_dict()), [type(layer) for layer in network.modules()]
    answer = Frozen(network, precision)(pixels().requires_grad_())
    assert not answer.requires_grad
    assert all(layer.training is training for layer in network.modules())
    assert all(p.requires_grad for p in network.parameters())
    assert [name for name, value in network.state_dict().items() if not torch.equal(before[name], value)] == []
    assert all(torch.equal(p.grad, gradients[name]) for name, p in network.named_parameters() if p.grad is not None)
    assert [type(layer) for layer in network.modules()] == kinds


def test_what_the_owner_does_later_changes_no_answer(network: Classifier) -> None:
    frozen = Frozen(network)
    with torch.no_grad():
        expected = network(pixels())
        for weight in network.parameters():
            weight.zero_()
    torch.testing.assert_close(frozen(pixels()), expected)


def test_a_copy_is_the_whole_network_also_after_folding(network: Classifier) -> None:
    frozen = Frozen(network)
    frozen(pixels())
    stolen = frozen.copy()
    assert norms(stolen) == norms(network)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in stolen.state_dict().items())
    with torch.no_grad():
        next(stolen.parameters()).zero_()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in frozen.copy().state_dict().items())


def test_what_nobody_looks_into_is_let_go_of(network: Classifier) -> None:
    frozen, plain = Frozen(network, whole=False), Frozen(network)
    assert torch.equal(frozen(pixels()), plain(pixels()))
    assert frozen._network is frozen._folded
    assert (frozen.id, frozen.known) == (plain.id, True)
    assert torch.equal(frozen.plainly(pixels()), frozen(pixels()))


def test_images_are_left_as_they_are(network: Classifier) -> None:
    mine = pixels()
    Frozen(network)(mine)
    assert mine.is_contiguous()
    assert torch.equal(mine, pixels())


# -- networks that cannot be folded -------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A convolution, its batch norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


class Branching(Plain):
    """Looks at what it is given: nothing that reads its code alone can follow it."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


class Tracing(Plain):
    """Says something else while it is traced."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (1 if isinstance(images, Tensor) else -1)


class Refusing(Plain):
    """Falls over, as foreign code may, with an error of its own."""

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor):
            raise SyntaxError("not like this")  # noqa: TRY004
        return super().forward(images)


class Doubling(Plain):
    """Uses one convolution twice, so that folding its batch norm would change both."""

    def forward(self, images: Tensor) -> Tensor:
        once = self.conv(images)
        return self.head((self.norm(once) + self.conv(images.flip(3))).mean((2, 3)))


def hooked() -> nn.Module:
    network = Plain()
    network.register_forward_hook(lambda *call: call[2] * 3 + 1)
    return network


def quantised() -> nn.Module:
    """A hook between convolution and batch norm."""
    network = Plain()
    network.norm.register_forward_hook(lambda *call: call[2].round())
    return network


def batchwise() -> nn.Module:
    """A batch norm without statistics of its own."""
    network = Plain()
    network.norm = nn.BatchNorm2d(4, track_running_stats=False)
    return network


def known(inner: nn.Module) -> Wrapped:
    """As a network of a family whose code has a version."""
    sizes = {"num_classes": 4, "in_channels": 3, "image_size": 8, "mean": [0.0] * 3, "std": [1.0] * 3}
    return Wrapped(inner, {"name": "timm:theirs", **sizes})


@pytest.mark.parametrize(
    "make",
    [Plain, Branching, Tracing, Refusing, Doubling, hooked, quantised, batchwise],
    ids=lambda make: make.__name__,
)
def test_what_cannot_be_folded_answers_all_the_same(make: Callable[[], nn.Module]) -> None:
    network = seasoned(known(make()))
    frozen = Frozen(network)
    with torch.no_grad():
        torch.testing.assert_close(frozen(pixels()), network(pixels()), rtol=1e-4, atol=1e-5)
    if make in (Branching, Tracing, Refusing, hooked, quantised):
        assert norms(folded(frozen)) == 1
    if make is Plain:  # the control
        assert norms(folded(frozen)) == 0


def test_unknown_code_is_never_folded() -> None:
    """What it does now and then, a trace may lose, and a few images need not show."""
    network = seasoned(Plain())
    frozen = Frozen(network)
    assert torch.equal(frozen(pixels()), network(pixels().contiguous(memory_format=torch.channels_last)).detach())
    assert norms(folded(frozen)) == 1
    assert not frozen.known
    assert not Frozen(wrapped(Plain())).known
    assert Frozen(known(Plain())).known


def test_a_network_without_any_batch_norm_answers_to_the_bit() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert torch.equal(Frozen(network)(pixels()), network(pixels()).detach())


# -- who it is ----------------------------------------------------------------------------------------------------------


def wrapped(inner: nn.Module) -> Wrapped:
    sizes = {"num_classes": 4, "in_channels": 3, "image_size": 8, "mean": [0.0] * 3, "std": [1.0] * 3}
    return Wrapped(inner, {"name": "theirs", **sizes})


def test_an_id_is_the_weights_and_the_normalisation(make_model: Callable[..., Classifier]) -> None:
    network, other = make_model(), make_model(seed=1)
    assert Frozen(network).id == identity(make_model().train())
    assert Frozen(network).id != identity(other)
    shifted = make_model()
    shifted.config = {**shifted.config, "mean": [0.1, 0.2, 0.3]}
    assert identity(shifted) != identity(network)


def test_an_id_stays_when_the_network_has_answered(network: Classifier) -> None:
    frozen = Frozen(network)
    before = frozen.id
    frozen(pixels())
    assert frozen.id == before == identity(network)


def test_foreign_networks_without_weights_are_told_apart() -> None:
    small, large = (wrapped(nn.Sequential(nn.MaxPool2d(size), nn.Flatten(), nn.Linear(3, 4))) for size in (8, 4))
    large.load_state_dict(small.state_dict())
    assert identity(small) != identity(large)
    assert identity(small) == identity(copy.deepcopy(small))


# -- how close is alike -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_alike_is_within_rounding_of_the_largest(precision: Precision) -> None:
    logits = torch.tensor([[10.0, 0.0], [-1.0, 2.0]])
    inside, outside = logits.clone(), logits.clone()
    inside[1, 0] += 9 * CLOSE[precision]
    outside[1, 0] += 11 * CLOSE[precision]
    frozen = Frozen(nn.Identity(), precision)
    assert frozen.alike(inside, logits, CPU)
    assert not frozen.alike(outside, logits, CPU)


def test_tf32_rounds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    frozen, logits = Frozen(nn.Identity()), torch.tensor([[1.0, 0.0]])
    assert frozen.alike(logits + 0.005, logits, torch.device("cuda"))
    assert not frozen.alike(logits + 0.005, logits, CPU)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_like_nothing(bad: float) -> None:
    logits, frozen = torch.tensor([[bad, 0.0]]), Frozen(nn.Identity())
    assert not frozen.alike(logits, logits, CPU)
    assert not frozen.alike(torch.zeros(1, 2), logits, CPU)
    assert not frozen.alike(logits, torch.zeros(1, 2), CPU)


def test_other_shapes_are_not_alike() -> None:
    assert not Frozen(nn.Identity()).alike(torch.zeros(2, 3), torch.zeros(2, 1), CPU)


def test_arithmetic_names_what_answers_are_computed_in(network: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for allowed, known in ((True, "tf32"), (False, "fp32")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert Frozen(network).arithmetic(cuda) == known
        assert Frozen(network).arithmetic(cpu) == "fp32"
        assert Frozen(network, "bf16").arithmetic(cuda) == Frozen(network, "bf16").arithmetic(cpu) == "bf16"


def test_a_small_network_is_arranged_once_and_never_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """By weights, precision and the images' shape; one changed weight is another network."""
    monkeypatch.setattr(inference, "ARRANGED", {})
    network = seasoned(build("cnn", 4, 3, 8, seed=0))
    first, again, half = Frozen(network), Frozen(network), Frozen(network, "bf16")
    answers = [frozen(pixels()) for frozen in (first, again, half)]
    assert folded(first) is folded(again)
    assert folded(half) is not folded(first)
    assert torch.equal(answers[0], answers[1])
    with torch.no_grad():
        next(network.parameters())[0] += 1
    other = Frozen(network)
    assert not torch.allclose(other(pixels()), answers[0])
    assert torch.allclose(other(pixels()), network(pixels()), atol=1e-4)
    for seed in range(inference.KEPT):
        Frozen(build("cnn", 4, 3, 8, seed=seed + 1))(pixels())
    assert len(inference.ARRANGED) == inference.KEPT
    monkeypatch.setattr(inference, "SMALL", 10)
    large = Frozen(network)
    large(pixels())
    assert folded(large) is not folded(other)
