"""Where images come from: a name, a hub id, a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from undistill.data import cache
from undistill.data.hub import ID, download, revision
from undistill.data.image_set import ImageSet
from undistill.data.layout import listed
from undistill.data.listing import ARCHIVES, PACKED, TABLES
from undistill.data.opening import Progress, Wanted
from undistill.data.reading import Found, check_place, is_set, read_folder
from undistill.errors import RunError, UsageError, unknown
from undistill.registry import Component, Registry

NOWHERE = "the data set 'folder' needs to know where: give data.dir (--data-dir), or the path as --data"


class Source(Component):
    """A data set by name. `sizes` are the parts that its recipes set aside unless told otherwise."""

    note: ClassVar[str] = ""
    recipe: ClassVar[str]
    sizes: ClassVar[dict[str, float | int]] = {}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """`train`, and `test` and `val` where the source has them."""
        raise NotImplementedError

    def provenance(self, folder: Path | None) -> str:
        """What is repeated beside every number."""
        return self.note

    def title(self, folder: Path | None) -> str:
        """What the data are called."""
        return self.name

    def place(self, folder: Path) -> Path:
        """Where in `folder` (the one of the set, or the one above it) the files are."""
        return folder


class Local(Source):
    """A source whose files may be in a folder of this machine instead of a download."""

    def place(self, folder: Path) -> Path:
        """The folder of the set's name below `folder`, or else `folder` itself.

        Raises:
            UsageError: neither holds data.
        """
        if folder.is_file():
            return folder
        if not folder.is_dir():
            raise UsageError(f"the data folder {folder} does not exist")
        tried = dict.fromkeys((folder / self.name, folder / self.name.rpartition("/")[2]))
        for below in tried:
            if below.is_dir():
                return below
        sets = [name for name, kind in SOURCES.classes().items() if issubclass(kind, Local)]
        others = [name for name in sets if (folder / name).is_dir()]
        if not others and is_set(folder):
            return folder
        raise UsageError(
            f"{folder} holds no folder {below.name!r} and is not {self.name} itself"
            f"{f', but holds {listed(others)}' if others else ''}; tried {below} and {folder}"
        )


SOURCES: Registry[Source] = Registry("data set", "undistill.data.sources")


@SOURCES.register
class Digits(Source):
    """1,797 handwritten digits, 8 × 8 grey, in scikit-learn (Alpaydin & Kaynak 1998, UCI; the optical test set). No download."""

    name: Literal["digits"] = "digits"
    note = "scikit-learn's digits, 1,797 images"
    recipe = "digits"
    sizes: ClassVar[dict[str, float | int]] = {"test": 497, "pool": 400, "val": 90}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """One split; the recipe carves a test set."""
        if folder is not None:
            raise UsageError("digits is embedded and reads no --data-dir")
        own = Wanted(size=8, stored=8, channels=1)  # a model of these images may ask for just that
        asked = {name: value for name, value in vars(wanted).items() if name != "skip_corrupt"}
        if any(value not in (None, getattr(own, name)) for name, value in asked.items()):
            raise UsageError(
                "digits is embedded, 8 × 8 grey: it takes no other data.size, stored, channels, and no columns"
            )
        key = cache.key_of([], {"source": "digits"})
        return Found(cache.read_or_make(key, "scikit-learn digits", _digits).splits)


def _digits(store: cache.Store) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    store.add("train", ImageSet.of(torch.from_numpy(pixels), labels, tuple(str(d) for d in range(10))))


class HubSource(Local):
    """A data set in the hub's format, from its id or from a local folder that holds the same files."""

    hub_id: ClassVar[str]
    image_column: ClassVar[str]
    label_column: ClassVar[str]
    splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """Decoded splits; from the cache when no file has changed."""
        folder = download(self.hub_id, progress)[0] if folder is None else folder
        columns = (wanted.image_column or self.image_column, wanted.label_column or self.label_column)
        asked = replace(wanted, image_column=columns[0], label_column=columns[1], splits=self.splits)
        found = read_folder(folder, asked, progress)
        given = {name for name, value in vars(wanted).items() if value not in (None, False)}
        return replace(found, settings={name: value for name, value in found.settings.items() if name in given})


@SOURCES.register
class CIFAR10(HubSource):
    """60,000 colour images of 32 × 32 pixels in 10 classes (Krizhevsky 2009), the official 50,000/10,000 split."""

    name: Literal["cifar10"] = "cifar10"
    note = "CIFAR-10"
    recipe = "fast-cifar10"
    sizes: ClassVar[dict[str, float | int]] = {"val": 0.1}
    hub_id = "uoft-cs/cifar10"
    image_column, label_column = "img", "label"


