"""Class folders: each folder of images is a class. Directly below the top, below one folder for each split, or in archives.

Which folders are splits and which are classes is decided from their names and from what holds images.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undistill.data.decode import Wanted
from undistill.data.listing import (
    ARCHIVES,
    COMPANIONS,
    METADATA,
    Entry,
    Listing,
    Members,
    counted,
    list_archives,
    listed,
    no_images,
    opened_archive,
    way_out,
)
from undistill.errors import UsageError

ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "evaluation", "eval"),
    "val": ("validation", "valid", "val", "dev"),
}
"""Words for splits, in the order in which they are preferred."""
FILLERS = frozenset("set data dataset images image imgs img split folder files".split())  # noqa: SIM905
"""Words that add nothing to one of `ROLES`."""
ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+")
"""The words of `seg_train`, `trainingSet`, `TEST-images` and `val2017`."""

Classes = dict[str, list[Entry]]
"""Class → its images."""


@dataclass(frozen=True)
class Row:
    """One encoded image: its `bytes`, its `path` or a function `read`. `label` is the column's value; `name` is for sentences."""

    image: dict[str, Any]
    label: Any
    name: str


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


# -- names of splits ----------------------------------------------------------------------------------------------------


def role_of(name: str) -> tuple[str, frozenset[str]] | None:
    """(train, test or val; the other words of the name), or None for a name without exactly one word for a split."""
    words = [word.lower() for word in WORDS.findall(name)]
    words = [cut if (cut := re.sub(r"(set|data)$", "", word)) in ROLE_OF else word for word in words]
    roles = [ROLE_OF[word] for word in words if word in ROLE_OF]
    return (roles[0], frozenset(words) - ROLE_OF.keys() - FILLERS) if len(roles) == 1 else None


def roles_in(names: Iterable[str]) -> dict[str, list[str]]:
    """train, test and val → the names that mean it, the preferred first.

    `seg_train` and `seg_test` are splits because they share their other words; `test_tube` is none.
    """
    known = {name: found for name in names if (found := role_of(name)) is not None}
    roles: dict[str, list[str]] = {}
    for name, (role, rest) in known.items():
        partners = {other for other, words in known.values() if words == rest}
        if not rest or ("train" in partners and len(partners) > 1):
            roles.setdefault(role, []).append(name)
    return {
        role: [word for word in ROLES[role] if word in found] + sorted(set(found) - set(ROLES[role]))
        for role, found in roles.items()
    }


def choose_splits(found: Iterable[str], folder: Path) -> dict[str, str]:
    """Ours → theirs: train, test and, where there are both a test and a validation split, val. A single split is train.

    Raises:
        UsageError: no train split among several, or two that may be one.
    """
    found = list(found)
    if len(found) == 1:
        return {"train": found[0]}
    roles = roles_in(found)
    if "train" not in roles:
        raise UsageError(f"{folder} has no split 'train'; there are {', '.join(found) or 'none'}")
    for role, names in roles.items():
        if len(names) > 1 and names[0] not in ROLES[role]:
            raise UsageError(
                f"{folder} has {len(names)} folders or splits for {role}, {listed(names)}; keep one of them there"
            )
    if "test" not in roles and "val" in roles:
        roles["test"] = roles.pop("val")
    return {role: roles[role][0] for role in ("train", "test", "val") if role in roles}


def class_name(folder: str) -> str:
    """A folder's name as a class: without spaces around it, in one Unicode form (macOS and Linux write ä differently)."""
    return unicodedata.normalize("NFC", folder).strip() or folder


# -- folders ------------------------------------------------------------------------------------------------------------


def open_folders(folder: Path, listing: Listing, wanted: Wanted) -> Opened:
    """Classes are the folders' names, sorted; what is no image by its suffix is left out and counted.

    Raises:
        UsageError: images outside class folders, a class without images or that only the test images know, folders that may be
            splits as well as classes.
    """
    for kind, column in (("image", wanted.image_column), ("label", wanted.label_column)):
        if column not in (None, kind):
            raise UsageError(
                f"{folder} is a folder of class folders and has no column {column!r}; leave data.{kind}_column out"
            )
    top = Tree.of(listing, str(folder))
    found, remarks = _splits_of(top)
    train = choose_splits(found, folder)["train"]
    roles = {name for names in roles_in(found).values() for name in names} | {train}
    labelled, unlabelled = _labelled_splits({name: tree for name, tree in found.items() if name in roles}, train)
    splits = choose_splits(labelled, folder)
    left = [found[name] for name in found if name not in roles or (name in labelled and name not in splits.values())]
    remarks += unlabelled
    remarks += [
        f"{tree.place} is left aside ({len(tree.all_images()):,} images): its name is not that of a split in use"
        for tree in left
    ]
    if len(labelled[train]) == 1 and (
        tables := [kind for kind in (".csv", ".tsv", ".jsonl") if top.all_others()[kind]]
    ):
        raise UsageError(
            f"{folder} has one class folder, {next(iter(labelled[train]))!r}, and a {tables[0]} file: if that says the classes, "
            "call it metadata.csv, with columns file_name (the image's path beside it) and label"
        )
    order = {name: number for number, name in enumerate(sorted(labelled[train]))}
    pairs = {
        theirs: sorted(
            ((entry, order[name]) for name, entries in labelled[theirs].items() for entry in entries),
            key=lambda pair: pair[0].parts,
        )
        for theirs in splits.values()
    }
    return Opened(
        splits,
        ("image", "label"),
        tuple(order),
        lambda theirs: _rows(pairs[theirs]),
        {name: len(content) for name, content in pairs.items()},
        tuple(remarks),
        top.all_others(),
    )


