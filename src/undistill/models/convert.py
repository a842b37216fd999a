"""Models of others, made into model folders: the paper authors' checkpoints, plain state dicts, folders of timm's on the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from undistill import plugins
from undistill.data import Splits
from undistill.errors import RunError, UsageError
from undistill.files import read_json
from undistill.models import model_folder as models
from undistill.models.base import MODELS, Classifier, Network, build
from undistill.models.external import IMAGENET, External
from undistill.models.state_dict import check_names, classes_of, load_state, read_state

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
"""What their code fixes for each data set; CIFAR-100 gets CIFAR-10's normalization there."""
OPTIONS = {
    "model": "model (--model)",
    "image_size": "image_size (--size)",
    "in_channels": "in_channels (--channels)",
    "mean": "mean (--mean)",
    "std": "std (--std)",
}
"""What the arguments are called in the command."""


class Moments(NamedTuple):
    """A normalization: a mean and a standard deviation for each channel, of pixels in [0, 1], and where they come from."""

    mean: Sequence[float]
    std: Sequence[float]
    source: str


def import_model(
    source: str | Path,
    out: str | Path,
    *,
    model: str | dict[str, Any] | Network | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_channels: int | None = None,
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    class_order: Sequence[int] | None = None,
    data: Splits | None = None,
    accuracy: float | None = None,
) -> Path:
    """Make a model folder of weights that were saved elsewhere, and return it. Nothing is unpickled.

    Args:
        source: a folder with `params.json` and `best_model.tar` (or `last_model.tar`), as the paper's authors leave them; a folder
            with timm's `config.json` and `model.safetensors`; or a state dict as `.safetensors`, `.pt`, `.pth`, `.tar`.
        out: folder to write.
        model: the network of a plain state dict: `resnet18`, `timm:resnet18`, `package.module:callable`, or settings.
        num_classes: of a plain state dict whose head does not tell; as many as there are `class_names` without.
        image_size: side in pixels of the images it takes; the data's, or 32 without data.
        in_channels: 1 or 3; the data's, or 3 without data.
        mean: the normalization it was trained with, a value a channel, in [0, 1]; or `none` (it takes pixels in [0, 1] as they
            are), `data` (the moments of the data's training images), `imagenet`. None: the published one of timm's and
            torchvision's networks; any other state dict needs to be told.
        std: beside a `mean` of numbers.
        class_names: in the order of the outputs. With `data` that name the same classes in another order, the outputs are put
            in the data's order; without either, output i is taken to be class i of the data.
        class_order: `class_order[i]` is the class of the data that output i stands for; the outputs are put in the data's order.
        data: what the model is for; says sizes and class names, and can say the normalization.
        accuracy: percent on test images, as its author states it; later commands compare with it.

    Raises:
        UsageError: an unknown layout or network, weights that do not fit, a normalization that is not known, a setting that a
            folder's `config.json` fixes.
        RunError: damaged or pickled files.
    """
    path, out = Path(source), Path(out)
    if (out / "config.json").exists():
        raise UsageError(f"{out} holds a model already; choose another folder with -o")
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise UsageError(f"accuracy is percent from 0 to 100, not {accuracy:g}")
    told: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    names: tuple[str, ...] | None = None
    if path.is_dir() and (path / "params.json").is_file():
        network, moments = _authors(path, model, told, mean, std, class_names, data)
    elif path.is_dir() and (path / "config.json").is_file():
        for argument, value in {"model": model, **told, "mean": mean, "std": std}.items():
            if value is not None:
                raise UsageError(
                    f"{path / 'config.json'} says the {argument} already; leave {OPTIONS.get(argument, argument)} out"
                )
        network, names = models.read(path)
        moments = Moments(network.config["mean"], network.config["std"], "its config.json")
    elif path.is_dir():
        raise UsageError(f"{path} holds neither params.json (the authors' layout) nor config.json (a model folder)")
    else:
        network, moments = plain(path, model, told, mean, std, class_names, data)
    if class_names is not None and len(class_names) != network.config["num_classes"]:
        raise UsageError(f"{len(class_names)} class names for the {network.config['num_classes']} outputs of {path}")
    chosen = tuple(class_names) if class_names is not None else names
    order = _order(chosen, class_order, network.config["num_classes"], data)
    if order is not None:
        network = reordered(network, order)
        chosen = None if chosen is None else tuple(chosen[order.index(place)] for place in range(len(order)))
    known = models.read_origin(path) if path.is_dir() and (path / "config.json").is_file() else {}
    origin = {**known, "kind": "import", "source": path.name, "source_sha256": _digest(path)}
    origin |= {"normalization": moments.source} | ({} if order is None else {"class_order": order})
    origin |= {} if accuracy is None else {"stated_accuracy": accuracy}
    card = models.model_card(f"{network.config['name']}, imported", {"imported from": path.name})
    models.save(out, network, chosen, card, origin)
    return out


