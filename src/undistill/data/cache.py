"""Images on disk: decoded and memory-mapped, or encoded where they are too many; written once, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from undistill.data.decode import Shape
from undistill.data.encoded import Encoded, starts
from undistill.data.image_set import HASH, ImageSet, check_labels, fingerprint_of, hash_of
from undistill.errors import RunError, UsageError
from undistill.files import cache_root, exclusive, write_bytes, writing

SCHEMA = 1


def stats_of(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """(resolved path, size, time) of each file, in the order of their names; UsageError for one that has just gone."""
    stats = []
    for file in sorted(files):
        try:
            stat = file.stat()
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
        stats.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return stats


def key_from(stats: list[tuple[str, int, int]], extra: dict[str, Any]) -> str:
    """A name for what these files decode to: from the path, size and time of each, and how they are read."""
    return hashlib.sha256(json.dumps([SCHEMA, stats, extra], sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Kept:
    """Splits as they lie in the cache, and how many images were left out of them as corrupt."""

    splits: dict[str, ImageSet]
    corrupt: int = 0


def read(key: str) -> Kept | None:
    """The splits under `key`, memory-mapped, and what was left out; None if there are none or they are damaged."""
    folder = cache_root() / "images" / key
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        splits = {str(name): _read_split(folder, str(name), entry) for name, entry in meta["splits"].items()}
        corrupt = int(meta.get("corrupt", 0))
    except Exception:  # noqa: BLE001  readers of damaged files raise nearly anything, and whatever it is, the answer is "decode again"
        return None
    return Kept(splits, corrupt) if splits else None


def _read_split(folder: Path, name: str, entry: dict[str, Any]) -> ImageSet:
    labels = np.load(folder / f"{name}.labels.npy", allow_pickle=False)
    pixels = _encoded(folder, name, entry) if "form" in entry else _decoded(folder, name)
    if list(pixels.shape) != entry["shape"] or labels.dtype != np.int64 or labels.ndim != 1:
        raise ValueError("shape")
    names = entry["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class names")
    if not isinstance(entry["fingerprint"], str):
        raise TypeError("fingerprint")
    images = ImageSet.of(pixels, torch.from_numpy(labels), tuple(names))
    images.__dict__["fingerprint"] = entry["fingerprint"]
    if (folder / f"{name}.hashes.npy").exists():  # entries of earlier versions have none
        hashes = np.load(folder / f"{name}.hashes.npy", allow_pickle=False)
        if hashes.shape != (len(images),) or hashes.dtype != HASH:
            raise ValueError("hashes")
        images.__dict__["hashes_N"] = hashes
    return images


def _decoded(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.images.npy", mmap_mode="c", allow_pickle=False))


def _encoded(folder: Path, name: str, entry: dict[str, Any]) -> Encoded:
    """Images whose file holds as many bytes as their places say."""
    channels, stored, low, high = entry["form"]
    file, start_N1 = folder / f"{name}.encoded", np.load(folder / f"{name}.starts.npy", allow_pickle=False)
    if start_N1.dtype != np.int64 or start_N1.ndim != 1 or start_N1[0] != 0 or (np.diff(start_N1) < 0).any():
        raise ValueError("places")
    if file.stat().st_size != start_N1[-1]:
        raise ValueError("size")
    return Encoded(file, start_N1, Shape(int(channels), int(stored), (float(low), float(high))))


def read_or_make(key: str, source: str, fill: Callable[[Store], None]) -> Kept:
    """`read`, after `fill` has written the splits where there are none; waits while another process writes the same.

    Raises:
        RunError: the cache cannot be written, or what was written cannot be read.
    """
    if (kept := read(key)) is None:
        place = cache_root() / "images" / key
        with exclusive(place):
            if (kept := read(key)) is None:
                _make(place, source, fill)
                kept = read(key)
    if kept is None:
        raise RunError(
            f"the images just decoded into {cache_root()} cannot be read back; free some space and try again"
        )
    return kept


def _make(place: Path, source: str, fill: Callable[[Store], None]) -> None:
    """Fill a temporary folder beside `place`, and rename it to that. Its key is locked by this process."""
    folder = place.with_name(f".{place.name}-part")
    with writing(place.parent):
        shutil.rmtree(folder, ignore_errors=True)
        _sweep(place.parent)
        folder.mkdir()
        try:
            store = Store(folder, {"schema": SCHEMA, "source": source, "splits": {}})
            fill(store)
            (folder / "meta.json").write_text(json.dumps(store.meta, indent=1), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            folder.rename(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove half-decoded folders of processes that died: those whose key no process holds."""
    for folder in root.glob(".*-*"):
        key = folder.name[1:].partition("-")[0]
        with exclusive(root / key, wait=False) as left:
            if left and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Store:
    """An entry on its way into the cache."""

    folder: Path
    meta: dict[str, Any]

    @contextlib.contextmanager
    def encoded(self, name: str, class_names: tuple[str, ...], form: Shape, most: int) -> Iterator[EncodedPart]:
        """Take up to `most` encoded images, one by one, straight to disk."""
        path, side = self.folder / f"{name}.encoded", form.stored
        with path.open("wb") as file:
            part = EncodedPart(file, hashlib.sha256(repr(((most, form.channels, side, side), class_names)).encode()))
            yield part
        check_labels(torch.tensor(part.labels), class_names)
        labels, start_N1 = np.array(part.labels, np.int64), starts(part.sizes)
        for kind, array in (("labels", labels), ("hashes", np.array(part.hashes, HASH)), ("starts", start_N1)):
            np.save(self.folder / f"{name}.{kind}.npy", array, allow_pickle=False)
        part.digest.update(labels.data)
        images = ImageSet.of(Encoded(path, start_N1, form), torch.from_numpy(labels), class_names)
        digest = part.digest.hexdigest()[:16] if len(labels) == most else images.fingerprint  # some were corrupt
        entry = {"shape": list(images.images_NCHW.shape), "class_names": list(class_names), "fingerprint": digest}
        self.meta["splits"][name] = {**entry, "form": [form.channels, side, *form.values]}

    @contextlib.contextmanager
    def split(self, name: str, class_names: tuple[str, ...], shape: tuple[int, ...], most: int) -> Iterator[Part]:
        """Take up to `most` images of C × H × W, one by one, straight to disk."""
        path = self.folder / f"{name}.images.npy"
        with path.open("w+b") as file:
            part = Part(file, shape)
            start = part.header(most)
            yield part
            if part.header(len(part.labels)) != start:
                raise RunError(f"cannot write {path}: its header changed its length")
            file.flush()
            check_labels(torch.tensor(part.labels), class_names)
            np.save(self.folder / f"{name}.labels.npy", np.array(part.labels, np.int64), allow_pickle=False)
            np.save(self.folder / f"{name}.hashes.npy", np.array(part.hashes, HASH), allow_pickle=False)
            file.seek(start)
            chunks = iter(lambda: file.read(1 << 20), b"")
            whole = (len(part.labels), *shape)
            digest = fingerprint_of(whole, class_names, chunks, np.array(part.labels, np.int64))
        self.meta["splits"][name] = {"shape": list(whole), "class_names": list(class_names), "fingerprint": digest}

    def add(self, name: str, images: ImageSet) -> None:
        """A split that is decoded already."""
        shape = tuple(images.images_NCHW.shape[1:])
        with self.split(name, images.class_names, shape, len(images)) as part:
            for pixels, label in zip(images.images_NCHW[:].numpy(), images.labels_N.tolist(), strict=True):
                part.add(pixels, label)


