"""From settings to splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from undistill.data.images import Splits, split
from undistill.data.sources import SOURCES, Progress
from undistill.data.views import VIEWS, View
from undistill.errors import UsageError
from undistill.registry import problem


class DataSettings(BaseModel):
    """The `data` section of a recipe. Sizes are counts, or fractions below 1 of the source's training images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "digits"
    dir: str | None = None
    limit: int | None = Field(None, ge=2)
    test: float | int | None = Field(None, ge=0)
    pool: float | int | None = Field(None, ge=0)
    val: float | int | None = Field(None, ge=0)
    split_seed: int = 0
    views: tuple[Any, ...] = ()

    @field_validator("views", mode="after")
    @classmethod
    def _known_views(cls, views: tuple[Any, ...]) -> tuple[View, ...]:
        return tuple(VIEWS.make(view) for view in views)


def load(
    data: str | DataSettings = "digits",
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    **sizes: Any,
) -> Splits:
    """A data set, decoded once, cached and split.

    Args:
        data: a name (`digits`, `cifar10`) or a recipe's `data` section.
        data_dir: a local folder in the hub's format instead of a download.
        progress: told what is being decoded.
        sizes: `val`, `pool`, `test`, `limit`, `split_seed`; each source has defaults.

    Returns:
        Splits whose images are uint8 tensors, memory-mapped where the split is a whole file.

    Raises:
        UsageError: an unknown name, or a folder that cannot be read.
    """
    if isinstance(data, DataSettings) and sizes:
        raise UsageError(f"{', '.join(sizes)} given beside whole data settings; change those instead")
    try:
        settings = data if isinstance(data, DataSettings) else DataSettings(name=data, **sizes)
    except ValidationError as error:
        raise UsageError(f"data: {problem(error, DataSettings)}") from None
    source = SOURCES.make(settings.name)
    folder = data_dir or settings.dir
    parts = source.read(Path(folder).expanduser() if folder else None, progress or (lambda *_: None))
    if "test" in parts and settings.test:
        raise UsageError(f"{settings.name} has a test split of its own; data.test cannot carve another")
    chosen = {part: getattr(settings, part) for part in ("test", "pool", "val")}
    values = {part: source.sizes.get(part, 0) if value is None else value for part, value in chosen.items()}
    test = parts.get("test")
    if test is not None and test.class_names != parts["train"].class_names:
        raise UsageError(f"the train and test splits of {settings.name} name different classes")
    if test is not None and test.images_NCHW.shape[1:] != parts["train"].images_NCHW.shape[1:]:
        raise UsageError(f"the train and test splits of {settings.name} hold images of different sizes")
    made = split(
        settings.name,
        parts["train"],
        test,
        pool=values["pool"],
        val=values["val"],
        test_size=values["test"],
        limit=settings.limit,
        seed=settings.split_seed,
        fingerprints=tuple(part.fingerprint for part in parts.values()),
        note=source.note,
    )
    return replace(made, settings=made.settings | {"dir": str(folder) if folder else None})