def size_of(source: Path) -> int | None:
    """The side in pixels that a folder's own description says; None for a state dict, and for what is damaged."""
    try:
        if (source / "params.json").is_file():
            return AUTHORS_DATA.get(str(read_json(source / "params.json").get("dataset")), {}).get("image_size")
        return models.read(source)[0].config["image_size"] if (source / "config.json").is_file() else None
    except (RunError, UsageError, AttributeError):
        return None


def normalization(
    where: Path | str,
    network: Network,
    channels: int,
    mean: Sequence[float] | str | None,
    std: Sequence[float] | None,
    data: Splits | None = None,
) -> Moments:
    """The normalization of foreign weights: as told, or the published one. UsageError where neither says it.

    Args:
        where: the weights, for errors.
        network: timm's and torchvision's have a published one.
        channels: of the images.
        mean: numbers, `none`, `data`, `imagenet`, or None.
        std: beside numbers.
        data: what `data` means.
    """
    if mean is None and std is None:
        usual = network.usual_moments(channels) if isinstance(network, External) else (None, None)
        if usual[0] is not None and usual[1] is not None:
            return Moments(usual[0], usual[1], f"published for {network.name}")
        raise UsageError(
            f"{where} does not say how its network normalizes pixels: give --mean and --std of its training (0.49,0.48,0.45 and "
            "0.25,0.24,0.26), --mean imagenet, --mean data for the moments of the training images of --data, or --mean none if "
            "it takes pixels in [0, 1] as they are"
        )
    if isinstance(mean, str):
        if std is not None:
            raise UsageError(f"--mean {mean} says the standard deviation, too; leave --std out")
        return _named_moments(mean, channels, data)
    if mean is None or std is None:
        given, missing = ("mean", "std") if std is None else ("std", "mean")
        raise UsageError(f"--{given} without --{missing} is half a normalization: give both, a value a channel")
    return Moments(mean, std, "as given")


def _named_moments(name: str, channels: int, data: Splits | None) -> Moments:
    if name == "none":
        return Moments([0.0] * channels, [1.0] * channels, "none: pixels in [0, 1] as they are")
    if name == "imagenet":
        mean, std = IMAGENET if channels == 3 else ([sum(part) / 3] for part in IMAGENET)
        return Moments(mean, std, "ImageNet's")
    if name != "data":
        raise UsageError(f"--mean is numbers such as 0.49,0.48,0.45, or none, data or imagenet, not {name!r}")
    if data is None:
        raise UsageError("--mean data wants the data: name them with --data")
    return Moments(data.mean, data.std, f"of the training images of {data.name}")


def _order(
    names: tuple[str, ...] | None, told: Sequence[int] | None, classes: int, data: Splits | None
) -> list[int] | None:
    """The class of the data that each output stands for, where that is not its own number; None for outputs in the data's order."""
    if data is not None and data.num_classes != classes:
        raise UsageError(f"the weights tell {classes} classes apart, the data {data.num_classes}")
    if told is not None:
        if sorted(told) != list(range(classes)):
            raise UsageError(
                f"--class-order names each class from 0 to {classes - 1} once, the class of each output in turn; "
                f"it is {','.join(map(str, told))[:80]}"
            )
        return list(told) if list(told) != list(range(classes)) else None
    if data is None or names is None or names == data.train.class_names:
        return None
    strange = next((name for name in names if name not in data.train.class_names), None)
    if strange is not None or len(set(names)) < len(names):
        raise UsageError(
            f"the model knows a class {strange!r} that the data do not have: {', '.join(data.train.class_names[:5])}, …"
            if strange is not None
            else f"the class names of the model are not all different: {', '.join(names[:5])}, …"
        )
    return [data.train.class_names.index(name) for name in names]


