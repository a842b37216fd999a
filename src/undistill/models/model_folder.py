"""Model folders: `config.json`, `model.safetensors`, `README.md`, as on the Hugging Face hub. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from undistill.errors import RunError, UsageError
from undistill.files import read_json, write_bytes, write_json, write_text
from undistill.models.base import Classifier, from_config
from undistill.models.kinds import described

SCHEMA = 1
COUNTER = "num_batches_tracked"
"""How the name of a counter of batch normalization ends: it counts training steps, and no answer depends on it."""


def weights_id(model: nn.Module) -> str:
    """SHA-256 over the network's config and names, shapes, types and values of all weights, 16 hex digits."""
    digest = hashlib.sha256(json.dumps(getattr(model, "config", None), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tensors_to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file's content; the same tensors give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. RunError for anything else, a pickle by name."""
    try:
        content = path.read_bytes()
        reason = described(path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    if reason is not None:
        raise RunError(f"{path} {reason}")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        if content[:1] == b"\x80" or content[:2] == b"PK":
            raise RunError(
                f"{path} is a pickle, which can run code when it is opened; only safetensors are read, nothing was unpickled"
            ) from error
        raise RunError(f"{path} is damaged or no safetensors file: {' '.join(str(error).split())}") from error


def save(
    folder: Path,
    model: Classifier,
    class_names: tuple[str, ...] | None,
    card: str,
    origin: dict[str, Any] | None = None,
) -> None:
    """Write the three files, `config.json` last, so that a folder that has it is whole.

    `origin` travels with the model: the data's fingerprint, the seed, how it was made and by which defense. Class names are
    None where they are unknown.
    """
    write_bytes(folder / "model.safetensors", tensors_to_bytes(model.state_dict()))
    write_text(folder / "README.md", card)
    write_json(
        folder / "config.json",
        {"library_name": "undistill", "schema": SCHEMA, "network": model.config, "id": weights_id(model)}
        | {"class_names": None if class_names is None else list(class_names)}
        | {"origin": origin or {}},
    )


def read(folder: Path) -> tuple[Classifier, tuple[str, ...] | None]:
    """(network in evaluation mode, class names or None) of a model folder, ours or timm's.

    Raises:
        UsageError: no model folder, or one of a newer schema.
        RunError: damaged files, or weights that do not fit the network.
    """
    if not (folder / "config.json").is_file():
        pickles = [
            path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".tar", ".pkl", ".ckpt")
        ]
        found = (
            f"; {pickles[0]} may hold a pickle and is not opened: `undistill import` reads what is safe"
            if pickles
            else ""
        )
        raise UsageError(f"{folder} is no model folder: it has no config.json{found}")
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and "network" not in config and isinstance(config.get("architecture"), str):
        network, names = _of_timm(config)
    elif isinstance(config, dict):
        check_schema(config.get("schema"), SCHEMA, folder / "config.json")
        network, names = config.get("network"), config.get("class_names")
    else:
        network, names = None, None
    if not isinstance(network, dict) or not isinstance(names, list | None):
        raise RunError(f"{folder / 'config.json'} does not describe an undistill network")
    try:
        _try_on(network, folder)
        model = from_config(network)
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{folder / 'config.json'}: {error}") from error
    except RunError:
        raise
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise RunError(f"{folder / 'config.json'} describes a network that cannot be built here: {reason}") from error
    if names is not None and len(names) != model.config["num_classes"]:
        raise RunError(f"{folder / 'config.json'} names {len(names)} classes for {model.config['num_classes']} outputs")
    _load(model, read_tensors(folder / "model.safetensors"), folder)
    if "id" in config and config["id"] != weights_id(model):
        raise RunError(
            f"the network in {folder} is damaged: it is not the one that was saved there; if you changed it yourself, remove 'id' "
            "from its config.json"
        )
    return model.eval(), None if names is None else tuple(str(name) for name in names)


def _try_on(network: dict[str, Any], folder: Path) -> None:
    """RunError where the weights do not fit the network, before memory is taken for either.

    A network of others may need real tensors to be made: it is left out, and so is one that cannot be made without.
    """
    if ":" in str(network.get("name")):
        return
    try:
        with torch.device("meta"):
            expected = from_config(network).state_dict()
    except UsageError:
        raise
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ):  # making it for real succeeds, or says what is wrong
        return
    path = folder / "model.safetensors"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError):
        read_tensors(path)  # says what is wrong with it
        raise
    _fit({name: tuple(value.shape) for name, value in expected.items()}, found, folder)


def _fit(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], folder: Path) -> None:
    wrong = sorted(expected.keys() ^ found.keys())
    wrong += sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if wrong:
        raise RunError(
            f"the weights in {folder} do not fit its config.json: {wrong[0]} and {len(wrong) - 1} more differ"
        )


