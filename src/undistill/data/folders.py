"""Class folders: each folder of images is a class. Directly below the top, or below one folder for each split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from undistill.data.decode import SUFFIXES
from undistill.data.opening import TEST, VALIDATION, Opened, Row, Wanted, choose_splits
from undistill.errors import UsageError

TABLES = frozenset({".parquet", ".arrow", ".tar", ".zip"})
"""A folder with any of these, or with a file called `metadata`, is left to `datasets`."""
SPLITS = frozenset({"train", *TEST, *VALIDATION})


def files_below(folder: Path) -> list[Path]:
    """All visible files, sorted. A link to a folder is followed once, and never upwards: loops end.

    Raises:
        UsageError: the folder is missing, empty or may not be read.
    """
    if not folder.is_dir():
        raise UsageError(f"the data folder {folder} does not exist")
    files: list[Path] = []
    seen = {os.path.realpath(above) for above in folder.resolve().parents}

    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error

    for place, below, names in os.walk(folder, followlinks=True, onerror=refuse):
        seen.add(os.path.realpath(place))
        below[:] = [b for b in sorted(below) if not b.startswith(".") and os.path.realpath(f"{place}/{b}") not in seen]
        files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UsageError(f"the data folder {folder} is empty")
    return files


def are_class_folders(files: list[Path]) -> bool:
    """Whether these files are images and no table tells more about them."""
    suffixes = {file.suffix.lower() for file in files}
    told = any(file.stem == "metadata" or file.name in ("dataset_dict.json", "state.json") for file in files)
    return bool(suffixes & SUFFIXES) and not suffixes & TABLES and not told


def open_folders(folder: Path, files: list[Path], wanted: Wanted) -> Opened:
    """Classes are the folders' names, sorted; what is no image by its suffix is left alone.

    Raises:
        UsageError: images outside class folders, or a class that only the test images know.
    """
    for kind in ("image", "label"):
        if (column := getattr(wanted, f"{kind}_column")) is not None and column != kind:
            raise UsageError(
                f"{folder} is a folder of class folders and has no column {column!r}; leave data.{kind}_column out"
            )
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    parts = [tuple(_text(part) for part in file.relative_to(folder).parts) for file in images]
    split_depth = int(_has_splits(parts))
    rows: dict[str, list[tuple[str, Path]]] = {}
    for file, part in zip(images, parts, strict=True):
        if len(part) < split_depth + 2:
            raise UsageError(f"{file} lies outside class folders; put each image into a folder named as its class")
        rows.setdefault(part[0] if split_depth else "train", []).append((part[split_depth], file))
    splits = choose_splits(sorted(rows), wanted.splits, folder)
    classes = {ours: {name for name, _ in rows[theirs]} for ours, theirs in splits.items()}
    for ours, names in classes.items():
        if strange := sorted(names - classes["train"]):
            raise UsageError(f"the class {strange[0]!r} of {folder / splits[ours]} has no folder of training images")
    order = {name: number for number, name in enumerate(sorted(classes["train"]))}

    def read(theirs: str) -> Iterator[Row]:
        for name, file in rows[theirs]:
            yield Row({"bytes": None, "path": str(file)}, order[name], _text(str(file)))

    ignored = tuple(name for name in rows if name not in splits.values())
    totals: dict[str, int | None] = {name: len(content) for name, content in rows.items()}
    return Opened(splits, ignored, ("image", "label"), tuple(order), read, totals)


def _text(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 become question marks."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _has_splits(parts: list[tuple[str, ...]]) -> bool:
    """Whether the top folders are splits: they are called so, train among them or alone, and hold class folders."""
    tops = {part[0] for part in parts if len(part) > 1}
    deep = all(len(part) > 2 for part in parts if part[0] in SPLITS)
    return deep and bool(tops) and ("train" in tops or tops <= SPLITS)
