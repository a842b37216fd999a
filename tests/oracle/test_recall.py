"""Attackers and hardenings that read the bank learn what they would have learned without it, and the network is asked once."""

from __future__ import annotations

import copy
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS
from undistill.data.augment import Crop, to_float
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses.base import DEFENSES
from undistill.errors import Refused, RunError
from undistill.experiments.extraction import top_class
from undistill.models import Classifier
from undistill.oracle import BlackBox, LogitCache, Oracle, Questions
from undistill.oracle.inference import PROBE, Frozen
from undistill.oracle.logit_cache import Held, Recall, answers, recalled
from undistill.threat_model import Access
from undistill.training.evaluate import predict
from undistill.training.recipe import Recipe, Training, read

CPU = torch.device("cpu")
PASSES = 3
PROBED = PROBE
"""At most so many answers of an entry are computed anew."""
Weights = dict[str, Tensor]
MakeModel = Callable[..., Classifier]


class Counter:
    """Counts answers that were computed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


def batches_of(images: ImageSet, *, views: bool = True, seed: int = 0, batch: int = 8) -> ImageBatches:
    return ImageBatches(images, batch, (Crop(padding=2),) if views else (), seed=seed, role="thief")


def with_views(recipe: Recipe, **training: Any) -> Recipe:
    values = recipe.dump()
    values["data"]["views"] = [{"name": "crop", "padding": 2}, {"name": "flip"}]
    values["training"] |= {"epochs": PASSES, **training}
    return read(values)


@pytest.fixture
def bank(tmp_path: Path) -> LogitCache:
    return LogitCache(tmp_path / "bank")


@pytest.fixture(scope="module")
def images(make_images: Callable[..., ImageSet]) -> ImageSet:
    """120 images: many more than are probed."""
    return make_images(120)


@pytest.fixture(scope="module")
def victim(make_model: MakeModel, images: ImageSet) -> Classifier:
    """A victim whose batch norms have seen data. Never changed."""
    model = make_model()
    model(to_float(images.images_NCHW[:]))
    return model.eval()


@pytest.fixture
def steal(victim: Classifier, images: ImageSet, make_model: MakeModel, recipe: Recipe) -> Callable[..., Any]:
    """`steal(bank, attack, …)`: (the student, the oracle it asked)."""

    def call(
        bank: LogitCache | None,
        attack: str | dict[str, Any] = "kd",
        *,
        access: Access = Access.LOGITS,
        held: ImageSet = images,
        student: str = "cnn",
        seed: int = 0,
        network: Any = victim,
        budget: int | None = None,
        precision: Any = "fp32",
    ) -> tuple[Classifier, Oracle]:
        oracle = Oracle(network, access, bank=bank, budget=budget, top_k=2, precision=precision)
        attacker, plan = make_model(1, "thief", student), with_views(recipe).model_copy(update={"seed": seed})
        list(ATTACKS.make(attack).steal(oracle, attacker, held, plan, device=CPU))
        return attacker, oracle

    return call


def entries(bank: LogitCache) -> list[Path]:
    return sorted(path.parent for path in bank.place.glob("*/about.json"))


def passes_in(bank: LogitCache) -> list[str]:
    return sorted(path.name for path in bank.place.glob("*/*.safetensors"))


def assert_alike(one: nn.Module, two: nn.Module) -> None:
    """Equal to float32 rounding, all the way through training."""
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


# -- with and without ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["kd", "label-only"])
def test_a_student_is_the_same_with_and_without_a_bank(
    steal: Callable[..., Any], bank: LogitCache, splits: Splits, attack: str
) -> None:
    plain, asked = steal(None, attack)
    first, filling = steal(bank, attack)
    second, reading = steal(bank, attack)
    for student in (first, second):
        assert_alike(student, plain)
        said = (predict(network, splits.test).argmax(1) for network in (student, plain))
        assert torch.equal(*said)
    assert asked.queries == filling.queries == reading.queries == PASSES * 120
    assert asked.forwards == filling.forwards == PASSES * 120
    assert 0 < reading.forwards <= PROBED
    assert len(entries(bank)) == 1


def test_a_nasty_teacher_is_the_same_with_and_without_a_bank(
    victim: Classifier, images: ImageSet, make_model: MakeModel, recipe: Recipe, bank: LogitCache
) -> None:
    def harden(bank: LogitCache | None, **settings: Any) -> Classifier:
        network = make_model(role="nasty")
        nasty = DEFENSES.make({"name": "nasty", "omega": 0.2, **settings})
        list(nasty.harden(network, victim, images, with_views(recipe), device=CPU, bank=bank))
        return network

    plain, first = harden(None), harden(bank)
    kept = passes_in(bank)
    second, other = harden(bank), harden(bank, omega=1.0, temperature=9)
    assert_alike(first, plain)
    assert_alike(second, plain)
    assert not torch.allclose(other.state_dict()["head.weight"], plain.state_dict()["head.weight"], atol=1e-4)
    assert kept == passes_in(bank) == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]


def test_a_second_nasty_teacher_asks_the_adversary_next_to_nothing(
    victim: Classifier, images: ImageSet, recipe: Recipe, bank: LogitCache
) -> None:
    batches, counts = batches_of(images), (Counter(), Counter())
    for count in counts:
        says = answers(Frozen(victim), batches, PASSES, bank, count)
        for epoch in range(PASSES):
            for batch in batches.epoch(epoch):
                torch.testing.assert_close(says(batch), victim(batch.images_BCHW).detach())
    assert counts[0].count == PASSES * 120
    assert counts[1].count <= PROBED


def test_without_a_bank_answers_are_computed_each_time(victim: Classifier, images: ImageSet) -> None:
    batches, count = batches_of(images), Counter()
    says = answers(Frozen(victim), batches, PASSES, None, count)
    for _ in range(2):
        for batch in batches.epoch(0):
            torch.testing.assert_close(says(batch), victim(batch.images_BCHW).detach())
    assert count.count == 240


def test_epochs_of_several_passes_are_kept_pass_by_pass(victim: Classifier, images: ImageSet, bank: LogitCache) -> None:
    batches = ImageBatches(images, 7, (Crop(padding=2),), seed=0, role="thief", passes=2)
    oracle = Oracle(victim, Access.LOGITS, bank=bank)
    questions = Questions(oracle, batches, Training(epochs=2, passes=2))
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            torch.testing.assert_close(questions(batch).values, victim(batch.images_BCHW).detach())
    assert len(passes_in(bank)) == 4


def test_without_views_one_pass_is_kept(victim: Classifier, images: ImageSet, bank: LogitCache) -> None:
    batches, count = batches_of(images, views=False), Counter()
    recall = recalled(Frozen(victim), batches, 50, bank, count)
    assert recall is not None
    for epoch in (0, 1, 49):
        for batch in batches.epoch(epoch):
            torch.testing.assert_close(recall(batch), victim(batch.images_BCHW).detach())
    assert passes_in(bank) == ["00000.safetensors"]
    assert count.count == 120


def test_room_is_asked_for_all_passes(victim: Classifier, images: ImageSet, tmp_path: Path) -> None:
    tight = LogitCache(tmp_path / "tight", PASSES * 120 * 20)
    assert recalled(Frozen(victim), batches_of(images), PASSES + 1, tight) is None
    assert recalled(Frozen(victim), batches_of(images), PASSES, tight) is not None
    assert recalled(Frozen(victim), batches_of(images, views=False), 10**6, tight) is not None


def test_over_the_limit_a_student_is_the_same(steal: Callable[..., Any], tmp_path: Path) -> None:
    plain, _ = steal(None)
    for limit in (0, 100):
        student, oracle = steal(LogitCache(tmp_path / "bank", limit))
        assert_alike(student, plain)
        assert oracle.forwards == PASSES * 120
    assert not (tmp_path / "bank").exists()


# -- what is shared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"attack": {"name": "kd", "temperature": 20}},
        {"attack": {"name": "kd", "alpha": 0.1}},
        {"attack": "label-only"},
        {"attack": "label-only", "access": Access.LABEL},
        {"access": Access.PROBS},
        {"student": "resnet18"},
    ],
    ids=str,
)
def test_other_students_and_settings_read_the_same_entry(
    steal: Callable[..., Any], bank: LogitCache, other: dict[str, Any]
) -> None:
    steal(bank)
    _, oracle = steal(bank, **other)
    assert len(entries(bank)) == 1
    assert oracle.forwards <= PROBED
    assert oracle.queries == PASSES * 120


def test_another_seed_of_views_is_another_entry(steal: Callable[..., Any], bank: LogitCache) -> None:
    steal(bank)
    _, oracle = steal(bank, seed=1)
    assert len(entries(bank)) == 2
    assert oracle.forwards == PASSES * 120


def test_other_weights_data_or_precision_are_another_entry(
    steal: Callable[..., Any], bank: LogitCache, victim: Classifier, make_images: Callable[..., ImageSet]
) -> None:
    steal(bank)
    moved = copy.deepcopy(victim)
    with torch.no_grad():
        moved.get_parameter("head.bias").add_(1e-6)
    others: list[dict[str, Any]] = [{"network": moved}, {"held": make_images(120, seed=1)}, {"precision": "bf16"}]
    for count, other in enumerate(others, start=2):
        _, oracle = steal(bank, **other)
        assert len(entries(bank)) == count
        assert oracle.forwards == PASSES * 120


def half(images: ImageSet) -> ImageSet:
    return images.take(torch.arange(0, 120, 2).flip(0))


def test_of_a_subset_that_was_asked_only_the_rest_is_computed(
    steal: Callable[..., Any], bank: LogitCache, images: ImageSet
) -> None:
    plain, _ = steal(None)
    _, first = steal(bank, held=half(images))
    whole, second = steal(bank)
    assert first.forwards == PASSES * 60
    assert PASSES * 60 < second.forwards <= PASSES * 60 + PROBED
    assert_alike(whole, plain)
    assert len(entries(bank)) == 1


def test_a_subset_of_what_was_asked_is_not_computed(
    steal: Callable[..., Any], bank: LogitCache, images: ImageSet
) -> None:
    plain, _ = steal(None, held=half(images))
    steal(bank)
    student, oracle = steal(bank, held=half(images))
    assert oracle.forwards <= PROBED
    assert oracle.queries == PASSES * 60
    assert_alike(student, plain)


# -- who never touches it -----------------------------------------------------------------------------------------------


def test_a_attacker_with_a_budget_never_touches_the_bank(steal: Callable[..., Any], bank: LogitCache) -> None:
    _, oracle = steal(bank, budget=120)
    assert (oracle.queries, oracle.forwards) == (120, 120)
    assert not bank.place.exists()


def test_a_black_box_never_touches_the_bank(images: ImageSet, bank: LogitCache) -> None:
    box = BlackBox(lambda pixels: torch.ones(len(pixels), 4) / 4, Access.PROBS, 4, "the api")
    oracle = Oracle(box, Access.PROBS, bank=bank)
    questions = Questions(oracle, batches_of(images), Training(epochs=1))
    for batch in batches_of(images).epoch(0):
        questions(batch)
    assert oracle.forwards == oracle.queries == 120
    assert not bank.place.exists()


def test_a_question_over_budget_is_refused_from_the_bank_too(
    victim: Classifier, images: ImageSet, bank: LogitCache
) -> None:
    oracle = Oracle(victim, Access.LOGITS, bank=bank, budget=10)
    recall = oracle.recall(batches_of(images), 1)
    assert recall is not None
    first, second, *_ = batches_of(images).epoch(0)
    recall(first)
    with pytest.raises(Refused, match="8 more questions exceed the budget of 10"):
        recall(second)


# -- what it shows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", Access)
def test_a_filled_bank_shows_no_more_than_the_access_gives(
    victim: Classifier, images: ImageSet, bank: LogitCache, access: Access
) -> None:
    batches = batches_of(images)
    for whoever in (Access.LOGITS, access):  # the bank is filled by one who may see everything
        questions = Questions(Oracle(victim, whoever, bank=bank, top_k=2), batches, Training(epochs=1))
        plain = Oracle(victim, whoever, top_k=2)
        for batch in batches.epoch(0):
            shown, expected = questions(batch), plain.ask(batch.images_BCHW)
            assert shown.access is expected.access is whoever
            assert shown.values.dtype == expected.values.dtype
            assert shown.values.shape == expected.values.shape
            torch.testing.assert_close(shown.values, expected.values, rtol=1e-4, atol=1e-5)
            assert torch.equal(shown.values == 0, expected.values == 0)
    assert len(passes_in(bank)) == 1


# -- damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "pickle"])
def test_damaged_answers_are_computed_anew_with_a_warning(
    steal: Callable[..., Any], bank: LogitCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = steal(bank)
    path = next(bank.place.glob("*/00001.safetensors"))
    sound = path.read_bytes()
    bad = {"empty": b"", "cut": sound[:-9], "flipped": sound[:-9] + b"\x7f" + sound[-8:], "pickle": b"\x80\x04]\x94."}
    path.write_bytes(bad[damage])
    student, oracle = steal(bank)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is damaged and is computed anew" in caplog.text
    assert 120 < oracle.forwards <= 120 + PROBED
    assert_alike(student, plain)
    assert path.read_bytes() == sound


def lie(bank: LogitCache, victim: Classifier, images: ImageSet, held: ImageSet) -> Recall:
    """An entry about `victim` that holds what another network said, with all checksums right."""
    recall = recalled(Frozen(victim), batches_of(images), PASSES, bank)
    assert recall is not None
    assert recall._entry is not None
    wrong = torch.randn(len(held), 4, generator=torch.Generator().manual_seed(7))
    for number in range(PASSES):
        recall._entry.write(number, Held(held.index_N, wrong))
    return recall


@pytest.mark.parametrize("part", ["all", "half"])
def test_answers_of_another_network_are_found_out(
    victim: Classifier, images: ImageSet, bank: LogitCache, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    recall = lie(bank, victim, images, images if part == "all" else half(images))
    for number in range(PASSES):
        views = batches_of(images).views_of(number)
        expected = victim(views(images.images_NCHW[:], images.index_N)).detach()
        torch.testing.assert_close(recall.of(number), expected)
        if number == 0:
            assert passes_in(bank) == ["00000.safetensors"]  # all that the other one said is gone
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "holds outputs that the network does not give; they are computed anew" in caplog.text


def test_a_disk_that_refuses_stops_no_training(
    steal: Callable[..., Any], bank: LogitCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise RunError(f"no space left to write {path}; free some")

    plain, _ = steal(None)
    monkeypatch.setattr("undistill.oracle.logit_cache.write_bytes", full)
    student, oracle = steal(bank)
    assert_alike(student, plain)
    assert oracle.forwards == oracle.queries == PASSES * 120
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_entry_that_is_deleted_under_way_stops_no_training(
    victim: Classifier, images: ImageSet, bank: LogitCache
) -> None:
    import shutil

    recall = recalled(Frozen(victim), batches_of(images), PASSES, bank)
    assert recall is not None
    recall.of(0)
    shutil.rmtree(bank.place)
    expected = victim(batches_of(images).views_of(1)(images.images_NCHW[:], images.index_N)).detach()
    torch.testing.assert_close(recall.of(1), expected)


class Dropping(nn.Module):
    """Leaves its dropout on."""

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, 0.5, training=True)


def test_a_network_that_answers_at_random_is_never_kept(
    images: ImageSet, bank: LogitCache, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "undistill")
    network = make_model()
    network.neck = nn.Sequential(network.neck, Dropping())  # type: ignore[arg-type]
    oracle = Oracle(network, Access.LOGITS, bank=bank)
    questions = Questions(oracle, batches_of(images), Training(epochs=1))
    batch = next(batches_of(images).epoch(0))
    assert not torch.equal(questions(batch).values, questions(batch).values)
    assert (oracle.queries, oracle.forwards) == (16, 16)
    assert not bank.place.exists()
    assert "answers the same image differently, so nothing is kept" in caplog.text


def test_a_network_with_hooks_or_of_unknown_code_is_never_kept(
    images: ImageSet, bank: LogitCache, make_model: MakeModel
) -> None:
    """What a hook or foreign code does to an answer is not told by weights, and may strike too rarely for a probe."""
    hooked = make_model()
    hooked.register_forward_hook(lambda *call: call[2])
    foreign = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    for network in (hooked, foreign):
        assert recalled(Frozen(network), batches_of(images), PASSES, bank) is None
    assert not bank.place.exists()
    assert recalled(Frozen(make_model()), batches_of(images), PASSES, bank) is not None  # the control


# -- the test split -----------------------------------------------------------------------------------------------------


def test_what_the_victim_says_about_the_test_split_is_asked_once(
    victim: Classifier, splits: Splits, bank: LogitCache
) -> None:
    expected = predict(victim, splits.test).argmax(1)
    for given in (None, bank, bank):
        found = top_class(victim, splits.test, bank=given)
        assert found is not None
        assert torch.equal(found, expected)
    assert passes_in(bank) == ["00000.safetensors"]
    one = splits.test.take(torch.tensor([3]))
    for given in (None, bank):
        found = top_class(victim, one, bank=given)
        assert found is not None
        assert found.tolist() == expected[3:4].tolist()


# -- several processes --------------------------------------------------------------------------------------------------


WORKER = """
import logging, os, sys, time
from pathlib import Path
import torch
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.data.augment import Crop
from undistill.models import build
from undistill.oracle import LogitCache
from undistill.oracle.inference import PROBE, Frozen
from undistill.oracle.logit_cache import recalled

