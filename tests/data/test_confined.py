"""What a folder's own files say decides nothing outside the folder: no other file is read, no address is asked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import datasets
import pytest

from data.made import parquet, png, rows
from undistill.data import decode as decoding
from undistill.data import load
from undistill.data.decode import CorruptError, header
from undistill.errors import UsageError


def card(folder: Path, path: str, name: str = "README.md", more: str = "") -> None:
    lines = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n{more}"
    (folder / name).write_text(f"---\n{lines}---\n# Text\n" if name == "README.md" else lines)


def inside(folder: Path) -> Path:
    return parquet(folder, train=rows(30))


# -- cards --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../outside/data/train*.parquet",
        "..\\outside\\data\\*",
        "data/../../outside/data/*",
        "{top}/outside/data/*.parquet",
        "file://{top}/outside/data/*.parquet",
        "'file:{top}/outside/data/train-00000-of-00001.parquet'",
        "http://127.0.0.1:9/train.parquet",
        "hf://datasets/a/b/train.parquet",
        "'zip://*.parquet::{top}/outside/x.zip'",
        "[data/*, ../outside/data/*]",
    ],
)
def test_a_card_that_leads_outside_is_refused(tmp_path: Path, path: str) -> None:
    inside(tmp_path / "outside")
    folder = inside(tmp_path / "folder")
    for name in ("README.md", ".huggingface.yaml"):
        card(folder, path.format(top=tmp_path), name)
        with pytest.raises(UsageError, match=r"names .*, which is outside .*; put the files into the folder$"):
            load(folder)
        (folder / name).unlink()


def test_a_data_dir_that_leads_outside_is_refused(tmp_path: Path) -> None:
    inside(tmp_path / "outside")
    folder = inside(tmp_path / "folder")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_dir: ../outside\n---\n")
    with pytest.raises(UsageError, match=r"names \.\./outside, which is outside"):
        load(folder)


def test_hidden_files_that_no_cache_key_covers_are_refused(tmp_path: Path) -> None:
    folder = inside(tmp_path / "folder")
    shutil.copytree(folder / "data", folder / ".data")
    card(folder, ".data/*")
    with pytest.raises(UsageError, match=r"none of its own visible files"):
        load(folder)


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_that_stays_inside_is_followed(tmp_path: Path, name: str) -> None:
    folder = parquet(tmp_path / "folder", train=rows(30), test=rows(9, 50), other=rows(9, 90))
    card(folder, "data/train-*", name, "  - split: test\n    path: data/other-*\n")
    assert len(load(folder).test) == 9
    card(folder, "data/train-*", name, "  - split: test\n    path: data/none-*\n")
    with pytest.raises(UsageError, match="cannot read"):
        load(folder)


def test_a_linked_table_of_the_folder_is_read(tmp_path: Path) -> None:
    """As the hub's own cache keeps them."""
    folder = inside(tmp_path / "folder")
    (file,) = (folder / "data").iterdir()
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    card(folder, "data/train-*")
    assert load(folder).train.num_classes == 3


# -- save_to_disk -------------------------------------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    table = {"image": [{"bytes": png(k), "path": None} for k in range(30)], "label": [k % 3 for k in range(30)]}
    whole = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict({"train": whole}).save_to_disk(folder)
    return folder


def test_what_was_saved_to_disk_stays_inside(tmp_path: Path) -> None:
    outside, folder = saved(tmp_path / "outside"), saved(tmp_path / "folder")
    assert load(folder).train.num_classes == 3
    state = folder / "train" / "state.json"
    values = json.loads(state.read_text())
    name = values["_data_files"][0]["filename"]
    for path in (f"../../outside/train/{name}", str(outside / "train" / name)):
        state.write_text(json.dumps(values | {"_data_files": [{"filename": path}]}))
        with pytest.raises(UsageError, match=r"names .*outside/train/.*, which is none of its own visible files"):
            load(folder)
    state.write_text(json.dumps(values))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../outside/train"]}))
    with pytest.raises(UsageError, match="none of its own visible files"):
        load(folder)


# -- rows ---------------------------------------------------------------------------------------------------------------


def test_a_row_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(99))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden.png").write_bytes(png(99))
    for path in (
        tmp_path / "secret.png",
        tmp_path / "folder" / ".." / "secret.png",
        tmp_path / "folder" / ".hidden.png",
        "/etc/passwd",
        "/dev/zero",
        "none.png",
    ):
        parquet(tmp_path / "folder", train=[*rows(30), ({"bytes": None, "path": str(path)}, 0)])
        with pytest.raises(UsageError, match=r"^image 30 \(.*\) of .* is none of the folder's own visible files; "):
            load(tmp_path / "folder", skip_corrupt=True)


def test_a_row_that_names_a_file_of_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(png(98))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked.png").symlink_to(tmp_path / "blob")
    (folder / "own.png").write_bytes(png(99))
    named = [({"bytes": None, "path": str(folder / name)}, 0) for name in ("own.png", "linked.png", "missing.png")]
    parquet(folder, train=rows(30) + named)
    card(folder, "data/*")
    splits = load(folder, skip_corrupt=True)
    assert (splits.dropped, sum(splits.train.labels_N.shape)) == ({"corrupt": 1}, 32 - 6 - 3)


def test_pipes_devices_and_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(CorruptError, match=r"^it is corrupt: it is no regular file$"):
            header({"bytes": None, "path": str(path)}, "it")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(decoding.MOST + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    with pytest.raises(CorruptError, match=r"^it is too large: its 512 MB are more than the 512 MB"):
        header({"bytes": None, "path": str(tmp_path / "huge.png")}, "it")
