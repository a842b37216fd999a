"""Weights that others saved: state dicts, read without unpickling, translated to our names, and loaded whole or not at all."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undistill.errors import RunError, UsageError
from undistill.models.base import FIXED, MODELS, Classifier
from undistill.models.kinds import described, is_safetensors
from undistill.models.model_folder import COUNTER, read_tensors, unusable, whole_counters

log = logging.getLogger(__name__)
INDEX = ".safetensors.index.json"
WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "model", "net", "weights")
"""Where training scripts put a state dict inside a checkpoint, the likeliest first."""
BESIDE = re.compile(r"(criterion|loss\w*|metrics?|\w+_(loss|metrics?|acc|accuracy))(\..*)?")
"""Names of what a training keeps beside its network, and the network does not compute with."""
NO_WEIGHTS = re.compile(r"(.*\.)?(n_averaged|total_ops|total_params)")
"""What `torch.optim.swa_utils` and counters of operations leave among the weights; no network computes with it."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a safetensors file or the index of several, or of a `torch.save` file of tensors and plain values alone.

    Raises:
        UsageError: no such file, no tensors in it, or tensors without values.
        RunError: damaged, or holding objects whose loading could run code; nothing was unpickled.
    """
    if not path.is_file():
        raise UsageError(f"there are no weights at {path}")
    if path.name.endswith(INDEX):
        return {name: value for part in _parts(path) for name, value in read_state(part).items()}
    if (reason := described(path)) is not None:
        raise RunError(f"{path} {reason}")
    with path.open("rb") as file:
        pickled = file.read(2) in (b"PK", b"\x80\x02")
    if is_safetensors(path) or (path.suffix == ".safetensors" and not pickled):
        return _tensors(read_tensors(path), path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # of a path, torch would look at the suffix
            warnings.simplefilter("ignore")  # torch warns of pickle protocols before it refuses them
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{path} holds more than tensors, or is damaged: it was not opened, for loading it could run code; save its "
            "state_dict() alone"
        ) from error
    except Exception as error:  # struct.error, AssertionError, …: no list of what a damaged file raises is complete
        raise RunError(f"{path} is damaged or no weights: {_sentence(error)}") from error
    return _tensors(content, path)


def _parts(index: Path) -> list[Path]:
    """The files that an index of safetensors names, which lie beside it."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index} is no index of safetensors: it lacks a weight_map") from error
    if not names or not all(
        isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors") for name in names
    ):
        raise RunError(f"{index} names no files of safetensors in its own folder")
    return [index.parent / name for name in sorted(names)]


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The names and tensors of a state dict, unwrapped."""
    while isinstance(content, Mapping) and (inner := _wrapped(content, path)) is not None:
        content = inner
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds no state dict but a {type(content).__name__}")
    found = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.layout is torch.strided and not NO_WEIGHTS.fullmatch(str(name))
    }
    if not found:
        raise UsageError(f"{path} holds no named tensors")
    empty = next((name for name, value in found.items() if value.is_meta), None)
    if empty is not None:
        raise UsageError(
            f"{path} holds {empty!r} without its values, on the device meta; save it from a network whose weights are loaded"
        )
    return found


def _wrapped(content: Mapping[Any, Any], path: Path) -> Mapping[Any, Any] | None:
    """The state dict inside a checkpoint: under a usual name, or the only entry that holds named tensors. None for a bare one."""
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return content[wrapper]
    if any(isinstance(value, Tensor) for value in content.values()):
        return None
    states = [name for name, value in content.items() if isinstance(value, Mapping) and _holds_tensors(value)]
    if len(states) > 1:
        raise UsageError(
            f"{path} holds {len(states)} state dicts, {', '.join(map(repr, states[:3]))}; save the one that is meant alone"
        )
    return content[states[0]] if states else None


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, str) and isinstance(part, Tensor) for name, part in value.items())


def classes_of(model: Classifier, tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes these weights tell apart, by the shape of the head; None where it is not among them."""
    head = _head_name(model)
    found = translate(model, meant(model, tensors)).get(f"{head}.weight")
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
    every, tensors = tensors, meant(model, tensors)
    given = translate(model, tensors)
    if tensors is not every:
        others = [other for other in every if BESIDE.fullmatch(other)]
        log.warning(
            "left out of the weights in %s: %r%s, which %s does not have", where, others[0], _more(others), name
        )
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
    given = whole_counters(given)
    _check_names(model, tensors, given, where, () if kept_head else (f"{head}.weight", f"{head}.bias"))
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


def check_names(model: Classifier, tensors: Mapping[str, Tensor], where: str) -> None:
    """UsageError where the file lacks weights of the network or holds others, whatever their shapes."""
    tensors = meant(model, tensors)
    _check_names(model, tensors, translate(model, tensors), where)