torch.set_num_threads(1)
logging.basicConfig(level=logging.WARNING)
folder, passes, slow = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
pixels = torch.randint(0, 256, (120, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
images = ImageSet.of(pixels, torch.arange(120) % 4, ("a", "b", "c", "d"))
batches = ImageBatches(images, 7, (Crop(padding=2),), seed=0, role="attacker")
computed = []

def count(number):
    computed.append(number)
    time.sleep(slow)

network = build("cnn", num_classes=4, in_channels=3, image_size=8, width=0.125, seed=0).eval()
recall = recalled(Frozen(network), batches, passes, LogitCache(folder), count)
print("ready", flush=True)
sys.stdin.readline()
for number in range(passes):
    found = recall.of(number)
    expected = network(batches.views_of(number)(images.images_NCHW, images.index_N)).detach()
    torch.testing.assert_close(found, expected)
    print(number, flush=True)
print("computed", sum(computed), flush=True)
"""


def worker(bank: LogitCache, passes: int, slow: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(bank.place), str(passes), str(slow)]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ})
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def done(process: subprocess.Popen[str]) -> int:
    """How many answers a worker computed."""
    out, err = process.communicate("go\n" if process.stdin and not process.stdin.closed else None, timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    return int(out.split()[-1])


@pytest.mark.e2e
def test_two_processes_compute_each_pass_once(bank: LogitCache) -> None:
    passes = 6
    workers = [worker(bank, passes, slow=0.05) for _ in range(2)]
    for process in workers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [done(process) for process in workers]
    assert passes * 120 <= sum(counts) <= passes * 120 + 2 * PROBED
    assert len(passes_in(bank)) == passes


@pytest.mark.e2e
def test_what_a_killed_process_filled_is_used_and_what_it_half_wrote_is_swept(bank: LogitCache) -> None:
    passes = 5
    killed = worker(bank, passes, slow=0.3)
    assert killed.stdin is not None
    assert killed.stdout is not None
    killed.stdin.write("go\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "0\n"
    assert killed.stdout.readline() == "1\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    kept = len(passes_in(bank))
    assert 2 <= kept < passes
    (part := entries(bank)[0] / f".{kept:05d}.safetensors.x1y2z3.part").write_bytes(b"half")
    assert done(worker(bank, passes)) <= (passes - kept) * 120 + PROBED
    assert not part.exists()
    assert len(passes_in(bank)) == passes
