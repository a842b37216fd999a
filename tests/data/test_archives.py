"""Zip, tar and parquet files, given as they are or in a folder."""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.made import CLASSES, class_folders, png
from undistill.data import load
from undistill.data.load import DataSettings
from undistill.errors import RunError, UsageError

Pack = Callable[[Path, Path], Path]


def refuse(data: Path | str, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(data, **settings)
    return str(refused.value)


def zipped(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "zip", folder))


def tarred(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "tar", folder))


PACKS: list[Pack] = [zipped, tarred]


# -- zip and tar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKS)
def test_an_archive_of_class_folders_is_the_folder(tmp_path: Path, pack: Pack) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    archive = pack(folder, tmp_path / "packed")
    splits, unpacked = load(archive), load(folder)
    assert splits.fingerprint == unpacked.fingerprint
    assert load(DataSettings(**splits.settings)).fingerprint == unpacked.fingerprint
    assert splits.note == f"the file {archive.name}"


@pytest.mark.parametrize("pack", PACKS)
def test_archives_in_a_folder_are_the_data_or_splits(tmp_path: Path, pack: Pack) -> None:
    for name, each, first in (("Train", 10, 0), ("Test", 2, 100)):
        class_folders(tmp_path / name / name, each=each, first=first)
        (tmp_path / "data").mkdir(exist_ok=True)
        pack(tmp_path / name, tmp_path / "data" / name)
        if name == "Train":
            (tmp_path / "data" / "README.md").write_text("# photos")
            assert load(tmp_path / "data").train.class_names == CLASSES
    splits = load(tmp_path / "data")
    assert (len(splits.train) + len(splits.val or ()), len(splits.test)) == (30, 6)


def test_what_systems_put_into_archives_is_passed_over(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"photos\\{file.parent.name}\\{file.name}")
            archive.writestr(f"__MACOSX/photos/{file.parent.name}/._{file.name}", b"x")
        archive.writestr("photos/dog/1.heic", b"x")
        archive.writestr("../../outside/1.png", png(99))
    splits = load(tmp_path / "photos.zip")
    assert (splits.fingerprint, splits.dropped) == (load(folder).fingerprint, {".heic": 1})


def test_a_class_without_images_in_an_archive_is_refused(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    (folder / "owl").mkdir()
    assert "owl" in refuse(zipped(folder, tmp_path / "empty"))
    (folder / "owl" / "1.heic").write_bytes(b"x")
    assert "1 .heic" in refuse(tarred(folder, tmp_path / "heic"))


def test_a_damaged_member_is_named_or_left_out(tmp_path: Path) -> None:
    archive = zipped(class_folders(tmp_path / "photos", each=10), tmp_path / "photos")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("dog/3.png").header_offset
    name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    content[start + 30 + name + extra + 20] ^= 255
    archive.write_bytes(content)
    assert "photos.zip/dog/3.png is corrupt" in refuse(archive)
    assert load(archive, skip_corrupt=True).dropped == {"corrupt": 1}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"photos{suffix}").write_bytes(content)
    assert "unpack" in refuse(tmp_path / f"photos{suffix}")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = zipped(class_folders(tmp_path / "photos", each=4), tmp_path / "photos")
    content = bytearray(archive.read_bytes())
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(sign, start + 1)) >= 0:
            content[start + place] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refuse(archive)


@pytest.mark.parametrize("name", ["photos.tgz", "photos.tar.xz"])
def test_a_packed_file_has_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"x")
    assert "unpacked first" in refuse(tmp_path / "data" / name)
    assert "unpacked first" in refuse(tmp_path / "data")


@pytest.mark.parametrize("name", ["inner.zip", "train.parquet"])
def test_archives_in_archives_have_to_be_unpacked(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(f"photos/{name}", b"x")
    assert "unpack" in refuse(tmp_path / "photos.zip")


def test_an_empty_archive_is_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "photos.zip", "w").close()
    assert "no images but nothing" in refuse(tmp_path / "photos.zip")


def test_a_zip_with_a_table_of_its_images_has_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("0.png", png(0))
        archive.writestr("metadata.csv", "file_name,label\n0.png,cat")
    assert "unpack" in refuse(tmp_path / "photos.zip")


# -- paths --------------------------------------------------------------------------------------------------------------


def test_a_path_that_exists_is_never_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "own" / "photos", each=10)
    zipped(tmp_path / "own" / "photos", tmp_path / "own" / "packed")
    kinds = ["abc"[k % 3] for k in range(30)]
    pd.DataFrame({"photo": [png(k) for k in range(30)], "kind": kinds}).to_parquet(tmp_path / "own" / "photos.parquet")
    (tmp_path / "own" / "notes.txt").write_text("x")
    (tmp_path / "own" / "one.png").write_bytes(png(0))
    assert load("own/photos").fingerprint == load("own/packed.zip").fingerprint
    assert load("own/photos.parquet", label_column="kind").num_classes == 3
    assert "holds no images but 1 .txt" in refuse("own/notes.txt")
    assert "outside class folders" in refuse("own/one.png")
    assert "no data set called 'own/missing.zip'" in refuse("own/missing.zip")
    assert "no data set called 'own/missing.parquet'" in refuse("own/missing.parquet")


def test_a_hub_id_that_cannot_be_fetched_says_that_there_is_no_such_folder() -> None:
    with pytest.raises(RunError, match="there is no folder or file own/photos here either"):
        load("own/photos")


def test_the_size_of_a_zip_member_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(class_folders(tmp_path / "photos", each=4), tmp_path / "photos")
    monkeypatch.setattr("undistill.data.decode.MOST", 10)
    assert "too large" in refuse(archive)