def _check_names(
    model: Classifier,
    tensors: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    where: str,
    optional: Sequence[str] = (),
) -> None:
    expected = model.state_dict().keys()
    missing = sorted(name for name in expected - given.keys() - set(optional) if not name.endswith(COUNTER))
    unknown = sorted(given.keys() - expected)
    if missing or unknown:
        name = model.config["name"]
        raise UsageError(f"the weights in {where} are not those of {name}: {_differ(model, tensors, missing, unknown)}")


def translate(model: Classifier, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names; names that no rule knows stay. A head saved as a 1×1 convolution becomes a linear layer.

    A prefix that all names share is taken off, at the dot where most of the names are then the network's; one that only some
    share, where the names are then just the network's (`backbone.` before all but a head, say).
    """
    network = MODELS.make({key: value for key, value in model.config.items() if key not in FIXED})
    ours = model.state_dict()
    rules = [(re.compile(pattern), replacement) for pattern, replacement in network.foreign_keys]

    def place(name: str) -> str:
        match = None if name in ours else next(((rule, to) for rule, to in rules if rule.fullmatch(name)), None)
        return name if match is None else match[0].sub(match[1], name)

    def without(start: str) -> dict[str, str]:
        return {name: place(name.removeprefix(start)) for name in tensors}

    start = max(_shared(list(tensors)), key=lambda start: sum(key in ours for key in without(start).values()))
    wanted = {name for name in ours if not name.endswith(COUNTER)}
    if not wanted <= set(without(start).values()):
        whole = (some for some in _starts(tensors) if wanted <= set(without(some).values()) <= ours.keys())
        start = next(whole, start)
    places = without(start)
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        key = places[name]
        if key in ours and value.ndim == 4 and ours[key].ndim == 2 and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        if key in renamed:
            raise UsageError(f"two of the weights mean {key!r}")
        renamed[key] = value
    return renamed


def meant(model: Classifier, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of the network, where the file holds it whole behind a prefix, beside those of its loss and metrics alone."""
    own = {name: value for name, value in tensors.items() if not BESIDE.fullmatch(name)}
    if not 0 < len(own) < len(tensors):
        return tensors
    wanted = {name for name in model.state_dict() if not name.endswith(COUNTER)}
    return own if wanted <= translate(model, own).keys() else tensors


def _shared(names: list[str]) -> list[str]:
    """What may be taken off all names: nothing, then up to each dot that all share, as `module.student.` has two."""
    return ["", *(start for start in _starts(names[:1]) if all(name.startswith(start) for name in names))]


def _starts(names: Iterable[str]) -> list[str]:
    """The beginnings of names up to each of their dots."""
    return list(dict.fromkeys(name[: dot.end()] for name in names for dot in re.finditer(r"\.", name)))


def _differ(model: Classifier, tensors: Mapping[str, Tensor], missing: list[str], unknown: list[str]) -> str:
    """Which names differ, and which of the file's are probably meant."""
    if not missing:
        return f"they hold {unknown[0]!r}{_more(unknown)}, which it does not know"
    if not unknown:
        return f"they lack {missing[0]!r}{_more(missing)}"
    if parts := _parts_that_fit(model, tensors):
        return f"those under {' and under '.join(map(repr, parts[:3]))} are; save the ones that are meant alone"
    given, head = {**model.state_dict(), **translate(model, tensors)}, _head_name(model)
    pairs = [(name, other) for name in missing for other in unknown if _alike(given[name], given[other], name, head)]
    renamed = dict(zip(missing, unknown, strict=False))
    if len(missing) == len(unknown) <= MOST and set(renamed.items()) <= set(pairs):
        told = ", ".join(f"{other!r} where it has {name!r}" for name, other in renamed.items())
        return f"their names differ: they hold {told}; save them under its names"
    hint = f"; {pairs[0][1]!r} has the shape of {pairs[0][0]!r}" if pairs and len(missing) <= MOST else ""
    return f"they lack {missing[0]!r}{_more(missing)}, and hold {unknown[0]!r}{_more(unknown)}, which it does not know{hint}"


def _alike(one: Tensor, other: Tensor, name: str, head: str) -> bool:
    """Whether two weights have one shape; of the head only what lies behind the number of classes counts."""
    start = 1 if name.startswith(f"{head}.") else 0
    return one.ndim == other.ndim and one.shape[start:] == other.shape[start:]


def _parts_that_fit(model: Classifier, tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes such as `student.` behind which the file holds all of the network's weights, beside others."""
    wanted = {name for name in model.state_dict() if not name.endswith(COUNTER)}
    found: list[str] = []
    for start in _starts(tensors):
        part = {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}
        if len(part) >= len(wanted) and not any(start.startswith(known) for known in found):
            with contextlib.suppress(UsageError):  # two of them may mean the same
                if wanted <= translate(model, part).keys():
                    found.append(start)
    return found


MOST = 4
"""Renamed weights that an error names one by one."""


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _head_name(model: Classifier) -> str:
    return next((name for name, module in model.named_modules() if module is model.head), "head")


def _shape(value: Tensor) -> str:
    return " × ".join(str(side) for side in value.shape) or "a number"


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()).rstrip(".") or type(error).__name__)[:200]
