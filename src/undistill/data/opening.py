"""A folder of images, opened: its splits, its columns and rows that are still encoded.

Tables (parquet, arrow, archives, image folders with metadata) go through Hugging Face `datasets`; plain class folders are listed by
`folders`, because a class called `test_tube` must not become a test split.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from undistill.data.decode import sentence
from undistill.errors import UsageError

Progress = Callable[[str, int, int | None], None]
"""Told (what, done, total or None)."""
TEST = ("test",)
VALIDATION = ("validation", "valid", "val", "dev")
BATCH = 256
"""Rows read at once from a table."""
WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
CARDS = ("README.md", ".huggingface.yaml")
"""Files by which a folder tells `datasets` what else to read."""
KINDS = frozenset({"string", "large_string", "bool"} | WHOLE)
"""Column types whose distinct values can be classes."""


@dataclass(frozen=True)
class Row:
    """One image as it lies there. `image` has `bytes` or a `path`; `label` is the column's value; `name` is for sentences."""

    image: dict[str, Any]
    label: Any
    name: str


@dataclass(frozen=True)
class Wanted:
    """What the settings ask of a source; None or False where they leave it to the data.

    `splits`, which only a source gives, are its names of our train, test and val.
    """

    image_column: str | None = None
    label_column: str | None = None
    size: int | None = None
    stored: int | None = None
    channels: int | None = None
    skip_corrupt: bool = False
    splits: dict[str, str] | None = None


@dataclass(frozen=True)
class Opened:
    """`splits` are ours → theirs; `names` the declared classes, or None where they are the label column's distinct values.

    `rows` gives each row of one of their splits.
    """

    splits: dict[str, str]
    ignored: tuple[str, ...]
    columns: tuple[str, str]
    names: tuple[str, ...] | None
    rows: Callable[[str], Iterator[Row]] = field(repr=False)
    totals: dict[str, int | None] = field(default_factory=dict)


def choose_splits(found: list[str], wanted: dict[str, str] | None, folder: Path) -> dict[str, str]:
    """Ours → theirs: train, test and, where there are both a test and a validation split, val. A single split is train.

    Raises:
        UsageError: no train split among several, or one that the source promised is missing.
    """
    for theirs in (wanted or {}).values():
        if theirs not in found:
            raise UsageError(f"{folder} has no split {theirs!r}; there are {', '.join(found) or 'none'}")
    if wanted:
        return dict(wanted)
    if len(found) == 1:
        return {"train": found[0]}
    if "train" not in found:
        raise UsageError(f"{folder} has no split 'train'; there are {', '.join(found) or 'none'}")
    test = next((name for name in TEST if name in found), None)
    val = next((name for name in VALIDATION if name in found), None)
    if test is not None and val is not None:
        return {"train": "train", "test": test, "val": val}
    last = test or val
    return {"train": "train"} | ({"test": last} if last else {})


def choose_column(kind: str, wanted: str | None, found: dict[str, Any], fits: list[str], folder: Path) -> str:
    """The one column of a kind (`image` or `label`), or the one asked for; UsageError names what there is and the setting."""
    way = f"name it with data.{kind}_column (--{kind}-column)"
    if wanted is not None:
        if wanted not in found:
            raise UsageError(f"{folder} has no column {wanted!r}; there are {', '.join(found) or 'none'}")
        return wanted
    if len(fits) > 1:
        raise UsageError(f"{folder} has {len(fits)} {kind} columns, {' and '.join(fits)}; {way}")
    if not fits:
        raise UsageError(f"{folder} has no {kind} column among {', '.join(found) or 'none'}; {way}")
    return fits[0]


