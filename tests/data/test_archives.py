"""Zip, tar and parquet files, given as they are or in a folder."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pytest

from data.made import CLASSES, class_folders, parquet, png, rows
from undistill.data import Splits, load
from undistill.data.load import DataSettings
from undistill.errors import RunError, UsageError

Pack = Callable[[Path, Path], Path]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))


def refuse(data: Path | str, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(data, **settings)
    return str(refused.value)


def zipped(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "zip", folder))


def tarred(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target), "tar", folder))


PACKS: list[Pack] = [zipped, tarred]


def sizes(splits: Splits) -> tuple[int, int]:
    return len(splits.train) + len(splits.val or ()), len(splits.test)


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
def test_an_archive_in_a_folder_is_read(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "data").mkdir()
    pack(class_folders(tmp_path / "photos", each=10), tmp_path / "data" / "archive")
    (tmp_path / "data" / "README.md").write_text("# photos")
    assert load(tmp_path / "data").train.class_names == CLASSES


@pytest.mark.parametrize("pack", PACKS)
def test_archives_may_be_splits(tmp_path: Path, pack: Pack) -> None:
    for name, each, first in (("Train", 10, 0), ("Test", 2, 100)):
        class_folders(tmp_path / name / name, each=each, first=first)
        pack(tmp_path / name, tmp_path / "data" / name)
    assert sizes(load(tmp_path / "data")) == (30, 6)


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


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "photos.7z", "photos.rar", "photos.tar.xz"])
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


def test_a_tar_of_images_and_labels_side_by_side_is_read_by_datasets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "train-000.tar", "w") as archive:
        for k in range(30):
            for suffix, content in (("png", png(k)), ("cls", str(k % 3).encode())):
                info = tarfile.TarInfo(f"{k:04d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert load(tmp_path / "data", image_column="png", label_column="cls").num_classes == 3


# -- tables -------------------------------------------------------------------------------------------------------------


def table(kind: str) -> pd.DataFrame:
    images: list[Any] = [png(k) for k in range(30)]
    if kind != "bytes":
        images = [{"bytes": image, "path": f"{k}.png" if kind == "path" else None} for k, image in enumerate(images)]
    kinds = pd.Series(["abc"[k % 3] for k in range(30)])
    return pd.DataFrame({"photo": images, "kind": kinds, "category": kinds.astype("category"), "score": [0.5] * 30})


@pytest.mark.parametrize("kind", ["bytes", "path", "no path"])
@pytest.mark.parametrize("label", ["kind", "category"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_parquet_file_of_pandas_is_read(tmp_path: Path, kind: str, label: str, alone: bool) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "photos.parquet"
    table(kind).to_parquet(file)
    splits = load(file if alone else file.parent, image_column="photo", label_column=label)
    assert (splits.train.class_names, sum(sizes(splits))) == (("a", "b", "c"), 30)
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint
    assert load(file if alone else file.parent, label_column=label).fingerprint == splits.fingerprint


def test_a_column_that_is_none_says_what_it_holds(tmp_path: Path) -> None:
    table("bytes").assign(pixels=[[0, 1]] * 30).to_parquet(tmp_path / "photos.parquet")
    for column in ("score", "pixels", "kind"):
        assert f"the column '{column}'" in refuse(tmp_path / "photos.parquet", image_column=column, label_column="kind")
    assert "the column 'score'" in refuse(tmp_path / "photos.parquet", label_column="score")


def test_bytes_that_are_no_images_are_named(tmp_path: Path) -> None:
    table("bytes").assign(photo=[b"\0\1\2"] * 30).to_parquet(tmp_path / "photos.parquet")
    assert "image 0 of" in refuse(tmp_path / "photos.parquet", label_column="kind")


@pytest.mark.parametrize("label", [None, -1])
def test_a_test_split_without_any_label_is_left_aside(
    tmp_path: Path, label: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    unlabelled = [(image, label) for image, _ in rows(9, 50)]
    folder = parquet(tmp_path / "hub", train=rows(30), test=unlabelled)
    assert sizes(load(folder)) == (24, 6)
    assert any("split 'test' is left aside" in message for message in caplog.messages)
    assert sizes(load(parquet(tmp_path / "both", train=rows(30), validation=rows(6, 80), test=unlabelled))) == (30, 6)


@pytest.mark.parametrize(
    ("train", "test"),
    [("TRAIN", "TEST"), ("Training", "Testing"), ("train", "Test"), ("Train/0", "Val/0"), ("train", "VAL")],
)
def test_tables_of_splits_in_any_case_are_splits(tmp_path: Path, train: str, test: str) -> None:
    for name, content in ((train, rows(30)), (test, rows(9, 50))):
        (made,) = (parquet(tmp_path / "made" / name, train=content) / "data").iterdir()
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        made.rename(tmp_path / "data" / f"{name}.parquet")
    assert sizes(load(tmp_path / "data")) == (30, 9)


def test_a_table_that_is_no_split_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = parquet(tmp_path / "hub", train=rows(30), test=rows(9, 50))
    shutil.copy(next((folder / "data").glob("train*")), folder / "data" / "more.parquet")
    assert sizes(load(folder)) == (30, 9)
    assert any("more.parquet left aside" in message for message in caplog.messages)


# -- duplicate classes --------------------------------------------------------------------------------------------------


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    label = {"names": ["cat", "dog", "cat"], "_type": "ClassLabel"}
    assert "cat" in refuse(parquet(tmp_path / "hub", {"image": {"_type": "Image"}, "label": label}, train=rows(30)))


@pytest.mark.parametrize(("one", "other"), [("cat", "cat "), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_differ_only_in_spaces_or_unicode_form_are_refused(tmp_path: Path, one: str, other: str) -> None:
    kinds = [[one, other, "dog"][k % 3] for k in range(30)]
    table("bytes").assign(kind=kinds).to_parquet(tmp_path / "photos.parquet")
    said = refuse(tmp_path / "photos.parquet", label_column="kind")
    assert repr(one) in said
    assert repr(other) in said


# -- paths --------------------------------------------------------------------------------------------------------------


def test_a_path_that_exists_is_never_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "own" / "photos", each=10)
    zipped(tmp_path / "own" / "photos", tmp_path / "own" / "packed")
    table("bytes").to_parquet(tmp_path / "own" / "photos.parquet")
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


def test_a_table_given_with_data_dir_is_the_same(tmp_path: Path) -> None:
    table("bytes").to_parquet(tmp_path / "photos.parquet")
    by_name = load(tmp_path / "photos.parquet", label_column="kind")
    assert load("folder", data_dir=tmp_path / "photos.parquet", label_column="kind").fingerprint == by_name.fingerprint


def test_the_size_of_a_zip_member_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(class_folders(tmp_path / "photos", each=4), tmp_path / "photos")
    monkeypatch.setattr("undistill.data.decode.MOST", 10)
    assert "too large" in refuse(archive)
