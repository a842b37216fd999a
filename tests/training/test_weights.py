"""Fine-tuning: training that begins with somebody's weights, their normalisation, and a new head where the classes differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from undistill.data.image_set import ImageSet, Splits
from undistill.errors import RunError, UsageError
from undistill.models import Classifier, build
from undistill.models import model_folder as folder
from undistill.models.model_folder import tensors_to_bytes
from undistill.training.init_weights import begin, network_in
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]


@pytest.fixture
def source(make_model: Callable[..., Classifier]) -> Classifier:
    """A network of somebody's, for the classes of `splits`, with a normalisation of its own."""
    return build("cnn", 4, 3, 8, 0.125, mean=MEAN, std=STD, seed=7).eval()


@pytest.fixture
def seven(make_images: Callable[..., ImageSet]) -> Splits:
    """Data of seven classes."""
    train_, test = make_images(28, classes=7), make_images(28, classes=7, seed=1)
    mean, std = train_.moments()
    return Splits("seven", train_, None, None, test, "fedcba9876543210", "made up", mean=mean, std=std)


def saved(path: Path, model: Classifier) -> Path:
    folder.save(path, model, None, "")
    return path


def state_dict(path: Path, model: Classifier) -> Path:
    path.write_bytes(tensors_to_bytes(model.state_dict()))
    return path


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> set[str]:
    return {name for name in one if torch.equal(one[name], two[name])}


def standing(recipe: Recipe) -> Recipe:
    """The recipe with steps that move nothing."""
    return read(recipe, ["training.optimizer.lr=1e-30", "training.optimizer.weight_decay=0", "training.epochs=1"])


Form = Callable[[Path, Classifier], Path]
FORMS: list[Form] = [
    lambda path, model: saved(path / "model", model),
    lambda path, model: state_dict(path / "weights.safetensors", model),
]


def of_torch(path: Path, model: Classifier) -> Path:
    torch.save({"state_dict": model.state_dict()}, path / "weights.pt")
    return path / "weights.pt"


@pytest.mark.parametrize("form", [*FORMS, of_torch], ids=["folder", "safetensors", "torch"])
def test_training_begins_with_the_weights_as_they_are(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path, form: Form
) -> None:
    weights = form(tmp_path, source)
    made, facts = begin(recipe.model, splits, weights, seed=0, role="teacher")
    assert same(source.state_dict(), made.state_dict()) == set(source.state_dict())
    assert facts["name"] == weights.name
    assert facts["head"] == "kept"
    run = train(None, splits, standing(recipe), weights=weights, out=tmp_path / "run", device="cpu")
    assert run.config["weights"] == run.result["weights"] == facts
    trained = run.model().state_dict()
    parameters = {name for name, _ in source.named_parameters() if name.endswith("weight")}
    assert same(source.state_dict(), trained) >= parameters  # the control below: fresh weights are others
    fresh = train(None, splits, standing(recipe), out=tmp_path / "fresh", device="cpu")
    assert not same(source.state_dict(), fresh.model().state_dict()) & {"body.0.0.weight", "head.weight"}
    assert "weights" not in fresh.config


def test_a_run_folder_gives_its_model(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    first = train(None, splits, recipe, out=tmp_path / "first", device="cpu")
    second = train(None, splits, standing(recipe), weights=first.folder, out=tmp_path / "second", device="cpu")
    assert second.config["weights"]["id"] == first.result["model_id"]
    assert same(first.model().state_dict(), second.model().state_dict()) >= {"head.weight", "body.0.0.weight"}


@pytest.mark.parametrize("form", FORMS, ids=["folder", "safetensors"])
def test_another_number_of_classes_gets_a_new_head_and_the_same_body(
    source: Classifier, seven: Splits, recipe: Recipe, tmp_path: Path, form: Form
) -> None:
    weights = form(tmp_path, source)
    made, facts = begin(recipe.model, seven, weights, seed=3, role="teacher")
    assert facts["head"] == "new"
    drawn = build("cnn", 7, 3, 8, 0.125, seed=3, role="teacher").state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, drawn[name] if name.startswith("head.") else source.state_dict()[name]), name


def test_a_new_head_is_drawn_by_the_seed(source: Classifier, seven: Splits, recipe: Recipe, tmp_path: Path) -> None:
    weights = saved(tmp_path / "model", source)
    heads = [begin(recipe.model, seven, weights, seed=seed, role="teacher")[0].state_dict() for seed in (0, 0, 1)]
    assert torch.equal(heads[0]["head.weight"], heads[1]["head.weight"])
    assert not torch.equal(heads[0]["head.weight"], heads[2]["head.weight"])


