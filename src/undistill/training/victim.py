"""MODEL: whatever a verb is pointed at, as a network in evaluation mode and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from undistill.data import Splits
from undistill.errors import UsageError
from undistill.models import Classifier
from undistill.models import folder as models
from undistill.training.recipe import Recipe
from undistill.training.run import Run


@dataclass(frozen=True)
class Victim:
    """A network with its class names; recipe, data and defense where it came from a run folder."""

    model: Classifier
    class_names: tuple[str, ...]
    id: str
    recipe: Recipe | None = None
    data_fingerprint: str | None = None
    defense: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    kind: str = "unknown"

    @property
    def label(self) -> str:
        """`normal`, or the defense's name."""
        return self.defense.get("name", "normal")

    def check(self, data: Splits) -> None:
        """UsageError where the data are not what this network was made for."""
        config, images = self.model.config, data.train
        if self.class_names != images.class_names:
            raise UsageError(
                f"the model knows {len(self.class_names)} classes ({', '.join(self.class_names[:3])}, …), the data have "
                f"{images.num_classes} ({', '.join(images.class_names[:3])}, …)"
            )
        shape = (config["in_channels"], config["image_size"])
        if shape != (images.channels, images.image_size):
            raise UsageError(
                f"the model takes {shape[0]} × {shape[1]} × {shape[1]} pixels, the data have "
                f"{images.channels} × {images.image_size} × {images.image_size}"
            )
        if self.data_fingerprint not in (None, data.fingerprint):
            raise UsageError(
                f"the model was trained on other data or another split ({self.data_fingerprint}, these are {data.fingerprint}): "
                "which images are fresh cannot be told; use its own data settings"
            )


def resolve(model: str | Path | Run | Victim) -> Victim:
    """A victim from a run folder, a model folder, or what a verb returned.

    Raises:
        UsageError: nothing there, an unfinished run, a student that diverged, a newer schema.
        RunError: damaged files.
    """
    if isinstance(model, Victim):
        return model
    if isinstance(model, Run):
        return _of_run(model)
    if not isinstance(model, str | Path):
        raise UsageError(f"a model is a folder or what a verb returned, not {type(model).__name__}")
    path = Path(model)
    if not path.is_dir():
        raise UsageError(
            f"there is no model at {path}: give a run folder or a folder with config.json and model.safetensors"
        )
    return _of_run(Run.open(path)) if (path / "config.yaml").exists() else _of_folder(path)


def _of_run(run: Run) -> Victim:
    if run.result.get("status") != "ok":
        raise UsageError(f"{run.folder} holds no model: its training ended as {run.result.get('status')!r}")
    return replace(_of_folder(run.folder / "model"), recipe=run.recipe)


def _of_folder(path: Path) -> Victim:
    network, class_names = models.read(path)
    origin = models.read_origin(path)
    return Victim(
        network,
        class_names,
        models.weights_id(network),
        data_fingerprint=origin.get("data"),
        defense=origin.get("defense", {}),
        seed=origin.get("seed"),
        kind=origin.get("kind", "unknown"),
    )


def load_model(model: str | Path | Run) -> Classifier:
    """The network of a run folder or model folder, in evaluation mode, on the CPU. Errors as `resolve` has them."""
    return resolve(model).model