@dataclass
class EncodedPart:
    """A split of images that stay encoded: their pixels are looked at once, for hashes and fingerprint, and dropped."""

    file: Any
    digest: Any
    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def add(self, content: bytes, pixels: NDArray[Any], label: int) -> None:
        """The next image, encoded and decoded."""
        self.file.write(content)
        self.sizes.append(len(content))
        seen = np.ascontiguousarray(pixels).tobytes()
        self.digest.update(seen)
        self.hashes.append(hash_of(seen))
        self.labels.append(label)


@dataclass
class Part:
    """A split on its way: written, not mapped, because a full disk is an error here and a killed process there."""

    file: Any
    shape: tuple[int, ...]
    labels: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def header(self, count: int) -> int:
        """Write NumPy's header for `count` images at the front, and return its length."""
        self.file.seek(0)
        layout = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, layout)
        return self.file.tell()

    def add(self, pixels: NDArray[Any], label: int) -> None:
        """The next image."""
        content = np.ascontiguousarray(pixels).tobytes()
        self.file.write(content)
        self.hashes.append(hash_of(content))
        self.labels.append(label)


def read_note(key: str) -> bytes | None:
    """A small file kept under `key`, or None."""
    try:
        return (cache_root() / "notes" / key).read_bytes()
    except OSError:
        return None


def write_note(key: str, content: bytes) -> None:
    """Keep a small file under `key`."""
    write_bytes(cache_root() / "notes" / key, content)


WRITTEN = re.compile(r"meta\.json|.+\.(images|labels|hashes|starts|counts)\.npy|.+\.encoded")
"""The files of an entry."""
KEY = re.compile(r"[0-9a-f]{24}")


def entries() -> dict[str, int]:
    """Bytes of each set of images in the cache, by key."""
    folders = [meta.parent for meta in (cache_root() / "images").glob("*/meta.json") if KEY.fullmatch(meta.parent.name)]
    return {folder.name: sum(file.stat().st_size for file in _files(folder)) for folder in sorted(folders)}


def remove(key: str) -> None:
    """Remove one set of images, and nothing that this cache did not write; it is made again when it is needed.

    A process that has the images mapped keeps them.
    """
    folder = cache_root() / "images" / key
    if not KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no key of the cache")
    for file in sorted(
        _files(folder), key=lambda file: file.name == "meta.json"
    ):  # that one marks the entry, and goes last
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another file is in it
        folder.rmdir()
    with contextlib.suppress(OSError):
        folder.with_name(f".{key}.lock").unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if WRITTEN.fullmatch(file.name) and file.is_file()]
