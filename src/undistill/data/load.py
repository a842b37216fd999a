"""From settings to splits: one source to train, pool, val and test, without an image that is in two of them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)
from torch import Tensor

from undistill.data.augment import VIEWS, View, in_order
from undistill.data.decode import Wanted
from undistill.data.encoded import limit
from undistill.data.folder_dataset import Found, Outlook, Progress
from undistill.data.image_set import HASH, ImageSet, Splits
from undistill.data.listing import listed
from undistill.data.sources import Source, find
from undistill.errors import UsageError
from undistill.registry import problem
from undistill.seeds import generator

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
    memory_limit: str | None = None,
    **settings: Any,
) -> Splits:
    """A data set, decoded once, cached and split.

    Args:
        data: a name (`digits`, `cifar10`, …), the path of a folder, a zip, tar or parquet file, a hub id, or a recipe's
            `data` section.
        data_dir: where the data are instead of a download: their own folder, or the one that holds a folder of their name.
        progress: called with what is being decoded.
        memory_limit: `200MB`, `4GB`: where the decoded images of all splits take more, they stay encoded on disk and are
            decoded for each batch, to the same pixels; None for `$UNDISTILL_MEMORY_LIMIT`, or 4 GB.
        settings: of the parts (`val`, `pool`, `test`, `limit`, `split_seed`; each source has defaults) and of how images are read
            (`image_column`, `label_column`, `size`, `stored`, `channels`, `skip_corrupt`, `value_range`).

    Returns:
        Splits whose images are uint8 tensors, memory-mapped where the split is a whole file, or `Encoded`. Their summary is
        logged, and what was left aside is logged as a warning.

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
    wanted = Wanted(**{name: getattr(chosen, name) for name in READING}, memory=limit(memory_limit))
    found = source.read(folder, wanted, progress or (lambda *_: None))
    made = _parts(chosen, source, folder, found)
    written = str(folder) if chosen.name != source.name else data_dir or chosen.dir
    given = {name: value for name, value in found.settings.items() if value not in (None, False)}
    dropped = ({"corrupt": found.corrupt} if found.corrupt else {}) | made.dropped | found.skipped
    where = {"name": source.name, "dir": str(written) if written else None}
    made = replace(made, settings=made.settings | where | given, dropped=dropped)
    for remark in (*found.remarks, *_untested(made)):
        log.warning("%s", remark)
    log.info("%s", made.summary())
    return made


def outlook(chosen: DataSettings, *, progress: Progress | None = None) -> Outlook | None:
    """What the data hold, from their files' headers; None where they are embedded or not on this machine."""
    source, folder = find(chosen.name, chosen.dir)
    wanted = Wanted(**{name: getattr(chosen, name) for name in READING}, memory=limit())
    found = source.look(folder, wanted, progress or (lambda *_: None))
    if found is None:
        return None
    values = _sizes(chosen, source)
    total = min(chosen.limit or found.splits["train"], found.splits["train"])
    carved = {p: int(v) if v >= 1 else round(v * total) for p, v in values.items() if p not in found.splits}
    return replace(found, parts={**found.splits, **carved, "train": total - sum(carved.values())})


def _sizes(chosen: DataSettings, source: Source) -> dict[str, float | int]:
    """What is asked of each part that is carved, or what the source sets aside by itself."""
    asked = {part: getattr(chosen, part) for part in ("test", "pool", "val")}
    return {part: source.sizes.get(part, 0) if value is None else value for part, value in asked.items()}


def _untested(data: Splits) -> list[str]:
    """A remark on classes that are trained and not tested."""
    missing = ((data.train.counts_K > 0) & (data.test.counts_K == 0)).nonzero().flatten().tolist()
    if not missing:
        return []
    named = listed([repr(data.train.class_names[k]) for k in missing])
    return [f"{len(missing):,} of the {data.num_classes:,} classes of {data.name} have no test image: {named}"]


def _parts(chosen: DataSettings, source: Source, folder: Path | None, found: Found) -> Splits:
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
    values = _sizes(chosen, source)
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


# -- parts ---------------------------------------------------------------------------------------------------------------


