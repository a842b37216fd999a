"""A folder of images, opened: its splits, its columns and rows that are still encoded.

Tables (parquet, arrow, WebDataset, image folders with metadata) go through Hugging Face `datasets`; plain class folders are listed
by `folders`, because a class called `test_tube` must not become a test split.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from undistill.data.decode import sentence
from undistill.data.layout import ROLES, listed, role_of, roles_in
from undistill.errors import UsageError

Progress = Callable[[str, int, int | None], None]
"""Told (what, done, total or None)."""
BATCH = 256
"""Rows read at once from a table."""
WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
CARDS = ("README.md", ".huggingface.yaml")
"""Files by which a folder tells `datasets` what else to read."""
FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
"""Suffixes of single files to the builders of `datasets`."""
SHARD = re.compile(r"-\d+-of-\d+$")
"""What follows the split's name in a table of several files."""
KINDS = frozenset({"string", "large_string", "bool"} | WHOLE)
"""Column types whose distinct values can be classes."""


@dataclass(frozen=True)
class Row:
    """One encoded image: its `bytes`, its `path` or a function `read`. `label` is the column's value; `name` is for sentences."""

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
    value_range: tuple[float, float] | None = None
    splits: dict[str, str] | None = None


@dataclass(frozen=True)
class Opened:
    """`splits` are ours → theirs; `names` the declared classes, or None where they are the label column's distinct values.

    `rows` gives each row of one of their splits. `remarks` are sentences on what is left aside, `skipped` counts the other files by
    their kind.
    """

    splits: dict[str, str]
    columns: tuple[str, str]
    names: tuple[str, ...] | None
    rows: Callable[[str], Iterator[Row]] = field(repr=False)
    totals: dict[str, int | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)


def choose_splits(found: Iterable[str], wanted: dict[str, str] | None, folder: Path) -> dict[str, str]:
    """Ours → theirs: train, test and, where there are both a test and a validation split, val. A single split is train.

    Raises:
        UsageError: no train split among several, two that may be it, or one missing that the source promised.
    """
    found = list(found)
    roles = roles_in(found)
    if wanted:
        return {ours: _promised(theirs, found, roles, folder) for ours, theirs in wanted.items()}
    if len(found) == 1:
        return {"train": found[0]}
    if "train" not in roles:
        raise _no_split("train", found, folder)
    chosen = {role: _first(role, names, folder) for role, names in roles.items()}
    if "test" not in chosen and "val" in chosen:
        chosen["test"] = chosen.pop("val")
    return {role: chosen[role] for role in ("train", "test", "val") if role in chosen}


def _first(role: str, names: list[str], folder: Path) -> str:
    """The preferred of several names for one part; UsageError where none of them is exactly a word for it."""
    if len(names) > 1 and names[0] not in ROLES[role]:
        raise UsageError(
            f"{folder} has {len(names)} folders or splits for {role}, {listed(names)}; keep one of them there"
        )
    return names[0]


def _promised(theirs: str, found: list[str], roles: dict[str, list[str]], folder: Path) -> str:
    """The split that a source says there is, or one whose name means the same."""
    if theirs in found:
        return theirs
    role = role_of(theirs)
    names = roles.get(role[0], []) if role else []
    if not names:
        raise _no_split(theirs, found, folder)
    return names[0]


def _no_split(name: str, found: list[str], folder: Path) -> UsageError:
    return UsageError(f"{folder} has no split {name!r}; there are {', '.join(found) or 'none'}")


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
    """A table that `datasets` can read, or a folder of them. Of its tables' stated paths only `files` are read.

    Raises:
        UsageError: it cannot be read; a path that leads elsewhere; a missing split or column; several columns to choose from.
    """
    import datasets

    files = list(files)
    known = frozenset(os.path.realpath(file) for file in files)
    found, unused = _load(folder, files, known)
    splits = choose_splits(found, wanted.splits, folder)
    image, label = _columns(found[splits["train"]].features or {}, wanted, folder)
    names = getattr((found[splits["train"]].features or {})[label], "names", None)
    unlabelled = (
        [] if wanted.splits else [s for s in splits.values() if s != splits["train"] and _unlabelled(found[s], label)]
    )
    if unlabelled:
        splits = choose_splits([name for name in found if name not in unlabelled], None, folder)
    for theirs in splits.values():
        _check_columns(found[theirs], (image, label), names, f"{folder}, split {theirs},")
    totals = {s: getattr((found[s].info.splits or {}).get(s), "num_examples", None) for s in splits.values()}

    def rows(theirs: str) -> Iterator[Row]:
        part = found[theirs].select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        batches = part.with_format("arrow").iter(batch_size=BATCH)
        return _rows(batches, (image, label), folder, theirs, known)

    left = [name for name in found if name not in splits.values() and name not in unlabelled]
    remarks = [f"split {name!r} is left aside: none of its rows has a label" for name in unlabelled]
    remarks += [f"split {name!r} is left aside: its name is not that of a split in use" for name in left]
    remarks += [f"{listed(unused)} left aside: the folder's splits are in other files"] if unused else []
    return Opened(splits, (image, label), None if names is None else tuple(names), rows, totals, tuple(remarks))