def open_archives(folder: Path, files: Iterable[Path], wanted: Wanted) -> Opened | None:
    """The class folders in zip and tar files; None where a tar holds images and labels side by side, for `datasets`.

    Raises:
        UsageError: as `open_folders`; an archive that cannot be read, or holds no images.
    """
    archives = [file for file in files if file.suffix.lower() in ARCHIVES]
    listing = list_archives(archives, folder)
    images = [entry for entry in listing.entries if not entry.kind]
    if not images:
        raise no_images(folder, listing)
    flat = all("/" not in (entry.member or "").removeprefix("./") for entry in images)
    if all(file.suffix.lower() == ".tar" for file in archives) and (
        flat or any(entry.kind == ".cls" for entry in listing.entries)
    ):
        return None
    for entry in listing.entries:
        if entry.parts[-1].lower() in METADATA:
            raise UsageError(f"{entry.name} describes images inside an archive; unpack it into a folder")
    return open_folders(folder, listing, wanted)


def _rows(pairs: list[tuple[Entry, int]]) -> Iterator[Row]:
    archives: dict[Path, Members] = {}
    with contextlib.ExitStack() as stack:
        for entry, label in pairs:
            image: dict[str, Any] = {"bytes": None, "path": str(entry.path)}
            if entry.member is not None:
                if entry.path not in archives:
                    archives[entry.path] = stack.enter_context(opened_archive(entry.path))
                image = {"read": archives[entry.path][entry.member]}
            yield Row(image, label, entry.name)


@dataclass
class Tree:
    """A folder: the images directly in it, how many other files of which kinds, and its folders."""

    place: str
    images: list[Entry] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    folders: dict[str, Tree] = field(default_factory=dict)

    @classmethod
    def of(cls, listing: Listing, place: str) -> Tree:
        """All folders and files of a listing."""
        top = cls(place)
        for parts in listing.folders:
            top.at(parts)
        for entry in listing.entries:
            folder = top.at(entry.parts[:-1])
            if entry.kind:
                folder.others[entry.kind] += 1
            else:
                folder.images.append(entry)
        return top

    def at(self, parts: tuple[str, ...]) -> Tree:
        """The folder that these names lead to, made where it is missing."""
        tree = self
        for part in parts:
            tree = tree.folders.setdefault(part, Tree(f"{tree.place}/{part}"))
        return tree

    def walk(self) -> Iterator[Tree]:
        """This folder and all below, without recursion: paths may be deeper than Python recurses."""
        waiting = [self]
        while waiting:
            tree = waiting.pop()
            yield tree
            waiting += reversed(tree.folders.values())

    def all_images(self) -> list[Entry]:
        """The images here and below."""
        return [entry for tree in self.walk() for entry in tree.images]

    def all_others(self) -> Counter[str]:
        """The other files here and below, by kind."""
        return sum((tree.others for tree in self.walk()), Counter())

    def inner(self) -> dict[str, Tree]:
        """The folders that may be classes or splits. One of text files alone (annotations, notes) is neither."""

        def holds_text_alone(tree: Tree) -> bool:
            kinds = tree.all_others()
            return bool(kinds) and kinds.keys() <= COMPANIONS and not tree.all_images()

        return {name: tree for name, tree in self.folders.items() if not holds_text_alone(tree)}

    def only_folder(self) -> Tree | None:
        """The one folder in this one, if there is nothing else and it has folders of its own."""
        inner = list(self.inner().values())
        return inner[0] if len(inner) == 1 and not self.images and inner[0].inner() else None

    def refuse_stray(self) -> None:
        """UsageError for an image beside the folders of classes or splits."""
        if self.images:
            raise UsageError(
                f"{self.images[0].name} is outside class folders; put each image into a folder named as its class, "
                "or list all images and their classes in metadata.csv"
            )


