"""Where a network's first weights come from: drawn, or given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from undistill.data import Splits
from undistill.errors import UsageError
from undistill.models import Classifier, Network, build
from undistill.models import model_folder as models
from undistill.models.base import FIXED, MODELS
from undistill.models.external import External
from undistill.models.state_dict import load_state, read_state


def network_in(folder: Path) -> Network:
    """What network a run folder or model folder holds."""
    return _record(models.read(_model_folder(folder))[0])


def begin(network: Network, data: Splits, weights: Path, *, seed: int, role: str) -> tuple[Classifier, dict[str, Any]]:
    """A network that fits the data, with given weights in it, and what to write down about them.

    Args:
        network: what to build.
        data: whose classes, channels and pixels it is to fit.
        weights: a run folder, a model folder, or a state dict file. A head for another number of classes is left out.
        seed: draws a new head at (seed, role, "init"), where one is needed.
        role: whose weights these are.

    Raises:
        UsageError: weights of another network, or for images of other channels.
        RunError: damaged or pickled files.
    """
    shape = (data.num_classes, data.train.channels, data.train.image_size)
    mean, std = data.mean, data.std
    if weights.is_dir():
        folder = _model_folder(weights)
        given = models.read(folder)[0]
        if _record(given) != network:
            raise UsageError(f"{weights} holds a {given.config['name']}, not the {network.name} that is asked for")
        mean, std, tensors = given.config["mean"], given.config["std"], given.state_dict()
        if len(mean) != data.train.channels:
            raise UsageError(f"{weights} takes images of {len(mean)} channels, the data have {data.train.channels}")
        digest = models.weights_id(given)
    else:
        tensors = read_state(weights)
        usual = network.usual_moments(data.train.channels) if isinstance(network, External) else (None, None)
        mean, std = (mean if usual[0] is None else tuple(usual[0])), (std if usual[1] is None else tuple(usual[1]))
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    made = build(network, *shape, mean=mean, std=std, seed=seed, role=role)
    kept = load_state(made, tensors, str(weights), new_head=True)
    return made, {"name": weights.name, "id": digest, "head": "kept" if kept else "new"}


def knows_pool(weights: Path, data: Splits) -> bool:
    """Whether it is known of these weights that they never saw `data.pool`: they come from a training on these very splits."""
    if not weights.is_dir():
        return False
    origin = models.read_origin(_model_folder(weights))
    return origin.get("data") == data.fingerprint and models.fresh_pool(origin)


def _model_folder(folder: Path) -> Path:
    return folder / "model" if (folder / "config.yaml").is_file() else folder


def _record(network: Classifier) -> Network:
    return MODELS.make({key: value for key, value in network.config.items() if key not in FIXED})