def _columns(features: dict[str, Any], wanted: Wanted, folder: Path) -> tuple[str, str]:
    """The columns of images and classes; UsageError where they cannot be told or are of another kind."""
    import datasets

    image = choose_column("image", wanted.image_column, features, _image_columns(features), folder)
    label = choose_column("label", wanted.label_column, features, _of_type(features, datasets.ClassLabel), folder)
    if not (isinstance(features[image], datasets.Image) or _holds_bytes(features[image])):
        raise UsageError(
            f"the column {image!r} of {folder} holds no images but {_type_of(features[image])}; "
            "name a column of encoded images (bytes, or bytes and path) with data.image_column"
        )
    declared = getattr(features[label], "names", None)
    if declared is None and getattr(features[label], "dtype", None) not in KINDS:
        raise UsageError(
            f"the column {label!r} of {folder} holds no classes but {_type_of(features[label])}; "
            "name a column of whole numbers or text with data.label_column"
        )
    return image, label


def _check_columns(part: Any, columns: tuple[str, str], names: list[str] | None, where: str) -> None:
    """UsageError where a split lacks a column or names other classes than the training split."""
    features = part.features or {}
    for column in columns:
        if column not in features:
            raise UsageError(f"{where} has no column {column!r}; there are {', '.join(features) or 'none'}")
    if getattr(features[columns[1]], "names", None) != names:
        raise UsageError(f"{where} names other classes than the training split")


def _unlabelled(part: Any, label: str) -> bool:
    """Whether there are rows and none of them has a label. Usually the first row answers."""
    if label not in (part.features or {}):
        return True
    rows = False
    try:
        for batch in part.select_columns([label]).with_format("arrow").iter(batch_size=BATCH):
            rows = True
            if any(value is not None and value != -1 for value in batch.column(label).to_pylist()):
                return False
    except Exception:  # noqa: BLE001  what is damaged is told where the rows are read
        return False
    return rows


def _image_columns(features: dict[str, Any]) -> list[str]:
    """The columns declared as images, or else those that hold bytes."""
    import datasets

    return _of_type(features, datasets.Image) or [name for name, feature in features.items() if _holds_bytes(feature)]


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds bytes, or records of bytes and perhaps a path, as pandas writes them."""
    if isinstance(feature, dict):
        return "bytes" in feature and feature.keys() <= {"bytes", "path"} and _holds_bytes(feature["bytes"])
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _type_of(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or "records")


def _of_type(features: dict[str, Any], kind: Any) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, kind)]


def _load(folder: Path, files: list[Path], known: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """(splits by name, tables that are in none of them)."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            _check_saved(folder, known)
            kept = datasets.load_from_disk(str(folder))
            kept = kept if isinstance(kept, dict) else {"train": kept}
            return {name: part.to_iterable_dataset() for name, part in kept.items()}, []
        builder = _builder(folder, files)
        used = [str(file) for chosen in (builder.config.data_files or {}).values() for file in chosen]
        for file in used:
            _check_known(file, folder, known)
        found = dict(builder.as_streaming_dataset())
        real = {os.path.realpath(file) for file in used}
        unused = [file.name for file in files if file.suffix.lower() in FORMATS and os.path.realpath(file) not in real]
        return {name: part if part.features else part._resolve_features() for name, part in found.items()}, unused
    except UsageError:
        raise
    except Exception as error:  # files are strangers: readers of damaged ones raise nearly anything
        raise UsageError(f"cannot read {folder} as a data set: {sentence(error)}") from error


def _builder(folder: Path, files: list[Path]) -> Any:
    """What `datasets` makes of a folder or a file. It knows names of splits in small letters only, so others are told to it."""
    import datasets

    if folder.is_file():
        return datasets.load_dataset_builder(FORMATS[folder.suffix.lower()], data_files={"train": str(folder)})
    declared = _check_cards(folder)
    builder = datasets.load_dataset_builder(str(folder))
    tables = [file for file in files if file.suffix.lower() in FORMATS]
    used = [list(chosen) for chosen in (builder.config.data_files or {}).values()]
    if (
        declared
        or len({file.suffix.lower() for file in tables}) != 1
        or (len(used) > 1 and sum(map(len, used)) == len(tables))
    ):
        return builder
    for names in ([SHARD.sub("", file.stem) for file in tables], [file.parent.name for file in tables]):
        roles = roles_in(set(names))
        role_by_name = {name: role for role, alike in roles.items() for name in alike}
        if "train" in roles and len(roles) > 1 and role_by_name.keys() == set(names):
            chosen: dict[str, list[str]] = {}
            for file, name in zip(tables, names, strict=True):
                chosen.setdefault(role_by_name[name].replace("val", "validation"), []).append(str(file))
            return datasets.load_dataset_builder(FORMATS[tables[0].suffix.lower()], data_files=chosen)
    return builder


def _check_cards(folder: Path) -> bool:
    """Whether its cards say which files to read. UsageError for one outside: `datasets` would read the file, or fetch it."""
    from huggingface_hub import DatasetCard

    declared = False
    for card in CARDS:
        file = folder / card
        if not file.is_file():
            continue
        told = (
            DatasetCard.load(file).data.to_dict()
            if card == "README.md"
            else yaml.safe_load(file.read_text(encoding="utf-8"))
        )
        configs = told.get("configs") if isinstance(told, dict) else None
        declared = declared or bool(configs)
        for text in _texts(configs):
            if urlsplit(text).scheme or "::" in text or text.startswith(("/", "~")) or ".." in text.split("/"):
                raise UsageError(f"{file} names {text}, which is outside {folder}; put the files into the folder")
    return declared


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
        parts += [
            folder / name for name in json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        ]
    for part in parts:
        _check_known(str(part / "state.json"), folder, known)
        for file in json.loads((part / "state.json").read_text(encoding="utf-8"))["_data_files"]:
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
