"""Data sets by name, from a folder in the hub's format, without any network."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from undistill.data import folder_dataset, load, locate
from undistill.data.load import DataSettings
from undistill.data.sources import SOURCES
from undistill.errors import RunError, UsageError

Row = tuple[bytes, int | None]
MakeFolder = Callable[..., Path]
CLASSES = ["cat", "dog", "frog"]


def picture(seed: int, size: int = 8, mode: str = "RGB") -> NDArray[Any]:
    shape = (size, size) if mode == "L" else (size, size, len(mode))
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(seed: int, size: int = 8, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, size, mode), mode=None).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, first: int = 0) -> list[Row]:
    return [(png(first + k), k % 3) for k in range(count)]


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFolder:
    """`hub_folder(train=rows, test=rows)`: parquet files as the hub has them; with a cache of its own."""
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))

    def make(
        columns: tuple[str, str] = ("img", "label"), classes: Sequence[str] = CLASSES, **splits: list[Row]
    ) -> Path:
        folder = tmp_path / "hub" / "data"
        folder.mkdir(parents=True)
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(classes), "_type": "ClassLabel"}}
        schema = pa.schema(
            [(columns[0], pa.struct([("bytes", pa.binary()), ("path", pa.string())])), (columns[1], pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        for split, content in (splits or {"train": rows(12), "test": rows(6, first=50)}).items():
            arrays = [[{"bytes": b, "path": None} for b, _ in content], [label for _, label in content]]
            table = pa.Table.from_arrays(
                [pa.array(a, f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema
            )
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
        return folder.parent

    return make


def cifar10(folder: Path, **sizes: Any) -> Any:
    return load("cifar10", data_dir=folder, **{"val": 0} | sizes)


def explode(*_: object) -> None:
    raise AssertionError("decoded")


# -- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_in_the_hubs_format_is_read(hub_folder: MakeFolder) -> None:
    splits = cifar10(hub_folder())
    assert splits.train.class_names == ("cat", "dog", "frog")
    assert splits.train.labels_N.tolist() == [0, 1, 2] * 4
    assert (len(splits.train), len(splits.test), splits.pool, splits.val) == (12, 6, None, None)
    for row, pixels in enumerate(splits.test.images_NCHW.numpy()):
        np.testing.assert_array_equal(pixels, picture(50 + row).transpose(2, 0, 1))


def test_sizes_of_the_source_hold_unless_told_otherwise(hub_folder: MakeFolder) -> None:
    folder = hub_folder(train=rows(30), test=rows(6, first=50))
    assert len(load("cifar10", data_dir=folder).val or ()) == 3
    assert len(load("cifar10", data_dir=folder, val=5).val or ()) == 5


def test_a_second_reading_decodes_nothing(hub_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder()
    first = cifar10(folder)
    monkeypatch.setattr(folder_dataset, "decode", explode)
    again = cifar10(folder)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.images_NCHW, first.train.images_NCHW)


def test_a_touched_file_is_decoded_again(hub_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder()
    cifar10(folder)
    os.utime(next(folder.rglob("train*.parquet")), ns=(1, 1))
    monkeypatch.setattr(folder_dataset, "decode", explode)
    with pytest.raises(AssertionError, match="decoded"):
        cifar10(folder)


def test_a_damaged_cache_is_decoded_again(hub_folder: MakeFolder, tmp_path: Path) -> None:
    folder = hub_folder()
    first = cifar10(folder)
    next(tmp_path.rglob("meta.json")).write_text("{")
    assert cifar10(folder).fingerprint == first.fingerprint


def test_grey_images_keep_one_channel(hub_folder: MakeFolder) -> None:
    grey = [(png(k, mode="L"), k % 3) for k in range(12)]
    assert cifar10(hub_folder(train=grey[:6], test=grey[6:])).train.channels == 1


@pytest.mark.parametrize("content", [b"", b"no image", png(0)[:60], png(0)[:-60]])
def test_a_corrupt_image_is_named(hub_folder: MakeFolder, content: bytes) -> None:
    broken = rows(12)
    broken[7] = (content, 1)
    with pytest.raises(UsageError, match=r"^image 7 of .*hub train is corrupt: [^\n]+$"):
        cifar10(hub_folder(train=broken, test=rows(3)))


def test_nothing_of_a_broken_folder_is_kept(hub_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="corrupt"):
        cifar10(hub_folder(train=rows(3), test=[(b"", 0)]))
    assert not list(tmp_path.rglob("meta.json"))


@pytest.mark.parametrize(("columns", "missing"), [(("image", "label"), "img"), (("img", "fine_label"), "label")])
def test_a_wrong_column_is_named_with_those_there_are(
    hub_folder: MakeFolder, columns: tuple[str, str], missing: str
) -> None:
    with pytest.raises(UsageError, match=f"has no column '{missing}'; there are {columns[0]}, {columns[1]}$"):
        cifar10(hub_folder(columns))


def test_a_missing_split_is_named_with_those_there_are(hub_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match=r"has no split 'test'; there are train$"):
        cifar10(hub_folder(train=rows(6)))


def test_a_split_without_rows_is_refused(hub_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*\btest\b[^\n]*$"):
        cifar10(hub_folder(train=rows(6), test=[]))


def test_a_label_out_of_range_is_refused(hub_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match=r"image 6 .* label 3, which is out of range: the data name 3 classes, 0 to 2"):
        cifar10(hub_folder(train=[*rows(6), (png(1), 3)], test=rows(3)))


@pytest.mark.parametrize("label", [-1, None])
def test_a_missing_label_is_named_by_split_and_row(hub_folder: MakeFolder, label: int | None) -> None:
    with pytest.raises(UsageError, match=rf"^row 2 of .* test has no label \({label}\): [^\n]+$"):
        cifar10(hub_folder(train=rows(6), test=[*rows(2, first=50), (png(60), label), (png(61), 0)]))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is empty$"):
        load("folder", data_dir=tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist$"):
        cifar10(tmp_path / "nowhere")


def test_a_folder_without_data_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.rst").write_text("nothing here")
    with pytest.raises(UsageError, match=r"^[^\n]* holds no images but 1 \.rst[^\n]+$"):
        load("folder", data_dir=tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_a_parquet_file_cut_short_is_refused_in_one_sentence(hub_folder: MakeFolder, keep: float) -> None:
    folder = hub_folder()
    file = next(folder.rglob("train*.parquet"))
    os.truncate(file, int(keep * file.stat().st_size if keep < 1 else keep))
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        cifar10(folder)


def test_a_parquet_file_with_a_hole_is_refused_in_one_sentence(hub_folder: MakeFolder) -> None:
    folder = hub_folder()
    file = next(folder.rglob("train*.parquet"))
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        cifar10(folder)


def test_what_is_decoded_is_told(hub_folder: MakeFolder) -> None:
    told: list[tuple[str, int, int | None]] = []
    load("cifar10", data_dir=hub_folder(), val=0, progress=lambda *what: told.append(what))
    assert [(what, done) for what, done, _ in told] == [
        ("looking at train", 12),
        ("looking at test", 6),
        ("decoding train", 12),
        ("decoding test", 6),
    ]


def test_a_folder_of_its_own_test_split_carves_no_other(hub_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match=r"cifar10 has a test split of its own; data\.test cannot carve another"):
        cifar10(hub_folder(), test=3)


# -- the hub ------------------------------------------------------------------------------------------------------------


def test_without_a_network_the_hub_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path))
    with pytest.raises(
        RunError, match=r"^cannot fetch uoft-cs/cifar10 from the hub \(\w+\); give a local copy with --data-dir$"
    ):
        load("cifar10")


def test_a_fetched_data_set_is_found_without_asking_the_hub(
    hub_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = hub_folder(), []

    def snapshot(hub_id: str, **_: object) -> str:
        asked.append(hub_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load("cifar10", val=0).fingerprint == load("cifar10", val=0).fingerprint
    assert asked == ["uoft-cs/cifar10"]


# -- digits -------------------------------------------------------------------------------------------------------------


def test_digits_are_small_grey_and_come_in_four_parts() -> None:
    splits = load("digits")
    assert (splits.num_classes, splits.train.channels, splits.train.image_size) == (10, 1, 8)
    sizes = [len(part) for part in (splits.train, splits.pool, splits.val, splits.test) if part is not None]
    assert sizes == [810, 400, 90, 497]
    assert sum(sizes) == 1797


def test_digits_use_all_of_a_byte() -> None:
    pixels = load("digits").train.images_NCHW
    assert (pixels.dtype, pixels.min().item(), pixels.max().item()) == (torch.uint8, 0, 255)
    assert len(pixels.unique()) == 17


def test_digits_are_the_same_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path))
    first, again = load("digits"), load("digits")
    assert first.fingerprint == again.fingerprint == load(DataSettings()).fingerprint
    assert torch.equal(first.test.images_NCHW, again.test.images_NCHW)


def test_digits_read_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits is embedded and reads no --data-dir"):
        load("digits", data_dir=tmp_path)


# -- settings -----------------------------------------------------------------------------------------------------------


def test_every_source_says_where_it_comes_from_and_how_it_is_trained() -> None:
    assert all(SOURCES.make(name).note and SOURCES.make(name).recipe for name in SOURCES.classes())


def test_a_mistyped_data_set_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"no data set called 'cifar'; did you mean cifar10\? There are cifar10, .*folder or a hub id"
    ):
        load("cifar")


@pytest.mark.parametrize("sizes", [{"val": float("inf")}, {"val": -1}, {"size": 3}])
def test_wrong_sizes_are_refused_in_one_sentence(sizes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        load("digits", **sizes)


# -- data_dir -----------------------------------------------------------------------------------------------------------


def test_a_data_dir_is_the_set_or_the_folder_above_it(hub_folder: MakeFolder, tmp_path: Path) -> None:
    own = hub_folder().rename(tmp_path / "cifar10")
    above, itself = cifar10(tmp_path), cifar10(own)
    assert above.fingerprint == itself.fingerprint
    assert (above.settings["dir"], itself.settings["dir"]) == (str(tmp_path), str(own))
    assert load(DataSettings(**above.settings)).fingerprint == itself.fingerprint
    assert locate("cifar10", tmp_path) == locate("cifar10", own) == own


def test_a_hub_id_is_found_below_a_data_dir_by_its_whole_or_its_own_name(
    hub_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = hub_folder()
    for below in ("someone/photos", "photos"):
        (tmp_path / below).parent.mkdir(exist_ok=True)
        folder = folder.rename(tmp_path / below)
        assert locate("someone/photos", tmp_path) == folder
        splits = load("someone/photos", data_dir=tmp_path, image_column="img")
        assert (splits.name, splits.num_classes) == ("someone/photos", 3)


def test_a_data_dir_without_the_set_names_both_places(hub_folder: MakeFolder, tmp_path: Path) -> None:
    hub_folder().rename(tmp_path / "cifar100")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.rst").write_text("x")
    for folder in (tmp_path, tmp_path / "empty", tmp_path / "notes"):
        for refuses in (locate, lambda name, place: load(name, data_dir=place)):
            with pytest.raises(UsageError, match=r"^[^\n]*holds no folder 'cifar10'[^\n]*$") as refused:
                refuses("cifar10", folder)
            assert str(refused.value).endswith(f"tried {folder / 'cifar10'} and {folder}")


def test_a_folder_of_ones_own_is_found_below_a_data_dir(hub_folder: MakeFolder, tmp_path: Path) -> None:
    folder = hub_folder()
    found = load("hub", data_dir=tmp_path, image_column="img")
    assert (found.settings["name"], found.settings["dir"]) == ("folder", str(folder))
    with pytest.raises(UsageError, match="no data set called 'hut'"):
        load("hut", data_dir=tmp_path)


def test_another_set_in_a_data_dir_is_not_taken_for_the_one_that_was_asked_for(
    hub_folder: MakeFolder, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        for c, name in enumerate(CLASSES):
            (tmp_path / "above" / "mnist" / split / name).mkdir(parents=True)
            (tmp_path / "above" / "mnist" / split / name / "0.png").write_bytes(png(c))
    for name in ("cifar10", "someone/photos"):
        with pytest.raises(UsageError, match="holds no folder"):
            load(name, data_dir=tmp_path / "above")


def test_where_data_are_is_told_without_reading_them(
    hub_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_dataset, "header", explode)
    assert (locate("digits"), locate("cifar10"), locate("someone/photos")) == (None, None, None)
    assert locate(str(hub_folder())) == tmp_path / "hub"
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="'folder' needs to know where"):
        locate("folder")
    for name, folder in (("folder", tmp_path / "other"), (str(tmp_path / "other"), None), ("cifar10", "/nowhere")):
        with pytest.raises(UsageError, match=r"is empty|does not exist"):
            locate(name, folder)


def test_class_folders_of_a_known_set_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))
    for split, each, first in (("train", 10, 0), ("Test", 2, 100)):
        for c, name in enumerate(CLASSES):
            (tmp_path / "cifar10" / split / name).mkdir(parents=True)
            for k in range(each):
                (tmp_path / "cifar10" / split / name / f"{k}.png").write_bytes(png(first + 10 * c + k))
    splits = load("cifar10", data_dir=tmp_path)
    assert (len(splits.train), len(splits.val or ()), len(splits.test)) == (27, 3, 6)


def test_digits_may_be_asked_for_in_the_form_that_they_have() -> None:
    assert load("digits", size=8, channels=1).fingerprint == load("digits").fingerprint
    for other in ({"size": 16}, {"channels": 3}, {"label_column": "label"}, {"value_range": (0, 16)}):
        with pytest.raises(UsageError, match="embedded"):
            load("digits", **other)


@pytest.mark.parametrize("name", ["nofolder/", "../..x/", "./photos", "~/none-of-mine", "/nowhere/at/all"])
def test_a_path_that_is_not_there_is_no_misspelled_name(name: str) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        load(name)
