"""MODEL: whatever a verb is pointed at, as something that answers and what is known about it."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from undistill import plugins
from undistill.data import ImageSet, Splits
from undistill.errors import Implausible, RunError, UsageError
from undistill.models import Classifier
from undistill.models import model_folder as models
from undistill.models.base import MODELS, build
from undistill.models.external import External, Wrapped
from undistill.models.state_dict import load_state, read_state
from undistill.oracle.accuracy import Measured, Recorded, as_recorded, doubt, measured
from undistill.oracle.black_box import BlackBox, to_bytes
from undistill.oracle.endpoint import Endpoint, is_endpoint, read_service
from undistill.oracle.graph import Graph
from undistill.oracle.inference import FAMILIES, identity, not_finite, sound
from undistill.oracle.output_defense import AnswerDefense, chain, suits
from undistill.oracle.query_log import SUFFIXES, Answers, Ledger
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for, predict
from undistill.training.recipe import Recipe
from undistill.training.run_folder import Run


@dataclass(frozen=True)
class Victim:
    """A network, or a black box, and what is known of it: `class_names` None is taken to be in the data's order.

    Recipe, data, defense and seed are known where it came from a run folder or a model folder of ours. `fresh_pool`: it is known
    that no training on the way to it saw the pool of those data. `behind` are the answer-side defenses in front of it, the first
    acts first; `network_id` tells the model itself from others, `id` the model as it is served. `recorded` is the accuracy that
    is known of it.
    """

    model: Classifier | BlackBox
    class_names: tuple[str, ...] | None
    network_id: str
    recipe: Recipe | None = None
    data_fingerprint: str | None = None
    defense: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    kind: str = "unknown"
    called: str | None = None
    fresh_pool: bool = False
    behind: tuple[AnswerDefense, ...] = ()
    recorded: Recorded | None = None

    @property
    def id(self) -> str:
        """The id of the model, or of the model and what stands in front of it."""
        if not self.behind:
            return self.network_id
        settings = [defense.model_dump(mode="json", by_alias=True) for defense in self.behind]
        return hashlib.sha256(f"{self.network_id}/{json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What reports call it: its given name, or the names of its defenses (`nasty + stingy`), a black box's own before them.

        `normal` is a network without any.
        """
        if self.called is not None:
            return self.called
        own = self.model.name if isinstance(self.model, BlackBox) else self.defense.get("name")
        names = [*([own] if own else []), *(defense.name for defense in self.behind)]
        return " + ".join(names) or "normal"

    @property
    def network(self) -> Classifier:
        """The network; UsageError for a black box, which shows none."""
        if isinstance(self.model, BlackBox):
            raise UsageError(f"{self.model.name} only answers: this needs a network")
        return self.model

    def check(self, data: Splits) -> None:
        """UsageError where the data are not what this model was made for."""
        images, names = data.train, data.train.class_names
        if isinstance(self.model, BlackBox):
            classes = self.model.num_classes
        else:
            config = self.model.config
            classes = config["num_classes"]
            shape = (config["in_channels"], config["image_size"])
            if shape != (images.channels, images.image_size):
                raise UsageError(
                    f"the model takes {shape[0]} × {shape[1]} × {shape[1]} pixels, the data have "
                    f"{images.channels} × {images.image_size} × {images.image_size}; data.size and data.channels change those"
                )
        if classes != images.num_classes or self.class_names not in (None, names):
            raise UsageError(_classes_differ(classes, self.class_names, names))
        if self.data_fingerprint not in (None, data.fingerprint):
            raise UsageError(
                f"the model was trained on other data or another split ({self.data_fingerprint}, these are {data.fingerprint}): "
                "which images are fresh cannot be told; use its own data settings"
            )

    def plausible(self, data: Splits, *, accept: bool = False, strict: bool = False) -> Measured | None:
        """The accuracy of the model itself on labeled images, checked; None for a black box that has answered too few of them.

        A network answers up to 2,000 test images, on the device that it is on. A black box is asked nothing: only responses that
        its query log holds already are looked at.

        Args:
            data: the victim's.
            accept: whether to go on with an accuracy that cannot be that of a classifier of these data.
            strict: whether a poor model stops, too, whose own training here ended with that very accuracy: it was not handed
                over wrongly, but nothing can be learned from it.

        Raises:
            RunError: answers that are not finite.
            Implausible: an accuracy near chance or far below the recorded one, or classes in another order; nothing for `accept`.
        """
        known = self._known(data)
        if known is None:
            return None
        predicted_N, labels_N = known
        declare = REORDER if isinstance(self.model, BlackBox) else IMPORT
        reason = doubt(predicted_N, labels_N, data.train.class_names, self.recorded, data.fingerprint, declare)
        found, known_of = measured(predicted_N, labels_N, data.num_classes), self.recorded
        own = known_of is not None and known_of.own and as_recorded(found, known_of, data.fingerprint)
        if reason and not accept and (strict or not own):
            raise Implausible(f"{self.described}: {reason}. {LEARN if own else CHECK}; {ACCEPT}")
        if reason:
            log.warning("%s: %s", self.described, reason)
        return found

    @property
    def described(self) -> str:
        """What errors call it: a black box by its name, a network by its own."""
        if isinstance(self.model, BlackBox):
            return f"the victim {self.called or self.model.name}"
        return f"the victim {self.called or self.model.config['name']}"

    def _known(self, data: Splits) -> tuple[Tensor, Tensor] | None:
        """(predicted classes, labels) of what may be looked at without a query."""
        if not isinstance(self.model, BlackBox):
            test = data.test
            if not test.labelled:
                return None
            if len(test) > LOOKED_AT:
                some = torch.randperm(len(test), generator=generator(0, "victim", "plausible"))[:LOOKED_AT]
                test = test.take(some.sort().values)
            return finite_logits(self.model, test, self.described).argmax(dim=1), test.labels_N
        log_of = self.model.predict
        if not isinstance(log_of, Ledger) or not log_of.answers.values:
            return None
        found = [
            self._answered(log_of, part) for part in (data.test, data.pool, data.val, data.train) if part is not None
        ]
        predicted_N, labels_N = (torch.cat(parts) for parts in zip(*found, strict=True))
        return (predicted_N, labels_N) if len(labels_N) else None

    def _answered(self, log_of: Ledger, images: ImageSet) -> tuple[Tensor, Tensor]:
        """(predicted classes, labels) of the images whose responses the query log holds."""
        assert isinstance(self.model, BlackBox)
        predicted, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
        for rows in images.chunks(batch_for(images)) if images.labelled else ():
            pixels, labels_B = to_bytes(images.seen(rows)).numpy(), images.labels_N[rows]
            held = log_of.holds(pixels)
            if held.any():
                values = torch.from_numpy(self.model.checked(log_of(pixels[held]), int(held.sum())))
                predicted.append(values if self.model.kind is Access.LABEL else values.argmax(dim=1))
                labels.append(labels_B[torch.from_numpy(held)])
        return torch.cat(predicted), torch.cat(labels)