def test_the_normalisation_of_a_folder_is_kept(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    run = train(
        None, splits, standing(recipe), weights=saved(tmp_path / "m", source), out=tmp_path / "run", device="cpu"
    )
    assert (run.model().config["mean"], run.model().config["std"]) == (MEAN, STD)


def test_a_state_dict_tells_no_normalisation_so_it_is_the_datas(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    made, _ = begin(recipe.model, splits, state_dict(tmp_path / "w.safetensors", source), seed=0, role="teacher")
    assert made.config["mean"] == pytest.approx(splits.mean)


def test_a_folder_says_itself_which_network_it_holds(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    wide = build("resnetc20", 4, 3, 8, 0.125, seed=0)
    weights = saved(tmp_path / "model", wide)
    assert network_in(weights).name == "resnetc20"
    run = train(None, splits, standing(recipe), weights=weights, out=tmp_path / "run", device="cpu")
    assert run.model().config["name"] == "resnetc20"
    assert run.recipe.model.name == "resnetc20"


@pytest.mark.parametrize("network", ["resnet18", {"name": "cnn", "width": 0.25}])
def test_a_folder_of_another_network_is_refused(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path, network: Any
) -> None:
    with pytest.raises(UsageError, match=r"holds a cnn, not the (resnet18|cnn) that is asked for"):
        train(network, splits, recipe, weights=saved(tmp_path / "m", source), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_weights_for_grey_images_are_refused_for_colour(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    grey = saved(tmp_path / "m", build("cnn", 4, 1, 8, 0.125, seed=0))
    with pytest.raises(UsageError, match="takes images of 1 channels, the data have 3"):
        train(None, splits, recipe, weights=grey, out=tmp_path / "run", device="cpu")


def test_a_state_dict_of_another_network_is_refused(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    other = state_dict(tmp_path / "w.safetensors", build("resnet18", 4, 3, 8, 0.125, seed=0))
    with pytest.raises(UsageError, match="are not those of cnn"):
        train(None, splits, recipe, weights=other, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing"])
def test_weights_that_are_not_there_are_named(splits: Splits, recipe: Recipe, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"there are no weights at .*{name}"):
        train(None, splits, recipe, weights=tmp_path / name, out=tmp_path / "run", device="cpu")


def test_damaged_weights_are_named(splits: Splits, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"w\.safetensors is damaged"):
        train(None, splits, recipe, weights=tmp_path / "w.safetensors", out=tmp_path / "run", device="cpu")


# -- resume -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill."""


def test_a_fine_tuning_that_was_killed_resumes_to_the_bit(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    weights = saved(tmp_path / "m", source)

    def kill(*_: Any) -> None:
        raise Killed

    def tuned(out: str, **more: Any) -> Run:
        return train(None, splits, recipe, weights=weights, out=tmp_path / out, device="cpu", **more)

    with pytest.raises(Killed):
        tuned("killed", watch=kill)
    whole = tuned("whole").model().state_dict()
    assert same(tuned("killed", resume=True).model().state_dict(), whole) == set(whole)


def test_resuming_with_other_weights_is_refused(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    first = saved(tmp_path / "a" / "m", source)
    other = saved(tmp_path / "b" / "m", build("cnn", 4, 3, 8, 0.125, mean=MEAN, std=STD, seed=8))
    train(None, splits, recipe, weights=first, out=tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match=r"was begun with other settings: weights\.id was \w+, now \w+"):
        train(None, splits, recipe, weights=other, out=tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(UsageError, match="was begun with other settings: weights was"):
        train(None, splits, recipe, out=tmp_path / "run", device="cpu", resume=True)


def test_a_state_dict_is_known_by_its_content(
    source: Classifier, splits: Splits, recipe: Recipe, tmp_path: Path
) -> None:
    path = state_dict(tmp_path / "w.safetensors", source)
    ids = [begin(recipe.model, splits, path, seed=0, role="teacher")[1]["id"]]
    tensors = safetensors.torch.load_file(path)
    tensors["head.bias"][0] += 1
    path.write_bytes(safetensors.torch.save(tensors))
    ids.append(begin(recipe.model, splits, path, seed=0, role="teacher")[1]["id"])
    assert ids[0] != ids[1]
