"""Folders as people have them: which are splits, which are classes, what is left out, and what is refused."""

from __future__ import annotations

import gc
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.made import CLASSES, class_folders, encoded, picture, png
from undistill.data import Splits, load
from undistill.data.class_folders import open_folders, role_of, roles_in
from undistill.data.decode import Wanted
from undistill.data.listing import Entry, Listing, kind_of
from undistill.errors import UsageError

Log = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def flat(folder: Path, count: int, first: int = 900) -> Path:
    """Images without class folders."""
    folder.mkdir(parents=True)
    for k in range(count):
        (folder / f"{k}.png").write_bytes(png(first + k))
    return folder


def counts(splits: Splits) -> tuple[int, int]:
    """(images that are not test images, test images)."""
    parts = [part for part in (splits.train, splits.pool, splits.val) if part is not None]
    return sum(map(len, parts)), len(splits.test)


def refuse(folder: Path, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(folder, **settings)
    return str(refused.value)


# -- names of splits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Training", "train"),
        ("TEST", "test"),
        ("Val", "val"),
        ("trainset", "train"),
        ("testSet", "test"),
        ("val2017", "val"),
        ("test-images", "test"),
        ("Validation_Set", "val"),
        ("evaluation", "test"),
        ("train 1", "train"),
        ("traindata", "train"),
    ],
)
def test_a_split_is_known_by_its_name_in_any_case(name: str, role: str) -> None:
    assert role_of(name) == (role, frozenset())


@pytest.mark.parametrize(
    "name", ["cat", "trainer", "contest", "valley", "train_test", "traintest", "values", "7", "", "дом"]
)
def test_other_names_are_no_splits(name: str) -> None:
    assert role_of(name) is None


def test_a_shared_prefix_makes_splits_and_a_lone_one_does_not() -> None:
    assert roles_in(["seg_train", "seg_test", "seg_pred"]) == {"train": ["seg_train"], "test": ["seg_test"]}
    assert roles_in(["test_tube", "dev_kit", "train_station"]) == {}
    assert roles_in(["Train", "train", "training"])["train"] == ["train", "training", "Train"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("train", "Val"),
        ("Train", "valid"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("animals-train", "animals-val"),
        ("train2017", "val2017"),
        ("trainingSet", "testSet"),
    ],
)
def test_splits_of_any_spelling_are_read(photos: Path, train: str, test: str) -> None:
    class_folders(photos / train, each=10)
    class_folders(photos / test, each=2, first=100)
    splits = load(photos)
    assert (splits.train.class_names, counts(splits)) == (CLASSES, (30, 6))


def test_one_level_of_repetition_is_passed_through(photos: Path, caplog: Log) -> None:
    class_folders(photos / "seg_train" / "seg_train", each=10)
    class_folders(photos / "seg_test" / "seg_test", each=2, first=100)
    flat(photos / "seg_pred" / "seg_pred", 5)
    splits = load(photos)
    assert (splits.train.class_names, counts(splits)) == (CLASSES, (30, 6))
    assert any("photos/seg_pred is left aside (5 images)" in message for message in caplog.messages)


@pytest.mark.parametrize("above", ["photos", "data/images", "train", "a/b/c/Training"])
def test_single_folders_are_passed_through(photos: Path, above: str) -> None:
    class_folders(photos / above, each=10)
    (photos / "LICENSE.txt").write_text("free")
    assert (load(photos).train.class_names, load(photos).fingerprint) == (CLASSES, load(photos / above).fingerprint)


def test_splits_below_single_folders_are_read(photos: Path) -> None:
    class_folders(photos / "archive" / "animals" / "Train", each=10)
    class_folders(photos / "archive" / "animals" / "Test", each=2, first=100)
    assert counts(load(photos)) == (30, 6)


def test_a_test_split_of_one_training_class_is_not_unwrapped(photos: Path) -> None:
    class_folders(photos / "train", each=10)
    class_folders(photos / "test" / "dog", each=2, classes=("indoors", "outdoors"), first=100)
    class_folders(photos / "test", each=2, classes=("cat",), first=200)
    assert load(photos).test.labels_N.tolist() == [0] * 2 + [1] * 4
    shutil.rmtree(photos / "test" / "cat")
    assert "all 4 images are of one class, 'dog'" in refuse(photos)


def test_two_spellings_of_one_split_are_refused(photos: Path) -> None:
    for name in ("Train", "Training"):
        class_folders(photos / name, each=4)
    class_folders(photos / "test", first=50)
    assert "2 folders or splits for train, Train, Training" in refuse(photos)


