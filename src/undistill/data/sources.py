"""Where images come from: a name, a hub id, a folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from undistill.data import cache
from undistill.data.decode import Wanted
from undistill.data.folder_dataset import Found, Outlook, Progress, check_place, is_set, look, read_folder
from undistill.data.image_set import ImageSet
from undistill.data.listing import ARCHIVES, PACKED, TABLES, listed
from undistill.errors import RunError, UsageError, unknown
from undistill.files import cache_root, read_json, write_json
from undistill.registry import Component, Registry

__all__ = ["SOURCES", "Found", "Progress", "Source", "Wanted", "find", "locate"]

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name`."""
NOWHERE = "the data set 'folder' needs to know where: give data.dir (--data-dir), or the path as --data"


class Source(Component):
    """A data set by name. `sizes` are the parts that its recipes set aside by default."""

    note: ClassVar[str] = ""
    recipe: ClassVar[str]
    sizes: ClassVar[dict[str, float | int]] = {}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """`train`, and `test` and `val` where the source has them."""
        raise NotImplementedError

    def look(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Outlook | None:
        """What it holds, undecoded; None for one that is embedded, or not on this machine yet."""
        return None if folder is None else look(folder, wanted, progress)

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
    """1,797 handwritten digits, 8 × 8 gray, in scikit-learn (Alpaydin & Kaynak 1998, UCI; the optical test set). No download."""

    name: Literal["digits"] = "digits"
    note = "scikit-learn's digits, 1,797 images"
    recipe = "digits"
    sizes: ClassVar[dict[str, float | int]] = {"test": 497, "pool": 400, "val": 90}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """One split; the recipe carves a test set."""
        if folder is not None:
            raise UsageError("digits is embedded and reads no --data-dir")
        own = Wanted(size=8, stored=8, channels=1)  # a model of these images may ask for just that
        asked = {name: value for name, value in vars(wanted).items() if name not in ("skip_corrupt", "memory")}
        if any(value not in (None, getattr(own, name)) for name, value in asked.items()):
            raise UsageError(
                "digits is embedded, 8 × 8 gray: it takes no other data.size, stored, channels, and no columns"
            )
        key = cache.key_from([], {"source": "digits"})
        return Found(cache.read_or_make(key, "scikit-learn digits", _digits).splits)


def _digits(store: cache.Store) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    store.add("train", ImageSet.of(torch.from_numpy(pixels), labels, tuple(str(d) for d in range(10))))


class HubData(Local):
    """Any data set of the hub, by `owner/name`: downloaded, or from a local folder that holds the same files."""

    name: str
    recipe = "folder"
    sizes: ClassVar[dict[str, float | int]] = {"test": 0.2, "val": 0.1}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """Decoded splits; from the cache when no file has changed."""
        if folder is None:
            try:
                folder = download(self.name, progress)
            except RunError as error:
                raise RunError(f"{error}; there is no folder or file {self.name} here either") from error
        return read_folder(folder, wanted, progress)

    def look(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Outlook | None:
        """Its local copy, if there is one."""
        return super().look(folder or _fetched(self.name), wanted, progress)

    def provenance(self, folder: Path | None) -> str:
        """The id and, where it was downloaded, the revision."""
        revision = _fetched(self.name) if folder is None else None
        text = f", revision {revision.name[:12] if revision else ''}" if folder is None else ", from a local copy"
        return f"{self.name} of the hub{text}"


class HubSource(Local):
    """A data set of the hub by a name of ours, with the columns of its images and labels."""

    hub_id: ClassVar[str]
    columns: ClassVar[tuple[str, str]]
    sizes: ClassVar[dict[str, float | int]] = {"val": 0.1}

    def read(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Found:
        """Decoded splits; from the cache when no file has changed. Settings are written down only where they were given."""
        folder = download(self.hub_id, progress) if folder is None else folder
        found = read_folder(folder, replace(wanted, usual_columns=self.columns), progress)
        if "test" not in found.splits:
            raise UsageError(f"{folder} has no split 'test'; there are {', '.join(found.splits)}")
        given = {name for name, value in vars(wanted).items() if value not in (None, False)}
        return replace(found, settings={name: value for name, value in found.settings.items() if name in given})

    def look(self, folder: Path | None, wanted: Wanted, progress: Progress) -> Outlook | None:
        """Its local copy, if there is one."""
        return super().look(folder or _fetched(self.hub_id), replace(wanted, usual_columns=self.columns), progress)


@SOURCES.register
class CIFAR10(HubSource):
    """60,000 colour images of 32 × 32 pixels in 10 classes (Krizhevsky 2009), the official 50,000/10,000 split."""

    name: Literal["cifar10"] = "cifar10"
    note = "CIFAR-10"
    recipe = "fast-cifar10"
    hub_id = "uoft-cs/cifar10"
    columns = ("img", "label")


@SOURCES.register
class CIFAR100(HubSource):
    """60,000 colour images of 32 × 32 pixels in 100 classes (Krizhevsky 2009), the official 50,000/10,000 split."""

    name: Literal["cifar100"] = "cifar100"
    note = "CIFAR-100, fine labels"
    recipe = "fast-cifar100"
    hub_id = "uoft-cs/cifar100"
    columns = ("img", "fine_label")


@SOURCES.register
class TinyImageNet(HubSource):
    """110,000 photos of 64 × 64 pixels in 200 classes (Le & Yang 2015); its labelled validation split is the test split here."""

    name: Literal["tiny-imagenet"] = "tiny-imagenet"
    note = "Tiny-ImageNet; test is its validation split"
    recipe = "paper-tiny-imagenet"
    hub_id = "zh-plus/tiny-imagenet"
    columns = ("image", "label")


@SOURCES.register
class Folder(Source):
    """Any folder, zip, tar or parquet file on this machine: class folders or a Hugging Face data set. `data.dir` says where."""

    name: Literal["folder"] = "folder"
    note = "images of one's own"
    recipe = "folder"
    sizes: ClassVar[dict[str, float | int]] = HubData.sizes

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


# -- the hub ------------------------------------------------------------------------------------------------------------


def download(hub_id: str, progress: Progress) -> Path:
    """The folder of the hub's files of a data set, named as their revision; fetched once, then found without a network.

    Raises:
        RunError: it cannot be had; the sentence says whether the network, the id or the permission is missing.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if (kept := _fetched(hub_id)) is not None:
        return kept
    progress(f"fetching {hub_id} from the hub", 0, None)
    try:
        folder = Path(snapshot_download(hub_id, repo_type="dataset"))
    except GatedRepoError as error:
        raise RunError(
            f"{hub_id} is gated: accept its terms on the hub and log in with `hf auth login`, or give a local copy with --data-dir"
        ) from error
    except RepositoryNotFoundError as error:
        raise RunError(
            f"the hub has no data set {hub_id!r}, or it is private: check the id, or log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"cannot fetch {hub_id} from the hub ({type(error).__name__}); give a local copy with --data-dir"
        ) from error
    write_json(_marker(hub_id), {"folder": str(folder), "revision": folder.name})  # behind a whole download only
    return folder


def _marker(hub_id: str) -> Path:
    return cache_root() / "hub" / f"{hub_id.replace('/', '--')}.json"


def _fetched(hub_id: str) -> Path | None:
    """The folder that was downloaded; None where none was, or it is gone."""
    try:
        values: Any = read_json(_marker(hub_id))
        folder = Path(values["folder"])
    except (RunError, KeyError, TypeError):
        return None
    return folder if folder.is_dir() else None
