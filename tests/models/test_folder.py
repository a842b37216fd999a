"""Model folders: what was saved is read bit for bit; what is damaged, newer or a pickle is refused."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from undistill.errors import RunError, UsageError
from undistill.models import Classifier, build
from undistill.models import model_folder as folder
from undistill.models.base import from_config
from undistill.models.model_folder import model_card, read_tensors, tensors_to_bytes, weights_id

NAMES = ("a", "b", "c", "d")


class Trap:
    """A pickle that, when opened, leaves a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.fixture
def saved(tmp_path: Path, make_model: Callable[..., Classifier]) -> Path:
    folder.save(tmp_path / "model", make_model(), NAMES, "a card")
    return tmp_path / "model"


def change(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config.update(values)
    (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_weights(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = safetensors.torch.load((path / "model.safetensors").read_bytes())
    edit(tensors)
    (path / "model.safetensors").write_bytes(safetensors.torch.save(tensors))


# -- round trip ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnetc20", "resnet18"])
def test_a_model_is_read_as_it_was_saved(tmp_path: Path, make_model: Callable[..., Classifier], name: str) -> None:
    model = make_model(name=name)
    model(torch.rand(4, 3, 8, 8))  # moves the batch norms' statistics
    folder.save(tmp_path, model, NAMES, "a card")
    found, names = folder.read(tmp_path)
    assert names == NAMES
    assert found.config == model.config
    assert {key: tensor.tolist() for key, tensor in found.state_dict().items()} == {
        key: tensor.tolist() for key, tensor in model.state_dict().items()
    }


def test_a_model_is_read_in_evaluation_mode(saved: Path) -> None:
    assert not any(module.training for module in folder.read(saved)[0].modules())


def test_a_folder_has_the_hubs_layout(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((saved / "config.json").read_text())["library_name"] == "undistill"


def test_saving_the_same_model_gives_the_same_bytes(saved: Path, make_model: Callable[..., Classifier]) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    folder.save(saved, make_model(), NAMES, "a card")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_an_id_is_of_the_weights_alone(saved: Path, make_model: Callable[..., Classifier]) -> None:
    assert weights_id(folder.read(saved)[0]) == weights_id(make_model().eval())
    assert weights_id(make_model()) != weights_id(make_model(seed=1))


def test_an_id_changes_with_one_buffer(make_model: Callable[..., Classifier]) -> None:
    model = make_model()
    before = weights_id(model)
    model(torch.rand(4, 3, 8, 8))
    assert weights_id(model) != before


def test_tensors_that_are_views_are_saved() -> None:
    whole = torch.arange(12.0).view(3, 4)
    assert torch.equal(safetensors.torch.load(tensors_to_bytes({"part": whole.t()[1:]}))["part"], whole.t()[1:])


def test_a_card_names_the_facts() -> None:
    card = model_card("cnn on digits", {"data": "digits", "seed": 0})
    assert card.startswith("---\nlibrary_name: undistill\n")
    assert "# cnn on digits\n" in card
    assert "- data: digits\n- seed: 0\n" in card


# -- pickles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [pickle.dumps, lambda trap: torch_saved(trap)], ids=["pickle", "torch.save"])
def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(
    saved: Path, tmp_path: Path, wrap: Callable[[Trap], bytes]
) -> None:
    (saved / "model.safetensors").write_bytes(wrap(Trap(tmp_path / "caught")))
    with pytest.raises(RunError, match=r"model\.safetensors is a pickle, which can run code .* nothing was unpickled"):
        folder.read(saved)
    assert not (tmp_path / "caught").exists()


def torch_saved(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save(trap, buffer)
    return buffer.getvalue()


def test_the_trap_would_have_worked(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "caught")))
    assert (tmp_path / "caught").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.tar", "model.pkl", "model.ckpt"])
def test_a_folder_of_pickles_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "caught")))
    with pytest.raises(UsageError, match=f"it has no config.json; {name} may hold a pickle and is not opened"):
        folder.read(tmp_path)
    assert not (tmp_path / "caught").exists()


# -- damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_cut_short_are_refused(saved: Path, keep: int) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[:keep])
    words = "damaged or no safetensors file: [^\n]+" if keep else "empty .*"
    with pytest.raises(RunError, match=rf"model\.safetensors is {words}$"):
        folder.read(saved)


def test_a_pointer_in_place_of_a_folders_weights_is_named(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n")
    with pytest.raises(RunError, match=r"model\.safetensors is a git-lfs pointer.*git lfs pull"):
        folder.read(saved)


def test_counters_that_became_floats_are_made_whole(tmp_path: Path) -> None:
    network = build("resnet18", 4, 3, 8, 0.125, seed=0).eval()
    folder.save(tmp_path, network, None, "")
    halves = {name: value.half() for name, value in network.state_dict().items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(halves))
    with pytest.raises(RunError, match="is not the one that was saved there; if you changed it yourself, remove 'id'"):
        folder.read(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "id"}))
    assert folder.read(tmp_path)[0].state_dict()["body.0.1.num_batches_tracked"].dtype == torch.int64