def _load(model: Classifier, tensors: dict[str, Tensor], folder: Path) -> None:
    expected = model.state_dict()
    if not expected.keys() & tensors.keys() and {f"inner.{name}" for name in tensors} <= expected.keys():
        tensors = {f"inner.{name}": value for name, value in tensors.items()}  # a foreign folder's own names
    counts = {name: value for name, value in expected.items() if name.endswith(COUNTER)}
    tensors = counts | whole_counters(tensors)
    ours, theirs = ({name: tuple(value.shape) for name, value in state.items()} for state in (expected, tensors))
    _fit(ours, theirs, folder)
    for name, value in tensors.items():
        reason = unusable(value, expected[name])
        if reason is not None:
            raise RunError(f"the weights in {folder} cannot be used: {name} {reason}; save them again as finite floats")
    model.load_state_dict(tensors)


def whole_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, counters of batches as whole numbers: casting a whole network to half precision makes them floats.

    A counter that is no single whole number is left out.
    """
    found = dict(tensors)
    for name, value in tensors.items():
        if name.endswith(COUNTER) and (value.is_floating_point() or value.ndim):
            del found[name]
            if value.numel() == 1 and float(value).is_integer():
                found[name] = value.reshape(()).to(torch.int64)
    return found


def unusable(value: Tensor, expected: Tensor) -> str | None:
    """Why `value` can be no weight in the place of `expected`, as the end of a sentence; None where it can.

    What is not finite is let through where the network's own constant is the same, as −∞ in a mask.
    """
    if value.is_quantized or value.is_complex() or value.is_floating_point() != expected.is_floating_point():
        here, there = (str(tensor.dtype).removeprefix("torch.") for tensor in (expected, value))
        return f"is {there} there and {here} here"
    try:
        converted = value.to(expected.dtype)
        if bool((converted.isfinite() | (converted == expected.to(converted.device))).all()):
            return None
    except RuntimeError:  # a type that torch names but does not convert
        return f"is {str(value.dtype).removeprefix('torch.')}, which cannot be converted"
    return "holds values that are not finite"


def _of_timm(config: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str] | None]:
    """(our config, class names) of a folder in timm's layout; (None, None) where it says too little."""
    details = config.get("pretrained_cfg")
    details = details if isinstance(details, dict) else config
    size, classes = details.get("input_size"), config.get("num_classes", details.get("num_classes"))
    mean, std = details.get("mean"), details.get("std")
    if not (isinstance(size, list) and len(size) == 3 and isinstance(mean, list) and isinstance(std, list)):
        return None, None
    names = config.get("label_names")
    network = {"name": f"timm:{config['architecture']}", "num_classes": classes, "in_channels": size[0]}
    network |= {"image_size": size[1], "mean": mean, "std": std, "arguments": config.get("model_args") or {}}
    return network, names if isinstance(names, list) else None


def read_origin(folder: Path) -> dict[str, Any]:
    """What is known of where a model folder's weights come from; empty where nothing is. RunError for another form."""
    config = read_json(folder / "config.json")
    origin = config.get("origin") if isinstance(config, dict) else None
    if not isinstance(origin, dict):
        return {}
    kinds: dict[str, Any] = {"data": str, "kind": str, "seed": int, "defense": dict, "fresh_pool": bool}
    kinds |= {"accuracy": dict, "stated_accuracy": int | float, "normalization": str, "class_order": list}
    for name, kind in kinds.items():
        if origin.get(name) is not None and not isinstance(origin[name], kind):
            raise RunError(f"{folder / 'config.json'}: origin.{name} is {origin[name]!r}")
    known = origin.get("accuracy")
    if known is not None and not (
        isinstance(known.get("percent"), int | float) and isinstance(known.get("data"), str | None)
    ):
        raise RunError(f"{folder / 'config.json'}: origin.accuracy is {known!r}")
    return {name: value for name, value in origin.items() if value is not None}


def note(folder: Path, name: str, value: Any) -> None:
    """Write one more fact into the origin that a model folder of ours states."""
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "origin": {**(config.get("origin") or {}), name: value}})


def fresh_pool(origin: dict[str, Any]) -> bool:
    """Whether an origin says that no training on the way saw the pool of its data. Folders of earlier versions do not say it."""
    return bool(origin.get("fresh_pool", origin.get("data") is not None and origin.get("kind") in ("train", "protect")))


def check_schema(found: Any, known: int, path: Path) -> None:
    """UsageError for a file of a newer schema, RunError for one without."""
    if not isinstance(found, int) or isinstance(found, bool):
        raise RunError(f"{path} states no schema")
    if found > known:
        raise UsageError(f"{path} has schema {found}, this version reads up to {known}; update undistill to read it")


def model_card(title: str, facts: dict[str, Any]) -> str:
    """A README with the hub's front matter and one line a fact; the same facts give the same text."""
    lines = ["---", "library_name: undistill", "pipeline_tag: image-classification", "---", "", f"# {title}", ""]
    lines += [f"- {name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in facts.items()]
    lines += [
        "",
        "Read it with `undistill.load_model(FOLDER)`. Pixels go in as float NCHW in [0, 1]; normalisation is inside.",
        "",
    ]
    return "\n".join(lines)
