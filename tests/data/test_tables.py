"""Tables of images: splits, columns, labels, damage."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from data.made import LABEL, parquet, picture, png, rows
from undistill.data import Splits, load
from undistill.data.load import DataSettings
from undistill.errors import UsageError

IMAGE = {"_type": "Image"}


def refuse(data: Path | str, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(data, **settings)
    return str(refused.value)


def sizes(splits: Splits) -> dict[str, int]:
    parts = {"train": splits.train, "pool": splits.pool, "val": splits.val, "test": splits.test}
    return {name: len(part) for name, part in parts.items() if part is not None}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


# -- splits -------------------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_pixels(hub: Path) -> None:
    splits = load(parquet(hub, train=rows(12), test=rows(6, first=50)), val=0)
    assert splits.train.labels_N.tolist() == [0, 1, 2] * 4
    for row, pixels in enumerate(splits.test.images_NCHW[:].numpy()):
        np.testing.assert_array_equal(pixels, np.asarray(picture(50 + row)).transpose(2, 0, 1))


def test_a_validation_split_beside_test_is_val(hub: Path) -> None:
    splits = load(parquet(hub, train=rows(30), validation=rows(6, 100), test=rows(9, 200)))
    assert sizes(splits) == {"train": 30, "val": 6, "test": 9}
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint
    assert sizes(load(hub, pool=0.2)) == {"train": 24, "pool": 6, "val": 6, "test": 9}
    assert sizes(load(hub, val=0)) == {"train": 30, "test": 9}
    assert "validation split of its own; leave data.val out" in refuse(hub, val=3)


def test_a_single_split_of_any_name_is_train_and_several_need_one(hub: Path, tmp_path: Path) -> None:
    assert sizes(load(parquet(hub, test=rows(30)))) == {"train": 21, "val": 3, "test": 6}
    several = parquet(tmp_path / "several", test=rows(3), validation=rows(3))
    assert "has no split 'train'; there are" in refuse(several)


@pytest.mark.parametrize("label", [None, -1])
def test_a_test_split_without_any_label_is_left_aside(
    hub: Path, tmp_path: Path, label: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    unlabelled = [(image, label) for image, _ in rows(9, 50)]
    assert sizes(load(parquet(hub, train=rows(30), test=unlabelled))) == {"train": 21, "val": 3, "test": 6}
    assert any("split 'test' is left aside" in message for message in caplog.messages)
    whole = parquet(tmp_path / "both", train=rows(30), validation=rows(6, 80), test=unlabelled)
    assert sizes(load(whole)) == {"train": 27, "val": 3, "test": 6}


@pytest.mark.parametrize(("train", "test"), [("TRAIN", "TEST"), ("Training", "Testing"), ("Train/0", "Val/0")])
def test_tables_of_splits_in_any_case_are_splits(tmp_path: Path, train: str, test: str) -> None:
    for name, content in ((train, rows(30)), (test, rows(9, 50))):
        (made,) = (parquet(tmp_path / "made" / name, train=content) / "data").iterdir()
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        made.rename(tmp_path / "data" / f"{name}.parquet")
    assert sizes(load(tmp_path / "data")) == {"train": 27, "val": 3, "test": 9}


def test_a_table_that_is_no_split_is_named(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    parquet(hub, train=rows(30), test=rows(9, 50))
    shutil.copy(next((hub / "data").glob("train*")), hub / "data" / "more.parquet")
    assert sizes(load(hub))["test"] == 9
    assert any("more.parquet left aside" in message for message in caplog.messages)


def test_a_set_saved_to_disk_is_read(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("bool")})
    images = [{"bytes": png(k), "path": None} for k in range(30)]
    made = datasets.Dataset.from_dict({"image": images, "kind": [k % 2 == 0 for k in range(30)]}, features=features)
    made.save_to_disk(str(tmp_path / "kept"))
    assert load(tmp_path / "kept", label_column="kind").train.class_names == ("False", "True")
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "both"))
    assert "every image of train is also in test" in refuse(tmp_path / "both", label_column="kind", val=0)


def test_a_tar_of_images_and_labels_side_by_side_is_read_by_datasets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "train-000.tar", "w") as archive:
        for k in range(30):
            for suffix, content in (("png", png(k)), ("cls", str(k % 3).encode())):
                info = tarfile.TarInfo(f"{k:04d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert load(tmp_path / "data", image_column="png", label_column="cls").num_classes == 3


# -- columns ------------------------------------------------------------------------------------------------------------


def table(kind: str) -> pd.DataFrame:
    images: list[Any] = [png(k) for k in range(30)]
    if kind != "bytes":
        images = [{"bytes": image, "path": f"{k}.png" if kind == "path" else None} for k, image in enumerate(images)]
    kinds = pd.Series(["abc"[k % 3] for k in range(30)])
    return pd.DataFrame({"photo": images, "kind": kinds, "category": kinds.astype("category"), "score": [0.5] * 30})


@pytest.mark.parametrize(
    ("kind", "label", "alone"), [("bytes", "kind", True), ("path", "category", False), ("no path", "category", True)]
)
def test_a_parquet_file_of_pandas_is_read(tmp_path: Path, kind: str, label: str, alone: bool) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "photos.parquet"
    table(kind).to_parquet(file)
    place = file if alone else file.parent
    splits = load(place, image_column="photo", label_column=label)
    assert (splits.train.class_names, sum(sizes(splits).values())) == (("a", "b", "c"), 30)
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint
    assert load(place, label_column=label).fingerprint == splits.fingerprint
    assert load("folder", data_dir=place, label_column=label).fingerprint == splits.fingerprint


def test_several_columns_are_refused_with_the_way_out(hub: Path, tmp_path: Path) -> None:
    columns = {"img": IMAGE, "fine": LABEL, "coarse": {"names": ["pet", "wild"], "_type": "ClassLabel"}}
    parquet(hub, columns, train=[(png(k), k % 3, k % 2) for k in range(30)])
    assert "2 label columns, fine and coarse; name it with data.label_column (--label-column)" in refuse(hub)
    splits = load(hub, label_column="coarse")
    assert (splits.train.class_names, splits.settings["label_column"]) == (("pet", "wild"), "coarse")
    columns = {"photo": IMAGE, "mask": IMAGE, "label": LABEL}
    folder = parquet(tmp_path / "masks", columns, train=[(png(k), png(50 + k), k % 3) for k in range(30)])
    assert "photo and mask; name it with data.image_column (--image-column)" in refuse(folder)
    assert load(folder, image_column="mask").settings["image_column"] == "mask"
    assert "has no column 'none'; there are photo, mask, label" in refuse(folder, image_column="none")


@pytest.mark.parametrize(
    ("dtype", "values", "names"),
    [
        ("string", ["../../b", "a\nb", "c"], ("../../b", "a\nb", "c")),
        ("int64", [70, 9, 100], ("9", "70", "100")),
    ],
)
def test_a_plain_column_can_name_the_classes(hub: Path, dtype: str, values: list[Any], names: tuple[str, ...]) -> None:
    columns = {"image": IMAGE, "kind": {"dtype": dtype, "_type": "Value"}}
    parquet(hub, columns, train=[(png(k), values[k % 3]) for k in range(30)])
    assert "no label column among image, kind; name it" in refuse(hub)
    splits = load(hub, label_column="kind")
    assert splits.train.class_names == names
    assert load(DataSettings(**splits.settings)).fingerprint == splits.fingerprint


def test_a_column_that_is_none_says_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "photos.parquet"
    table("bytes").assign(pixels=[[0, 1]] * 30).to_parquet(file)
    for column in ("score", "pixels", "kind"):
        assert f"the column '{column}'" in refuse(file, image_column=column, label_column="kind")
    assert "the column 'score'" in refuse(file, label_column="score")
    table("bytes").assign(photo=[b"\0\1\2"] * 30).to_parquet(file)
    assert "image 0 of" in refuse(file, label_column="kind")


# -- labels and classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "row 2 of {} test has no label (None): "),
        (-1, "row 2 of {} test has no label (-1): "),
        (3, "image 2 of {} test has the label 3, which is out of range: the data name 3 classes, 0 to 2"),
        (-7, "label -7, which is out of range"),
    ],
)
def test_a_missing_or_wrong_label_is_named(hub: Path, label: int | None, said: str) -> None:
    parquet(hub, train=rows(9), test=[*rows(2, 50), (png(60), label), (png(61), 0)])
    assert said.format(hub) in refuse(hub)


def test_classes_of_one_name_are_refused(hub: Path, tmp_path: Path) -> None:
    label = {"names": ["cat", "dog", "cat"], "_type": "ClassLabel"}
    assert "cat" in refuse(parquet(hub, {"image": IMAGE, "label": label}, train=rows(30)))
    for one, other in (("cat", "cat "), ("caf\u00e9", "cafe\u0301")):
        table("bytes").assign(kind=[[one, other, "dog"][k % 3] for k in range(30)]).to_parquet(tmp_path / "p.parquet")
        said = refuse(tmp_path / "p.parquet", label_column="kind")
        assert repr(one) in said
        assert repr(other) in said


# -- damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image", png(0)[:60], png(0)[:-60]])
def test_a_corrupt_image_is_named_and_nothing_kept(hub: Path, root: Path, content: bytes) -> None:
    broken = rows(12)
    broken[7] = (content, 1)
    assert f"image 7 of {hub} train is corrupt: " in refuse(parquet(hub, train=broken, test=rows(3, 50)))
    assert not list(root.rglob("meta.json"))


def test_a_split_without_rows_is_refused(hub: Path) -> None:
    assert "test" in refuse(parquet(hub, train=rows(6), test=[]))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95, None])
def test_a_damaged_parquet_file_is_refused_in_one_sentence(hub: Path, keep: float | None) -> None:
    file = next(parquet(hub, train=rows(12), test=rows(6, 50)).rglob("train*.parquet"))
    content = bytearray(file.read_bytes())
    if keep is None:
        content[4:200] = bytes(196)
        file.write_bytes(content)
    else:
        os.truncate(file, int(keep * len(content) if keep < 1 else keep))
    refuse(hub)