LOOKED_AT = 2_000
"""Test images that a network's accuracy is looked at on, at most."""
CHECK = "Check its pixels, normalization and classes"
LEARN = "Its own training ended there: more images, more epochs or trained --weights would help"
ACCEPT = "--accept-accuracy (accept_accuracy=True) goes on as it is"
IMPORT = "import its weights with --class-order {order}, or with --data and --classes, the file of its class names"
REORDER = "return its outputs in the data's order, {order} for outputs as they are now"
log = logging.getLogger(__name__)


def finite_logits(network: nn.Module, images: ImageSet, name: str) -> Tensor:
    """`predict` of a victim; RunError that names it where an answer is not finite. −∞ for some classes is."""
    logits_NC = predict(network, images)
    broken = int((~sound(logits_NC)).sum())
    if broken:
        raise RunError(not_finite(name, broken, len(logits_NC)))
    return logits_NC


Model = str | Path | Run | Victim | nn.Module | BlackBox
"""A run folder or model folder, `timm:NAME@weights`, `torchvision:NAME@weights`, `package.module:callable`, a file of answers
(`.parquet`), what a verb returned, a module, a black box."""


def resolve(
    model: Model,
    data: Splits | None = None,
    *,
    answers: str | Access | None = None,
    called: str | None = None,
    behind: Sequence[str | dict[str, Any] | AnswerDefense] = (),
    typed: bool = True,
) -> Victim:
    """A victim from whatever a user may name.

    Args:
        model: see `Model`.
        data: what it is for; needed where the model itself does not say how many classes and pixels it takes.
        answers: `logits`, `probs`, `topk` or `label`: the callable is a function that answers with that, no factory of modules.
        called: what reports call it; two functions of one name need it to be told apart.
        behind: answer-side defenses to put in front of it, and of any that it has: names, `rounding digits=1`, `{name: …}`.
        typed: a person wrote `model`, so that code which it names may run; False for what a file says.

    Raises:
        UsageError: nothing there, an unfinished run, a student that diverged, a newer schema, weights that do not fit, code that
            is not trusted.
        RunError: damaged files.
    """
    kind = Access.parse(answers) if isinstance(answers, str) else answers
    defenses = chain(behind)
    if typed and isinstance(model, str | Path) and (_code(str(model)) or is_endpoint(str(model))):
        plugins.trust(str(model))
    victim = _found(model, data, kind)
    box = victim.model if isinstance(victim.model, BlackBox) else None
    if called is not None:
        known = victim.network_id
        if box is not None:
            known = hashlib.sha256(f"{called}/{known}".encode()).hexdigest()[:16]
        victim = replace(victim, called=called, network_id=known)
    if defenses:
        if box is not None:
            suits(defenses, box.kind, box.name)
        victim = replace(victim, behind=(*victim.behind, *defenses))
    return victim