def open_table(folder: Path, files: Iterable[Path], wanted: Wanted) -> Opened:
    """A folder that `datasets` can read, or that its `save_to_disk` wrote. Of its tables' stated paths only `files` are read.

    Raises:
        UsageError: it cannot be read; a path that leads elsewhere; a missing split or column; several columns to choose from.
    """
    import datasets

    known = frozenset(os.path.realpath(file) for file in files)
    found = _load(folder, known)
    splits = choose_splits(list(found), wanted.splits, folder)
    features = found[splits["train"]].features or {}
    image = choose_column("image", wanted.image_column, features, _of_type(features, datasets.Image), folder)
    label = choose_column("label", wanted.label_column, features, _of_type(features, datasets.ClassLabel), folder)
    if not isinstance(features[image], datasets.Image):
        raise UsageError(f"the column {image!r} of {folder} holds no images; name another with data.image_column")
    names = getattr(features[label], "names", None)
    if names is None and getattr(features[label], "dtype", None) not in KINDS:
        raise UsageError(f"the column {label!r} of {folder} holds no classes; name another with data.label_column")
    for theirs in splits.values():
        other = found[theirs].features or {}
        for column in (image, label):
            if column not in other:
                raise UsageError(
                    f"{folder}, split {theirs}, has no column {column!r}; there are {', '.join(other) or 'none'}"
                )
        if getattr(other[label], "names", None) != names:
            raise UsageError(f"the splits {splits['train']} and {theirs} of {folder} name different classes")
    totals = {s: getattr((found[s].info.splits or {}).get(s), "num_examples", None) for s in splits.values()}

    def rows(theirs: str) -> Iterator[Row]:
        part = found[theirs].select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        batches = part.with_format("arrow").iter(batch_size=BATCH)
        return _rows(batches, (image, label), folder, theirs, known)

    ignored = tuple(name for name in found if name not in splits.values())
    return Opened(splits, ignored, (image, label), None if names is None else tuple(names), rows, totals)


def _of_type(features: dict[str, Any], kind: Any) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, kind)]


def _load(folder: Path, known: frozenset[str]) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            _check_saved(folder, known)
            kept = datasets.load_from_disk(str(folder))
            kept = kept if isinstance(kept, dict) else {"train": kept}
            return {name: part.to_iterable_dataset() for name, part in kept.items()}
        _check_cards(folder)
        builder = datasets.load_dataset_builder(str(folder))
        for chosen in (builder.config.data_files or {}).values():
            for file in chosen:
                _check_known(str(file), folder, known)
        found = dict(builder.as_streaming_dataset())
        return {name: part if part.features else part._resolve_features() for name, part in found.items()}
    except UsageError:
        raise
    except Exception as error:  # files are strangers: readers of damaged ones raise nearly anything
        raise UsageError(f"cannot read {folder} as a data set: {sentence(error)}") from error


def _check_cards(folder: Path) -> None:
    """UsageError for a reference out of the folder in its cards: `datasets` would read the file, or fetch it."""
    from huggingface_hub import DatasetCard

    for card in CARDS:
        file = folder / card
        if not file.is_file():
            continue
        told = DatasetCard.load(file).data.to_dict() if card == "README.md" else yaml.safe_load(file.read_text())
        for text in _texts(told.get("configs") if isinstance(told, dict) else None):
            if urlsplit(text).scheme or "::" in text or text.startswith(("/", "~")) or ".." in text.split("/"):
                raise UsageError(f"{file} names {text}, which is outside {folder}; put the files into the folder")


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _check_saved(folder: Path, known: frozenset[str]) -> None:
    """UsageError for a reference out of the folder in what `save_to_disk` writes."""
    parts = [folder] if (folder / "state.json").exists() else []
    if (folder / "dataset_dict.json").exists():
        parts += [folder / name for name in json.loads((folder / "dataset_dict.json").read_text())["splits"]]
    for part in parts:
        _check_known(str(part / "state.json"), folder, known)
        for file in json.loads((part / "state.json").read_text())["_data_files"]:
            _check_known(str(part / file["filename"]), folder, known)


def _check_known(path: str, folder: Path, known: frozenset[str]) -> None:
    if os.path.realpath(path) not in known:
        raise UsageError(
            f"{folder} names {path}, which is none of its own visible files; put that file into the folder"
        )


def _rows(
    batches: Iterator[Any], columns: tuple[str, str], folder: Path, split: str, known: frozenset[str]
) -> Iterator[Row]:
    done, top = 0, Path(os.path.realpath(folder))
    try:
        for batch in batches:
            images, labels = (batch.column(name).to_pylist() for name in columns)
            for image, label in zip(images, labels, strict=True):
                image = image or {}
                beside = f" ({image['path']})" if image.get("path") else ""
                name = f"image {done}{beside} of {folder} {split}"
                if beside and image.get("bytes") is None:
                    _check_row(image["path"], name, top, known)
                yield Row(image, label, name)
                done += 1
    except UsageError:
        raise
    except Exception as error:  # as above
        raise UsageError(f"{folder}, split {split}, is damaged behind row {done}: {sentence(error)}") from error


def _check_row(path: str, name: str, top: Path, known: frozenset[str]) -> None:
    """UsageError for an image's path that leads out of the folder. One that is missing inside is a corrupt row, no stray one."""
    real = Path(os.path.realpath(path))
    if str(real) not in known and (top not in real.parents or real.exists()):
        raise UsageError(f"{name} is none of the folder's own visible files; put that file into the folder")
