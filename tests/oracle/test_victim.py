"""MODEL: whatever a user may name becomes a victim, or is refused with what does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from undistill import plugins
from undistill.data.image_set import ImageSet, Splits
from undistill.defenses.protect import protect
from undistill.errors import RunError, UsageError
from undistill.experiments.cell import Cell
from undistill.experiments.extraction import attack
from undistill.models import Classifier, build
from undistill.models import model_folder as folder
from undistill.oracle import BlackBox, write_answers
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Victim, brings, load_model, resolve
from undistill.threat_model import Access
from undistill.training.recipe import Recipe
from undistill.training.run_folder import Run
from undistill.training.train import train

CODE = """
import numpy as np
from torch import nn


def net(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))


def answer(pixels):
    return np.full((len(pixels), 4), 0.25)
"""
NAMES = ("class 0", "class 1", "class 2", "class 3")


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "victims.py").write_text(CODE)
    return str(tmp_path / "victims.py")


@pytest.fixture(scope="module")
def run(splits: Splits, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished training; never changed."""
    return train(None, splits, recipe, out=tmp_path_factory.mktemp("victims") / "run", device="cpu")


def net(classes: int = 4, channels: int = 3, size: int = 8) -> Classifier:
    return build("cnn", classes, channels, size, 0.125, seed=0).eval()


def saved(path: Path, model: Classifier | None = None, names: tuple[str, ...] | None = NAMES, **origin: Any) -> Path:
    folder.save(path, model or net(), names, "", origin)
    return path


def look() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# -- forms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda run: run, lambda run: run.folder, lambda run: str(run.folder)])
def test_a_run_brings_recipe_data_and_seed(run: Run, splits: Splits, form: Callable[[Run], Any]) -> None:
    victim = resolve(form(run))
    victim.check(splits)
    assert victim.recipe == run.recipe
    assert victim.data_fingerprint == splits.fingerprint
    assert (victim.seed, victim.kind, victim.label) == (0, "train", "normal")
    assert victim.class_names == splits.train.class_names
    assert victim.id == run.result["model_id"]


def test_a_model_folder_brings_its_origin_and_no_recipe(run: Run, splits: Splits) -> None:
    victim = resolve(run.folder / "model", splits)
    victim.check(splits)
    assert victim.recipe is None
    assert victim.data_fingerprint == splits.fingerprint
    assert victim.id == resolve(run).id


def test_a_folder_without_origin_is_of_unknown_kind(tmp_path: Path, splits: Splits) -> None:
    victim = resolve(saved(tmp_path), splits)
    victim.check(splits)
    assert (victim.data_fingerprint, victim.kind, victim.seed) == (None, "unknown", None)


def test_a_defended_folder_is_called_by_its_defense(tmp_path: Path) -> None:
    assert resolve(saved(tmp_path, kind="protect", defense={"name": "nasty"})).label == "nasty"


def test_a_factory_is_built_for_the_data(file: str, splits: Splits) -> None:
    victim = resolve(f"{file}:net", splits)
    victim.check(splits)
    assert victim.class_names is None
    assert victim.network(look()).shape == (3, 4)
    assert victim.id == resolve(f"{file}:net", splits).id


def test_a_function_that_answers_is_a_black_box(file: str, splits: Splits) -> None:
    victim = resolve(f"{file}:answer", splits, answers="probs")
    victim.check(splits)
    assert isinstance(victim.model, BlackBox)
    assert victim.model.kind is Access.PROBS
    assert victim.model.answer(look()).tolist() == [[0.25] * 4] * 3
    with pytest.raises(UsageError, match="only answers: this needs a network"):
        _ = victim.network


def test_a_function_that_answers_is_no_factory(file: str, splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"argument 'pixels'.* predict function.*--outputs"):
        resolve(f"{file}:answer", splits)


def test_a_module_is_wrapped(splits: Splits) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    victim = resolve(module, splits)
    victim.check(splits)
    assert torch.equal(victim.network(look()), module(look()))


def test_a_classifier_and_a_victim_are_taken_as_they_are(splits: Splits) -> None:
    model = net().train()
    victim = resolve(model)
    victim.check(splits)
    assert not victim.network.training
    assert model.training, "what the user holds is left as it is"
    assert resolve(victim) is victim


def test_modules_that_differ_in_no_weight_have_ids_of_their_own(splits: Splits) -> None:
    def module(active: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), active, nn.Linear(8, 4))

    assert resolve(module(nn.ReLU()), splits).id != resolve(module(nn.Tanh()), splits).id
    assert resolve(module(nn.ReLU()), splits).id == resolve(module(nn.ReLU()), splits).id


def test_a_kind_of_answer_is_for_what_does_not_say_it(run: Run) -> None:
    with pytest.raises(UsageError, match="--outputs is for a function or a table"):
        resolve(run.folder, answers="label")


# -- is the pool fresh? -------------------------------------------------------------------------------------------------

FRESH = "probs/unlabelled/fresh/random/8"


