"""The logit cache: never trusted, never in the way, never larger than it may be."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from undistill.cli.options import BANK_GB
from undistill.data.augment import Crop
from undistill.data.image_set import ImageSet
from undistill.errors import RunError, UsageError
from undistill.oracle.logit_cache import SCHEMA, Entry, Held, LogitCache

ENTRY = 3 * 24 * (4 * 4 + 4)
"""Bytes of three passes over 24 images of 4 classes."""
HEX = "0123456789abcdef01234567"


def opened(bank: LogitCache, images: ImageSet, network: str = "ab", **changes: Any) -> Entry | None:
    how: dict[str, Any] = {"views": (Crop(padding=2),), "views_seed": 5, "precision": "fp32", "passes": 3, "classes": 4}
    how |= changes
    frozen: Any = SimpleNamespace(id=network, arithmetic=lambda _: how["precision"])
    batches: Any = SimpleNamespace(images=images, views=how["views"], views_seed=how["views_seed"], device=None)
    return bank.open(frozen, batches, how["classes"], how["passes"])


def entry_in(bank: LogitCache, images: ImageSet, network: str = "ab", **changes: Any) -> Entry:
    entry = opened(bank, images, network, **changes)
    assert entry is not None
    return entry


def answers(count: int = 24, seed: int = 0) -> Held:
    return Held(torch.arange(count), torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)))


def filled(bank: LogitCache, images: ImageSet, network: str = "ab", passes: int = 3) -> Path:
    """The folder of an entry that holds logits."""
    entry = entry_in(bank, images, network)
    for number in range(passes):
        entry.write(number, answers(seed=number))
    return entry.folder


def aged(folder: Path, hours: float) -> Path:
    then = time.time() - 3600 * hours
    os.utime(folder / "about.json", (then, then))
    return folder


@pytest.fixture
def bank(tmp_path: Path) -> LogitCache:
    return LogitCache(tmp_path / "bank")


# -- what is kept -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_to_the_bit(bank: LogitCache, images: ImageSet) -> None:
    held = Held(torch.tensor([5, 2, 23]), torch.randn(3, 4))
    entry_in(bank, images).write(7, held)
    found = entry_in(bank, images).read(7)
    assert found is not None
    assert torch.equal(found.index_M, held.index_M)
    assert torch.equal(found.logits_MC, held.logits_MC)
    assert found.index_M.dtype == torch.int64


def test_a_pass_that_nobody_wrote_is_not_there(
    bank: LogitCache, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    assert entry_in(bank, images).read(0) is None
    assert caplog.records == []


def test_an_entry_says_what_it_is_about(bank: LogitCache, images: ImageSet) -> None:
    about = json.loads((entry_in(bank, images).folder / "about.json").read_text())
    assert about == {
        "schema": SCHEMA,
        "network": "ab",
        "classes": 4,
        "source": images.fingerprint,
        "source_size": 24,
        "image_size": 8,
        "views": [{"name": "crop", "padding": 2}],
        "views_seed": 5,
        "precision": "fp32",
    }


def test_a_subset_and_labels_make_no_other_entry(bank: LogitCache, images: ImageSet) -> None:
    whole = entry_in(bank, images).folder
    assert entry_in(bank, images.take(torch.tensor([3, 1]))).folder == whole
    assert entry_in(bank, images.unlabelled()).folder == whole
    assert entry_in(bank, images, passes=1).folder == whole


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "cd"},
        {"views_seed": 6},
        {"views": (Crop(padding=1),)},
        {"views": ()},
        {"precision": "bf16"},
        {"classes": 5},
    ],
    ids=str,
)
def test_other_questions_make_another_entry(bank: LogitCache, images: ImageSet, changes: dict[str, Any]) -> None:
    assert entry_in(bank, images, **changes).folder != entry_in(bank, images).folder


def test_other_images_make_another_entry(
    bank: LogitCache, images: ImageSet, make_images: Callable[..., ImageSet]
) -> None:
    assert entry_in(bank, make_images(seed=1)).folder != entry_in(bank, images).folder
    assert entry_in(bank, images.seen_by(6)).folder != entry_in(bank, images).folder


def test_without_views_their_seed_does_not_matter(bank: LogitCache, images: ImageSet) -> None:
    assert (
        entry_in(bank, images, views=(), views_seed=1).folder == entry_in(bank, images, views=(), views_seed=2).folder
    )


def test_the_usual_bank_lies_in_the_users_cache() -> None:
    assert LogitCache().place == Path(os.environ["UNDISTILL_CACHE"]) / "bank"
    assert LogitCache.of("~/here").place == Path.home() / "here"


# -- damage -------------------------------------------------------------------------------------------------------------


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    return found


def rewritten(**changes: Any) -> Callable[[Path], bytes]:
    """A sound file with some of its tensors changed or, where None, missing; its checksum stays."""

    def content(path: Path) -> bytes:
        tensors = {name: change for name, change in {**tensors_of(path), **changes}.items() if change is not None}
        data: bytes = safetensors.torch.save(tensors)
        return data

    return content


def recounted(index: torch.Tensor, logits: torch.Tensor) -> Callable[[Path], bytes]:
    """A file whose checksum is right whatever it holds."""

    def content(path: Path) -> bytes:
        Entry(path.parent, {"classes": logits.shape[1], "source_size": 24}).write(9, Held(index, logits))
        return (path.parent / "00009.safetensors").read_bytes()

    return content


DAMAGE: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "cut in the header": lambda path: path.read_bytes()[:30],
    "cut in the answers": lambda path: path.read_bytes()[:-7],
    "longer": lambda path: path.read_bytes() + b"x",
    "a flipped bit": lambda path: (
        path.read_bytes()[:-100] + bytes([path.read_bytes()[-100] ^ 1]) + path.read_bytes()[-99:]
    ),
    "a pickle": lambda _: pickle.dumps({"index": [1], "logits": [2.0]}),
    "text": lambda _: b"not answers at all" * 20,
    "a huge header": lambda _: b"\xff" * 64,
    "no index": rewritten(index=None),
    "no logits": rewritten(logits=None),
    "no checksum": rewritten(sum=None),
    "half precision": rewritten(logits=torch.zeros(24, 4).half()),
    "long indices": rewritten(index=torch.arange(24)),
    "an index of two dimensions": rewritten(index=torch.zeros(24, 1, dtype=torch.int32)),
    "two checksums": rewritten(sum=torch.zeros(2, dtype=torch.int64)),
    "a checksum of another type": rewritten(sum=torch.zeros((), dtype=torch.float32)),
    "fewer rows": rewritten(logits=torch.zeros(23, 4)),
    "another checksum": rewritten(sum=torch.tensor(1)),
    "more classes": recounted(torch.arange(24), torch.zeros(24, 5)),
    "an image beyond the source": recounted(torch.arange(1, 25), torch.zeros(24, 4)),
    "an image below zero": recounted(torch.arange(24) - 1, torch.zeros(24, 4)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_counts_as_missing_with_a_warning(
    bank: LogitCache, images: ImageSet, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(bank, images) / "00001.safetensors"
    path.write_bytes(DAMAGE[damage](path))
    entry = entry_in(bank, images)
    assert entry.read(1) is None
    assert entry.read(1) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
    assert f"logit cache: {path} is damaged and is computed anew" in caplog.text
    assert entry.read(0) is not None
    entry.write(1, answers(seed=1))
    assert entry.read(1) is not None


def test_any_flipped_byte_is_found_and_never_raises(bank: LogitCache, images: ImageSet) -> None:
    entry, held = entry_in(bank, images), answers(3)
    entry.write(0, held)
    sound = entry.file(0).read_bytes()
    for place in range(len(sound)):
        for bit in (1, 0x80):
            entry.file(0).write_bytes(sound[:place] + bytes([sound[place] ^ bit]) + sound[place + 1 :])
            found = entry.read(0)
            assert found is None or (
                torch.equal(found.index_M, held.index_M) and torch.equal(found.logits_MC, held.logits_MC)
            ), place


def test_a_folder_in_place_of_a_file_counts_as_missing(bank: LogitCache, images: ImageSet) -> None:
    entry = entry_in(bank, images)
    entry.file(0).mkdir()
    assert entry.read(0) is None


# -- a disk that refuses ------------------------------------------------------------------------------------------------


def test_a_disk_that_refuses_is_told_of_once(
    bank: LogitCache, images: ImageSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Path] = []

    def full(path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise RunError(f"no space left to write {path}; free some, and go on with --resume")

    entry = entry_in(bank, images)
    monkeypatch.setattr("undistill.oracle.logit_cache.write_bytes", full)
    for number in range(3):
        entry.write(number, answers())
    assert len(tried) == 1
    said = f"logit cache: no space left to write {tried[0]}; outputs are computed each time"
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.mark.parametrize("below", [False, True])
def test_a_bank_whose_folder_is_a_file_keeps_nothing(
    tmp_path: Path, images: ImageSet, below: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("mine")
    assert opened(LogitCache(tmp_path / "file" / "bank" if below else tmp_path / "file"), images) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("logit cache: cannot write")
    assert caplog.messages[0].endswith("; outputs are computed each time")
    assert (tmp_path / "file").read_text() == "mine"


# -- the limit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gigabytes", [-1.0, -1e-12, math.nan, math.inf, -math.inf])
def test_a_limit_that_is_no_size_is_refused(gigabytes: float) -> None:
    with pytest.raises(
        UsageError, match=r"^the limit of the logit cache is a size in GB of at least 0, not -?(nan|inf|1|1e-12)$"
    ):
        LogitCache.of(None, gigabytes)


def test_a_limit_is_in_gigabytes() -> None:
    assert LogitCache.of(None, 2.5).limit == 2_500_000_000
    assert LogitCache.of().limit == LogitCache().limit == BANK_GB * 10**9 == 10**10


@pytest.mark.parametrize("limit", [0, ENTRY - 1])
def test_what_is_larger_than_the_limit_is_not_kept(tmp_path: Path, images: ImageSet, limit: int) -> None:
    assert opened(LogitCache(tmp_path / "bank", limit), images) is None
    assert not (tmp_path / "bank").exists()


def test_what_just_fits_is_kept(tmp_path: Path, images: ImageSet) -> None:
    assert opened(LogitCache(tmp_path / "bank", ENTRY), images) is not None


@pytest.fixture
def small(tmp_path: Path) -> LogitCache:
    """Room for two entries."""
    return LogitCache(tmp_path / "bank", 2 * ENTRY + 1000)


def test_the_entry_that_was_used_longest_ago_makes_room(small: LogitCache, images: ImageSet) -> None:
    first, second = (aged(filled(small, images, name), hours) for name, hours in (("ab", 3), ("cd", 2)))
    entry_in(small, images, "ef")
    assert not first.exists()
    assert second.exists()


def test_reading_keeps_an_entry(small: LogitCache, images: ImageSet) -> None:
    first, second = (aged(filled(small, images, name), hours) for name, hours in (("ab", 3), ("cd", 2)))
    assert entry_in(small, images, "ab").read(0) is not None
    entry_in(small, images, "ef")
    assert first.exists()
    assert not second.exists()


def test_an_entry_in_use_is_not_removed(small: LogitCache, images: ImageSet) -> None:
    folders = [filled(small, images, name) for name in ("ab", "cd")]
    assert opened(small, images, "ef") is None
    assert all(folder.exists() for folder in folders)
    assert opened(small, images, "ab") is not None


def test_room_is_not_made_in_vain(small: LogitCache, images: ImageSet) -> None:
    old = aged(filled(small, images, "ab"), 3)
    assert opened(small, images, "ef", passes=100) is None
    filled(small, images, "cd")
    assert opened(small, images, "ef", passes=4) is None
    assert old.exists()


def test_what_the_disk_does_not_hold_is_not_kept(
    bank: LogitCache, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert opened(bank, images) is None


def test_nothing_but_what_the_cache_writes_is_ever_removed(small: LogitCache, images: ImageSet) -> None:
    foreign = small.place / HEX
    foreign.mkdir(parents=True)
    (foreign / "about.json").write_text(json.dumps({"schema": SCHEMA, "network": "mine"}))
    (foreign / "00000.safetensors").write_bytes(b"x" * 3 * ENTRY)
    old = aged(filled(small, images, "ab"), 3)
    (old / "notes.txt").write_text("mine")
    filled(small, images, "cd")
    assert opened(small, images, "ef") is not None
    assert [path.name for path in old.iterdir()] == ["notes.txt"]
    assert len(list(foreign.iterdir())) == 2
    assert foreign not in small.entries()


def test_an_entry_that_is_removed_under_way_is_begun_again(bank: LogitCache, images: ImageSet) -> None:
    entry = entry_in(bank, images)
    bank.remove(entry.folder)
    assert not entry.folder.exists()
    entry.write(0, answers())
    assert entry.read(0) is not None
    assert list(bank.entries()) == [entry.folder]
