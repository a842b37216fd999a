"""Where images come from: a name, a hub id, a folder. Decoded once through Hugging Face `datasets`, then read from the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from undistill.data import cache
from undistill.data.images import ImageSet
from undistill.errors import RunError, UsageError
from undistill.files import read_json, write_json
from undistill.registry import Component, Registry

Progress = Callable[[str, int, int | None], None]
"""Told (what, done, total or None)."""


class Source(Component):
    """A data set by name. `sizes` are the parts that its recipes set aside unless told otherwise."""

    note: ClassVar[str] = ""
    recipe: ClassVar[str]
    sizes: ClassVar[dict[str, float | int]] = {}

    def read(self, folder: Path | None, progress: Progress) -> dict[str, ImageSet]:
        """`train`, and `test` where the source has one."""
        raise NotImplementedError


SOURCES: Registry[Source] = Registry("data set", "undistill.data.sources")


@SOURCES.register
class Digits(Source):
    """1,797 handwritten digits, 8 × 8 grey, in scikit-learn (Alpaydin & Kaynak 1998, UCI; the optical test set). No download."""

    name: Literal["digits"] = "digits"
    note = "scikit-learn's digits, 1,797 images"
    recipe = "digits"
    sizes: ClassVar[dict[str, float | int]] = {"test": 497, "pool": 400, "val": 90}

    def read(self, folder: Path | None, progress: Progress) -> dict[str, ImageSet]:
        """One split; the recipe carves a test set."""
        if folder is not None:
            raise UsageError("digits is embedded and reads no --data-dir")
        key = cache.key_of([], {"source": "digits"})
        kept = cache.read(key)
        if kept is None:
            from sklearn.datasets import load_digits

            digits = load_digits()
            pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
            labels = torch.from_numpy(digits.target.astype(np.int64))
            kept = {"train": ImageSet.of(torch.from_numpy(pixels), labels, tuple(str(d) for d in range(10)))}
            cache.write(key, kept, "scikit-learn digits")
        return kept


class HubSource(Source):
    """A data set in the hub's format, from its id or from a local folder that holds the same files."""

    hub_id: ClassVar[str]
    image_column: ClassVar[str]
    label_column: ClassVar[str]
    splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}

    def read(self, folder: Path | None, progress: Progress) -> dict[str, ImageSet]:
        """Decoded splits; from the cache when no file has changed."""
        folder = download(self.hub_id, progress) if folder is None else folder
        if not folder.is_dir():
            raise UsageError(f"the data folder {folder} does not exist")
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        if not files:
            raise UsageError(f"the data folder {folder} is empty")
        key = cache.key_of(files, {"columns": [self.image_column, self.label_column], "splits": self.splits})
        kept = cache.read(key)
        if kept is None:
            kept = decode_folder(folder, self.image_column, self.label_column, self.splits, progress)
            cache.write(key, kept, str(folder))
            kept = cache.read(key) or kept
        return kept


@SOURCES.register
class CIFAR10(HubSource):
    """60,000 colour images of 32 × 32 pixels in 10 classes (Krizhevsky 2009), the official 50,000/10,000 split."""

    name: Literal["cifar10"] = "cifar10"
    note = "CIFAR-10"
    recipe = "fast-cifar10"
    sizes: ClassVar[dict[str, float | int]] = {"val": 0.1}
    hub_id = "uoft-cs/cifar10"
    image_column, label_column = "img", "label"


def download(hub_id: str, progress: Progress) -> Path:
    """The hub's files of a data set; fetched once, then found without a network. RunError where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    marker = cache.cache_root() / "hub" / f"{hub_id.replace('/', '--')}.json"
    if marker.exists():
        folder = Path(read_json(marker)["folder"])
        if folder.is_dir():
            return folder
    progress(f"fetching {hub_id} from the hub", 0, None)
    try:
        folder = Path(snapshot_download(hub_id, repo_type="dataset"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RunError(
            f"cannot fetch {hub_id} from the hub ({type(error).__name__}); give a local copy with --data-dir"
        ) from error
    write_json(marker, {"folder": str(folder), "revision": folder.name})  # behind a whole download only
    return folder


def decode_folder(
    folder: Path, image_column: str, label_column: str, splits: dict[str, str], progress: Progress
) -> dict[str, ImageSet]:
    """Every image of a folder that `datasets` can read, as uint8.

    Raises:
        UsageError: a missing split or column, an image that does not decode (named), sizes or labels that do not fit.
    """
    import datasets

    try:
        found = datasets.load_dataset(str(folder), streaming=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(f"cannot read {folder} as a data set: {_sentence(error)}") from error
    decoded = {}
    for ours, theirs in splits.items():
        if theirs not in found:
            raise UsageError(f"{folder} has no split {theirs!r}; there are {', '.join(found)}")
        part = found[theirs]
        columns = part.features or {}
        for column in (image_column, label_column):
            if column not in columns:
                raise UsageError(f"{folder} has no column {column!r}; there are {', '.join(columns) or 'none'}")
        part = part.cast_column(image_column, datasets.Image(decode=False))
        names = getattr(columns[label_column], "names", None)
        total = getattr((part.info.splits or {}).get(theirs), "num_examples", None)
        rows = _rows(part, folder, theirs, progress, total)
        decoded[ours] = _stack(((row[image_column], row[label_column]) for row in rows), f"{folder} {theirs}", names)
    return decoded


def _rows(part: Any, folder: Path, split: str, progress: Progress, total: int | None) -> Iterator[dict[str, Any]]:
    import pyarrow

    done = 0
    try:
        for row in part:
            yield row
            done += 1
            if done % 1000 == 0:
                progress(f"decoding {split}", done, total)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{folder}, split {split}, is damaged behind row {done}: {_sentence(error)}") from error
    progress(f"decoding {split}", done, done)


def _stack(rows: Iterator[tuple[dict[str, Any], Any]], where: str, names: list[str] | None) -> ImageSet:
    images: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    for number, (image, label) in enumerate(rows):
        name = f"image {number}{' (' + image['path'] + ')' if image.get('path') else ''} of {where}"
        pixels = decode(image, name)
        if images and pixels.shape != images[0].shape:
            raise UsageError(f"{name} is {_shape(pixels)}, the first image {_shape(images[0])}; all must be alike")
        if isinstance(label, bool) or not isinstance(label, int):
            raise UsageError(f"{name} has the label {label!r}, which is no class number")
        images.append(pixels)
        labels.append(label)
    if not images:
        raise UsageError(f"{where} holds no images")
    classes = tuple(names) if names else tuple(str(c) for c in range(max([*labels, 1]) + 1))
    return ImageSet.of(torch.from_numpy(np.stack(images)), torch.tensor(labels), classes)


def decode(image: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    """C × H × W uint8 pixels of one encoded image: grey stays one channel, all else becomes RGB. UsageError names a corrupt one."""
    from PIL import Image, UnidentifiedImageError

    content = image.get("bytes")
    try:
        if content is None:
            content = Path(image["path"]).read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            pixels = np.asarray(opened if opened.mode in ("L", "RGB") else opened.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} is corrupt: {_sentence(error)}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _shape(pixels: np.ndarray[Any, Any]) -> str:
    kind = "grey" if pixels.shape[0] == 1 else "RGB"
    return f"{kind}, {pixels.shape[2]} × {pixels.shape[1]} pixels"


def _sentence(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
