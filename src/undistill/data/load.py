"""From settings to splits."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from undistill.data.augment import VIEWS, View, in_order
from undistill.data.decode import Wanted
from undistill.data.folder_dataset import Found, Progress
from undistill.data.image_set import Splits
from undistill.data.listing import listed
from undistill.data.sources import Source, find
from undistill.data.splits import split
from undistill.errors import UsageError
from undistill.registry import problem

log = logging.getLogger(__name__)

READING = ("image_column", "label_column", "size", "stored", "channels", "skip_corrupt", "value_range")
"""Settings of how images are read; written down only where they are given, so that runs of earlier versions go on."""


class DataSettings(BaseModel):
    """The `data` section of a recipe. Sizes are counts, or fractions below 1 of the source's training images.

    `name` is a registered one, `folder` (with `dir`), the path of a folder or a hub id. Networks see `size` × `size` pixels of the
    `stored` × `stored` that are kept for views to cut from. `value_range` are the values of black and white in images of more than
    8 bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "digits"
    dir: str | None = None
    limit: int | None = Field(None, ge=2)
    test: float | int | None = Field(None, ge=0)
    pool: float | int | None = Field(None, ge=0)
    val: float | int | None = Field(None, ge=0)
    split_seed: int = 0
    views: tuple[Any, ...] = ()
    image_column: str | None = None
    label_column: str | None = None
    size: int | None = Field(None, ge=1, le=4096)
    stored: int | None = Field(None, ge=1, le=4096)
    channels: Literal[1, 3] | None = None
    skip_corrupt: bool = False
    value_range: tuple[float, float] | None = None

    @field_validator("value_range", mode="after")
    @classmethod
    def _black_below_white(cls, values: tuple[float, float] | None) -> tuple[float, float] | None:
        if values is not None and not values[0] < values[1]:
            raise ValueError(
                f"value_range is [black, white], the smaller value first, not [{values[0]:g}, {values[1]:g}]"
            )
        return values

    @field_validator("views", mode="after")
    @classmethod
    def _known_views(cls, views: tuple[Any, ...]) -> tuple[View, ...]:
        made = tuple(VIEWS.make(view) for view in views)
        in_order(made)
        return made

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in READING or value not in (None, False)}


def load(
    data: str | Path | DataSettings = "digits",
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Splits:
    """A data set, decoded once, cached and split.

    Args:
        data: a name (`digits`, `cifar10`, …), the path of a folder, a zip, tar or parquet file, a hub id, or a recipe's
            `data` section.
        data_dir: where the data are instead of a download: their own folder, or the one that holds a folder of their name.
        progress: told what is being decoded.
        settings: of the parts (`val`, `pool`, `test`, `limit`, `split_seed`; each source has defaults) and of how images are read
            (`image_column`, `label_column`, `size`, `stored`, `channels`, `skip_corrupt`, `value_range`).

    Returns:
        Splits whose images are uint8 tensors, memory-mapped where the split is a whole file. Their summary is logged, and what was
        left aside is logged as a warning.

    Raises:
        UsageError: an unknown name, a setting that does not fit, or a folder that cannot be read.
        RunError: a download or the cache failed.
    """
    if isinstance(data, DataSettings) and settings:
        raise UsageError(f"{', '.join(settings)} given beside whole data settings; change those instead")
    try:
        chosen = data if isinstance(data, DataSettings) else DataSettings(**{"name": str(data)} | settings)
    except ValidationError as error:
        raise UsageError(f"data: {problem(error, DataSettings)}") from None
    source, folder = find(chosen.name, data_dir or chosen.dir)
    wanted = Wanted(**{name: getattr(chosen, name) for name in READING})
    found = source.read(folder, wanted, progress or (lambda *_: None))
    made = _split(chosen, source, folder, found)
    written = str(folder) if chosen.name != source.name else data_dir or chosen.dir
    told = {name: value for name, value in found.settings.items() if value not in (None, False)}
    dropped = ({"corrupt": found.corrupt} if found.corrupt else {}) | made.dropped | found.skipped
    where = {"name": source.name, "dir": str(written) if written else None}
    made = replace(made, settings=made.settings | where | told, dropped=dropped)
    for remark in (*found.remarks, *_untested(made)):
        log.warning("%s", remark)
    log.info("%s", made.summary())
    return made


def _untested(data: Splits) -> list[str]:
    """A remark on classes that are trained and not tested."""
    missing = ((data.train.counts_K > 0) & (data.test.counts_K == 0)).nonzero().flatten().tolist()
    if not missing:
        return []
    named = listed([repr(data.train.class_names[k]) for k in missing])
    return [f"{len(missing):,} of the {data.num_classes:,} classes of {data.name} have no test image: {named}"]


def _split(chosen: DataSettings, source: Source, folder: Path | None, found: Found) -> Splits:
    """The parts that the source gives, and those carved off its training images."""
    parts, title = dict(found.splits), source.title(folder)
    if "test" in parts and chosen.test:
        raise UsageError(f"{title} has a test split of its own; data.test cannot carve another")
    if "val" in parts and chosen.val:
        raise UsageError(
            f"{title} has a validation split of its own; leave data.val out to use it, or set it to 0 to leave it aside"
        )
    if chosen.val == 0:
        parts.pop("val", None)
    sizes = {part: getattr(chosen, part) for part in ("test", "pool", "val")}
    values = {part: source.sizes.get(part, 0) if value is None else value for part, value in sizes.items()}
    return split(
        title,
        parts["train"],
        parts.get("test"),
        parts.get("val"),
        pool=values["pool"],
        val=0 if "val" in parts else values["val"],
        test_size=values["test"],
        limit=chosen.limit,
        seed=chosen.split_seed,
        fingerprints=tuple(part.fingerprint for part in parts.values()),
        note=source.provenance(folder),
    )
