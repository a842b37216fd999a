"""Checkpoints: the loop's state as one safetensors file and a `state.json` that names it. No pickle, no random state."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undistill.errors import RunError
from undistill.files import checked, read_json, sha256, write_bytes, write_json, writing
from undistill.models.model_folder import check_schema, read_tensors, tensors_to_bytes
from undistill.training.loop import State

SCHEMA = 1


def save(folder: Path, state: State, extra: dict[str, Any]) -> None:
    """Keep `state`. The tensors go into a new file first; replacing `state.json` is the moment they count."""
    tensors, groups = _flatten(state)
    name = f"epoch-{state['epoch']:05d}.safetensors"
    content = tensors_to_bytes(tensors)
    write_bytes(folder / name, content)
    meta = {
        "schema": SCHEMA,
        "epoch": state["epoch"],
        "file": name,
        "sha256": sha256(content),
        "groups": groups,
        "modules": list(state["modules"]),
    }
    write_json(folder / "state.json", checked({**meta, **extra}))
    with writing(folder):
        for path in folder.glob("epoch-*.safetensors"):
            if path.name != name:
                path.unlink()


def load(folder: Path) -> tuple[State, dict[str, Any]] | None:
    """(state, extra) of the last whole epoch; None where there is none. RunError for a damaged checkpoint."""
    if not (folder / "state.json").exists():
        return None
    meta = read_json(folder / "state.json")
    file = meta.get("file") if isinstance(meta, dict) else None
    if not isinstance(file, str) or not re.fullmatch(r"epoch-\d+\.safetensors", file):
        raise RunError(f"{folder / 'state.json'} is damaged: it names no checkpoint")
    check_schema(meta.get("schema"), SCHEMA, folder / "state.json")
    try:
        known = {"schema", "epoch", "file", "sha256", "groups", "modules"}
        tensors = read_tensors(folder / file)
        if meta.get("sha256") not in (None, sha256((folder / file).read_bytes())):
            raise RunError(f"{folder / file} is damaged: it does not fit its checksum; --fresh begins anew")
        state = _unflatten(tensors, int(meta["epoch"]), meta["groups"])
        state["modules"] = {name: {} for name in meta["modules"]} | state["modules"]
        return state, {key: value for key, value in meta.items() if key not in known}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / 'state.json'} is damaged: {error}") from error


def _flatten(state: State) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors = {f"model/{name}": tensor for name, tensor in state["model"].items()}
    tensors |= {f"average/{name}": tensor for name, tensor in state.get("average", {}).items()}
    for module, inner in state["modules"].items():
        tensors |= {f"modules/{module}/{name}": tensor for name, tensor in inner.items()}
    for index, entry in state["optimizer"]["state"].items():
        for name, value in entry.items():
            if value is not None:
                tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    return tensors, json.loads(json.dumps(state["optimizer"]["param_groups"]))


def _unflatten(tensors: dict[str, Tensor], epoch: int, groups: list[dict[str, Any]]) -> State:
    state: State = {"epoch": epoch, "model": {}, "modules": {}, "optimizer": {"state": {}, "param_groups": groups}}
    for path, tensor in tensors.items():
        part, rest = path.split("/", 1)
        if part in ("model", "average"):
            state.setdefault(part, {})[rest] = tensor
        elif part == "modules":
            module, name = rest.split("/", 1)
            state["modules"].setdefault(module, {})[name] = tensor
        else:
            index, name = rest.split("/", 1)
            state["optimizer"]["state"].setdefault(int(index), {})[name] = tensor
    return state