def test_missing_weights_are_named(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"cannot read .*model\.safetensors: No such file"):
        folder.read(saved)


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensors: tensors.update({"head.weight": torch.zeros(5, 16)}),
        lambda tensors: tensors.pop("head.weight"),
        lambda tensors: tensors.update({"head.weight.more": torch.zeros(1)}),
    ],
    ids=["another shape", "missing", "too many"],
)
def test_weights_that_do_not_fit_are_named(saved: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    change_weights(saved, edit)
    with pytest.raises(RunError, match=r"do not fit its config\.json: head\.weight"):
        folder.read(saved)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda value: value.to(torch.int32), "is int32 there and float32 here"),
        (lambda value: value.to(torch.complex64), "is complex64 there and float32 here"),
        (lambda value: value * float("nan"), "holds values that are not finite"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused(
    saved: Path, edit: Callable[[Tensor], Tensor], words: str
) -> None:
    change_weights(saved, lambda tensors: tensors.update({"head.weight": edit(tensors["head.weight"])}))
    with pytest.raises(RunError, match=rf"cannot be used: head\.weight {words}; save them again"):
        folder.read(saved)


@pytest.mark.parametrize("settings", [{"num_classes": 1_000_000}, {"name": "resnet18", "width": 16}])
def test_a_small_file_makes_no_large_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    built: list[str] = []

    def build_without_memory(config: dict[str, Any]) -> Classifier:
        built.append(str(torch.get_default_device()))
        assert built == ["meta"], "memory is taken before the shapes are compared"
        return from_config(config)

    monkeypatch.setattr(folder, "from_config", build_without_memory)
    network = json.loads((saved / "config.json").read_text())["network"] | settings
    change(saved, network=network, class_names=None)
    with pytest.raises(RunError, match=r"do not fit its config\.json"):
        folder.read(saved)
    assert built == ["meta"]


@pytest.mark.parametrize("error", [RuntimeError("can't allocate\nmemory"), MemoryError()])
def test_a_network_that_no_memory_holds_is_a_sentence(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: dict[str, Any]) -> Classifier:
        raise error

    monkeypatch.setattr(folder, "from_config", fail)
    with pytest.raises(RunError, match=r"config\.json describes a network that cannot be built here: [^\n]+$"):
        folder.read(saved)


def test_a_folder_without_config_is_no_model(saved: Path) -> None:
    (saved / "config.json").unlink()
    with pytest.raises(UsageError, match=r"is no model folder: it has no config\.json$"):
        folder.read(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"network": 3, "class_names": [], "schema": 1}'])
def test_a_damaged_config_is_named(saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json('| )?(is damaged|does not describe|states no schema)"):
        folder.read(saved)


@pytest.mark.parametrize(
    "change_of", [{"name": "resnet99"}, {"num_classes": "ten"}, {"num_classes": None}, {"depth": 3}]
)
def test_a_config_of_no_network_of_ours_is_named(saved: Path, change_of: dict[str, Any]) -> None:
    network = json.loads((saved / "config.json").read_text())["network"] | change_of
    change(saved, network={key: value for key, value in network.items() if value is not None})
    with pytest.raises(RunError, match=r"config\.json: "):
        folder.read(saved)


def test_a_newer_schema_asks_for_an_update(saved: Path) -> None:
    change(saved, schema=2)
    with pytest.raises(UsageError, match="has schema 2, this version reads up to 1; update undistill"):
        folder.read(saved)


def test_a_newer_schema_of_another_layout_asks_for_an_update(saved: Path) -> None:
    change(saved, schema=2, network=None, architecture={})
    with pytest.raises(UsageError, match="has schema 2, this version reads up to 1; update undistill"):
        folder.read(saved)


@pytest.mark.parametrize("schema", [None, "1", True, 1.5])
def test_a_config_without_schema_is_refused(saved: Path, schema: Any) -> None:
    change(saved, schema=schema)
    with pytest.raises(RunError, match=r"config\.json states no schema"):
        folder.read(saved)


def test_as_many_class_names_as_classes_are_wanted(saved: Path) -> None:
    change(saved, class_names=["a", "b"])
    with pytest.raises(RunError, match="class"):
        folder.read(saved)


def test_reading_tensors_leaves_none_of_the_file_open(saved: Path) -> None:
    tensors = read_tensors(saved / "model.safetensors")
    (saved / "model.safetensors").write_bytes(b"")
    assert tensors["head.weight"].isfinite().all()