@SOURCES.register
class CIFAR100(HubSource):
    """60,000 colour images of 32 × 32 pixels in 100 classes (Krizhevsky 2009), the official 50,000/10,000 split."""

    name: Literal["cifar100"] = "cifar100"
    note = "CIFAR-100, fine labels"
    recipe = "fast-cifar100"
    sizes: ClassVar[dict[str, float | int]] = {"val": 0.1}
    hub_id = "uoft-cs/cifar100"
    image_column, label_column = "img", "fine_label"


@SOURCES.register
class TinyImageNet(HubSource):
    """110,000 photos of 64 × 64 pixels in 200 classes (Le & Yang 2015); its labelled validation split is the test split here."""

    name: Literal["tiny-imagenet"] = "tiny-imagenet"
    note = "Tiny-ImageNet; test is its validation split"
    recipe = "paper-tiny-imagenet"
    sizes: ClassVar[dict[str, float | int]] = {"val": 0.1}
    hub_id = "zh-plus/tiny-imagenet"
    image_column, label_column = "image", "label"
    splits: ClassVar[dict[str, str]] = {"train": "train", "test": "valid"}


@SOURCES.register
class Folder(Source):
    """Any folder, zip, tar or parquet file on this machine: class folders or a Hugging Face data set. `data.dir` says where."""

    name: Literal["folder"] = "folder"
    note = "images of one's own"
    recipe = "folder"
    sizes: ClassVar[dict[str, float | int]] = {"test": 0.2, "val": 0.1}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """Decoded splits; from the cache when no file has changed."""
        if folder is None:
            raise UsageError(NOWHERE)
        return read_folder(folder, wanted, progress)

    def provenance(self, folder: Path | None) -> str:
        """The folder's own name, without the path above it."""
        return f"the {'file' if folder and folder.is_file() else 'folder'} {self.title(folder)}"

    def title(self, folder: Path | None) -> str:
        """The folder's name."""
        return (folder.resolve().name if folder else "") or self.name


class HubData(Local):
    """Any data set of the hub, by `owner/name`."""

    name: str
    recipe = "folder"
    sizes: ClassVar[dict[str, float | int]] = Folder.sizes

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """Decoded splits of the download, or of a local copy."""
        if folder is None:
            try:
                folder = download(self.name, progress)[0]
            except RunError as error:
                raise RunError(f"{error}; there is no folder or file {self.name} here either") from error
        return read_folder(folder, wanted, progress)

    def provenance(self, folder: Path | None) -> str:
        """The id and, where it was downloaded, the revision."""
        return f"{self.name} of the hub" + (
            f", revision {revision(self.name)}" if folder is None else ", from a local copy"
        )


def find(name: str, folder: str | Path | None = None) -> tuple[Source, Path | None]:
    """(source, where its files are) for a registered name, a path that exists, or a hub id.

    Raises:
        UsageError: anything else, or a folder that holds no such data set.
    """
    if name in SOURCES.classes():
        source = SOURCES.make(name)
        return source, None if folder is None else source.place(Path(folder).expanduser())
    path = Path(name).expanduser()
    if name and _exists(path):
        if folder is not None and Path(folder).expanduser().resolve() != path.resolve():
            raise UsageError(f"{name} is a path, and data.dir (--data-dir) names another, {folder}; give one of them")
        return Folder(), path.resolve()
    if ID.fullmatch(name) and len(name) <= 200 and path.suffix.lower() not in ARCHIVES | PACKED | TABLES:
        made = HubData(name=name)
        return made, None if folder is None else made.place(Path(folder).expanduser())
    if name and folder is not None and _exists(below := Path(folder).expanduser() / name):
        return Folder(), below.resolve()
    if name.endswith(("/", "\\")) or name.startswith((".", "/", "~")):
        raise UsageError(f"there is no folder or file {name}")
    wrong = unknown("data set", name, SOURCES.classes())
    raise UsageError(
        f"{wrong}; the path of a folder or a hub id (owner/name) works too, and so does a zip, tar or parquet file"
    )


def locate(name: str, folder: str | Path | None = None) -> Path | None:
    """Where the files of a data set are, without reading them; None for one that is embedded or fetched from the hub.

    Args:
        name: a registered name, a path or a hub id, as `load` takes it.
        folder: `--data-dir`: the folder of the set, or the one that holds a folder of its name.

    Raises:
        UsageError: no such data set, or nothing there that could be images; the sentence names the places that were tried.
    """
    source, place = find(name, folder)
    if place is None and isinstance(source, Folder):
        raise UsageError(NOWHERE)
    if place is not None and isinstance(source, Local | Folder):
        check_place(place)
    return place


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a zero byte in it
        return False
