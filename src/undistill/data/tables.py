"""Tables of images through Hugging Face `datasets`: parquet, arrow, WebDataset, image folders with metadata.

What a folder's files say decides nothing outside the folder: of all paths only its own visible files are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from undistill.data.class_folders import Opened, Row, choose_splits, roles_in
from undistill.data.decode import Wanted, sentence
from undistill.data.listing import TABLES, listed
from undistill.errors import UsageError

BATCH = 256
"""Rows read at once from a table."""
CARDS = ("README.md", ".huggingface.yaml")
"""Files by which a folder tells `datasets` what else to read."""
SHARD = re.compile(r"-\d+-of-\d+$")
"""What follows the split's name in a table of several files."""
KINDS = frozenset(
    {"string", "large_string", "bool"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Column types whose distinct values can be classes."""


def open_table(folder: Path, files: Iterable[Path], wanted: Wanted) -> Opened:
    """A table that `datasets` can read, or a folder of them. Of its tables' stated paths only `files` are read.

    Raises:
        UsageError: it cannot be read; a path that leads elsewhere; a missing split or column; several columns to choose from.
    """
    import datasets

    files = list(files)
    known = frozenset(os.path.realpath(file) for file in files)
    found, unused = _load(folder, files, known)
    splits = choose_splits(found, folder)
    image, label = _columns(found[splits["train"]].features or {}, wanted, folder)
    names = getattr((found[splits["train"]].features or {})[label], "names", None)
    unlabelled = [name for name in splits.values() if name != splits["train"] and _unlabelled(found[name], label)]
    if unlabelled:
        splits = choose_splits([name for name in found if name not in unlabelled], folder)
    for theirs in splits.values():
        _check_columns(found[theirs], (image, label), names, f"{folder}, split {theirs},")
    totals = {
        name: getattr((found[name].info.splits or {}).get(name), "num_examples", None) for name in splits.values()
    }

    def rows(theirs: str) -> Iterator[Row]:
        part = found[theirs].select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        batches = part.with_format("arrow").iter(batch_size=BATCH)
        return _rows(batches, (image, label), folder, theirs, known)

    left = [name for name in found if name not in splits.values() and name not in unlabelled]
    remarks = [f"split {name!r} is left aside: none of its rows has a label" for name in unlabelled]
    remarks += [f"split {name!r} is left aside: its name is not that of a split in use" for name in left]
    remarks += [f"{listed(unused)} left aside: the folder's splits are in other files"] if unused else []
    return Opened(splits, (image, label), None if names is None else tuple(names), rows, totals, tuple(remarks))


# -- columns ------------------------------------------------------------------------------------------------------------


def _columns(features: dict[str, Any], wanted: Wanted, folder: Path) -> tuple[str, str]:
    """The columns of images and classes; UsageError where they are ambiguous or of another kind."""
    import datasets

    images = _of_type(features, datasets.Image) or [name for name in features if _holds_bytes(features[name])]
    usual = wanted.usual_columns or (None, None)
    image = _column("image", wanted.image_column or usual[0], features, images, folder)
    label = _column("label", wanted.label_column or usual[1], features, _of_type(features, datasets.ClassLabel), folder)
    for column, kind, fits, way in (
        (
            image,
            "images",
            image in images or _holds_bytes(features[image]),
            "encoded images (bytes, or bytes and path)",
        ),
        (
            label,
            "classes",
            hasattr(features[label], "names") or _dtype(features[label]) in KINDS,
            "whole numbers or text",
        ),
    ):
        if not fits:
            raise UsageError(
                f"the column {column!r} of {folder} holds no {kind} but {_dtype(features[column]) or 'records'}; "
                f"name a column of {way} with data.{'image' if kind == 'images' else 'label'}_column"
            )
    return image, label


def _column(kind: str, wanted: str | None, found: dict[str, Any], fits: list[str], folder: Path) -> str:
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


def _check_columns(part: Any, columns: tuple[str, str], names: list[str] | None, where: str) -> None:
    """UsageError where a split lacks a column or names other classes than the training split."""
    features = part.features or {}
    for column in columns:
        if column not in features:
            raise UsageError(f"{where} has no column {column!r}; there are {', '.join(features) or 'none'}")
    if getattr(features[columns[1]], "names", None) != names:
        raise UsageError(f"{where} names other classes than the training split")


def _holds_bytes(feature: Any) -> bool:
    """Whether a column holds bytes, or records of bytes and perhaps a path, as pandas writes them."""
    if isinstance(feature, dict):
        return "bytes" in feature and feature.keys() <= {"bytes", "path"} and _holds_bytes(feature["bytes"])
    return _dtype(feature) in ("binary", "large_binary")


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or "")


def _of_type(features: dict[str, Any], kind: Any) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, kind)]


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
    except Exception:  # noqa: BLE001  damage is reported where the rows are read
        return False
    return rows


# -- files --------------------------------------------------------------------------------------------------------------


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
        unused = [file.name for file in files if _is_table(file) and os.path.realpath(file) not in real]
        return {name: part if part.features else part._resolve_features() for name, part in found.items()}, unused
    except UsageError:
        raise
    except Exception as error:  # readers of damaged files raise nearly anything
        raise UsageError(f"cannot read {folder} as a data set: {sentence(error)}") from error


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in TABLES


def _builder(folder: Path, files: list[Path]) -> Any:
    """What `datasets` makes of a folder or a file. It knows names of splits in small letters only; others are mapped here."""
    import datasets

    def builder_of(suffix: str, chosen: dict[str, list[str]]) -> Any:
        return datasets.load_dataset_builder(suffix.lower().removeprefix("."), data_files=chosen)

    if folder.is_file():
        return builder_of(folder.suffix, {"train": [str(folder)]})
    declared = _check_cards(folder)
    builder = datasets.load_dataset_builder(str(folder))
    tables = [file for file in files if _is_table(file)]
    used = [list(chosen) for chosen in (builder.config.data_files or {}).values()]
    complete = len(used) > 1 and sum(map(len, used)) == len(tables)
    if declared or complete or len({file.suffix.lower() for file in tables}) != 1:
        return builder
    for names in ([SHARD.sub("", file.stem) for file in tables], [file.parent.name for file in tables]):
        roles = roles_in(set(names))
        role_by_name = {name: role for role, alike in roles.items() for name in alike}
        if "train" in roles and len(roles) > 1 and role_by_name.keys() == set(names):
            chosen: dict[str, list[str]] = {}
            for file, name in zip(tables, names, strict=True):
                chosen.setdefault(role_by_name[name].replace("val", "validation"), []).append(str(file))
            return builder_of(tables[0].suffix, chosen)
    return builder


def _check_cards(folder: Path) -> bool:
    """Whether its cards say which files to read. UsageError for one outside: `datasets` would read the file, or fetch it."""
    from huggingface_hub import DatasetCard

    declared = False
    for file in (folder / card for card in CARDS if (folder / card).is_file()):
        if file.name == "README.md":
            values = DatasetCard.load(file).data.to_dict()
        else:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        configs = values.get("configs") if isinstance(values, dict) else None
        declared = declared or bool(configs)
        for text in _texts(configs):
            path = text.replace("\\", "/")
            if urlsplit(path).scheme or "::" in path or path.startswith(("/", "~")) or ".." in path.split("/"):
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

    def read(file: Path) -> Any:
        return json.loads(file.read_text(encoding="utf-8"))

    parts = [folder] if (folder / "state.json").exists() else []
    if (folder / "dataset_dict.json").exists():
        parts += [folder / name for name in read(folder / "dataset_dict.json")["splits"]]
    for part in parts:
        _check_known(str(part / "state.json"), folder, known)
        for file in read(part / "state.json")["_data_files"]:
            _check_known(str(part / file["filename"]), folder, known)


def _check_known(path: str, folder: Path, known: frozenset[str]) -> None:
    if os.path.realpath(path) not in known:
        raise UsageError(
            f"{folder} names {path}, which is none of its own visible files; put that file into the folder"
        )


# -- rows ---------------------------------------------------------------------------------------------------------------


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
