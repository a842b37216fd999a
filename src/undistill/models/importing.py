"""Models of others, made into model folders: the paper authors' checkpoints, plain state dicts, folders of timm's on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undistill import plugins
from undistill.errors import RunError, UsageError
from undistill.files import read_json
from undistill.models import folder as models
from undistill.models.base import MODELS, Classifier, Network, build
from undistill.models.states import classes_of, load_state, read_state

AUTHORS_NAMES = {"net": "cnn", "preresnet20": "resnetc20", "preresnet32": "resnetc32"}
"""The authors' names of networks that have another one here; the rest are called alike."""
AUTHORS_DATA: dict[str, dict[str, Any]] = {
    "cifar10": {"num_classes": 10, "image_size": 32, "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)},
    "cifar100": {"num_classes": 100, "image_size": 32, "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)},
    "tiny_imagenet": {
        "num_classes": 200,
        "image_size": 64,
        "mean": (0.4802, 0.4481, 0.3975),
        "std": (0.2302, 0.2265, 0.2262),
    },
}
"""What their code fixes for each data set; CIFAR-100 gets CIFAR-10's normalisation there."""
OPTIONS = {
    "model": "model (--model)",
    "image_size": "image_size (--size)",
    "in_channels": "in_channels (--channels)",
    "mean": "mean (--mean)",
    "std": "std (--std)",
}
"""What the arguments are called in the command."""


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    model: str | dict[str, Any] | Network | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Make a model folder of weights that were saved elsewhere, and return it. Nothing is unpickled.

    Args:
        source: a folder with `params.json` and `best_model.tar` (or `last_model.tar`), as the paper's authors leave them; a folder
            with timm's `config.json` and `model.safetensors`; or a state dict as `.safetensors`, `.pt`, `.pth`, `.tar`.
        out: folder to write.
        model: the network of a plain state dict: `resnet18`, `timm:resnet18`, `package.module:callable`, or settings.
        num_classes: of a plain state dict whose head does not tell; as many as there are `class_names` without.
        image_size: side in pixels of the images it takes; 32 where nothing says so.
        in_channels: 1 or 3; 3 where nothing says so.
        mean: the normalisation it was trained with, a value a channel, in [0, 1]; none where nothing says so.
        std: like `mean`.
        class_names: in the order of the outputs; without them the order is taken to be that of the data it meets.

    Raises:
        UsageError: an unknown layout or network, weights that do not fit, a setting that a folder's `config.json` fixes.
        RunError: damaged or pickled files.
    """
    path, out = Path(source), Path(out)
    if (out / "config.json").exists():
        raise UsageError(f"{out} holds a model already; choose another folder with -o")
    told = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels, "mean": mean, "std": std}
    if path.is_dir() and (path / "params.json").is_file():
        network, names = _authors(path, model, told, class_names), None
    elif path.is_dir() and (path / "config.json").is_file():
        for argument, value in {"model": model, **told}.items():
            if value is not None:
                raise UsageError(
                    f"{path / 'config.json'} says the {argument} already; leave {OPTIONS.get(argument, argument)} out"
                )
        network, names = models.read(path)
    elif path.is_dir():
        raise UsageError(f"{path} holds neither params.json (the authors' layout) nor config.json (a model folder)")
    else:
        network, names = plain(path, model, told, class_names), None
    if class_names is not None and len(class_names) != network.config["num_classes"]:
        raise UsageError(f"{len(class_names)} class names for the {network.config['num_classes']} outputs of {path}")
    chosen = tuple(class_names) if class_names is not None else names
    known = models.read_origin(path) if path.is_dir() and (path / "config.json").is_file() else {}
    origin = {**known, "kind": "import", "source": path.name, "source_sha256": _digest(path)}
    card = models.model_card(f"{network.config['name']}, imported", {"imported from": path.name})
    models.save(out, network, chosen, card, origin)
    return out


def plain(
    path: Path,
    model: str | dict[str, Any] | Network | None,
    told: dict[str, Any],
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """The network of a state dict; what `told` leaves open is read off the weights or has its usual value."""
    tensors = read_state(path)
    if model is None:
        raise UsageError(f"{path} is a state dict, which does not say of which network; name it with --model")
    network = _record(model)
    values = {key: value for key, value in told.items() if value is not None} | {"seed": 0}
    values.setdefault("image_size", getattr(network, "resize", None) or 32)
    values.setdefault("in_channels", 3)
    if "num_classes" not in values:
        named = None if class_names is None else len(class_names)
        guess = classes_of(build(network, **{**values, "num_classes": max(2, named or 2)}), tensors)
        guess = named if guess is None else guess
        if guess is None:
            raise UsageError(
                f"{path} does not say how many classes {network.name} tells apart; use --classes (in Python, num_classes=)"
            )
        values["num_classes"] = guess
    made = build(network, **values)
    load_state(made, tensors, str(path))
    return made.eval()


def _record(model: str | dict[str, Any] | Network) -> Network:
    name = model if isinstance(model, str) else "" if isinstance(model, Network) else str(model.get("name", ""))
    if ":" in name:
        plugins.trust(name)
    return MODELS.make(model)


def _authors(
    path: Path,
    model: str | dict[str, Any] | Network | None,
    told: dict[str, Any],
    class_names: Sequence[str] | None,
) -> Classifier:
    params = read_json(path / "params.json")
    if not isinstance(params, dict) or not isinstance(params.get("model_name"), str):
        raise RunError(f"{path / 'params.json'} names no model_name")
    weights = next((path / name for name in ("best_model.tar", "last_model.tar") if (path / name).is_file()), None)
    if weights is None:
        raise UsageError(f"{path} has a params.json, but neither best_model.tar nor last_model.tar")
    known = AUTHORS_DATA.get(str(params.get("dataset")), {})
    if model is None:  # a record, for a name out of a file is nothing that anybody trusts
        named: str = params["model_name"]
        model = MODELS.make(AUTHORS_NAMES.get(named, named))
    return plain(weights, model, known | {key: value for key, value in told.items() if value is not None}, class_names)


def _digest(path: Path) -> str:
    """SHA-256 of the file, or of all files of the folder in order."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()):
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