def split(
    name: str,
    train: ImageSet,
    test: ImageSet | None = None,
    own_val: ImageSet | None = None,
    *,
    pool: float | int = 0,
    val: float | int = 0,
    test_size: float | int = 0,
    limit: int | None = None,
    seed: int = 0,
    fingerprints: tuple[str, ...] = (),
    note: str = "",
) -> Splits:
    """Carve `test` (only without one), `pool` and `val` off the source's training images, stratified by class.

    Sizes are counts (≥ 1) or fractions (< 1) of the source's training images, after `limit` cut them to a stratified part.
    The order in which parts are carved (test, pool, val) is fixed, so that a larger `val` leaves test and pool as they were.
    Then an image that is, pixel for pixel, in an earlier part (test, val, pool, train) is dropped and counted: a duplicate between
    train and test would be remembered, not recognised, and one between train and pool would not be fresh.

    Args:
        name: of the data.
        train: the source's training split.
        test: the source's test split, if it has one.
        own_val: the source's validation split, if it has one beside its test split; `val` is 0 then.
        pool: fresh images that no victim sees.
        val: images to choose on.
        test_size: needed where the source has no test split.
        limit: number of training images used in all.
        seed: of the split; it belongs to the data, not to the run.
        fingerprints: of the source's splits, where they are known already.
        note: provenance, repeated beside every number.

    Raises:
        UsageError: parts that leave no class its training image.
    """
    sizes = {"test": 0 if test is not None else test_size, "pool": pool, "val": val}
    parts = {part: (train, rows) for part, rows in _carve(train, sizes, _limited(train, limit, seed)).items()}
    own = {part: images for part, images in (("test", test), ("val", own_val)) if images is not None}
    parts |= {part: (images, torch.arange(len(images))) for part, images in own.items()}
    if "test" not in parts:
        raise UsageError(f"{name} has no test split; set aside one with data.test")
    kept, duplicates = _without_duplicates(parts)
    made = {part: _take(parts[part][0], rows) for part, rows in kept.items()}
    mean, std = made["train"].moments()
    sources = fingerprints or tuple(part.fingerprint for part in (train, test, own_val) if part is not None)
    fixed: tuple[Any, ...] = (sources, limit, pool, val, sizes["test"], seed)
    if train.image_size != train.stored_size:
        fixed += (("seen", train.image_size),)
    if duplicates:
        fixed += (("duplicates", duplicates),)
    digest = hashlib.sha256(repr(fixed).encode()).hexdigest()[:16]
    settings = {"name": name, "limit": limit, "pool": pool, "val": val if own_val is None else None, "split_seed": seed}
    settings |= {"test": test_size} if test is None else {}
    dropped = {"duplicates": duplicates} if duplicates else {}
    return Splits(
        name,
        made["train"],
        made.get("pool"),
        made.get("val"),
        made["test"],
        digest,
        note,
        settings,
        mean,
        std,
        dropped,
    )


def _limited(train: ImageSet, limit: int | None, seed: int) -> Tensor:
    order = _stratified_order(train.labels_N, seed)
    if limit is None:
        return order
    if limit < train.num_classes:
        raise UsageError(f"data.limit {limit} leaves no image for each of the {train.num_classes} classes")
    if limit > len(order):
        raise UsageError(f"data.limit {limit} is more than the {len(order)} images there are")
    return order[:limit]


def _carve(train: ImageSet, sizes: dict[str, float | int], order: Tensor) -> dict[str, Tensor]:
    """The rows of each part in the order of `sizes`, and what is left as `train`."""
    total, start = len(order), 0
    parts: dict[str, Tensor] = {}
    for part, size in sizes.items():
        if size < 0 or (size >= 1 and size != int(size)):
            raise UsageError(f"data.{part} is a number of images or a fraction below 1, not {size}")
        count = int(size) if size >= 1 else round(size * total)
        if count:
            parts[part] = order[start : start + count].sort().values
        start += count
    if total - start < train.num_classes:
        raise UsageError(f"test, pool and val take {start} of {total} images and leave too few to train on")
    parts["train"] = order[start:].sort().values
    _check_classes(train, torch.arange(len(train)), parts["train"], "test, pool, val and limit leave")
    return parts


def _check_classes(train: ImageSet, before: Tensor, after: Tensor, what: str) -> None:
    lost = sorted(set(train.labels_N[before].unique().tolist()) - set(train.labels_N[after].unique().tolist()))
    if lost:
        raise UsageError(f"{what} no training image of class {train.class_names[lost[0]]!r}")


def _without_duplicates(parts: dict[str, tuple[ImageSet, Tensor]]) -> tuple[dict[str, Tensor], int]:
    """(rows of each part, how many were dropped): no image is in an earlier part. Equal images within one part stay."""
    kept: dict[str, Tensor] = {}
    dropped = 0
    earlier = np.empty(0, HASH)
    for part in ("test", "val", "pool", "train"):
        if part not in parts:
            continue
        images, rows = parts[part]
        hashes = images.hashes_N[rows.numpy()]
        known = np.isin(hashes, earlier)
        earlier = np.union1d(earlier, hashes)
        kept[part] = rows[torch.from_numpy(~known)] if known.any() else rows
        dropped += int(known.sum())
        if len(kept[part]) == 0:
            raise UsageError(
                f"every image of {part} is also in test, val or pool; give data whose splits are different"
            )
    train, rows = parts["train"]
    _check_classes(train, rows, kept["train"], "without duplicates of test, val and pool there is")
    return kept, dropped


def _take(images: ImageSet, rows: Tensor) -> ImageSet:
    """The rows; the set itself, still mapped from its file, where they are all."""
    return images if len(rows) == len(images) else images.take(rows)


def _stratified_order(labels_N: Tensor, seed: int) -> Tensor:
    """A permutation whose every prefix holds the classes nearly in proportion."""
    shuffled = torch.randperm(len(labels_N), generator=generator(seed, "data", "split"))
    labels = labels_N[shuffled]
    place = torch.empty(len(labels), dtype=torch.float64)
    for value in labels.unique():
        rows = (labels == value).nonzero().squeeze(1)
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return shuffled[place.argsort(stable=True)]