def _splits_of(top: Tree) -> tuple[dict[str, Tree], list[str]]:
    """(splits by the names of their folders, remarks). Without folders for splits all is `train`.

    A folder that holds only one other, which has folders in it, is passed through: archives are often packed so.
    """
    while (below := top.only_folder()) is not None:
        top = below
    inner = top.inner()
    roles = roles_in(inner)
    named = [name for names in roles.values() for name in names]
    if not named or len(inner) == 1:
        return {"train": top}, []
    others = [name for name in inner if name not in named]
    flat = {name for name in inner if not inner[name].inner()}
    trains = roles.get("train", named)
    if ("train" not in roles and others) or (flat.issuperset(trains) and len(roles) == 1 and others):
        if "train" not in roles:
            _refuse_siblings(inner, named)
        return {"train": top}, [
            f"{inner[name].place} is read as a class; put the class folders into 'train' if it is a split"
            for name in named
        ]
    if flat.issuperset(trains):
        raise UsageError(
            f"{top.place} has folders called like splits ({listed(sorted(named))}) but no class folders in {trains[0]!r}: "
            "put each image into a folder named as its class, or rename the folders if they are the classes"
        )
    beside = [name for name in others if name in flat]
    if len(roles) == 1 and len(beside) > 1:
        raise UsageError(
            f"{top.place} has class folders in {named[0]!r} and images directly in {listed(beside)}: "
            "put all class folders beside each other, and move out what is no class"
        )
    top.refuse_stray()
    return inner, []


def _refuse_siblings(inner: dict[str, Tree], named: list[str]) -> None:
    """UsageError for a split beside the training classes, as in `cat`, `dog`, `test/cat`, `test/dog`."""
    for name in named:
        if same := sorted(inner[name].inner().keys() & inner.keys()):
            raise UsageError(
                f"{inner[name].place} holds folders named as those beside it ({listed(same)}): "
                f"if {name!r} is a split, put the other folders into one called 'train'"
            )


def _labelled_splits(found: dict[str, Tree], train: str) -> tuple[dict[str, Classes], list[str]]:
    """(split → class → images, remarks). A split without class folders has no labels and is left aside."""
    top = _unwrapped(found[train])
    _refuse_same_folders(top)
    splits, remarks = {train: _classes(top, train=True)}, []
    for name, tree in found.items():
        if name == train:
            continue
        below = _unwrapped(tree, splits[train])
        inner = below.inner()
        strange = sorted({class_name(folder) for folder in inner} - splits[train].keys())
        if (not below.images and len(inner) == len(strange) == 1) or not inner:
            count = len(below.all_images())
            why = f"its {count:,} images are not in class folders, so they have no labels" if count else ""
            remarks.append(f"{tree.place} is left aside: {why or 'it holds no images'}")
            continue
        if strange:
            raise UsageError(f"the class {strange[0]!r} of {below.place} has no folder of training images")
        splits[name] = _classes(below, train=False)
    return splits, remarks


def _unwrapped(tree: Tree, known: Container[str] = ()) -> Tree:
    """The folder that holds the class folders of a split: in `train/train/cat` it is the second."""
    while (below := tree.only_folder()) is not None and not any(class_name(name) in known for name in tree.inner()):
        tree = below
    return tree


def _refuse_same_folders(tree: Tree) -> None:
    """UsageError where all folders hold only the same sub-folders, and either level may be the classes."""
    below = {name: set(folder.inner()) for name, folder in tree.inner().items()}
    if len(below) < 2 or any(tree.folders[name].images for name in below):
        return
    largest = max(below.values(), key=len)
    if all(len(names) > 1 and names <= largest for names in below.values()):
        raise UsageError(
            f"the folders {listed(sorted(below))} of {tree.place} hold the same sub-folders, {listed(sorted(largest))}: call "
            "the folders 'train' and 'test' if they are splits; move the images up into them if they are the classes"
        )


def _classes(tree: Tree, *, train: bool) -> Classes:
    """Class → its images, for the class folders directly in `tree`.

    Raises:
        UsageError: an image outside class folders, a class without an image that can be read, two folders of one name.
    """
    tree.refuse_stray()
    classes: Classes = {}
    for folder, inside in tree.inner().items():
        name, images, others = class_name(folder), inside.all_images(), inside.all_others()
        if not images and (others or train):
            raise UsageError(
                f"{inside.place} holds no image that can be read ({counted(others) or 'it is empty'}): "
                f"{way_out(others)}, or move the folder out of the data"
            )
        if name in classes:
            raise UsageError(
                f"two folders of {tree.place} are the class {name!r}; put their images together or rename one"
            )
        if images:
            classes[name] = images
    return classes
