"""Models and components from anywhere, through the shell: imported, foreign, behind a function, in a table, from a plugin."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits

from models.references import keys
from undistill import plugins
from undistill.models import MODELS, build
from undistill.models import model_folder as folder
from undistill.oracle import write_answers
from undistill.registry import Registry
from whole.commands import Outcome, Shell

pytestmark = pytest.mark.e2e

QUICK = ("--data", "digits", "-s", "data.limit=1100", "-s", "training.epochs=1", "-q")
THIEF = (*QUICK, "-s", "student.width=0.0625", "--json", "--card")
UNTRAINED = "--accept-accuracy"
"""For victims that never learned anything."""
TRAINED = "probs/unlabelled/trained/random/40"
FRESH = "probs/unlabelled/fresh/random/40"

CODE = """
import numpy as np
from torch import nn


def net(num_classes, in_channels, image_size):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, 8), nn.ReLU(), nn.Linear(8, num_classes))


def answer(pixels):
    logits = pixels.reshape(len(pixels), -1)[:, 10:20].astype(float) / 100
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def labels(pixels):
    return answer(pixels).argmax(1)


def broken(pixels):
    return answer(pixels) * 2
"""
PLUGIN = """
from typing import ClassVar, Literal

import torch
from torch import nn

from undistill.threat_model import Access
from undistill.attacks.base import ATTACKS
from undistill.attacks.kd import KD
from undistill.data.sources import SOURCES, Digits
from undistill.data.augment import VIEWS, View
from undistill.defenses.base import DEFENSES
from undistill.defenses.nasty import Nasty
from undistill.models.base import MODELS, Network


@MODELS.register
class ToyNet(Network):
    '''One linear layer.'''

    name: Literal["toy-net"] = "toy-net"

    def assemble(self, num_classes, in_channels, image_size):
        return [nn.Identity()], nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes)


@VIEWS.register
class ToyView(View):
    '''Leave it as it is.'''

    name: Literal["toy-view"] = "toy-view"

    def draw(self, rng, count):
        return torch.zeros(count, 1, dtype=torch.int64)

    def apply(self, images_BCHW, choices_BK):
        return images_BCHW


@SOURCES.register
class ToyDigits(Digits):
    '''Digits by another name.'''

    name: Literal["toy-digits"] = "toy-digits"


@DEFENSES.register
class ToyDefense(Nasty):
    '''Nasty by another name.'''

    name: Literal["toy-defense"] = "toy-defense"


@ATTACKS.register
class ToyAttack(KD):
    '''Distillation by another name.'''

    name: Literal["toy-attack"] = "toy-attack"
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody is trusted, and components of plugins are gone behind each test."""
    monkeypatch.setitem(plugins.REMEMBERED, plugins.VARIABLE, [])
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
    for registry in list(Registry.all.values()):
        registry.everything()
    before = {kind: dict(registry._classes) for kind, registry in Registry.all.items()}
    yield
    for kind, classes in before.items():
        Registry.all[kind]._classes.clear()
        Registry.all[kind]._classes.update(classes)
    for name in [name for name in sys.modules if name.startswith("undistill_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "theirs.py").write_text(CODE)
    return str(tmp_path / "theirs.py")


def done(outcome: Outcome) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def refused(outcome: Outcome, words: str, code: int = 2) -> None:
    assert (outcome.code, outcome.out) == (code, "")
    assert re.fullmatch(rf"error: [^\n]*{words}[^\n]*\n", outcome.err), outcome.err


# -- imported -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def imported(shell: Shell, tmp_path: Path) -> Path:
    """A checkpoint in the authors' layout, imported."""
    network = build("cnn", 10, 1, 8, seed=0)
    rules = MODELS.classes()["cnn"].foreign_keys
    state = {key: next(re.sub(p, r, key) for p, r in rules if re.fullmatch(p, key)) for key in keys("cnn")}
    source = tmp_path / "authors"
    source.mkdir()
    (source / "params.json").write_text(json.dumps({"model_name": "net", "dataset": "own"}))
    torch.save(
        {"state_dict": {key: network.state_dict()[ours] for key, ours in state.items()}}, source / "best_model.tar"
    )
    (tmp_path / "names.txt").write_text("\n".join(str(digit) for digit in range(10)) + "\n\n")
    told = ["--classes", tmp_path / "names.txt", "--size", "8", "--channels", "1", "--mean", "0.3", "--std", "0.4"]
    found = done(shell("import", source, *told, "--json", "-o", tmp_path / "imported"))
    assert found["network"]["name"] == "cnn"
    assert (found["network"]["mean"], found["network"]["std"]) == ([0.3], [0.4])
    return tmp_path / "imported"


