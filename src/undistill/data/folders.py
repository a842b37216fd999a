"""Class folders: each folder of images is a class. Directly below the top, below one folder for each split, or in archives."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from undistill.data.layout import Classes, Tree, labelled_splits, roles_in, splits_of, way_out
from undistill.data.listing import (
    ARCHIVES,
    COMPANIONS,
    METADATA,
    PACKED,
    SAVED,
    TABLES,
    Entry,
    Listing,
    counted,
    kind_of,
    list_archives,
    opened_archive,
)
from undistill.data.opening import Opened, Row, Wanted, choose_splits
from undistill.errors import UsageError


def form_of(files: Iterable[Path]) -> str:
    """How files are read, as their names say: `table` (by `datasets`), `folders` of classes, `archives`, or `nothing`."""
    files = list(files)
    suffixes = {file.suffix.lower() for file in files}
    if suffixes & TABLES or any(file.name in SAVED or _lists_images(file) for file in files):
        return "table"
    if any(not kind_of(file.name) for file in files):
        return "folders"
    return "archives" if suffixes & ARCHIVES else "nothing"


def _lists_images(file: Path) -> bool:
    """Whether this is the table of images that `datasets` looks for; other files are called `metadata.csv` too."""
    if file.name not in METADATA:
        return False
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return b"file_name" in opened.read(4096)
    return False


def no_images(folder: Path, listing: Listing) -> UsageError:
    """What to say of files among which there is no image and no table."""
    for entry in listing.entries:
        if entry.kind in PACKED:
            return UsageError(
                f"{entry.name} has to be unpacked first; only zip, plain tar and parquet files are read as they are"
            )
    kinds = Counter(entry.kind for entry in listing.entries)
    if kinds.keys() & (TABLES | ARCHIVES):
        return UsageError(f"{folder} holds {counted(kinds)} in an archive; unpack it into a folder")
    if kinds.keys() <= COMPANIONS:
        return UsageError(
            f"{folder} holds no images but {counted(kinds) or 'nothing'}; put each image into a folder named as its class"
        )
    return UsageError(f"{folder} holds no image that can be read ({counted(kinds)}): {way_out(kinds)}")


def open_archives(folder: Path, files: Iterable[Path], wanted: Wanted) -> Opened | None:
    """The class folders in zip and tar files; None where a tar holds images and labels side by side, for `datasets`.

    Raises:
        UsageError: as `open_folders`; an archive that cannot be read.
    """
    archives = [file for file in files if file.suffix.lower() in ARCHIVES]
    listing = list_archives(archives, folder)
    images = [entry for entry in listing.entries if not entry.kind]
    if not images:
        raise no_images(folder, listing)
    tables = all(file.suffix.lower() == ".tar" for file in archives)
    if tables and (_all_at_top(images) or any(entry.kind == ".cls" for entry in listing.entries)):
        return None
    for entry in listing.entries:
        if entry.parts[-1].lower() in METADATA:
            raise UsageError(f"{entry.name} describes images inside an archive; unpack it into a folder")
    return open_folders(folder, listing, wanted)


def _all_at_top(entries: list[Entry]) -> bool:
    return all("/" not in (entry.member or "").removeprefix("./") for entry in entries)


def open_folders(folder: Path, listing: Listing, wanted: Wanted) -> Opened:
    """Classes are the folders' names, sorted; what is no image by its suffix is left out and counted.

    Raises:
        UsageError: images outside class folders, a class without images or that only the test images know, folders that may be
            splits as well as classes.
    """
    for kind in ("image", "label"):
        column = getattr(wanted, f"{kind}_column")
        if column not in (None, kind) and wanted.splits is None:  # a known data set names the columns of its tables
            raise UsageError(
                f"{folder} is a folder of class folders and has no column {column!r}; leave data.{kind}_column out"
            )
    top = Tree.of(listing, str(folder))
    found, remarks = splits_of(top)
    train = choose_splits(found, None, folder)["train"]
    roles = {name for names in roles_in(found).values() for name in names} | {train}
    labelled, unlabelled = labelled_splits({name: tree for name, tree in found.items() if name in roles}, train)
    splits = choose_splits(labelled, wanted.splits, folder)
    left = [found[name] for name in found if name not in roles or (name in labelled and name not in splits.values())]
    order = {name: number for number, name in enumerate(sorted(labelled[train]))}
    rows = {theirs: _in_order(labelled[theirs]) for theirs in splits.values()}
    return Opened(
        splits,
        ("image", "label"),
        tuple(order),
        lambda theirs: _rows(rows[theirs], order),
        {name: len(content) for name, content in rows.items()},
        (*remarks, *unlabelled, *map(_left_aside, left)),
        top.all_others(),
    )


def _left_aside(tree: Tree) -> str:
    return f"{tree.place} is left aside ({len(tree.all_images()):,} images): its name is not that of a split in use"


def _in_order(classes: Classes) -> list[tuple[Entry, str]]:
    """(image, class) in the order of the files' names."""
    pairs = [(entry, name) for name, entries in classes.items() for entry in entries]
    return sorted(pairs, key=lambda pair: pair[0].parts)


def _rows(pairs: list[tuple[Entry, str]], order: dict[str, int]) -> Iterator[Row]:
    archives: dict[Path, Any] = {}
    with contextlib.ExitStack() as stack:
        for entry, name in pairs:
            image: dict[str, Any] = {"bytes": None, "path": str(entry.path)}
            if entry.member is not None:
                if entry.path not in archives:
                    archives[entry.path] = stack.enter_context(opened_archive(entry.path))
                image = {"read": partial(archives[entry.path].read, entry.member)}
            yield Row(image, order[name], entry.name)


def remark_on(skipped: dict[str, int]) -> str | None:
    """A sentence on files that may be images and are not read; None where there are none."""
    kinds = Counter({kind: count for kind, count in skipped.items() if kind not in COMPANIONS})
    return f"left out: {counted(kinds)}; to use them, {way_out(kinds)}" if kinds else None
