"""Decoded images on disk: what was written is read, what is damaged is not there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from undistill.data import cache
from undistill.data.image_set import ImageSet

DAMAGE: dict[str, Callable[[Path], object]] = {
    "pixels cut": lambda folder: os.truncate(folder / "train.images.npy", 500),
    "labels cut": lambda folder: os.truncate(folder / "train.labels.npy", 200),
    "pixels of another shape": lambda folder: np.save(folder / "train.images.npy", np.zeros((2, 3, 8, 8), np.uint8)),
    "labels of another count": lambda folder: np.save(folder / "train.labels.npy", np.array([0, 1])),
    "labels pickled": lambda folder: (folder / "train.labels.npy").write_bytes(pickle.dumps([0, 1])),
    "pixels gone": lambda folder: (folder / "train.images.npy").unlink(),
    "list cut": lambda folder: os.truncate(folder / "meta.json", 20),
    "list gone": lambda folder: (folder / "meta.json").unlink(),
    "list without splits": lambda folder: (folder / "meta.json").write_text("{}"),
}
MORE_DAMAGE: dict[str, Callable[[Path], object]] = {
    "pixels empty": lambda folder: os.truncate(folder / "train.images.npy", 0),
    "labels empty": lambda folder: os.truncate(folder / "train.labels.npy", 0),
    "list of another kind": lambda folder: (folder / "meta.json").write_text("[]"),
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read(images: ImageSet, make_images: Callable[..., ImageSet]) -> None:
    cache.write("key", {"train": images, "test": make_images(8, channels=1)}, "made up")
    kept = cache.read("key")
    assert kept is not None
    assert list(kept) == ["train", "test"]
    assert torch.equal(kept["train"].images_NCHW, images.images_NCHW)
    assert torch.equal(kept["train"].labels_N, images.labels_N)
    assert kept["train"].class_names == images.class_names
    assert kept["test"].channels == 1


def test_a_kept_set_brings_its_fingerprint_along(images: ImageSet) -> None:
    cache.write("key", {"train": images}, "made up")
    kept = (cache.read("key") or {})["train"]
    assert kept.__dict__["fingerprint"] == images.fingerprint


def test_what_was_never_written_is_not_there() -> None:
    assert cache.read("key") is None


def test_changing_images_in_memory_leaves_the_cache_alone(images: ImageSet) -> None:
    cache.write("key", {"train": images}, "made up")
    (cache.read("key") or {})["train"].images_NCHW.zero_()
    assert torch.equal((cache.read("key") or {})["train"].images_NCHW, images.images_NCHW)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_reads_as_nothing(images: ImageSet, root: Path, damage: Callable[[Path], object]) -> None:
    cache.write("key", {"train": images}, "made up")
    damage(root / "images" / "key")
    assert cache.read("key") is None


@pytest.mark.parametrize("damage", MORE_DAMAGE.values(), ids=MORE_DAMAGE)
def test_more_damage_reads_as_nothing(images: ImageSet, root: Path, damage: Callable[[Path], object]) -> None:
    cache.write("key", {"train": images}, "made up")
    damage(root / "images" / "key")
    assert cache.read("key") is None


def test_writing_again_replaces_and_leaves_nothing_behind(images: ImageSet, root: Path) -> None:
    cache.write("key", {"train": images, "test": images}, "made up")
    cache.write("key", {"train": images}, "made up")
    assert list(cache.read("key") or {}) == ["train"]
    assert [path.name for path in (root / "images").iterdir() if path.is_dir()] == ["key"]


def test_a_killed_process_leaves_nothing_that_is_read(
    images: ImageSet, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: os._exit(9))
    if (child := os.fork()) == 0:
        cache.write("key", {"train": images}, "made up")
    os.waitpid(child, 0)
    assert cache.read("key") is None


def test_a_key_follows_path_size_time_and_reading(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    os.utime(file, ns=(10, 10))
    keys = [cache.key_of([file], {}), cache.key_of([file], {"column": "img"})]
    os.utime(file, ns=(10, 11))
    keys.append(cache.key_of([file], {}))
    file.write_bytes(b"12")
    os.utime(file, ns=(10, 10))
    keys.append(cache.key_of([file], {}))
    keys.append(cache.key_of([file.rename(tmp_path / "other")], {}))
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_follow_the_order_of_files(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.touch()
    assert cache.key_of(files, {}) == cache.key_of(files[::-1], {})


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("UNDISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_root() == Path("/x/undistill")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path.home() / ".cache" / "undistill"
