"""The bank: a folder of answers that is never trusted, never in the way, and never larger than it may be."""

from __future__ import annotations

import fcntl
import json
import logging
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
from undistill.oracle.entry import Entry, Held, in_bytes
from undistill.oracle.logit_cache import MARGIN, SCHEMA, Bank

VIEWS = (Crop(padding=2),)
ENTRY = 3 * 24 * (4 * 4 + 4)
"""Bytes asked for three passes over 24 images of 4 classes."""
HEX = "0123456789abcdef01234567"


def opened(bank: Bank, images: ImageSet, network: str = "ab", **changes: Any) -> Entry | None:
    settings: dict[str, Any] = {"views": VIEWS, "views_seed": 5, "precision": "fp32", "passes": 3, "classes": 4}
    return bank.open(network, images=images, **settings | changes)


def entry_in(bank: Bank, images: ImageSet, network: str = "ab", **changes: Any) -> Entry:
    entry = opened(bank, images, network, **changes)
    assert entry is not None
    return entry


def answers(count: int = 24, seed: int = 0) -> Held:
    return Held(torch.arange(count), torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)))


def filled(bank: Bank, images: ImageSet, network: str = "ab", passes: int = 3) -> Path:
    """The folder of an entry that holds answers and that nobody uses."""
    entry = entry_in(bank, images, network)
    for number in range(passes):
        entry.write(number, answers(seed=number))
    return entry.folder


def aged(folder: Path, hours: float) -> Path:
    then = time.time() - 3600 * hours
    os.utime(folder / "about.json", (then, then))
    return folder


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path / "bank")


# -- what is kept -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_to_the_bit(bank: Bank, images: ImageSet) -> None:
    held = Held(torch.tensor([5, 2, 23]), torch.randn(3, 4))
    entry_in(bank, images).write(7, held)
    found = entry_in(bank, images).read(7)
    assert found is not None
    assert torch.equal(found.index_M, held.index_M)
    assert torch.equal(found.logits_MC, held.logits_MC)
    assert found.index_M.dtype == torch.int64


def test_a_pass_that_nobody_wrote_is_not_there(bank: Bank, images: ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    assert entry_in(bank, images).read(0) is None
    assert caplog.records == []


def test_an_entry_says_what_it_is_about(bank: Bank, images: ImageSet) -> None:
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
        "reserved": ENTRY,
    }


def test_a_subset_and_labels_make_no_other_entry(bank: Bank, images: ImageSet) -> None:
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
def test_other_questions_make_another_entry(bank: Bank, images: ImageSet, changes: dict[str, Any]) -> None:
    assert entry_in(bank, images, **changes).folder != entry_in(bank, images).folder


def test_other_images_make_another_entry(bank: Bank, images: ImageSet, make_images: Callable[..., ImageSet]) -> None:
    assert entry_in(bank, make_images(seed=1)).folder != entry_in(bank, images).folder
    assert entry_in(bank, images.seen_by(6)).folder != entry_in(bank, images).folder


def test_without_views_their_seed_does_not_matter(bank: Bank, images: ImageSet) -> None:
    assert (
        entry_in(bank, images, views=(), views_seed=1).folder == entry_in(bank, images, views=(), views_seed=2).folder
    )


def test_the_usual_bank_lies_in_the_users_cache() -> None:
    assert Bank().place == Path(os.environ["UNDISTILL_CACHE"]) / "bank"
    assert Bank.of("~/here").place == Path.home() / "here"


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
        Entry(path.parent, logits.shape[1], 24).write(9, Held(index, logits))
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
    bank: Bank, images: ImageSet, damage: str, caplog: pytest.LogCaptureFixture
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


def test_any_flipped_byte_is_found_and_never_raises(bank: Bank, images: ImageSet) -> None:
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


def test_a_folder_in_place_of_a_file_counts_as_missing(bank: Bank, images: ImageSet) -> None:
    entry = entry_in(bank, images)
    entry.file(0).mkdir()
    assert entry.read(0) is None


# -- a disk that refuses ------------------------------------------------------------------------------------------------


