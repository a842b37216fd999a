"""A victim whose accuracy shows that it was handed over wrongly is stopped, with the reason and the way on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from undistill.auditing.audit import prepare
from undistill.auditing.config import AuditConfig
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses.protect import protect
from undistill.errors import Implausible, RunError, UsageError
from undistill.experiments.extraction import attack
from undistill.models import build
from undistill.models import model_folder as folder
from undistill.oracle import BlackBox, Oracle, write_answers
from undistill.oracle.accuracy import Recorded, better_order, doubt, measured
from undistill.oracle.victim import Victim, measure, resolve
from undistill.threat_model import Access
from undistill.training.recipe import Recipe

NAMES = tuple("abcdefghij")
MakeImages = Callable[..., ImageSet]


def guesses(count: int, classes: int = 10, right: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(predictions, labels): a share of them right, the rest drawn."""
    rng = np.random.default_rng(seed)
    labels_N, drawn_N = rng.integers(0, classes, count), rng.integers(0, classes, count)
    return torch.from_numpy(np.where(rng.random(count) < right, labels_N, drawn_N)), torch.from_numpy(labels_N)


# -- what is doubtful ---------------------------------------------------------------------------------------------------


def test_guessing_counts_how_often_each_class_occurs_and_is_named() -> None:
    labels_N = torch.tensor([0] * 90 + [1] * 10)
    assert measured(torch.zeros(100, dtype=torch.int64), labels_N, 2).guessing == pytest.approx(90)
    assert measured(labels_N, labels_N, 2).guessing == pytest.approx(82)


@pytest.mark.parametrize("count", [25, 300, 5000])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("seed", range(5))
def test_guesses_are_doubtful_and_a_decent_classifier_is_not(count: int, classes: int, seed: int) -> None:
    names = NAMES[:classes]
    assert "near chance" in doubt(*guesses(count, classes, 0.0, seed), names)
    assert doubt(*guesses(count, classes, 0.9, seed), names) == ""


def test_one_class_for_all_is_doubtful_however_often_it_is_right() -> None:
    labels_N = torch.tensor([0] * 950 + [1] * 50)
    assert "near chance" in doubt(torch.zeros(1000, dtype=torch.int64), labels_N, NAMES[:2])
    mostly = labels_N.clone()
    mostly[960:] = 0
    assert "near chance" not in doubt(torch.where(torch.arange(1000) < 980, labels_N, 0), labels_N, NAMES[:2])


def test_a_classifier_that_finds_some_of_few_positives_is_not_near_chance() -> None:
    labels_N = (torch.arange(200) < 10).long()
    found_N = ((torch.arange(200) < 6) | (torch.arange(200) == 199)).long()  # 6 of 10, and one false alarm
    assert doubt(found_N, labels_N, NAMES[:2]) == ""
    assert "near chance" in doubt(found_N.roll(30), labels_N, NAMES[:2])


def test_too_few_images_say_nothing() -> None:
    assert doubt(*guesses(24), NAMES) == ""


@pytest.mark.parametrize(
    ("recorded", "data", "doubtful"),
    [
        (Recorded(93, "same"), "same", True),
        (Recorded(91, "same"), "same", False),
        (Recorded(91, "other"), "same", False),
        (Recorded(99.5, "other"), "same", True),
        (Recorded(99.5), "same", True),
        (Recorded(60, "same"), "same", False),
        (None, "same", False),
    ],
)
def test_an_accuracy_far_below_the_recorded_one_is_doubtful(
    recorded: Recorded | None, data: str, doubtful: bool
) -> None:
    labels_N = torch.arange(20_000) % 10
    predicted_N = torch.where(torch.arange(20_000) % 100 < 90, labels_N, (labels_N + 1) % 10)  # 90 %
    assert ("recorded" in doubt(predicted_N, labels_N, NAMES, recorded, data)) is doubtful