def _found(model: Model, data: Splits | None, kind: Access | None) -> Victim:
    """The victim as it is named, with nothing new in front of it."""
    if kind is not None and not (isinstance(model, str | Path) and _answers(str(model))):
        raise UsageError(f"--outputs is for a function or a table of answers; {model!s:.80} says itself what it gives")
    if isinstance(model, Victim):
        return model
    if isinstance(model, BlackBox):
        digest = hashlib.sha256(f"{model.name}/{model.kind.label}".encode()).hexdigest()[:16]
        return Victim(model, None, digest, kind="black box")
    if isinstance(model, Run):
        return _of_run(model)
    if isinstance(model, Classifier):
        kept = copy.deepcopy(model).eval()
        return Victim(kept, None, identity(kept))
    if isinstance(model, nn.Module):
        return _of_module(model, _needed(data, type(model).__name__))
    if not isinstance(model, str | Path):
        raise UsageError(f"a model is a folder, a name, a module or what a verb returned, not {type(model).__name__}")
    return _of_text(str(model), data, kind)


def _of_text(model: str, data: Splits | None, kind: Access | None) -> Victim:
    path = Path(model).expanduser()
    if path.is_dir():
        return _of_run(Run.open(path)) if (path / "config.yaml").exists() else _of_folder(path)
    if path.suffix in SUFFIXES:
        return _of_answers(path, kind, data)
    plausible(model)
    if is_endpoint(model):
        return _of_endpoint(model, kind, _needed(data, model))
    name, _, weights = model.partition("@")
    if model.startswith(FAMILIES):
        return _of_weights(name, Path(weights).expanduser(), _needed(data, model))
    if kind is None:
        return _of_factory(model, _needed(data, model))
    place, _, attribute = model.rpartition(":")
    name = f"{Path(place).name}:{attribute}"
    return resolve(BlackBox(plugins.named(model), kind, _needed(data, model).num_classes, name))


def _answers(model: str) -> bool:
    """Whether this names a function, an endpoint or a table of answers, whose kind of output may have to be declared."""
    path = Path(model).expanduser()
    table = path.suffix in SUFFIXES and not path.is_dir() and not model.startswith(FAMILIES)
    return table or _code(model) or is_endpoint(model)


