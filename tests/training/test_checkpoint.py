"""Checkpoints: what was saved resumes to the bit, and a process may be killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet
from undistill.errors import RunError
from undistill.models import Classifier
from undistill.training import checkpoint
from undistill.training.loop import State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Training

SGD = {"name": "sgd", "lr": 0.05}


@pytest.fixture
def states(images: ImageSet, make_model: Callable[..., Classifier], tmp_path: Path) -> Callable[..., Classifier]:
    """`states(optimizer, folder, state)` trains to the end of 3 epochs, keeping each in a folder of its own."""

    def train(optimizer: dict[str, Any], folder: Path | None = None, state: State | None = None) -> Classifier:
        settings = Training.model_validate({"epochs": 3, "optimizer": optimizer, "schedule": "cosine"})
        model = make_model(seed=0 if state is None else 99)
        batches = ImageBatches(images, 7, seed=0, role="teacher")
        for record in fit(model, batches, CrossEntropy(), settings, seed=0, state=state):
            if folder is not None:
                checkpoint.save(folder / str(record.epoch), record.state, {"queries": 10 * record.epoch})
        return model

    return train


def state_of(epoch: int = 1, value: float = 1.0, modules: dict[str, nn.Module] | None = None) -> State:
    return {
        "epoch": epoch,
        "model": {"weight": torch.full((2, 3), value)},
        "modules": {name: module.state_dict() for name, module in (modules or {}).items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": [0.9, 0.999], "params": [0]}]},
    }


def loaded(folder: Path) -> State:
    kept = checkpoint.load(folder)
    assert kept is not None
    return kept[0]


@pytest.mark.parametrize(
    "optimizer", [SGD, SGD | {"momentum": 0}, {"name": "adam", "lr": 0.01}, {"name": "adamw", "lr": 0.01}]
)
def test_a_run_resumed_from_disk_is_uninterrupted_to_the_bit(
    states: Callable[..., Classifier], tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    whole = states(optimizer, tmp_path).state_dict()
    rest = states(optimizer, None, loaded(tmp_path / "2")).state_dict()
    assert [name for name in whole if not torch.equal(whole[name], rest[name])] == []


def test_small_facts_come_back(states: Callable[..., Classifier], tmp_path: Path) -> None:
    states(SGD, tmp_path)
    assert (checkpoint.load(tmp_path / "2") or ({}, {}))[1] == {"queries": 20}


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_only_the_last_epoch_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, state_of(epoch, float(epoch)), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00002.safetensors", "state.json"]
    assert loaded(tmp_path)["model"]["weight"][0, 0] == 2


def test_modules_come_back(tmp_path: Path) -> None:
    modules = {"exit": nn.Linear(2, 2), "adapter": nn.Linear(2, 1)}
    checkpoint.save(tmp_path, state_of(modules=dict(modules)), {})
    kept = loaded(tmp_path)["modules"]
    assert all(torch.equal(kept[name]["weight"], module.weight) for name, module in modules.items())


def test_a_module_without_weights_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(modules={"shrink": nn.ReLU()}), {})
    assert loaded(tmp_path)["modules"]["shrink"] == {}


@pytest.mark.parametrize("step", ["write_bytes", "write_json"])
def test_a_process_killed_while_saving_leaves_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    checkpoint.save(tmp_path, state_of(1, 1.0), {})
    monkeypatch.setattr(checkpoint, step, lambda *_: os._exit(9))
    if (child := os.fork()) == 0:
        checkpoint.save(tmp_path, state_of(2, 2.0), {})
    os.waitpid(child, 0)
    assert loaded(tmp_path)["epoch"] == 1
    assert loaded(tmp_path)["model"]["weight"][0, 0] == 1


def test_no_pickle_is_written(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    assert json.loads((tmp_path / "state.json").read_text())["schema"] == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def damage_state(folder: Path, **values: Any) -> None:
    state = json.loads((folder / "state.json").read_text()) | values | {"check": "gone"}
    (folder / "state.json").write_text(json.dumps({key: value for key, value in state.items() if value != "gone"}))


@pytest.mark.parametrize(
    "values", [{"file": "gone"}, {"file": 3}, {"epoch": "gone"}, {"epoch": "x"}, {"groups": "gone"}]
)
def test_a_damaged_state_is_named(tmp_path: Path, values: dict[str, Any]) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    damage_state(tmp_path, **values)
    with pytest.raises(RunError, match=r"state\.json is damaged: "):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_state_that_is_no_state_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RunError, match=r"state\.json is damaged: "):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "epoch-1.safetensors/../../x", "model.pt"])
def test_a_state_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    damage_state(tmp_path, file=name)
    with pytest.raises(RunError, match=r"state\.json is damaged: it names"):
        checkpoint.load(tmp_path)


def test_tensors_cut_short_are_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    os.truncate(tmp_path / "epoch-00001.safetensors", 50)
    with pytest.raises(RunError, match=r"epoch-00001\.safetensors is damaged"):
        checkpoint.load(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    (tmp_path / "epoch-00001.safetensors").unlink()
    with pytest.raises(RunError, match=r"cannot read .*epoch-00001\.safetensors"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(), {})
    damage_state(tmp_path, schema=2)
    with pytest.raises(ValueError, match="has schema 2, this version reads up to 1"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("file", ["state.json", "epoch-00001.safetensors"])
def test_a_bit_that_flipped_is_noticed(tmp_path: Path, file: str) -> None:
    checkpoint.save(tmp_path, state_of(), {"questions": 5})
    content = (tmp_path / file).read_bytes()
    for place in (-3, len(content) // 2, -len(content) // 3):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (tmp_path / file).write_bytes(flipped)
        with pytest.raises(RunError, match=f"{file} is damaged"):
            checkpoint.load(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert checkpoint.load(tmp_path) is not None