# -- unlabelled and ambiguous -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "unknown", "images"])
@pytest.mark.parametrize("name", ["test", "Testing", "val"])
def test_a_test_folder_without_classes_is_left_aside(photos: Path, name: str, inside: str, caplog: Log) -> None:
    class_folders(photos / "train", each=10)
    flat(photos / name / inside, 5)
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        splits = load(photos)
        assert (splits.train.class_names, counts(splits)) == (CLASSES, (24, 6))
        assert any(f"photos/{name} is left aside: its 5 images" in message for message in caplog.messages)


def test_an_empty_test_folder_is_left_aside(photos: Path, caplog: Log) -> None:
    class_folders(photos / "train", each=10)
    (photos / "test").mkdir()
    assert counts(load(photos)) == (24, 6)
    assert any("photos/test is left aside: it holds no images" in message for message in caplog.messages)


def test_classes_without_test_images_are_named(photos: Path, caplog: Log) -> None:
    class_folders(photos / "train", each=10)
    class_folders(photos / "test", each=2, classes=CLASSES[:2], first=100)
    assert counts(load(photos)) == (30, 4)
    assert any("1 of the 3 classes of photos have no test image: 'frog'" in message for message in caplog.messages)


def test_a_labelled_validation_split_takes_the_place_of_an_unlabelled_test_split(photos: Path) -> None:
    class_folders(photos / "train", each=10)
    class_folders(photos / "val", each=2, first=100)
    flat(photos / "test", 5)
    assert counts(load(photos)) == (30, 6)


def test_the_layout_of_tiny_imagenet_as_published_is_read(photos: Path) -> None:
    for name in CLASSES:
        flat(photos / "train" / name / "images", 10, first=10 * CLASSES.index(name))
        (photos / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1")
    flat(photos / "val" / "images", 5)
    (photos / "val" / "val_annotations.txt").write_text("0.png cat")
    flat(photos / "test" / "images", 5)
    (photos / "wnids.txt").write_text("\n".join(CLASSES))
    splits = load(photos)
    assert (splits.train.class_names, counts(splits)) == (CLASSES, (24, 6))


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("test", "val"), ("train", "test", "extra")])
def test_splits_without_any_classes_are_refused(photos: Path, names: tuple[str, ...]) -> None:
    for name in names:
        flat(photos / name, 5)
    assert "put each image into a folder named as its class" in refuse(photos)


def test_a_split_beside_the_training_classes_is_refused(photos: Path) -> None:
    class_folders(photos, each=10)
    class_folders(photos / "test", each=2, first=100)
    assert "into one called 'train'" in refuse(photos)


def test_a_split_beside_several_folders_of_images_is_refused(photos: Path) -> None:
    class_folders(photos, each=4, classes=("bus", "car"))
    class_folders(photos / "train", classes=("steam", "diesel"), first=50)
    assert "images directly in bus, car" in refuse(photos)


def test_classes_called_like_splits_are_read_with_a_remark(photos: Path, caplog: Log) -> None:
    class_folders(photos, each=10, classes=("control", "test"))
    assert load(photos).train.class_names == ("control", "test")
    assert any("photos/test is read as a class" in message for message in caplog.messages)
    caplog.clear()
    class_folders(photos.with_name("vehicles"), each=10, classes=("bus", "train"))
    assert load(photos.with_name("vehicles")).train.class_names == ("bus", "train")
    assert any("vehicles/train is read as a class" in message for message in caplog.messages)


@pytest.mark.parametrize("names", [("A", "B"), ("fold1", "fold2", "fold3"), ("train/A", "train/B")])
def test_folders_of_the_same_sub_folders_are_refused(photos: Path, names: tuple[str, ...]) -> None:
    for name in names:
        class_folders(photos / name, first=len(name))
    said = refuse(photos)
    assert "hold the same sub-folders, cat, dog, frog" in said


def test_splits_inside_classes_are_refused(photos: Path) -> None:
    for name in CLASSES:
        class_folders(photos / name, classes=("train", "test"), first=ord(name[0]))
    assert "hold the same sub-folders, test, train" in refuse(photos)


def test_sub_folders_that_differ_are_parts_of_their_classes(photos: Path) -> None:
    class_folders(photos / "cat", classes=("indoors", "garden"))
    class_folders(photos / "dog", classes=("indoors", "beach"), first=50)
    assert load(photos).train.class_names == ("cat", "dog")


# -- what is left out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".Jpeg", ".png", ".pjpeg"])
def test_jpegs_of_any_suffix_are_read(photos: Path, suffix: str) -> None:
    class_folders(photos, each=10)
    (photos / "owl").mkdir()
    for k in range(10):
        (photos / "owl" / f"{k}{suffix}").write_bytes(encoded(picture(500 + k), "JPEG"))
    assert load(photos).train.class_names == (*CLASSES, "owl")