def _code(model: str) -> bool:
    """Whether this names a callable."""
    path = Path(model).expanduser()
    foreign = model.startswith(FAMILIES) or path.suffix in SUFFIXES or is_endpoint(model)
    return ":" in model and not path.is_dir() and not foreign


def plausible(model: str) -> None:
    """UsageError for a text that cannot be a model, before anything is loaded."""
    path, (_, at, weights) = Path(model).expanduser(), model.partition("@")
    if is_endpoint(model):
        read_service(model)
    elif model.startswith(FAMILIES):
        if not at:
            raise UsageError(f"{model} has no weights: write {model}@weights.safetensors")
        if not Path(weights).expanduser().is_file():
            raise UsageError(f"there are no weights at {weights}")
    elif path.suffix in SUFFIXES and not path.is_file():
        raise UsageError(f"there are no answers at {path}")
    elif not path.is_dir() and path.suffix not in SUFFIXES and ":" not in model:
        raise UsageError(
            f"there is no model at {model}: give a run folder, a folder with config.json and model.safetensors, timm:NAME@weights, "
            "package.module:callable, https://host/v2/models/NAME, endpoint.yaml, model.onnx, or a log (.parquet, .csv)"
        )


def brings(model: Model) -> Recipe | None:
    """The recipe that a run folder brings; None for any other model, which is not looked at yet; UsageError for what is none."""
    if isinstance(model, Victim | Run):
        return model.recipe
    if isinstance(model, str | Path):
        plausible(str(model))
        if (Path(model).expanduser() / "config.yaml").exists():
            return resolve(model).recipe
    return None


def _of_run(run: Run) -> Victim:
    if run.result.get("status") != "ok":
        raise UsageError(f"{run.folder} holds no model: its training ended as {run.result.get('status')!r}")
    victim = _of_folder(run.folder / "model")
    accuracy = run.result.get("accuracy")
    known = Recorded(accuracy, victim.data_fingerprint, own=True) if isinstance(accuracy, int | float) else None
    return replace(victim, recipe=run.recipe, recorded=known)


def _of_folder(path: Path) -> Victim:
    network, class_names = models.read(path)
    origin = models.read_origin(path)
    return Victim(
        network,
        class_names,
        identity(network),
        data_fingerprint=origin.get("data"),
        defense=origin.get("defense", {}),
        seed=origin.get("seed"),
        kind=origin.get("kind", "unknown"),
        fresh_pool=models.fresh_pool(origin),
        recorded=_recorded(origin),
    )


def _recorded(origin: dict[str, Any]) -> Recorded | None:
    """The accuracy that a model folder says of itself: as its author states it, or as it was measured at the import."""
    if origin.get("stated_accuracy") is not None:
        return Recorded(origin["stated_accuracy"])
    known = origin.get("accuracy")
    return None if known is None else Recorded(known["percent"], known["data"])


def measure(folder: Path, data: Splits) -> tuple[Measured, str]:
    """(accuracy of a model folder on the test images, why it is doubtful or ""); the folder's `config.json` records it.

    Raises:
        UsageError: data that the model was not made for.
        RunError: answers that are not finite.
    """
    victim = _of_folder(folder)
    victim.check(data)
    predicted_N = finite_logits(victim.network, data.test, victim.described).argmax(dim=1)
    found = measured(predicted_N, data.test.labels_N, data.num_classes)
    names = data.train.class_names
    reason = doubt(predicted_N, data.test.labels_N, names, victim.recorded, data.fingerprint, IMPORT)
    about = {"percent": round(found.percent, 6), "data": data.fingerprint, "images": found.images}
    models.note(folder, "accuracy", about | {"guessing": round(found.guessing, 6)})
    return found, reason


