"""Class folders as people have them: which are splits, which are classes, what is left out, and what is refused."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.made import CLASSES, Tree, class_folders, classes, encoded, picture, png, tree
from undistill.data import Splits, folder_dataset, load
from undistill.data.class_folders import open_folders, role_of, roles_in
from undistill.data.decode import Wanted
from undistill.data.listing import Entry, Listing, kind_of
from undistill.data.load import DataSettings
from undistill.errors import UsageError

Log = pytest.LogCaptureFixture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def counts(splits: Splits) -> tuple[int, int]:
    """(images that are not test images, test images)."""
    parts = [part for part in (splits.train, splits.pool, splits.val) if part is not None]
    return sum(map(len, parts)), len(splits.test)


def refuse(folder: Path, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(folder, **settings)
    return str(refused.value)


# -- splits and classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    {
        "Training": "train",
        "TEST": "test",
        "testSet": "test",
        "val2017": "val",
        "test-images": "test",
        "Validation_Set": "val",
        "evaluation": "test",
        "train 1": "train",
        "traindata": "train",
    }.items(),
)
def test_a_split_is_known_by_its_name_in_any_case(name: str, role: str) -> None:
    assert role_of(name) == (role, frozenset())


def test_other_names_are_no_splits() -> None:
    for name in ("cat", "trainer", "contest", "valley", "train_test", "traintest", "values", "7", "", "дом"):
        assert role_of(name) is None
    assert roles_in(["seg_train", "seg_test", "seg_pred"]) == {"train": ["seg_train"], "test": ["seg_test"]}
    assert roles_in(["test_tube", "dev_kit", "train_station"]) == {}
    assert roles_in(["Train", "train", "training"])["train"] == ["train", "training", "Train"]


def both(train: str, test: str) -> Tree:
    return classes(train) | classes(test, each=2)


READ: dict[str, tuple[Tree, tuple[int, int], str]] = {
    "class folders alone": (classes(), (24, 6), ""),
    "any case": (both("TRAIN", "TEST"), (30, 6), ""),
    "a validation split alone": (both("Train", "dev"), (30, 6), ""),
    "a shared prefix": (both("animals-train", "animals-val"), (30, 6), ""),
    "camel case": (both("trainingSet", "testSet"), (30, 6), ""),
    "repeated": (
        both("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred": 5},
        (30, 6),
        "photos/seg_pred is left aside (5 images)",
    ),
    "another split": (both("train", "test") | classes("extra"), (30, 6), "photos/extra is left aside (30 images)"),
    "below single folders": (both("archive/animals/Train", "archive/animals/Test"), (30, 6), ""),
    "single folders": (classes("a/b/c/Training") | {"LICENSE.txt": b"free"}, (24, 6), ""),
    "flat test": (classes("train") | {"test": 5}, (24, 6), "photos/test is left aside: its 5 images"),
    "test of one folder": (classes("train") | {"Testing/images": 5}, (24, 6), "photos/Testing is left aside: its 5"),
    "empty test": (classes("train") | {"test": None}, (24, 6), "photos/test is left aside: it holds no images"),
    "test without a class": (
        classes("train") | classes("test", 2, CLASSES[:2]),
        (30, 4),
        "1 of the 3 classes of photos have no test image: 'frog'",
    ),
    "unlabelled test beside validation": (both("train", "val") | {"test": 5}, (30, 6), "photos/test is left aside"),
    "Tiny-ImageNet as published": (
        {f"train/{name}/images": 10 for name in CLASSES}
        | {f"train/{name}/boxes.txt": b"0 0 1 1" for name in CLASSES}
        | {"val/images": 5, "val/val_annotations.txt": b"x", "test/images": 5, "wnids.txt": b"x"},
        (24, 6),
        "photos/val is left aside",
    ),
    "text beside classes": (classes() | {"annotations/1.xml": b"<a/>"}, (24, 6), ""),
    "a table of something else": (classes() | {"metadata.csv": b"camera,year\nx,2020"}, (24, 6), ""),
    "parts of classes": (
        {f"{c}/{p}": 5 for c, p in zip(["cat", "cat", "dog", "dog", "frog"], "abacd", strict=True)},
        (20, 5),
        "",
    ),
    "a link to a loop": (
        classes() | {"dog/loop": Path(), "dog/up": Path("/"), "dog/self.png": Path("self.png")},
        (24, 6),
        "",
    ),
}


@pytest.mark.parametrize(("content", "sizes", "remark"), READ.values(), ids=READ)
def test_a_layout_is_read(photos: Path, content: Tree, sizes: tuple[int, int], remark: str, caplog: Log) -> None:
    tree(photos, {name: what if what != Path() else photos for name, what in content.items()})
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        splits = load(photos)
        assert (splits.train.class_names, counts(splits)) == (CLASSES, sizes)
        assert remark in " ".join(caplog.messages)


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (("control", "test"), "photos/test is read as a class"),
        (("bus", "train"), "photos/train is read as a class"),
        (("dev", "test_tube", "valley"), ""),
    ],
)
def test_classes_called_like_splits_are_read(photos: Path, names: tuple[str, ...], remark: str, caplog: Log) -> None:
    assert load(tree(photos, classes(names=names))).train.class_names == names
    assert remark in " ".join(caplog.messages)


STRAY = "is outside class folders"
REFUSED: dict[str, tuple[Tree, str]] = {
    "two spellings": (classes("Train") | classes("Training") | classes("test"), "2 folders or splits for train, Train"),
    "no classes": ({"train": 5, "test": 5}, "put each image into a folder named as its class"),
    "no classes, no train": ({"test": 5, "val": 5}, "put each image into a folder named as its class"),
    "no classes, another": ({"train": 5, "test": 5, "extra": 5}, "put each image into a folder named as its class"),
    "split beside classes": (classes() | classes("test"), "into one called 'train'"),
    "split beside images": (classes(names=("bus", "car")) | classes("train"), "images directly in bus, car"),
    "same sub-folders": (classes("A") | classes("B"), "hold the same sub-folders, cat, dog, frog"),
    "same, in train": (classes("train/A") | classes("train/B"), "hold the same sub-folders, cat, dog, frog"),
    "splits inside classes": ({f"{c}/{s}": 4 for c in CLASSES for s in ("test", "train")}, "sub-folders, test, train"),
    "test of one class": (classes("train") | {"test/dog/a": 2, "test/dog/b": 2}, "are of one class, 'dog'"),
    "two folders of a name": (classes(names=("cat", "cat ", "dog")), "two folders"),
    "a class only in test": (classes("train") | classes("test", 4, ("cat", "ibex")), "the class 'ibex' of"),
    "one class": (classes(names=("cat",)), "at least 2 classes"),
    "a stray image": (classes() | {"stray.png": png(999)}, STRAY),
    "a stray image beside splits": (both("train", "test") | {"stray.png": png(999)}, STRAY),
    "a class of broken links": (classes() | {"owl/1.png": Path("/nowhere/1.png")}, "1 broken links"),
    "an empty class": (classes() | {"owl": None}, "photos/owl holds no image that can be read (it is empty)"),
    "an empty training class": (classes("train") | {"train/owl": None}, "train/owl holds no image"),
    "a class of other kinds": (classes() | {"owl/1.heic": b"x", "owl/notes.txt": b"x"}, "1 .heic"),
    "a class without suffixes": (classes("train") | {"train/owl/IMG_1": b"x"}, "1 without a suffix"),
    "nothing but .heic": ({"cat/1.heic": b"x"}, "holds no image that can be read"),
    "nothing but .csv": ({"cat/1.csv": b"x"}, "holds no images but 1 .csv"),
    "packed": ({"photos.tar.gz": b"x"}, "unpacked first"),
    "packed by another": ({"cat/photos.rar": b"x"}, "unpacked first"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_a_layout_is_refused(photos: Path, content: Tree, said: str) -> None:
    assert said in refuse(tree(photos, content))


def test_a_test_split_of_one_training_class_is_not_unwrapped(photos: Path) -> None:
    tree(photos, classes("train") | {"test/cat": 2, "test/dog/indoors": 2, "test/dog/outdoors": 2})
    assert load(photos).test.labels_N.tolist() == [0] * 2 + [1] * 4


def test_every_image_is_there_once(photos: Path) -> None:
    splits = load(class_folders(photos, each=10))
    assert (splits.name, splits.note) == ("photos", "the folder photos")
    pixels = torch.from_numpy(np.asarray(picture(0)).transpose(2, 0, 1).copy())
    parts = [part for part in (splits.train, splits.test, splits.val) if part is not None]
    assert sum(torch.equal(image, pixels) for part in parts for image in part.images_NCHW[:]) == 1


def test_what_is_refused_is_refused_though_the_rest_is_cached(photos: Path) -> None:
    load(class_folders(photos, each=10))
    (photos / "owl").mkdir()
    assert "owl" in refuse(photos)
    (photos / "owl" / "1.png").symlink_to("/nowhere/1.png")
    assert "owl" in refuse(photos)


def test_a_column_of_class_folders_is_refused(photos: Path) -> None:
    assert "has no column 'kind'" in refuse(class_folders(photos), label_column="kind")


SPLITS = ["train", "Train", "TEST", "test", "val", "dev", "seg_train", "seg_test"]
NAMES = st.sampled_from([*SPLITS, "cat", "dog", "images", "extra", "a", "b", "cat "])
FILES = st.sampled_from(["0.png", "1.JPG", "2.heic", "3", "4.csv", "5.txt"])


@given(
    st.dictionaries(st.tuples(NAMES, NAMES, NAMES), st.lists(FILES, min_size=1, max_size=2), min_size=1, max_size=7),
    st.data(),
)
def test_no_image_vanishes_from_any_layout(drawn: dict[tuple[str, ...], list[str]], data: st.DataObject) -> None:
    """Each image is in a split, or below a folder that a remark names; or all are refused in a sentence."""
    paths = {(*parts[: data.draw(st.integers(0, 3))], name) for parts, names in drawn.items() for name in names}
    entries = tuple(Entry(parts, kind_of(parts[-1]), Path("top", *parts)) for parts in sorted(paths))
    folders = {entry.parts[:depth] for entry in entries for depth in range(1, len(entry.parts))}
    try:
        opened = open_folders(Path("top"), Listing(entries, tuple(sorted(folders))), Wanted())
    except UsageError as error:
        said = str(error)
        assert "\n" not in said
        return
    rows = [row for theirs in opened.splits.values() for row in opened.rows(theirs)]
    aside = tuple(f"{remark.split(' is left aside')[0]}/" for remark in opened.remarks if " is left aside" in remark)
    images = [entry for entry in entries if not entry.kind]
    assert {entry.name for entry in images if not entry.name.startswith(aside)} == {row.name for row in rows}
    assert len(rows) == len({row.name for row in rows})
    assert opened.skipped.total() == len(entries) - len(images)
    assert {row.label for row in opened.rows(opened.splits["train"])} == set(range(len(opened.names or ())))


# -- what is left out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".pjpeg"])
def test_jpegs_of_any_suffix_are_read(photos: Path, suffix: str) -> None:
    jpegs = {f"owl/{k}{suffix}": encoded(picture(500 + k, (70, 40)), "JPEG") for k in range(10)}
    assert load(tree(photos, classes() | jpegs), size=8).train.class_names == (*CLASSES, "owl")


def test_images_of_avif_are_read(photos: Path) -> None:
    avifs = {f"owl/{k}.avif": encoded(picture(500 + k, (70, 40)), "AVIF") for k in range(10)}
    assert load(tree(photos, classes() | avifs), size=8).train.class_names == (*CLASSES, "owl")


def test_one_folder_beside_a_table_of_labels_says_how_to_name_it(tmp_path: Path) -> None:
    one = {f"images/{k}.png": encoded(picture(k, (20, 20))) for k in range(4)}
    with pytest.raises(UsageError, match=r"a \.csv file.*metadata\.csv, with columns file_name"):
        load(tree(tmp_path, one | {"labels.csv": b"id,breed"}))


def test_files_of_unknown_kinds_are_counted_and_named(photos: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    others = ("1.heic", "2.HEIC", "IMG_0001", "3.jpg.part", "1.txt")
    tree(photos, classes() | {f"dog/{name}": b"x" for name in others} | {"dog/empty": b"", "labels.csv": b"a,b"})
    tree(photos, {"dog/gone.png": Path("nowhere.png")})
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        splits = load(photos)
        kinds = {".heic": 2, "without a suffix": 2, ".part": 1, "broken links": 1, ".csv": 1, ".txt": 1}
        assert splits.dropped == kinds
        (remark,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        for words in ("2 .heic", "2 without a suffix", "convert them to JPEG", "add .jpg or .png", "put back"):
            assert words in remark
        assert ".csv" not in remark
        assert caplog.messages[-1] == splits.summary()
        assert "1 .csv" in splits.summary()


def test_many_kinds_are_counted_together(photos: Path) -> None:
    splits = load(tree(photos, classes() | {f"cat/img.{k:04d}": b"x" for k in range(40)}))
    assert sum(splits.dropped.values()) == 40
    assert splits.summary().endswith("34 of other kinds")


def test_what_systems_put_beside_images_is_passed_over(photos: Path) -> None:
    class_folders(photos, each=10)
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"):
        shutil.copytree(photos / "cat", photos / name / "cat")
        shutil.copytree(photos / "cat", photos / "dog" / name)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        tree(photos, {name: b"x", f"dog/{name}": b"x"})
    splits = load(photos)
    assert (splits.train.class_names, sum(counts(splits)), splits.dropped) == (CLASSES, 30, {})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # `datasets` leaves the table open
def test_a_list_of_images_gives_their_classes(photos: Path) -> None:
    tree(photos, {"": 30})
    lines = [f"{k}.png,{CLASSES[k % 3]}" for k in range(30)]
    (photos / "metadata.csv").write_text("\n".join(["file_name,kind", *lines]))
    assert load(photos, label_column="kind").train.class_names == CLASSES
    gc.collect()


def test_imbalance_and_chance_level_are_said(photos: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    splits = load(tree(photos, {"cat": 40, "dog": 10}), val=0)
    assert splits.train.counts_K.tolist() == [32, 8]
    assert (splits.chance_level, splits.train.chance_level) == (80.0, 80.0)
    assert "2 classes of 8 to 32 training images" in splits.summary()
    assert "chance level 80.0 %" in splits.summary()
    assert splits.train.unlabelled().counts_K.tolist() == [0, 0]


def test_decoding_is_said_once_and_nothing_told_twice(photos: Path, root: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    for split, each, first in (("train", 50, 0), ("test", 25, 300)):
        class_folders(photos / split, each=each, classes="abcd", size=(2, 2), first=first)
    told: list[tuple[str, int]] = []
    load(photos, progress=lambda what, done, _: told.append((what, done)))
    assert ("decoding test", 100) in told
    assert len(told) == len(set(told))
    (said,) = [message for message in caplog.messages if message.startswith("decoded")]
    assert str(root) in said
    assert "300 images" in said


# -- names and links ----------------------------------------------------------------------------------------------------


def test_spaces_around_a_class_and_forms_of_unicode_do_not_matter(photos: Path) -> None:
    tree(photos, classes("train", 10, ("cat ", "cafe\u0301")) | classes("test", 2, ("cat", "caf\u00e9")))
    splits = load(photos)
    assert splits.train.class_names == ("caf\u00e9", "cat")
    assert splits.test.labels_N.bincount().tolist() == [2, 2]


def test_names_that_are_no_text_are_read_and_named(photos: Path) -> None:
    class_folders(photos, each=10)
    strange = Path(os.fsdecode(os.fsencode(photos) + b"/\xff\xfe"))
    (photos / "cat").rename(strange)
    assert load(photos).train.class_names == ("dog", "frog", "\ufffd\ufffd")
    (strange / "0.png").write_bytes(b"")
    refuse(photos).encode()


def test_classes_may_be_links_but_not_two_to_one_folder(photos: Path, tmp_path: Path) -> None:
    store = class_folders(tmp_path / "store", each=10)
    first = load(tree(photos, {"a": store / "cat", "b": store / "dog"})).fingerprint
    for name, target in (("a", "dog"), ("b", "cat")):
        (photos / name).unlink()
        (photos / name).symlink_to(store / target)
    assert load(photos).fingerprint != first
    tree(photos, {"c": store / "cat"})
    assert "photos/c holds no image" in refuse(photos)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read_is_refused(photos: Path) -> None:
    (class_folders(photos) / "dog").chmod(0)
    assert "cannot read" in refuse(photos)


# -- corrupt and large --------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 × 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


BROKEN = {"empty": b"", "text": b"no image", "header": png(0)[:20], "body": png(0, (40, 40))[:-900], "bomb": bomb()}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_corrupt_file_stops_or_is_left_out(photos: Path, root: Path, content: bytes) -> None:
    class_folders(photos, each=10)
    (photos / "dog" / "3.png").write_bytes(content)
    said = refuse(photos)
    assert "dog/3.png is " in said
    assert "--skip-corrupt" in said
    assert not list(root.rglob("*.npy"))
    told: list[str] = []
    splits = load(photos, skip_corrupt=True, progress=lambda what, *_: told.append(what))
    assert splits.dropped == load(photos, skip_corrupt=True).dropped == {"corrupt": 1}
    assert splits.summary().endswith("left out: 1 corrupt")
    assert sum(counts(splits)) == 29
    assert any("dog/3.png" in line for line in told)
    assert splits.settings["skip_corrupt"]


@pytest.mark.parametrize("content", [b"", png(0, (40, 40))[:-900]])  # found in its header, and where it is decoded
def test_a_class_or_more_that_is_corrupt_is_refused(photos: Path, content: bytes) -> None:
    for file in (class_folders(photos, each=10) / "dog").iterdir():
        file.write_bytes(content)
    assert "all 10 images of the class 'dog' are corrupt" in refuse(photos, skip_corrupt=True)
    for file in photos.rglob("[0-7].png"):
        file.write_bytes(content)
    assert "26 of 30 images are corrupt, more than may be skipped" in refuse(photos, skip_corrupt=True)


# -- settings -----------------------------------------------------------------------------------------------------------


def test_a_run_resumes_with_what_was_found(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load(class_folders(photos, each=10, size=(12, 9)), stored=9, size=8)
    assert [splits.settings[name] for name in ("size", "stored", "channels")] == [8, 9, 3]
    for function in ("decode", "header"):
        monkeypatch.setattr(folder_dataset, function, None)  # neither is called again
    again = load(DataSettings.model_validate(DataSettings(**splits.settings).model_dump()))
    assert (again.fingerprint, again.settings) == (splits.fingerprint, splits.settings)


def test_a_path_and_a_folder_mean_the_same(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path, by_dir = load(class_folders(photos, each=10)), load("folder", data_dir=photos)
    monkeypatch.chdir(photos.parent)
    relative = load("photos/", pool=0.3)
    assert by_path.fingerprint == by_dir.fingerprint
    assert by_path.settings == by_dir.settings | {"dir": str(photos)}
    assert (relative.settings["name"], relative.settings["dir"]) == ("folder", str(photos))
    assert len(relative.pool or ()) == 9


def test_settings_nobody_gave_are_not_written_down() -> None:
    assert set(DataSettings().model_dump()) == {"name", "dir", "limit", "test", "pool", "val", "split_seed", "views"}
    assert DataSettings(size=8, skip_corrupt=True).model_dump()["size"] == 8
