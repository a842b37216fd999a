"""Decoded images on disk: what was written is read, what is damaged is not there."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from undistill.data import cache
from undistill.data.image_set import ImageSet
from undistill.files import cache_root, exclusive

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
    "pixels empty": lambda folder: os.truncate(folder / "train.images.npy", 0),
    "labels empty": lambda folder: os.truncate(folder / "train.labels.npy", 0),
    "list of another kind": lambda folder: (folder / "meta.json").write_text("[]"),
}


def write(splits: dict[str, ImageSet], key: str = "key") -> cache.Kept:
    def fill(store: cache.Store) -> None:
        for name, images in splits.items():
            store.add(name, images)

    return cache.read_or_make(key, "made up", fill)


def read() -> dict[str, ImageSet]:
    kept = cache.read("key")
    return {} if kept is None else kept.splits


def test_what_was_written_is_read(images: ImageSet, make_images: Callable[..., ImageSet], root: Path) -> None:
    assert cache.read("key") is None
    write({"train": images, "test": make_images(8, channels=1)})
    assert list(read()) == ["train", "test"]
    assert torch.equal(read()["train"].images_NCHW[:], images.images_NCHW[:])
    assert torch.equal(read()["train"].labels_N, images.labels_N)
    assert read()["train"].class_names == images.class_names
    assert read()["test"].channels == 1
    assert read()["train"].__dict__["fingerprint"] == images.fingerprint
    assert {path.name for path in (root / "images").iterdir()} == {"key", ".key.lock"}


def test_changing_images_in_memory_leaves_the_cache_alone(images: ImageSet) -> None:
    write({"train": images})
    read()["train"].images_NCHW[:].zero_()
    assert torch.equal(read()["train"].images_NCHW[:], images.images_NCHW[:])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_made_again(images: ImageSet, root: Path, damage: Callable[[Path], object]) -> None:
    write({"train": images, "test": images})
    damage(root / "images" / "key")
    assert cache.read("key") is None
    write({"train": images})
    assert list(read()) == ["train"]


def test_what_a_killed_process_left_is_not_read_and_goes(
    images: ImageSet, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: os._exit(9))
        if (child := os.fork()) == 0:
            write({"train": images})
    os.waitpid(child, 0)
    assert cache.read("key") is None
    assert (root / "images" / ".key-part").exists()
    write({"train": images}, "another")
    assert not (root / "images" / ".key-part").exists()


def test_processes_that_need_the_same_images_wait_for_each_other(images: ImageSet, root: Path) -> None:
    """The second finds what the first has decoded meanwhile, and decodes nothing."""
    with exclusive(root / "images" / "key"):
        waiting = threading.Thread(target=write, args=({"test": images},))
        waiting.start()
        cache._make(root / "images" / "key", "made up", lambda store: store.add("train", images))
    waiting.join()
    assert list(read()) == ["train"]


def test_a_key_follows_path_size_time_and_reading(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    os.utime(file, ns=(10, 10))
    keys = [cache.key_from(cache.stats_of([file]), {}), cache.key_from(cache.stats_of([file]), {"column": "img"})]
    os.utime(file, ns=(10, 11))
    keys.append(cache.key_from(cache.stats_of([file]), {}))
    file.write_bytes(b"12")
    os.utime(file, ns=(10, 10))
    keys.append(cache.key_from(cache.stats_of([file]), {}))
    keys.append(cache.key_from(cache.stats_of([file.rename(tmp_path / "other")]), {}))
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_follow_the_order_of_files(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.touch()
    assert cache.key_from(cache.stats_of(files), {}) == cache.key_from(cache.stats_of(files[::-1]), {})


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("UNDISTILL_CACHE")
    if sys.platform != "linux":
        return
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_root() == Path("/x/undistill")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "undistill"