def _of_answers(path: Path, kind: Access | None, data: Splits | None) -> Victim:
    images = None if data is None else data.train
    answers = Answers.read(path, kind=kind, num_classes=None if data is None else data.num_classes, images=images)
    box = BlackBox(Ledger(answers, None, None), answers.kind, answers.num_classes, path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Victim(box, answers.class_names, digest, kind="answers")


def _of_endpoint(model: str, kind: Access | None, data: Splits) -> Victim:
    """A service, or an ONNX model; what it is asked and where its answer is make it another."""
    plugins.check_trusted(model, "is an endpoint")
    service = read_service(model)
    if kind is None:
        raise UsageError(
            f"{model} does not say what it returns: declare it with --outputs logits, probs, topk or label (attack and audit; "
            "only a network can be protected)"
        )
    asked = service.model_dump(mode="json", include={"url", "input", "output", "body", "image"}) | {"kind": kind.label}
    if service.file is not None:
        graph = Graph(service, kind, data.train.class_names)
        box = BlackBox(graph, kind, data.num_classes, service.file.name)
        asked["file"] = hashlib.sha256(service.file.read_bytes()).hexdigest()
    else:
        for text in service.headers.values():
            service.filled(text)
        # a model may be named by a variable or a header; a key, which is none of the model, may be in the query
        parts = urlsplit(service.filled(service.url))
        asked |= {"at": [parts.netloc, parts.path], "headers": dict(service.headers)}
        endpoint = Endpoint(service, data.train.class_names)
        box = BlackBox(
            endpoint, kind, data.num_classes, endpoint.name, batch=service.batch, rate=service.rate, limit=service.most
        )
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return Victim(box, None, digest, kind="endpoint" if service.file is None else "onnx")


def needs_data(model: str) -> bool:
    """Whether a MODEL can be opened only with the data that it is for."""
    return ":" in model or is_endpoint(model) or model.endswith(SUFFIXES)


def _of_weights(name: str, weights: Path, data: Splits) -> Victim:
    record = MODELS.make(name)
    mean, std = record.usual_moments(data.train.channels) if isinstance(record, External) else (None, None)
    network = build(
        record, data.num_classes, data.train.channels, data.train.image_size, mean=mean, std=std, seed=0, role="victim"
    )
    load_state(network, read_state(weights), str(weights))
    return Victim(network.eval(), None, identity(network))


def _of_factory(name: str, data: Splits) -> Victim:
    shape = (data.num_classes, data.train.channels, data.train.image_size)
    network = build(MODELS.make(name), *shape, seed=0, role="victim").eval()
    return Victim(network, None, identity(network))


def _of_module(module: nn.Module, data: Splits) -> Victim:
    images = data.train
    config = {"name": f"({type(module).__name__})", "num_classes": data.num_classes, "in_channels": images.channels}
    config |= {"image_size": images.image_size, "mean": [0.0] * images.channels, "std": [1.0] * images.channels}
    network = Wrapped(copy.deepcopy(module), config)
    network.probe()
    return Victim(network.eval(), None, identity(network))


def _needed(data: Splits | None, model: str) -> Splits:
    if data is None:
        raise UsageError(f"{model} does not say how many classes and pixels it takes: give its data")
    return data


def _classes_differ(count: int, known: tuple[str, ...] | None, names: tuple[str, ...]) -> str:
    if known is None or len(known) != len(names):
        return f"the model knows {count} classes{_first(known)}, the data have {len(names)}{_first(names)}"
    if set(known) == set(names):
        place = next(i for i, (one, other) in enumerate(zip(known, names, strict=True)) if one != other)
        return (
            f"the model and the data name the same classes in another order: output {place} is {known[place]!r} for the model "
            f"and {names[place]!r} in the data; `undistill import` with --data puts the outputs in the data's order"
        )
    strange = next((name for name in known if name not in names), None)
    if strange is None:
        return f"the model names a class twice{_first(known)}"
    return f"the model knows a class {strange!r} that the data do not have{_first(names)}"


def _first(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def load_model(model: str | Path | Run) -> Classifier:
    """The network of a run folder or model folder, in evaluation mode, on the CPU. Errors as `resolve` has them."""
    return resolve(model).network