def test_files_of_unknown_kinds_are_counted_and_named(photos: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    class_folders(photos, each=10)
    for name in ("1.heic", "2.HEIC", "IMG_0001", "3.jpg.part", "empty"):
        (photos / "dog" / name).write_bytes(b"" if name == "empty" else b"x")
    (photos / "dog" / "gone.png").symlink_to("nowhere.png")
    (photos / "labels.csv").write_text("a,b")
    (photos / "dog" / "1.txt").write_text("text")
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        splits = load(photos)
        assert splits.dropped == {
            ".heic": 2,
            "without a suffix": 2,
            ".part": 1,
            "broken links": 1,
            ".csv": 1,
            ".txt": 1,
        }
        (remark,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        for words in ("2 .heic", "2 without a suffix", "convert them to JPEG", "add .jpg or .png", "put back"):
            assert words in remark
        assert ".csv" not in remark
        assert caplog.messages[-1] == splits.summary()
        assert "1 .csv" in splits.summary()


def test_many_kinds_are_counted_together(photos: Path) -> None:
    class_folders(photos, each=10)
    for k in range(40):
        (photos / "cat" / f"img.{k:04d}").write_bytes(b"x")
    splits = load(photos)
    assert sum(splits.dropped.values()) == 40
    assert splits.summary().endswith("34 of other kinds")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1.heic", "1 .heic"),
        ("IMG_1", "1 without a suffix"),
        ("1.mp4", "1 .mp4"),
        ("1.npy", "1 .npy"),
        (None, "it is empty"),
    ],
)
@pytest.mark.parametrize("split", ["", "train"])
def test_a_class_without_a_readable_image_is_refused(photos: Path, split: str, name: str | None, said: str) -> None:
    class_folders(photos / split, each=10)
    (photos / split / "owl").mkdir()
    if name is not None:
        (photos / split / "owl" / name).write_bytes(b"x")
        (photos / split / "owl" / "notes.txt").write_text("x")
    load_again = refuse(photos)
    assert str(Path(split) / "owl") in load_again
    assert said in load_again


def test_a_class_of_broken_links_alone_is_refused(photos: Path) -> None:
    class_folders(photos, each=10)
    (photos / "owl").mkdir()
    (photos / "owl" / "1.png").symlink_to("/nowhere/1.png")
    assert "1 broken links" in refuse(photos)


def test_two_links_to_one_folder_are_no_two_classes(photos: Path, tmp_path: Path) -> None:
    class_folders(tmp_path / "store", each=10)
    photos.mkdir()
    for name, target in (("a", "cat"), ("b", "cat"), ("c", "dog")):
        (photos / name).symlink_to(tmp_path / "store" / target)
    assert "photos/b holds no image" in refuse(photos)


def test_a_class_added_without_images_is_refused_though_the_others_are_cached(photos: Path) -> None:
    class_folders(photos, each=10)
    load(photos)
    (photos / "owl").mkdir()
    assert "owl" in refuse(photos)
    (photos / "owl" / "1.png").symlink_to("/nowhere/1.png")
    assert "owl" in refuse(photos)


def test_folders_of_text_alone_are_no_classes(photos: Path) -> None:
    class_folders(photos, each=10)
    (photos / "annotations").mkdir()
    (photos / "annotations" / "1.xml").write_text("<a/>")
    splits = load(photos)
    assert (splits.train.class_names, splits.dropped) == (CLASSES, {".xml": 1})


def test_a_table_of_something_else_beside_class_folders_is_no_list_of_images(photos: Path) -> None:
    class_folders(photos, each=10)
    (photos / "metadata.csv").write_text("camera,year\nx,2020")
    assert (load(photos).train.class_names, load(photos).dropped) == (CLASSES, {".csv": 1})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # `datasets` leaves the table open
def test_a_list_of_images_gives_their_classes(photos: Path) -> None:
    flat(photos, 30)
    lines = [f"{k}.png,{CLASSES[k % 3]}" for k in range(30)]
    (photos / "metadata.csv").write_text("\n".join(["file_name,kind", *lines]))
    assert load(photos, label_column="kind").train.class_names == CLASSES
    gc.collect()


def test_what_systems_put_beside_images_is_passed_over(photos: Path) -> None:
    class_folders(photos, each=10)
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", ".thumbnails"):
        shutil.copytree(photos / "cat", photos / name / "cat")
        shutil.copytree(photos / "cat", photos / "dog" / name)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (photos / "dog" / name).write_bytes(b"x")
        (photos / name).write_bytes(b"x")
    splits = load(photos)
    assert (splits.train.class_names, sum(counts(splits)), splits.dropped) == (CLASSES, 30, {})


