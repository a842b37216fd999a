"""Weights that others saved: state dicts, read without unpickling, translated to our names, and loaded whole or not at all."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undistill.errors import RunError, UsageError
from undistill.models.base import FIXED, MODELS, Classifier
from undistill.models.folder import read_tensors, unusable

WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model", "net", "weights")
"""Where training scripts put a state dict inside a checkpoint, the likeliest first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before each name; taken off where the network's names want it."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a safetensors file, or of a `torch.save` file that holds tensors and plain values alone.

    Raises:
        UsageError: no such file, no tensors in it, or tensors without values.
        RunError: damaged, or holding objects whose loading could run code; nothing was unpickled.
    """
    if not path.is_file():
        raise UsageError(f"there are no weights at {path}")
    if path.suffix == ".safetensors":
        return _tensors(read_tensors(path), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{path} holds more than tensors, or is damaged: it was not opened, for loading it could run code"
        ) from error
    except Exception as error:  # struct.error, AssertionError, …: nobody lists what a damaged file raises
        raise RunError(f"{path} is damaged or no weights: {_sentence(error)}") from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The names and tensors of a state dict, unwrapped."""
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds no state dict but a {type(content).__name__}")
    found = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.layout is torch.strided
    }
    if not found:
        raise UsageError(f"{path} holds no named tensors")
    empty = next((name for name, value in found.items() if value.is_meta), None)
    if empty is not None:
        raise UsageError(
            f"{path} holds {empty!r} without its values, on the device meta; save it from a network whose weights are loaded"
        )
    return found


def classes_of(model: Classifier, tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes these weights tell apart, by the shape of the head; None where it is not among them."""
    head = _head_name(model)
    found = translate(model, tensors).get(f"{head}.weight")
    return None if found is None or found.ndim == 0 else len(found)


def load_state(model: Classifier, tensors: Mapping[str, Tensor], where: str, *, new_head: bool = False) -> bool:
    """Put weights into `model`, all of them; returns whether the head is among them.

    Args:
        model: filled in place, or left as it was.
        tensors: from `read_state`; their names are ours or those of a known code base.
        where: the file, for errors.
        new_head: a head for another number of classes is left out, and the model keeps its own.

    Raises:
        UsageError: weights that are missing, left over, of another shape or kind, or not finite.
    """
    name, expected = model.config["name"], model.state_dict()
    given = translate(model, tensors)
    head = _head_name(model)
    outputs = given.get(f"{head}.weight")
    kept_head = True
    if outputs is not None and outputs.ndim and len(outputs) != model.config["num_classes"]:
        if not new_head:
            raise UsageError(
                f"the weights in {where} tell {len(outputs)} classes apart, the data {model.config['num_classes']}"
            )
        kept_head = False
        for key in (f"{head}.weight", f"{head}.bias"):
            given.pop(key, None)
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    optional |= set() if kept_head else {f"{head}.weight", f"{head}.bias"}
    missing = sorted(expected.keys() - given.keys() - optional)
    unknown = sorted(given.keys() - expected.keys())
    if missing or unknown:
        what = f"lack {missing[0]!r}" if missing else f"hold {unknown[0]!r}, which it does not know"
        rest = len(missing) + len(unknown) - 1
        raise UsageError(
            f"the weights in {where} are not those of {name}: they {what}{f', and {rest} more' if rest else ''}"
        )
    for key, value in given.items():
        if value.shape != expected[key].shape:
            raise UsageError(
                f"the weights in {where} do not fit {name}: {key!r} is {_shape(value)} there and {_shape(expected[key])} here"
            )
        reason = unusable(value, expected[key])
        if reason is not None:
            raise UsageError(
                f"the weights in {where} do not fit {name}: {key!r} {reason}; save them again as finite floats"
            )
    model.load_state_dict({**expected, **{key: value.to(expected[key].dtype) for key, value in given.items()}})
    return kept_head


def translate(model: Classifier, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names; names that no rule knows stay. A head saved as a 1×1 convolution becomes a linear layer.

    Prefixes that all names share are taken off as far as more of the names are then the network's.
    """
    network = MODELS.make({key: value for key, value in model.config.items() if key not in FIXED})
    ours = model.state_dict()
    rules = [(re.compile(pattern), replacement) for pattern, replacement in network.foreign_keys]

    def place(name: str) -> str:
        match = None if name in ours else next(((rule, to) for rule, to in rules if rule.fullmatch(name)), None)
        return name if match is None else match[0].sub(match[1], name)

    cut = max(_shared(list(tensors)), key=lambda cut: sum(place(name[cut:]) in ours for name in tensors))
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        key = place(name[cut:])
        if key in ours and value.ndim == 4 and ours[key].ndim == 2 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        if key in renamed:
            raise UsageError(f"two of the weights mean {key!r}")
        renamed[key] = value
    return renamed


def _shared(names: list[str]) -> list[int]:
    """The lengths of what may be taken off all names: nothing, then a prefix more each time."""
    cuts = [0]
    while prefix := next((p for p in PREFIXES if names and all(n.startswith(p, cuts[-1]) for n in names)), None):
        cuts.append(cuts[-1] + len(prefix))
    return cuts


def _head_name(model: Classifier) -> str:
    return next((name for name, module in model.named_modules() if module is model.head), "head")


def _shape(value: Tensor) -> str:
    return " × ".join(str(side) for side in value.shape) or "a number"


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()).rstrip(".") or type(error).__name__)[:200]