def robbed(victim: Any, splits: Splits, recipe: Recipe, out: Path, **more: Any) -> Cell:
    return attack(victim, splits, card=FRESH, recipe=recipe, out=out, device="cpu", seed=7, **more)


def test_a_twin_of_a_model_of_unknown_origin_has_no_fresh_pool(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    stranger = saved(tmp_path)
    twin = protect(stranger, splits, start_from="teacher", recipe=recipe, out=tmp_path / "twin", device="cpu")
    with pytest.raises(UsageError, match="what it came from"):
        robbed(twin, splits, recipe, tmp_path / "thief")
    assert robbed(twin, splits, recipe, tmp_path / "thief", unseen=True).vouched


def test_a_twin_of_a_known_model_has_a_fresh_pool(run: Run, splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    twin = protect(run, splits, recipe=recipe, out=tmp_path / "twin", device="cpu")
    assert not robbed(twin, splits, recipe, tmp_path / "thief").vouched


def test_what_was_tuned_from_weights_of_another_split_has_no_fresh_pool(
    run: Run, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    other = replace(splits, fingerprint="f" * 16)
    tuned = train(None, other, recipe, weights=run.folder, out=tmp_path / "tuned", device="cpu")
    with pytest.raises(UsageError, match="what it came from"):
        robbed(tuned, other, recipe, tmp_path / "thief")
    same = train(None, splits, recipe, weights=run.folder, out=tmp_path / "same", device="cpu")
    assert not robbed(same, splits, recipe, tmp_path / "second").vouched


def test_a_student_that_was_trained_on_the_pool_has_no_fresh_pool(
    run: Run, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    attack(
        run, splits, card="probs/unlabelled(1.0)/fresh/random", recipe=recipe, out=tmp_path / "student", device="cpu"
    )
    with pytest.raises(UsageError, match="what it came from"):
        robbed(tmp_path / "student", splits, recipe, tmp_path / "thief")


def test_a_file_of_answers_is_a_closed_victim(tmp_path: Path, splits: Splits) -> None:
    pixels = splits.train.images_NCHW[:].numpy()
    write_answers(
        tmp_path / "a.parquet", pixels, np.full((len(pixels), 4), 0.25), kind="probs", num_classes=4, class_names=NAMES
    )
    victim = resolve(tmp_path / "a.parquet")
    victim.check(splits)
    assert isinstance(victim.model, BlackBox)
    assert isinstance(victim.model.predict, Ledger)
    assert victim.model.predict.ask is None
    assert (victim.class_names, victim.label) == (NAMES, "a.parquet")


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A timm and a torchvision with one network, `tiny`, and a file of its weights."""

    def make(name: str, *, num_classes: int, **_: Any) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        )

    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    known = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))
    timm.__dict__.update(
        is_model="tiny".__eq__, create_model=make, models=SimpleNamespace(get_pretrained_cfg=lambda _: known)
    )
    torchvision.__dict__["models"] = SimpleNamespace(list_models=lambda module: ["tiny"], get_model=make)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    safetensors.torch.save_file(make("tiny", num_classes=4).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_a_name_at_its_weights(zoo: Path, splits: Splits, family: str) -> None:
    victim = resolve(f"{family}:tiny@{zoo}", splits)
    victim.check(splits)
    for name, value in safetensors.torch.load_file(zoo).items():
        assert torch.equal(victim.network.state_dict()[f"inner.{name}"], value)
    assert victim.network.config["mean"] == ([0.5, 0.4, 0.3] if family == "timm" else [0.485, 0.456, 0.406])
    assert not victim.network.training


def test_weights_for_other_classes_are_refused(zoo: Path, make_images: Callable[..., ImageSet]) -> None:
    seven = make_images(28, classes=7)
    data = Splits("seven", seven, None, None, seven, "0" * 16)
    with pytest.raises(UsageError, match="tell 4 classes apart, the data 7"):
        resolve(f"timm:tiny@{zoo}", data)


@pytest.mark.usefixtures("zoo")
def test_a_name_without_weights_is_no_victim(splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"timm:tiny has no weights: write timm:tiny@weights\.safetensors"):
        resolve("timm:tiny", splits)


# -- nothing there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("no/such/run", UsageError, "there is no model at no/such/run: give a run folder"),
        ("resnet18", UsageError, "there is no model at resnet18"),
        ("no_such_package:net", UsageError, "cannot import no_such_package"),
        ("timm:tiny@no/such.safetensors", UsageError, "there are no weights at"),
        ("no/such.parquet", UsageError, "there are no answers at"),
        (3, UsageError, "a model is a folder, a name, a module or what a verb returned, not int"),
        (None, UsageError, "not NoneType"),
    ],
)
@pytest.mark.usefixtures("zoo")
def test_what_is_not_there_is_named(splits: Splits, model: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(model, splits)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no model folder"):
        resolve(tmp_path)


def test_a_folder_that_names_code_stays_shut(tmp_path: Path, splits: Splits, file: str) -> None:
    network = resolve(f"{file}:net", splits).network
    saved(tmp_path / "model", network)
    assert resolve(tmp_path / "model").id
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plugins.REMEMBERED, plugins.TRUSTED, [])
        with pytest.raises(RunError, match="is code, and only a file asks for it"):
            resolve(tmp_path / "model")


@pytest.mark.parametrize(("name", "answers"), [("net", None), ("answer", "probs")])
def test_code_that_nobody_typed_is_not_run(
    tmp_path: Path, splits: Splits, file: str, name: str, answers: str | None
) -> None:
    with Path(file).open("a") as code:
        code.write(f"\n\nopen({str(tmp_path / 'imported')!r}, 'w').close()\n")
    with pytest.raises(UsageError, match="is code, and only a file asks for it"):
        resolve(f"{file}:{name}", splits, answers=answers, typed=False)
    assert not (tmp_path / "imported").exists()
    typed = resolve(f"{file}:{name}", splits, answers=answers)
    assert (tmp_path / "imported").exists()
    assert resolve(f"{file}:{name}", splits, answers=answers, typed=False).id == typed.id, "trusted by now"


@pytest.mark.parametrize("form", ["{file}:net", "{file}:answer", "timm:tiny@{zoo}"])
def test_what_does_not_say_its_shape_needs_data(zoo: Path, file: str, form: str) -> None:
    with pytest.raises(UsageError, match="does not say how many classes and pixels it takes: give its data"):
        resolve(form.format(file=file, zoo=zoo), answers="probs" if "answer" in form else None)


def test_answers_of_an_unknown_kind_are_named(file: str, splits: Splits) -> None:
    with pytest.raises(UsageError, match="no access called 'probabilities'"):
        resolve(f"{file}:answer", splits, answers="probabilities")


# -- what does not fit the data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        (net(7), None, r"the model knows 7 classes, the data have 4 \(class 0, class 1, class 2, …\)"),
        (net(2), ("x", "y"), r"the model knows 2 classes \(x, y\), the data have 4"),
        (
            net(),
            ("class 0", "class 2", "class 1", "class 3"),
            "the same classes in another order: output 1 is 'class 2' for the model and 'class 1' in the data",
        ),
        (net(), ("class 0", "class 1", "class 2", "cow"), "the model knows a class 'cow' that the data do not have"),
        (net(channels=1), NAMES, "takes 1 × 8 × 8 pixels, the data have 3 × 8 × 8; data.size and data.channels"),
        (net(size=16), NAMES, "takes 3 × 16 × 16 pixels, the data have 3 × 8 × 8"),
    ],
    ids=["count", "count with names", "order", "strange class", "channels", "size"],
)
def test_a_model_of_other_data_is_refused(
    tmp_path: Path, splits: Splits, model: Classifier, names: tuple[str, ...] | None, words: str
) -> None:
    victim = resolve(saved(tmp_path, model, names))
    with pytest.raises(UsageError, match=words):
        victim.check(splits)


def test_a_model_of_another_split_is_refused_by_both_fingerprints(tmp_path: Path, splits: Splits) -> None:
    with pytest.raises(
        UsageError, match=rf"\(feed, these are {splits.fingerprint}\): which images are fresh cannot be told"
    ):
        resolve(saved(tmp_path, data="feed")).check(splits)


@pytest.mark.parametrize("classes", [3, 5])
def test_a_black_box_of_other_classes_is_refused(splits: Splits, classes: int) -> None:
    with pytest.raises(UsageError, match=f"knows {classes} classes, the data have 4"):
        resolve(BlackBox(lambda _: 0, Access.PROBS, classes, "api")).check(splits)


def test_a_module_of_another_shape_is_refused(splits: Splits) -> None:
    with pytest.raises(UsageError, match=r"\(Linear\) (cannot take|answers)"):
        resolve(nn.Linear(8, 4), splits)


# -- around it ----------------------------------------------------------------------------------------------------------


def test_only_a_run_brings_a_recipe(run: Run, tmp_path: Path) -> None:
    assert brings(run) == brings(run.folder) == brings(resolve(run)) == run.recipe
    assert brings(saved(tmp_path)) is None
    with pytest.raises(UsageError, match="there is no model at no/such/run"):
        brings("no/such/run")


def test_load_model_gives_the_network(run: Run) -> None:
    assert torch.equal(load_model(run.folder)(look()), run.model()(look()))


def test_ids_of_black_boxes_are_of_name_and_kind() -> None:
    ids = {resolve(BlackBox(lambda _: 0, kind, 4, name)).id for kind in (Access.PROBS, Access.LABEL) for name in "ab"}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (BlackBox(lambda _: 0, Access.PROBS, 4, "the api"), "the api only answers: this needs a network"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "a bare module could not be saved and built again"),
    ],
)
def test_what_shows_no_network_of_a_name_cannot_be_hardened(
    splits: Splits, recipe: Recipe, tmp_path: Path, model: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        protect(resolve(model, splits), splits, recipe=recipe, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_victim_is_called_what_it_is() -> None:
    box = BlackBox(lambda _: 0, Access.PROBS, 4, "the api")
    assert Victim(box, None, "x").label == "the api"
    assert Victim(net(), None, "x").label == "normal"