@pytest.mark.parametrize("seed", range(5))
def test_another_order_of_the_classes_is_found_and_listed(seed: int) -> None:
    predicted_N, labels_N = guesses(300, right=0.9, seed=seed)
    order = np.random.default_rng(seed).permutation(10).tolist()
    theirs_N = torch.tensor(order).argsort()[predicted_N]  # output i is class order[i]
    assert better_order(theirs_N, labels_N, 10) == order
    told = doubt(theirs_N, labels_N, NAMES, declare="say {order}")
    assert f"say {','.join(map(str, order))}" in told
    assert f"output {next(i for i in range(10) if order[i] != i)} is" in told


def test_two_classes_in_each_others_place_are_found() -> None:
    predicted_N, labels_N = guesses(1000, right=0.95)
    order = [0, 1, 2, 4, 3, 5, 6, 7, 8, 9]
    assert better_order(torch.tensor(order)[predicted_N], labels_N, 10) == order


@pytest.mark.parametrize("right", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("count", [25, 100, 2000])
@pytest.mark.parametrize("seed", range(5))
def test_no_order_is_found_where_none_is_better_but_by_luck(right: float, count: int, seed: int) -> None:
    assert better_order(*guesses(count, right=right, seed=seed), 10) is None


# -- at work ------------------------------------------------------------------------------------------------------------


class Nearest(nn.Module):
    """Logits by the distance to each class's mean image, its outputs in an order of its own."""

    def __init__(self, images: ImageSet, order: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        pixels, labels_N = images.seen(), images.labels_N
        means = torch.stack([pixels[labels_N == label].mean(0).flatten() for label in order])
        self.means = nn.Parameter(means, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """B × 4."""
        return -torch.cdist(pixels.flatten(1), self.means)


@pytest.fixture(scope="module")
def data(make_images: MakeImages) -> Splits:
    """As `splits`, with 60 test images."""
    train, pool, val, test = (make_images(count, seed=seed) for seed, count in enumerate((24, 40, 8, 60)))
    mean, std = train.moments()
    return Splits("synthetic", train, pool, val, test, "0123456789abcdef", "made up", mean=mean, std=std)


MOVED = (0, 2, 3, 1)
CARD = "probs/unlabelled/trained/random/10"


@pytest.fixture
def verbs(data: Splits, recipe: Recipe, tmp_path: Path) -> dict[str, Callable[..., Any]]:
    """The verbs that a victim is resolved for."""
    common: dict[str, Any] = {"recipe": recipe, "device": "cpu"}
    asked = AuditConfig(threat_model="labelled/fresh", assume_fresh=True)
    return {
        "attack": lambda victim, **more: attack(victim, data, card=CARD, out=tmp_path / "a", **common, **more),
        "protect": lambda victim, **more: protect(
            victim, data, "nasty", start_from="teacher", out=tmp_path / "p", **common, **more
        ),
        "audit": lambda victim, **more: prepare(victim, data, asked, out=tmp_path / "c", **common, **more),
    }


def test_a_victim_that_knows_its_classes_passes(data: Splits) -> None:
    found = resolve(Nearest(data.train), data).plausible(data)
    assert found is not None
    assert (found.percent, found.images) == (100, 60)


@pytest.mark.parametrize("verb", ["attack", "protect", "audit"])
def test_a_victim_near_chance_stops_each_verb_unless_it_is_accepted(
    verbs: dict[str, Callable[..., Any]], verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = build("cnn", 4, 3, 8, 0.125, seed=0)
    victim.head.weight.data.zero_()  # type: ignore[operator]
    with pytest.raises(Implausible, match=r"the victim cnn: .*25.00 % .*near chance.*--accept-accuracy"):
        verbs[verb](Victim(victim.eval(), None, "0" * 16))
    verbs[verb](Victim(victim.eval(), None, "0" * 16), accept_accuracy=True)
    assert "near chance" in caplog.text


@pytest.mark.parametrize("verb", ["attack", "audit"])
def test_classes_in_another_order_stop_with_the_order(
    verbs: dict[str, Callable[..., Any]], verb: str, data: Splits
) -> None:
    with pytest.raises(Implausible, match=r"25.00 % .*100.00 % .*output 1 is 'class 2'.*--class-order 0,2,3,1"):
        verbs[verb](Nearest(data.train, MOVED))


def say(network: nn.Module, counts: list[int]) -> Callable[[Any], Any]:
    """A function of uint8 pixels that counts what it is asked."""

    def predict(pixels: Any) -> Any:
        counts.append(len(pixels))
        return (network(torch.from_numpy(pixels).float() / 255) * 5).softmax(1)

    return predict


def test_a_function_is_asked_nothing_for_its_accuracy(
    verbs: dict[str, Callable[..., Any]], data: Splits, tmp_path: Path
) -> None:
    counts: list[int] = []
    box = BlackBox(say(Nearest(data.train), counts), Access.PROBS, 4, "the api")
    assert resolve(box).plausible(data) is None
    assert verbs["attack"](box).queries == sum(counts) == 10


def test_a_function_is_judged_by_what_it_answered_anyway(
    data: Splits, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts: list[int] = []
    box = BlackBox(say(Nearest(data.train, MOVED), counts), Access.PROBS, 4, "the api")
    given: dict[str, Any] = {
        "card": "probs/unlabelled/fresh/random/40",
        "unseen": True,
        "recipe": recipe,
        "device": "cpu",
    }
    for _ in range(2):  # the second time by the query log alone
        with pytest.raises(Implausible, match=r"the victim the api: .*40 labeled images.*'class 2'.*0,2,3,1"):
            attack(box, data, **given, out=tmp_path / "run", resume=True)
        assert sum(counts) == 40
    cell = attack(box, data, **given, out=tmp_path / "run", resume=True, accept_accuracy=True)
    assert (cell.status, cell.queries, sum(counts)) == ("ok", 40, 40)


def test_a_table_of_answers_is_judged_by_them(data: Splits, recipe: Recipe, tmp_path: Path) -> None:
    said = say(Nearest(data.train, MOVED), [])(data.test.images_NCHW[:].numpy())
    write_answers(tmp_path / "a.parquet", data.test.images_NCHW[:].numpy(), said, kind="probs", num_classes=4)
    with pytest.raises(Implausible, match="60 labeled images"):
        resolve(tmp_path / "a.parquet", data).plausible(data)


def test_a_control_needs_no_victim_that_makes_sense(data: Splits, recipe: Recipe, tmp_path: Path) -> None:
    card = "logits/labelled/trained/random"
    cell = attack(Nearest(data.train, MOVED), data, "scratch", card=card, recipe=recipe, out=tmp_path, device="cpu")
    assert cell.kind == "control"


# -- recorded -----------------------------------------------------------------------------------------------------------


def test_what_was_measured_at_the_import_is_recorded_and_compared(data: Splits, tmp_path: Path) -> None:
    network = build("cnn", 4, 3, 8, 0.125, seed=0)
    folder.save(tmp_path, network, None, "", {"kind": "import"})
    found, _ = measure(tmp_path, data)
    known = folder.read_origin(tmp_path)["accuracy"]
    assert (known["percent"], known["images"], known["data"]) == (round(found.percent, 6), 60, data.fingerprint)
    victim = resolve(tmp_path)
    assert victim.recorded == Recorded(known["percent"], data.fingerprint)
    assert victim.id == resolve(network).id  # what is recorded changes no id
    better = replace(resolve(Nearest(data.train), data), recorded=Recorded(100, data.fingerprint))
    assert better.plausible(data) is not None
    with pytest.raises(Implausible, match=r"near chance|far below"):
        replace(victim, recorded=Recorded(100, data.fingerprint)).plausible(data)


def test_a_poor_training_of_ones_own_stops_what_is_strict_alone(data: Splits, caplog: pytest.LogCaptureFixture) -> None:
    victim = build("cnn", 4, 3, 8, 0.125, seed=0).eval()
    victim.head.weight.data.zero_()  # type: ignore[operator]
    ours = Victim(victim, None, "0" * 16, recorded=Recorded(25.0, data.fingerprint, own=True))
    assert ours.plausible(data) is not None
    assert "near chance" in caplog.text
    with pytest.raises(Implausible, match=r"near chance.*more images"):
        ours.plausible(data, strict=True)
    with pytest.raises(Implausible, match=r"near chance.*normalization"):  # its own training ended better
        replace(ours, recorded=Recorded(60.0, data.fingerprint, own=True)).plausible(data)


@pytest.mark.parametrize("accuracy", [{"percent": "high", "data": None}, {"data": "x"}, 3])
def test_a_recorded_accuracy_that_is_none_is_named(data: Splits, tmp_path: Path, accuracy: Any) -> None:
    folder.save(tmp_path, build("cnn", 4, 3, 8, 0.125, seed=0), None, "")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "origin": {"accuracy": accuracy}}))
    with pytest.raises(RunError, match=r"config\.json: origin\.accuracy"):
        resolve(tmp_path)


# -- answers that are not finite ----------------------------------------------------------------------------------------


class Sometimes(nn.Module):
    """`Nearest`, but NaN (or another value) for images whose first pixel is bright."""

    def __init__(self, images: ImageSet, value: float = float("nan"), above: float = 0.5) -> None:
        super().__init__()
        self.inner, self.value, self.above = Nearest(images), value, above
        self.head = nn.Linear(4, 4)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """B × 4."""
        bright_B1 = (pixels[:, 0, 0, 0] > self.above)[:, None]
        return self.head(self.inner(pixels)) + torch.where(bright_B1, self.value, 0.0)


@pytest.mark.parametrize("access", list(Access), ids=[access.label for access in Access])
@pytest.mark.parametrize("method", ["kd", "label-only", "head-refit"])
def test_nan_of_a_victim_is_an_error_that_names_it_at_every_access(
    access: Access, method: str, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    if (method == "head-refit" and access is not Access.WEIGHTS) or (method == "kd" and access < Access.TOPK):
        pytest.skip("the attack needs more")
    kept = splits.test.take((splits.test.seen()[:, 0, 0, 0] <= 0.5).nonzero().squeeze(1))
    data = replace(splits, test=kept)  # the test images alone would show nothing
    card = f"{access.label}/unlabelled/trained/random"
    with pytest.raises(RunError, match=r"the victim \(Sometimes\) answers with NaN or infinity"):
        attack(Sometimes(data.train), data, method, card=card, recipe=recipe, out=tmp_path, device="cpu", bank=None)
    assert not list(tmp_path.rglob("cells/*.json"))


def test_nan_about_test_images_is_named_before_anything_is_trained(
    verbs: dict[str, Callable[..., Any]], data: Splits, tmp_path: Path
) -> None:
    for verb in ("attack", "audit"):
        for more in ({}, {"accept_accuracy": True}):
            with pytest.raises(RunError, match=r"NaN or infinity for \d+ of 60 images"):
                verbs[verb](Sometimes(data.train), **more)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("value", "broken"), [(float("nan"), True), (float("inf"), True), (-float("inf"), True)])
def test_an_oracle_says_at_once_that_an_answer_is_not_finite(splits: Splits, value: float, broken: bool) -> None:
    oracle = Oracle(Sometimes(splits.train, value), Access.LABEL)
    with pytest.raises(RunError, match=r"Sometimes answers with NaN or infinity for [0-9]+ of 24 images"):
        oracle.ask(splits.train.seen())


def test_minus_infinity_for_some_classes_is_an_answer(splits: Splits) -> None:
    class Masked(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0, -float("inf"), 0.5]]).expand(len(pixels), 4)

    assert Oracle(Masked(), Access.PROBS).ask(splits.train.seen()).values[0, 2] == 0


# -- probabilities for logits -------------------------------------------------------------------------------------------


def test_a_module_that_ends_in_a_softmax_is_refused_with_the_way_out(splits: Splits) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Softmax(dim=1))
    with pytest.raises(UsageError, match=r"returns probabilities.*take its softmax off, or return the logarithm"):
        resolve(module, splits)
    assert resolve(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.LogSoftmax(dim=1)), splits).model is not None


def test_a_factory_of_networks_that_end_in_a_softmax_is_refused(splits: Splits, tmp_path: Path) -> None:
    code = "from torch import nn\n\n\ndef net(num_classes):\n    return nn.Sequential("
    (tmp_path / "soft.py").write_text(code + "nn.Flatten(), nn.Linear(192, num_classes), nn.Softmax(1))\n")
    with pytest.raises(UsageError, match=r"soft\.py:net returns probabilities"):
        resolve(f"{tmp_path}/soft.py:net", splits)