def reordered(network: Classifier, order: Sequence[int]) -> Classifier:
    """The network with its outputs in another order: output i becomes output `order[i]`. Changed in place.

    Raises:
        UsageError: its outputs are not those of its last linear layer.
    """
    rows = torch.tensor(order).argsort()
    config = network.config
    pixels = torch.rand(2, config["in_channels"], config["image_size"], config["image_size"])
    head = network.head
    with torch.no_grad():
        before = network(pixels)
        if isinstance(head, nn.Linear):
            head.weight.copy_(head.weight[rows].clone())
            if head.bias is not None:
                head.bias.copy_(head.bias[rows].clone())
        if not torch.allclose(network(pixels), before[:, rows], rtol=1e-3, atol=1e-4):
            raise UsageError(
                f"{config['name']} does not end in a linear layer whose outputs could be put in another order: do it in a "
                "callable that makes the network"
            )
    return network


def plain(
    path: Path,
    model: str | dict[str, Any] | Network | None,
    told: dict[str, Any],
    mean: Sequence[float] | str | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    data: Splits | None = None,
) -> tuple[Classifier, Moments]:
    """The network of a state dict, and its normalization; what `told` leaves open is the data's, or read off the weights."""
    tensors = read_state(path)
    if model is None:
        raise UsageError(f"{path} is a state dict, which does not say of which network; name it with --model")
    network = _record(model)
    values = {key: value for key, value in told.items() if value is not None} | {"seed": 0}
    values.setdefault("image_size", getattr(network, "resize", None) or (data.train.image_size if data else 32))
    values.setdefault("in_channels", data.train.channels if data else 3)
    moments = normalization(path, network, values["in_channels"], mean, std, data)
    values |= {"mean": moments.mean, "std": moments.std}
    if "num_classes" not in values:
        named = None if class_names is None else len(class_names)
        trial = build(network, **{**values, "num_classes": max(2, named or 2)})
        guess = classes_of(trial, tensors)
        guess = named if guess is None else guess
        if guess is None:
            check_names(trial, tensors, str(path))  # where other names are why
            raise UsageError(
                f"{path} does not say how many classes {network.name} tells apart; use --classes (in Python, num_classes=)"
            )
        values["num_classes"] = guess
    made = build(network, **values)
    load_state(made, tensors, str(path))
    return made.eval(), moments


def _record(model: str | dict[str, Any] | Network) -> Network:
    name = model if isinstance(model, str) else "" if isinstance(model, Network) else str(model.get("name", ""))
    if ":" in name:
        plugins.trust(name)
    return MODELS.make(model)


def _authors(
    path: Path,
    model: str | dict[str, Any] | Network | None,
    told: dict[str, Any],
    mean: Sequence[float] | str | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
    data: Splits | None,
) -> tuple[Classifier, Moments]:
    params = read_json(path / "params.json")
    if not isinstance(params, dict) or not isinstance(params.get("model_name"), str):
        raise RunError(f"{path / 'params.json'} names no model_name")
    weights = next((path / name for name in ("best_model.tar", "last_model.tar") if (path / name).is_file()), None)
    if weights is None:
        raise UsageError(f"{path} has a params.json, but neither best_model.tar nor last_model.tar")
    known = AUTHORS_DATA.get(str(params.get("dataset")), {})
    if model is None:  # a record, for no name out of a file is trusted
        named: str = params["model_name"]
        model = MODELS.make(AUTHORS_NAMES.get(named, named))
    usual = mean is None and std is None and bool(known)
    mean, std = (known["mean"], known["std"]) if usual else (mean, std)
    sizes: dict[str, Any] = {key: known[key] for key in ("num_classes", "image_size") if key in known}
    sizes |= {key: value for key, value in told.items() if value is not None}
    network, moments = plain(weights, model, sizes, mean, std, class_names, data)
    return network, moments._replace(source=f"the authors' for {params['dataset']}") if usual else moments


def _digest(path: Path) -> str:
    """SHA-256 of the file, or of all files of the folder in order."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()):
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