def test_what_was_imported_is_attacked(shell: Shell, imported: Path, tmp_path: Path) -> None:
    refused(shell("attack", imported, *THIEF, TRAINED, "-o", tmp_path / "out"), "near chance.*--accept-accuracy")
    cell = done(shell("attack", imported, *THIEF, TRAINED, UNTRAINED, "-o", tmp_path / "out"))
    assert (cell["status"], cell["queries"], cell["victim"]) == ("ok", 40, "normal")


def test_a_fresh_card_needs_a_word(shell: Shell, imported: Path, tmp_path: Path) -> None:
    refused(shell("attack", imported, *THIEF, FRESH, "-o", tmp_path / "out"), "--assume-fresh")
    assert not (tmp_path / "out").exists()
    cell = done(shell("attack", imported, *THIEF, FRESH, "--assume-fresh", UNTRAINED, "-o", tmp_path / "out"))
    assert cell["vouched"] is True


def test_what_was_imported_is_hardened(shell: Shell, imported: Path, tmp_path: Path) -> None:
    result = done(
        shell("protect", imported, "--with", "nasty-head", *QUICK, UNTRAINED, "--json", "-o", tmp_path / "twin")
    )
    assert result["defense"]["name"] == "nasty-head"
    before, after = (folder.read(path)[0].state_dict() for path in (imported, tmp_path / "twin" / "model"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    cell = done(shell("attack", tmp_path / "twin", *THIEF, TRAINED, "-o", tmp_path / "out"))
    assert cell["victim"] == "nasty-head"


def test_what_was_imported_is_fine_tuned(shell: Shell, imported: Path, tmp_path: Path) -> None:
    outcome = shell("train", "--weights", imported, *QUICK[:-1], "--json", "-o", tmp_path / "tuned")
    assert done(outcome)["weights"]["head"] == "kept"
    assert "started from imported, its last layer kept" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mean", "a,b"], "--mean is a list of numbers"),
        (["--classes", "no/such.txt"], "cannot read class names from no/such"),
        (["--model", "resnet19"], "no model called 'resnet19'"),
        ([], "name it with --model"),
    ],
)
def test_a_wrong_import_ends_in_a_sentence(shell: Shell, tmp_path: Path, options: list[str], words: str) -> None:
    safetensors.torch.save_file({"weight": torch.ones(1)}, tmp_path / "w.safetensors")
    refused(shell("import", tmp_path / "w.safetensors", *options, "-o", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_names_code_runs_none(shell: Shell, tmp_path: Path, code: str) -> None:
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{CODE}")
    (tmp_path / "params.json").write_text(json.dumps({"model_name": f"{code}:net", "dataset": "cifar10"}))
    torch.save({"state_dict": {"weight": torch.ones(1)}}, tmp_path / "best_model.tar")
    refused(shell("import", tmp_path, "-o", tmp_path / "out"), "is code, and only a file asks for it")
    assert not (tmp_path / "ran").exists()


# -- foreign ------------------------------------------------------------------------------------------------------------


def test_a_factory_is_trained_hardened_and_attacked(shell: Shell, tmp_path: Path, code: str) -> None:
    name, run, twin = f"{code}:net", tmp_path / "run", tmp_path / "twin"
    assert done(shell("train", "--model", name, *QUICK, "--json", "-o", run))["status"] == "ok"
    plugins_before = plugins._remembered(plugins.TRUSTED)
    assert plugins_before == [name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
        refused(shell("attack", run, "-q", "-o", tmp_path / "no"), "add --trust", code=1)
        trusted = ["--trust", name]
        assert done(shell("protect", run, "--with", "nasty", *trusted, "-q", "--json", "-o", twin))["status"] == "ok"
        cell = done(shell("attack", twin, "--student", name, *trusted, "-q", "--json", "-o", tmp_path / "out"))
    assert (cell["victim"], cell["student"]) == ("nasty", name)


def test_a_function_is_attacked_and_its_answers_are_kept(shell: Shell, tmp_path: Path, code: str) -> None:
    out = tmp_path / "out"
    cell = done(shell("attack", f"{code}:answer", "--outputs", "probs", *THIEF, TRAINED, UNTRAINED, "-o", out))
    assert cell["queries"] == 40
    assert cell["victim"].endswith("theirs.py:answer")
    again = ["attack", out / "answers.parquet", *THIEF, TRAINED, UNTRAINED, "-o", tmp_path / "again"]
    assert done(shell(*again))["accuracy"] == cell["accuracy"]


@pytest.mark.parametrize(
    ("name", "options", "words", "exit_code"),
    [
        ("answer", ["--outputs", "probs", *THIEF, "paper"], "answers with probs, the threat model gives logits", 2),
        ("answer", ["--outputs", "prob", *THIEF, TRAINED], "no access called 'prob'", 2),
        ("broken", ["--outputs", "probs", *THIEF, TRAINED], "declared to answer with probs", 1),
        ("labels", ["--outputs", "label", *THIEF, TRAINED], "answers with label, the threat model gives probs", 2),
        ("answer", [*THIEF, TRAINED], "predict function.*--outputs", 2),
        ("absent", ["--outputs", "probs", *THIEF, TRAINED], "has no callable 'absent'", 2),
    ],
)
def test_a_function_that_does_not_fit_is_refused(
    shell: Shell, tmp_path: Path, code: str, name: str, options: list[str], words: str, exit_code: int
) -> None:
    refused(shell("attack", f"{code}:{name}", *options, "-o", tmp_path / "out"), words, exit_code)


def test_a_table_of_answers_is_attacked(shell: Shell, tmp_path: Path) -> None:
    pixels = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[:, None]
    labels = pixels.reshape(len(pixels), -1)[:, 10:20].argmax(1)
    write_answers(tmp_path / "answers.parquet", pixels, labels, kind="label", num_classes=10)
    card = "label/unlabelled/trained/random/40"
    steal = ["attack", tmp_path / "answers.parquet", "--with", "label-only", *THIEF, card, UNTRAINED]
    cell = done(shell(*steal, "-o", tmp_path / "out"))
    assert (cell["queries"], cell["victim"]) == (40, "answers.parquet")
    assert cell["agreement"] is not None


# -- plugins ------------------------------------------------------------------------------------------------------------


def test_components_of_a_plugin_work_from_the_shell(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    toy, run, twin = ["--plugin", tmp_path / "toy.py"], tmp_path / "run", tmp_path / "twin"
    listed = done(shell("list", *toy, "--json"))
    for kind, name in (
        ("attack", "toy-attack"),
        ("defense", "toy-defense"),
        ("model", "toy-net"),
        ("view", "toy-view"),
    ):
        assert name in {entry["name"] for entry in listed[kind]}
    settings = ["-s", "data.views=[toy-view]", "-s", "training.epochs=1", "-s", "data.limit=1100", "-q", "--json"]
    trained = done(shell("train", *toy, "--data", "toy-digits", "--model", "toy-net", *settings, "-o", run))
    assert trained["status"] == "ok"
    hardened = done(shell("protect", run, "--with", "toy-defense", *toy, "-q", "--json", "-o", twin))
    assert hardened["defense"]["name"] == "toy-defense"
    attacker = ["--with", "toy-attack", "--student", "toy-net", *toy, "-q", "--json"]
    cell = done(shell("attack", twin, *attacker, "-o", tmp_path / "out"))
    assert (cell["attack"], cell["victim"], cell["student"]) == ("toy-attack", "toy-defense", "toy-net")


def test_without_its_plugin_a_component_is_unknown(shell: Shell, tmp_path: Path) -> None:
    refused(shell("train", "--model", "toy-net", *QUICK, "-o", tmp_path / "out"), "no model called 'toy-net'")


@pytest.mark.parametrize("verb", ["train", "list"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 / 0", "fails while it is imported: ZeroDivisionError"),
        (PLUGIN.replace("toy-view", "flip"), "two views are called 'flip'"),
    ],
)
def test_a_plugin_that_fails_ends_in_a_sentence(
    shell: Shell, tmp_path: Path, verb: str, content: str, words: str
) -> None:
    (tmp_path / "toy.py").write_text(content)
    more = ["-o", tmp_path / "out"] if verb == "train" else []
    refused(shell(verb, "--plugin", tmp_path / "toy.py", *more), words)
    refused(shell(verb, "--plugin", tmp_path / "nothing.py", *more), "there is no Python file")


# -- what an import measures --------------------------------------------------------------------------------------------

TEN = ("--model", "cnn", "-s", "width=0.25")


@pytest.fixture
def weights(shell: Shell, tmp_path: Path) -> Path:
    """The state dict of a network that knows its digits, with its own normalization outside."""
    training = ["-s", "training.epochs=4", "-s", "model.width=0.25"]
    assert shell("train", "--data", "digits", *training, "-q", "-o", tmp_path / "run").code == 0
    return tmp_path / "run" / "model" / "model.safetensors"


def test_an_import_with_data_measures_and_records_the_accuracy(shell: Shell, weights: Path, tmp_path: Path) -> None:
    said = shell("import", weights, *TEN, "--data", "digits", "--mean", "data", "-o", tmp_path / "good")
    assert said.code == 0, said.err
    assert re.search(r"normalization: mean 0\.3\d+, std 0\.3\d+ \(of the training images of digits\)", said.out)
    assert re.search(r"accuracy: \d+\.\d\d % on 497 labeled images \(guessing 10\.\d %\)", said.out)
    found = done(
        shell("import", weights, *TEN, "--data", "digits", "--mean", "data", "--json", "-o", tmp_path / "json")
    )
    assert found["accuracy"]["images"] == 497
    assert found["doubt"] == ""
    without = shell("import", weights, *TEN, "--size", 8, "--channels", 1, "--mean", "none", "-o", tmp_path / "plain")
    assert "accuracy: not measured" in without.out


def test_a_stated_accuracy_stops_what_is_far_below_it(shell: Shell, weights: Path, tmp_path: Path) -> None:
    told = ["--data", "digits", "--mean", "none", "--accuracy", "90"]  # without the normalization it was trained with
    said = shell("import", weights, *TEN, *told, "-o", tmp_path / "wrong")
    assert "warning: its accuracy is" in said.out
    refused(shell("attack", tmp_path / "wrong", *THIEF, TRAINED, "-o", tmp_path / "out"), "--accept-accuracy")


def test_an_order_that_an_import_finds_is_declared_with_it(shell: Shell, weights: Path, tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    state = safetensors.torch.load_file(weights)
    state |= {name: state[name][order].contiguous() for name in ("head.weight", "head.bias")}
    safetensors.torch.save_file(state, tmp_path / "moved.safetensors")
    told = [tmp_path / "moved.safetensors", *TEN, "--data", "digits", "--mean", "data"]
    listed = ",".join(map(str, order))
    assert f"--class-order {listed}" in shell("import", *told, "-o", tmp_path / "moved").out
    for verb in (["attack"], ["protect", "--with", "nasty-head"], ["audit"]):
        said = shell(verb[0], tmp_path / "moved", "--data", "digits", *verb[1:], "-q", "-o", tmp_path / "out")
        assert f"--class-order {listed}" in said.err, verb
        assert said.code == 2
    back = done(shell("import", *told, "--class-order", listed, "--json", "-o", tmp_path / "back"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, order)))
    named = done(shell("import", *told, "--classes", names, "--json", "-o", tmp_path / "named"))
    assert back["accuracy"] == named["accuracy"]
    assert back["doubt"] == named["doubt"] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class-order", "0,one"], "--class-order is a list of whole numbers"),
        (["-s", "data.val=0"], "data.val=0 is about data: name them with --data"),
        (["--accuracy", "101", "--mean", "none"], "percent from 0 to 100"),
        (["--mean", "76.5", "--std", "95"], "outside .*by 255"),
        ([], "--mean none"),
    ],
)
def test_a_wrong_declaration_ends_in_a_sentence(shell: Shell, tmp_path: Path, options: list[str], words: str) -> None:
    safetensors.torch.save_file(dict(build("cnn", 10, 1, 8, 0.25).state_dict()), tmp_path / "w.safetensors")
    told = [tmp_path / "w.safetensors", *TEN, "--size", 8, "--channels", 1, *options]
    refused(shell("import", *told, "-o", tmp_path / "out"), words)
