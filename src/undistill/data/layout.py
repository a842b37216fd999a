"""Which folders are splits and which are classes, decided from their names and from what holds images."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from undistill.data.listing import BROKEN, COMPANIONS, PLAIN, Entry, Listing, counted
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
    return {role: _preferred(names, ROLES[role]) for role, names in roles.items()}


def _preferred(names: list[str], words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word in names] + sorted(set(names) - set(words))


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
        kinds: Counter[str] = Counter()
        for tree in self.walk():
            kinds.update(tree.others)
        return kinds

    def inner(self) -> dict[str, Tree]:
        """The folders that may be classes or splits. One of text files alone (annotations, notes) is neither."""
        return {name: tree for name, tree in self.folders.items() if not tree.holds_text_alone()}

    def holds_text_alone(self) -> bool:
        """Whether there are files, and all of them only accompany images."""
        kinds = self.all_others()
        return bool(kinds) and kinds.keys() <= COMPANIONS and not self.all_images()

    def only_folder(self) -> Tree | None:
        """The one folder in this one, if there is nothing else and it has folders of its own."""
        inner = list(self.inner().values())
        return inner[0] if len(inner) == 1 and not self.images and inner[0].inner() else None


def splits_of(top: Tree) -> tuple[dict[str, Tree], list[str]]:
    """(splits by the names of their folders, remarks). Without folders for splits all is `train`.

    A folder that holds only one other, which has folders in it, is passed through: archives are often packed so.

    Raises:
        UsageError: folders that may be splits as well as classes.
    """
    while True:
        found, remarks = _named_splits(top)
        if found is not None:
            _refuse_stray(top)
            return found, remarks
        below = top.only_folder()
        if below is None:
            return {"train": top}, remarks
        top = below


def _named_splits(top: Tree) -> tuple[dict[str, Tree] | None, list[str]]:
    """The folders, if they are splits; None if they are classes, with a remark on those that are called like splits."""
    inner = top.inner()
    roles = roles_in(inner)
    named = [name for names in roles.values() for name in names]
    if not named or len(inner) == 1:
        return None, []
    others = [name for name in inner if name not in named]
    flat = {name for name in inner if not inner[name].inner()}
    if "train" not in roles and others:
        _refuse_siblings(inner, named)
        return None, [_is_class(inner[name]) for name in named]
    trains = roles.get("train", named)
    if flat.issuperset(trains):
        if len(roles) == 1 and others:
            return None, [_is_class(inner[name]) for name in named]
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
    return inner, []


def _refuse_siblings(inner: dict[str, Tree], named: list[str]) -> None:
    """UsageError for a split beside the training classes, as in `cat`, `dog`, `test/cat`, `test/dog`."""
    for name in named:
        if same := sorted(inner[name].inner().keys() & inner.keys()):
            raise UsageError(
                f"{inner[name].place} holds folders named as those beside it ({listed(same)}): "
                f"if {name!r} is a split, put the other folders into one called 'train'"
            )


def _is_class(tree: Tree) -> str:
    return f"{tree.place} is read as a class; put the class folders into 'train' if it is a split"


def labelled_splits(found: dict[str, Tree], train: str) -> tuple[dict[str, Classes], list[str]]:
    """(split → class → images, remarks). A split without class folders has no labels and is left aside.

    Raises:
        UsageError: as `_classes`; a class that only the test images know; folders that may be splits as well as classes.
    """
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
            why = (
                f"its {count:,} images are not in class folders, so they have no labels"
                if count
                else "it holds no images"
            )
            remarks.append(f"{tree.place} is left aside: {why}")
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
    """UsageError where all folders hold only the same sub-folders: which of the two are the classes cannot be told."""
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
    _refuse_stray(tree)
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


def _refuse_stray(tree: Tree) -> None:
    """UsageError for an image beside the folders of classes or splits."""
    if tree.images:
        raise UsageError(
            f"{tree.images[0].name} is outside class folders; put each image into a folder named as its class, "
            "or list all images and their classes in metadata.csv"
        )


def class_name(folder: str) -> str:
    """A folder's name as a class: without spaces around it, in one Unicode form (macOS and Linux write ä differently)."""
    return unicodedata.normalize("NFC", folder).strip() or folder


def way_out(kinds: Iterable[str]) -> str:
    """What makes images of files of these kinds."""
    kinds = set(kinds)
    ways = ["convert them to JPEG or PNG"] if any(kind.startswith(".") for kind in kinds) else []
    ways += ["add .jpg or .png to the names of images"] if PLAIN in kinds else []
    ways += ["put back what the links lead to"] if BROKEN in kinds else []
    return " and ".join(ways) or "put its images there"


def listed(names: list[str], most: int = 5) -> str:
    """`a, b and 7 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