def test_an_archive_beside_its_unpacked_images_is_left_out(photos: Path) -> None:
    class_folders(photos, each=10)
    shutil.make_archive(str(photos / "photos"), "zip", photos, "cat")
    splits = load(photos)
    assert (splits.train.class_names, sum(counts(splits)), splits.dropped) == (CLASSES, 30, {".zip": 1})


@pytest.mark.parametrize("name", ["1.heic", "1.csv", "IMG_1", "photos.tar.gz", "photos.rar", "1.npy"])
def test_a_folder_without_any_image_says_what_it_holds(photos: Path, name: str) -> None:
    (photos / "cat").mkdir(parents=True)
    (photos / "cat" / name).write_bytes(b"x")
    said = refuse(photos)
    assert ("unpacked" if "photos." in name else "holds no image") in said


# -- names of classes ---------------------------------------------------------------------------------------------------


def test_spaces_around_a_class_and_forms_of_unicode_do_not_matter(photos: Path) -> None:
    class_folders(photos / "train", each=10, classes=("cat ", "cafe\u0301"))
    class_folders(photos / "test", each=2, classes=("cat", "caf\u00e9"), first=100)
    splits = load(photos)
    assert splits.train.class_names == ("caf\u00e9", "cat")
    assert Counter(splits.test.labels_N.tolist()) == {0: 2, 1: 2}


def test_two_folders_of_one_class_name_are_refused(photos: Path) -> None:
    class_folders(photos, classes=("cat", "cat ", "dog"))
    assert "two folders" in refuse(photos)


def test_very_many_classes_are_read(photos: Path) -> None:
    class_folders(photos / "train", each=2, classes=[f"class {k}" for k in range(600)], size=(2, 2))
    splits = load(photos / "train", test=0.25, val=0)
    assert (splits.num_classes, counts(splits)[1]) == (600, 300)


# -- any layout ---------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "train",
        "Train",
        "TEST",
        "test",
        "val",
        "dev",
        "seg_train",
        "seg_test",
        "cat",
        "dog",
        "cat ",
        "images",
        "extra",
        "a",
        "b",
    ]
)
FILES = st.sampled_from(["0.png", "1.JPG", "2.heic", "3", "4.csv", "5.txt"])


@given(
    st.dictionaries(st.tuples(NAMES, NAMES, NAMES), st.lists(FILES, min_size=1, max_size=2), min_size=1, max_size=7),
    st.data(),
)
def test_no_image_vanishes_from_any_layout(tree: dict[tuple[str, ...], list[str]], data: st.DataObject) -> None:
    """Each image is in a split, or below a folder that a remark names; or all are refused in a sentence."""
    paths = {(*parts[: data.draw(st.integers(0, 3))], name) for parts, names in tree.items() for name in names}
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
    assert all(row.label < len(opened.names or ()) for row in rows)
    assert {row.label for row in opened.rows(opened.splits["train"])} == set(range(len(opened.names or ())))


# -- balance ------------------------------------------------------------------------------------------------------------


def test_imbalance_and_chance_level_are_said(photos: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    for name, each, first in (("cat", 40, 0), ("dog", 10, 100)):
        class_folders(photos, each=each, classes=(name,), first=first)
    splits = load(photos, val=0)
    assert splits.train.counts_K.tolist() == [32, 8]
    assert (splits.chance_level, splits.train.chance_level) == (80.0, 80.0)
    assert "2 classes of 8 to 32 training images" in splits.summary()
    assert "chance level 80.0 %" in splits.summary()
    assert splits.summary() in caplog.messages
    assert splits.train.unlabelled().counts_K.tolist() == [0, 0]


def test_what_is_decoded_into_the_cache_is_said_once(photos: Path, tmp_path: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    class_folders(photos, each=10)
    load(photos)
    (said,) = [message for message in caplog.messages if message.startswith("decoded")]
    assert str(tmp_path / "cache") in said
    assert "30 images" in said
    caplog.clear()
    load(photos)
    assert not any(message.startswith("decoded") for message in caplog.messages)


def test_nothing_is_told_twice(photos: Path) -> None:
    class_folders(photos / "train", each=50, classes=("a", "b", "c", "d"), size=(2, 2))
    class_folders(photos / "test", each=25, classes=("a", "b", "c", "d"), size=(2, 2), first=300)
    told: list[tuple[str, int]] = []
    load(photos, progress=lambda what, done, _: told.append((what, done)))
    assert ("decoding test", 100) in told
    assert len(told) == len(set(told))
