"""Any folder: columns, splits, classes, corrupt files, hostile layouts."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from data.made import CLASSES, LABEL, class_folders, encoded, parquet, picture, png, rows
from undistill.data import Splits, decode, folder_dataset, load
from undistill.data.load import DataSettings
from undistill.data.sources import SOURCES, find
from undistill.errors import RunError, UsageError

IMAGE = {"_type": "Image"}
Told = list[str]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(folder: Path, told: Told | None = None, **settings: Any) -> Splits:
    return load(str(folder), progress=lambda what, *_: None if told is None else told.append(what), **settings)


def sizes(splits: Splits) -> dict[str, int]:
    parts = {"train": splits.train, "pool": splits.pool, "val": splits.val, "test": splits.test}
    return {name: len(part) for name, part in parts.items() if part is not None}


def refuse(folder: Path, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        read(folder, **settings)
    return str(refused.value)


# -- splits -------------------------------------------------------------------------------------------------------------


def test_class_folders_alone_are_split_by_fractions(tmp_path: Path) -> None:
    splits = read(class_folders(tmp_path / "photos", each=10))
    assert sizes(splits) == {"train": 21, "val": 3, "test": 6}
    assert splits.train.class_names == CLASSES
    assert (splits.name, splits.note) == ("photos", "the folder photos")
    pixels = torch.from_numpy(np.asarray(picture(0)).transpose(2, 0, 1).copy())
    parts = [part for part in (splits.train, splits.test, splits.val) if part is not None]
    assert sum(torch.equal(image, pixels) for part in parts for image in part.images_NCHW) == 1


def test_train_and_test_folders_are_splits(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos" / "train", each=10)
    class_folders(tmp_path / "photos" / "test", each=2, first=100)
    assert sizes(read(tmp_path / "photos")) == {"train": 27, "val": 3, "test": 6}


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    splits = read(class_folders(tmp_path / "photos", each=10, classes=("test_tube", "dev", "valley")))
    assert splits.train.class_names == ("dev", "test_tube", "valley")


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_a_validation_split_alone_is_the_test_split(tmp_path: Path, validation: str) -> None:
    class_folders(tmp_path / "photos" / "train", each=10)
    class_folders(tmp_path / "photos" / validation, each=2, first=100)
    assert sizes(read(tmp_path / "photos")) == {"train": 27, "val": 3, "test": 6}


def test_a_validation_split_beside_test_is_val(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "hub", train=rows(30), validation=rows(6, 100), test=rows(9, 200))
    splits = read(folder)
    assert sizes(splits) == {"train": 30, "val": 6, "test": 9}
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint
    assert sizes(read(folder, pool=0.2)) == {"train": 24, "pool": 6, "val": 6, "test": 9}
    assert sizes(read(folder, val=0)) == {"train": 30, "test": 9}
    assert "validation split of its own; leave data.val out" in refuse(folder, val=3)


def test_a_single_split_of_any_name_is_train(tmp_path: Path) -> None:
    assert sizes(read(parquet(tmp_path / "hub", test=rows(30)))) == {"train": 21, "val": 3, "test": 6}


def test_several_splits_need_a_train(tmp_path: Path) -> None:
    assert "has no split 'train'; there are" in refuse(parquet(tmp_path / "hub", test=rows(3), validation=rows(3)))


def test_other_splits_are_left_aside_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path / "photos" / "train", each=10)
    class_folders(tmp_path / "photos" / "test", each=2, first=100)
    class_folders(tmp_path / "photos" / "extra", each=2, first=200)
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        assert sum(sizes(read(tmp_path / "photos")).values()) == 36
        assert any("photos/extra is left aside (6 images)" in message for message in caplog.messages)


# -- columns ------------------------------------------------------------------------------------------------------------


def two_labels(tmp_path: Path) -> Path:
    columns = {"img": IMAGE, "fine": LABEL, "coarse": {"names": ["pet", "wild"], "_type": "ClassLabel"}}
    return parquet(tmp_path / "hub", columns, train=[(png(k), k % 3, k % 2) for k in range(30)])


def test_two_label_columns_are_refused_with_the_way_out(tmp_path: Path) -> None:
    said = refuse(two_labels(tmp_path))
    assert "2 label columns, fine and coarse; name it with data.label_column (--label-column)" in said


def test_a_named_label_column_is_taken(tmp_path: Path) -> None:
    splits = read(two_labels(tmp_path), label_column="coarse")
    assert splits.train.class_names == ("pet", "wild")
    assert splits.settings["label_column"] == "coarse"


def test_two_image_columns_are_refused_with_the_way_out(tmp_path: Path) -> None:
    columns = {"photo": IMAGE, "mask": IMAGE, "label": LABEL}
    folder = parquet(tmp_path / "hub", columns, train=[(png(k), png(50 + k), k % 3) for k in range(30)])
    assert "photo and mask; name it with data.image_column (--image-column)" in refuse(folder)
    assert read(folder, image_column="mask").settings["image_column"] == "mask"


@pytest.mark.parametrize(
    ("dtype", "values", "classes"),
    [
        ("string", ["../../b", "a\nb", "c"], ("../../b", "a\nb", "c")),
        ("int64", [70, 9, 100], ("9", "70", "100")),
    ],
)
def test_a_plain_column_can_name_the_classes(
    tmp_path: Path, dtype: str, values: list[Any], classes: tuple[str, ...]
) -> None:
    columns = {"image": IMAGE, "kind": {"dtype": dtype, "_type": "Value"}}
    folder = parquet(tmp_path / "hub", columns, train=[(png(k), values[k % 3]) for k in range(30)])
    assert "no label column among image, kind; name it" in refuse(folder)
    splits = read(folder, label_column="kind")
    assert splits.train.class_names == classes
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint


def test_a_set_saved_to_disk_is_read(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("bool")})
    images = [{"bytes": png(k), "path": None} for k in range(30)]
    made = datasets.Dataset.from_dict({"image": images, "kind": [k % 2 == 0 for k in range(30)]}, features=features)
    made.save_to_disk(str(tmp_path / "kept"))
    assert read(tmp_path / "kept", label_column="kind").train.class_names == ("False", "True")
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "both"))
    assert "every image of train is also in test" in refuse(tmp_path / "both", label_column="kind", val=0)


def test_a_column_of_floats_names_no_classes(tmp_path: Path) -> None:
    columns = {"image": IMAGE, "kind": {"dtype": "float64", "_type": "Value"}}
    folder = parquet(tmp_path / "hub", columns, train=[(png(k), k / 3) for k in range(9)])
    assert "holds no classes" in refuse(folder, label_column="kind")
    assert "holds no images" in refuse(folder, image_column="kind", label_column="kind")


@pytest.mark.parametrize("label", [None, -1, 3, -7])
def test_a_missing_or_wrong_label_is_named(tmp_path: Path, label: int | None) -> None:
    folder = parquet(tmp_path / "hub", train=rows(9), test=[*rows(2, 50), (png(60), label)])
    said = refuse(folder)
    assert "2" in said
    assert "test has" in said
    assert "no label" in said or "out of range" in said


# -- names --------------------------------------------------------------------------------------------------------------


def test_a_path_and_a_folder_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    by_path, by_dir = read(folder), load("folder", data_dir=folder)
    monkeypatch.chdir(tmp_path)
    relative = load("photos/", pool=0.3)
    assert by_path.fingerprint == by_dir.fingerprint
    assert by_path.settings == by_dir.settings | {"dir": str(folder)}
    assert (relative.settings["name"], relative.settings["dir"]) == ("folder", str(folder))
    assert len(relative.pool or ()) == 9


def test_a_run_resumes_with_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folders(tmp_path / "photos", each=10, size=(12, 9))
    splits = read(folder, stored=9, size=8)
    assert {name: splits.settings[name] for name in ("size", "stored", "channels")} == {
        "size": 8,
        "stored": 9,
        "channels": 3,
    }
    for function in ("decode", "header"):
        monkeypatch.setattr(folder_dataset, function, None)  # neither is called again
    again = load(DataSettings.model_validate(DataSettings(**splits.settings).model_dump()))
    assert (again.fingerprint, again.settings) == (splits.fingerprint, splits.settings)


def test_settings_nobody_gave_are_not_written_down() -> None:
    assert set(DataSettings().model_dump()) == {"name", "dir", "limit", "test", "pool", "val", "split_seed", "views"}
    assert DataSettings(size=8, skip_corrupt=True).model_dump()["size"] == 8


def test_a_folder_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'folder' needs to know where"):
        load("folder")
    with pytest.raises(UsageError, match=r"is a path, and data\.dir \(--data-dir\) names another"):
        load(str(class_folders(tmp_path / "photos")), data_dir=tmp_path)


@pytest.mark.parametrize("name", ["", "no/such/folder", "a b/c", "\0", "x" * 5000])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the path of a folder or a hub id"):
        load(name)


def test_any_hub_id_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet(tmp_path / "0123456789abcdef", train=rows(30))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    splits = load("someone/photos.v2")
    assert (splits.name, splits.settings["name"], splits.settings["dir"]) == ("someone/photos.v2",) * 2 + (None,)
    assert splits.note == "someone/photos.v2 of the hub, revision 0123456789ab"
    assert load("someone/photos.v2", data_dir=folder).fingerprint == splits.fingerprint


def test_a_hub_id_without_network_is_one_sentence() -> None:
    with pytest.raises(RunError, match=r"^cannot fetch someone/photos from the hub \(\w+\); give a local copy"):
        load("someone/photos")


@pytest.mark.parametrize(
    ("error", "words"), [("GatedRepoError", "is gated: accept"), ("RepositoryNotFoundError", "the hub has no")]
)
def test_a_closed_or_unknown_hub_id_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)

    def fail(*_: object, **__: object) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(RunError, match=rf"^[^\n]*{words}[^\n]*$"):
        load("someone/photos")


def test_known_sets_read_their_columns(tmp_path: Path) -> None:
    columns = {"img": IMAGE, "fine_label": LABEL, "coarse_label": LABEL}
    table = [(png(k), k % 3, 0) for k in range(60)]
    splits = load("cifar100", data_dir=parquet(tmp_path / "c", columns, train=table[:40], test=table[40:]))
    assert (sizes(splits), splits.settings.get("label_column")) == ({"train": 36, "val": 4, "test": 20}, None)
    mixed = [(png(k, mode="L" if k % 2 else "RGB"), k % 3) for k in range(60)]
    tiny = load("tiny-imagenet", data_dir=parquet(tmp_path / "t", train=mixed[:40], valid=mixed[40:]))
    assert (sizes(tiny), tiny.train.channels) == ({"train": 36, "val": 4, "test": 20}, 3)
    assert (SOURCES.make("cifar100").recipe, find("tiny-imagenet")[0].recipe) == (
        "fast-cifar100",
        "paper-tiny-imagenet",
    )


# -- corrupt files ------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 × 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


BROKEN = {"empty": b"", "text": b"no image", "header": png(0)[:20], "body": png(0, (40, 40))[:-900], "bomb": bomb()}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_corrupt_file_stops_or_is_left_out(tmp_path: Path, content: bytes) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    (folder / "dog" / "3.png").write_bytes(content)
    said = refuse(folder)
    assert "dog/3.png is " in said
    assert "--skip-corrupt" in said
    assert not list((tmp_path / "cache").rglob("*.npy"))
    told: Told = []
    splits = read(folder, told, skip_corrupt=True)
    assert splits.dropped == {"corrupt": 1}
    assert splits.summary().endswith("left out: 1 corrupt")
    assert sum(sizes(splits).values()) == 29
    assert any("dog/3.png" in line for line in told)
    assert read(folder, skip_corrupt=True).dropped == {"corrupt": 1}
    assert splits.settings["skip_corrupt"]


@pytest.mark.parametrize("content", [b"", png(0, (40, 40))[:-900]])
def test_more_corrupt_than_not_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = class_folders(tmp_path / "photos", each=4)
    for file in [*folder.rglob("[012].png")]:
        file.write_bytes(content)
    assert "9 of 12 images are corrupt, more than may be skipped" in refuse(folder, skip_corrupt=True)


# -- hostile layouts ----------------------------------------------------------------------------------------------------


def test_loops_of_links_end(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    (folder / "dog" / "loop").symlink_to(folder)
    (folder / "dog" / "up").symlink_to("/")
    (folder / "dog" / "self.png").symlink_to("self.png")
    assert sum(sizes(read(folder)).values()) == 30


def test_classes_may_be_links(tmp_path: Path) -> None:
    stored = class_folders(tmp_path / "stored", each=10)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, target in (("a", "cat"), ("b", "dog")):
        (folder / name).symlink_to(stored / target)
    first = read(folder)
    for name, target in (("a", "dog"), ("b", "cat")):
        (folder / name).unlink()
        (folder / name).symlink_to(stored / target)
    assert read(folder).fingerprint != first.fingerprint


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    assert read(folder).train.class_names == CLASSES
    (folder / "owl").mkdir()
    assert "photos/owl holds no image that can be read (it is empty)" in refuse(folder)


def test_images_outside_class_folders_are_refused(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    (folder / "stray.png").write_bytes(png(99))
    assert "stray.png is outside class folders" in refuse(folder)


def test_a_class_only_in_test_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos" / "train", each=5)
    class_folders(tmp_path / "photos" / "test", classes=("cat", "ibex"), first=100)
    assert "the class 'ibex' of" in refuse(tmp_path / "photos")


def test_a_column_of_class_folders_is_refused(tmp_path: Path) -> None:
    assert "has no column 'kind'" in refuse(class_folders(tmp_path / "photos"), label_column="kind")


def test_one_class_is_refused(tmp_path: Path) -> None:
    assert "at least 2 classes" in refuse(class_folders(tmp_path / "photos", each=10, classes=("cat",)))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos")
    (folder / "dog").chmod(0)
    assert "cannot read" in refuse(folder)


def test_too_many_bytes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGEST", 30 * 3 * 64 - 1)
    monkeypatch.setattr(folder_dataset, "decode", None)
    said = refuse(class_folders(tmp_path / "photos", each=10))
    assert "the 30 images of" in said
    assert "--size 7 would fit" in said


def test_a_jpeg_among_class_folders_is_read(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    (folder / "cat" / "photo.JPG").write_bytes(encoded(picture(500, (700, 400)), "JPEG"))
    assert sum(sizes(read(folder, size=8)).values()) == 31


def test_names_that_are_no_text_are_read_and_named(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=10)
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))
    (folder / "cat").rename(strange)
    assert read(folder).train.class_names == ("dog", "frog", "\ufffd\ufffd")
    (strange / "0.png").write_bytes(b"")
    refuse(folder).encode()