def test_a_disk_that_refuses_is_told_of_once(
    bank: Bank, images: ImageSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Path] = []

    def full(path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise RunError(f"no space left to write {path}; free some, and go on with --resume")

    entry = entry_in(bank, images)
    monkeypatch.setattr("undistill.oracle.entry.write_bytes", full)
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
    assert opened(Bank(tmp_path / "file" / "bank" if below else tmp_path / "file"), images) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("logit cache: cannot write")
    assert caplog.messages[0].endswith("; outputs are computed each time")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_takes_no_file_keeps_nothing(
    bank: Bank, images: ImageSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("undistill.oracle.entry.os.open", refuse)
    assert opened(bank, images) is None
    assert "Permission denied; outputs are computed each time" in caplog.text


def test_a_pass_that_cannot_be_claimed_is_everybodys(
    bank: Bank, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_in(bank, images)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("undistill.oracle.entry.os.open", refuse)
    with entry.claim(0) as mine:
        assert mine


# -- the limit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gigabytes", [-1.0, -1e-12, math.nan, math.inf, -math.inf])
def test_a_limit_that_is_no_size_is_refused(gigabytes: float) -> None:
    with pytest.raises(
        UsageError, match=r"^the limit of the logit cache is a size in GB of at least 0, not -?(nan|inf|1|1e-12)$"
    ):
        Bank.of(None, gigabytes)


def test_a_limit_is_in_gigabytes() -> None:
    assert Bank.of(None, 2.5).limit == 2_500_000_000
    assert Bank.of().limit == Bank().limit == BANK_GB * 10**9 == 10**10


@pytest.mark.parametrize("limit", [0, ENTRY - 1])
def test_what_is_larger_than_the_limit_is_not_kept(tmp_path: Path, images: ImageSet, limit: int) -> None:
    assert opened(Bank(tmp_path / "bank", limit), images) is None
    assert not (tmp_path / "bank").exists()


def test_what_just_fits_is_kept(tmp_path: Path, images: ImageSet) -> None:
    assert opened(Bank(tmp_path / "bank", ENTRY), images) is not None


def test_an_entry_over_the_limit_is_told_of(tmp_path: Path, images: ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "undistill")
    opened(Bank(tmp_path / "bank", 1000), images)
    said = "logit cache: 1.44 kB of outputs are more than the limit of 1 kB, so they are computed each time"
    assert caplog.messages == [said]


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1440, "1.44 kB"), (352e6, "352 MB"), (32.1e9, "32.1 GB")]
)
def test_sizes_are_told_for_people(size: float, words: str) -> None:
    assert in_bytes(size) == words


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_entry_that_was_used_longest_ago_makes_room(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    old, older, young = (aged(filled(bank, images, name), hours) for name, hours in (("a", 2), ("b", 3), ("c", 1)))
    limit = size_of(old) + size_of(young) + ENTRY
    assert opened(Bank(bank.folder, limit), images, "new") is not None
    assert (old.exists(), older.exists(), young.exists()) == (True, False, True)


def test_using_an_entry_makes_it_young(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    one, two = (aged(filled(bank, images, name), 5) for name in "ab")
    entry_in(bank, images, "a")
    assert opened(Bank(bank.folder, size_of(one) + ENTRY), images, "new") is not None
    assert (one.exists(), two.exists()) == (True, False)


def test_an_entry_in_use_is_not_removed(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    folder = aged(filled(bank, images, "a"), 5)
    using = entry_in(bank, images, "a")
    tight = Bank(bank.folder, ENTRY)
    assert opened(tight, images, "new") is None
    assert using.read(2) is not None
    del using
    assert opened(tight, images, "new") is not None  # the control: it was its use alone that kept it
    assert not folder.exists()


def test_what_is_refused_for_want_of_room_goes_on_with_its_own_entry(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank", ENTRY)
    folder = filled(bank, images)
    assert entry_in(bank, images).read(2) is not None  # its own answers are no other's in its way
    assert folder.exists()


def test_room_is_not_made_in_vain(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    idle, used = (aged(filled(bank, images, name), 5) for name in "ab")
    using = entry_in(bank, images, "b")
    assert opened(Bank(bank.folder, ENTRY - 1), images, "new") is None
    assert idle.exists()
    assert using.folder == used


def test_what_others_have_reserved_is_taken(tmp_path: Path, images: ImageSet) -> None:
    """An entry that is still being filled takes what it will take."""
    bank = Bank(tmp_path / "bank", 2 * ENTRY - 1)
    first = opened(bank, images, "a")
    assert first is not None
    assert opened(bank, images, "b") is None
    assert opened(bank, images, "a") is not None  # the same entry is reserved once
    assert opened(Bank(bank.folder, 2 * ENTRY), images, "b") is not None  # the control


def test_what_the_disk_does_not_hold_is_not_kept(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "undistill")
    kept = aged(filled(Bank(tmp_path / "bank"), images, "old"), 5)
    caplog.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=MARGIN + ENTRY - 1))
    assert opened(Bank(tmp_path / "bank"), images) is None
    said = "logit cache: 1.44 kB of outputs are more than the 100 MB left on the disk, so they are computed each time"
    assert caplog.messages == [said]
    assert kept.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=MARGIN + ENTRY))
    assert opened(Bank(tmp_path / "bank"), images) is not None


def test_nothing_but_what_a_bank_writes_is_ever_removed(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    entry = aged(filled(bank, images), 9)
    foreign = {
        "notes.txt": "mine",
        "about.json": "{}",
        "00000.safetensors": "mine",
        "models/about.json": json.dumps({"schema": SCHEMA}),
        "models/00000.safetensors": "mine",
        f"{HEX}/thesis.tex": "mine",
        f"{HEX[::-1]}/about.json": json.dumps({"schema": SCHEMA, "network": "ab"}),
        f"{HEX[::-1]}/00000.safetensors": "mine",
        f"{HEX[:-1]}f/about.json": "damaged",
        f"{HEX[:-1]}f/.use": "mine",
        f"{entry.name}/mine.safetensors": "mine",
        f"{entry.name}/sub/00000.safetensors": "mine",
    }
    for name, content in foreign.items():
        (bank.place / name).parent.mkdir(exist_ok=True)
        (bank.place / name).write_text(content)
    (bank.place / "elsewhere").symlink_to(tmp_path)
    assert opened(Bank(bank.folder, ENTRY), images, "new") is not None
    assert not (entry / "about.json").exists()  # the control: room was made
    assert not (entry / "00000.safetensors").exists()
    assert {name: (bank.place / name).read_text() for name in foreign} == foreign
    assert (bank.place / "elsewhere").is_symlink()


def test_an_empty_entry_leaves_no_folder_behind(tmp_path: Path, images: ImageSet) -> None:
    bank = Bank(tmp_path / "bank")
    folder = filled(bank, images)
    (folder / ".00002.lock").touch()
    (folder / ".00001.safetensors.abc.part").touch()
    assert opened(Bank(bank.folder, ENTRY), images, "new") is not None
    assert not folder.exists()


def test_a_foreign_answer_file_stays_when_an_entry_is_emptied(bank: Bank, images: ImageSet) -> None:
    entry = entry_in(bank, images)
    entry.write(0, answers())
    (entry.folder / "mine.safetensors").write_text("mine")
    entry.forget()
    assert listing(entry.folder) == {"about.json", ".use", "mine.safetensors"}


# -- several at once ----------------------------------------------------------------------------------------------------


def test_a_pass_is_claimed_by_one_alone(bank: Bank, images: ImageSet) -> None:
    one, two = entry_in(bank, images), entry_in(bank, images)
    with one.claim(0) as first:
        with two.claim(0) as second, two.claim(1) as other:
            assert (first, second, other) == (True, False, True)
        with two.claim(0) as third:
            assert not third  # having been refused takes nothing from who has it
    with two.claim(0) as now:
        assert now


def test_claims_leave_no_file(bank: Bank, images: ImageSet) -> None:
    entry = entry_in(bank, images)
    with entry.claim(0):
        assert (entry.folder / ".00000.lock").exists()
    assert listing(entry.folder) == {"about.json", ".use"}


def test_half_written_files_are_swept_when_nobody_uses_the_entry(bank: Bank, images: ImageSet) -> None:
    part = filled(bank, images) / ".00001.safetensors.x1y2z3.part"
    using = entry_in(bank, images)
    part.write_bytes(b"half")
    entry_in(bank, images)
    assert part.exists()  # it may be a living process's
    del using
    entry = entry_in(bank, images)
    assert not part.exists()
    assert entry.read(1) is not None


def test_an_entry_that_is_removed_while_it_is_opened_is_made_again(
    bank: Bank, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(bank, images)
    real, calls = fcntl.flock, []

    def slow(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:  # somebody makes room between its being opened and its being held
            for path in entry_folder.iterdir():
                path.unlink()
            entry_folder.rmdir()
        real(handle, how)

    entry_folder = next(bank.place.iterdir())
    monkeypatch.setattr("undistill.oracle.entry.fcntl.flock", slow)
    entry = entry_in(bank, images)
    monkeypatch.undo()
    entry.write(0, answers())
    assert opened(Bank(bank.folder, ENTRY), images, "new") is None  # and is in use as any other
    assert entry.read(0) is not None


def test_what_nobody_refers_to_is_let_go(bank: Bank, images: ImageSet) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        entry_in(bank, images)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
