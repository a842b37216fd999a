"""Data sets by name, by path and by hub id, without any network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from data.made import LABEL, class_folders, classes, parquet, png, rows, tree
from undistill.data import folder_dataset, load, locate
from undistill.data.load import DataSettings
from undistill.data.sources import SOURCES, find
from undistill.errors import RunError, UsageError

COLUMNS = {"img": {"_type": "Image"}, "label": LABEL}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """CIFAR-10 as the hub has it, but smaller."""
    return parquet(tmp_path / "hub", COLUMNS, train=rows(12), test=rows(6, first=50))


def cifar10(folder: Path, **sizes: Any) -> Any:
    return load("cifar10", data_dir=folder, **{"val": 0} | sizes)


def explode(*_: object) -> None:
    raise AssertionError("decoded")


# -- known sets ---------------------------------------------------------------------------------------------------------


def test_a_known_set_is_read_from_a_folder_in_the_hubs_format(hub: Path) -> None:
    splits = cifar10(hub)
    assert (len(splits.train), len(splits.test), splits.pool, splits.val) == (12, 6, None, None)
    assert splits.settings.keys().isdisjoint({"image_column", "label_column", "size", "channels"})
    with pytest.raises(UsageError, match=r"cifar10 has a test split of its own; data\.test cannot carve another"):
        cifar10(hub, test=3)


def test_known_sets_read_their_columns(tmp_path: Path) -> None:
    columns = {"img": COLUMNS["img"], "fine_label": LABEL, "coarse_label": LABEL}
    table = [(png(k), k % 3, 0) for k in range(60)]
    splits = load("cifar100", data_dir=parquet(tmp_path / "c", columns, train=table[:40], test=table[40:]))
    assert (len(splits.train), len(splits.val or ()), len(splits.test)) == (36, 4, 20)
    mixed = [(png(k, mode="L" if k % 2 else "RGB"), k % 3) for k in range(60)]
    tiny = load("tiny-imagenet", data_dir=parquet(tmp_path / "t", train=mixed[:40], valid=mixed[40:]))
    assert (len(tiny.train), len(tiny.val or ()), len(tiny.test), tiny.train.channels) == (36, 4, 20, 3)
    assert find("tiny-imagenet")[0].recipe == "paper-tiny-imagenet"
    assert len(load("tiny-imagenet", data_dir=tmp_path / "t", val=5).val or ()) == 5


@pytest.mark.parametrize(("columns", "missing"), [(("image", "label"), "img"), (("img", "fine_label"), "label")])
def test_a_wrong_column_is_named_with_those_there_are(tmp_path: Path, columns: tuple[str, str], missing: str) -> None:
    made = dict(zip(columns, COLUMNS.values(), strict=True))
    with pytest.raises(UsageError, match=f"has no column '{missing}'; there are {columns[0]}, {columns[1]}$"):
        cifar10(parquet(tmp_path / "hub", made, train=rows(6), test=rows(3)))


def test_a_missing_split_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no split 'test'; there are train$"):
        cifar10(parquet(tmp_path / "hub", COLUMNS, train=rows(6)))


def test_class_folders_of_a_known_set_are_read(tmp_path: Path) -> None:
    tree(tmp_path / "cifar10", classes("train") | classes("Test", each=2))
    splits = load("cifar10", data_dir=tmp_path)
    assert (len(splits.train), len(splits.val or ()), len(splits.test)) == (27, 3, 6)


# -- the cache ----------------------------------------------------------------------------------------------------------


def test_a_second_reading_decodes_nothing(hub: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cifar10(hub)
    with monkeypatch.context() as patch:
        patch.setattr(folder_dataset, "decode", explode)
        again = cifar10(hub)
        assert again.fingerprint == first.fingerprint
        assert torch.equal(again.train.images_NCHW, first.train.images_NCHW)
        os.utime(next(hub.rglob("train*.parquet")), ns=(1, 1))
        with pytest.raises(AssertionError, match="decoded"):
            cifar10(hub)
    next(root.rglob("meta.json")).write_text("{")
    assert cifar10(hub).fingerprint == first.fingerprint


def test_what_is_decoded_is_told(hub: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    load("cifar10", data_dir=hub, val=0, progress=lambda *what: told.append(what))
    looked = [("looking at train", 12), ("looking at test", 6)]
    assert [what[:2] for what in told] == [*looked, ("decoding train", 12), ("decoding test", 6)]


# -- the hub ------------------------------------------------------------------------------------------------------------


def test_any_hub_id_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = parquet(tmp_path / "0123456789abcdef", train=rows(30)), []

    def snapshot(hub_id: str, **_: object) -> str:
        asked.append(hub_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    splits = load("someone/photos.v2")
    assert (splits.name, splits.settings["name"], splits.settings["dir"]) == ("someone/photos.v2",) * 2 + (None,)
    assert splits.note == "someone/photos.v2 of the hub, revision 0123456789ab"
    assert load("someone/photos.v2").fingerprint == splits.fingerprint
    assert load("someone/photos.v2", data_dir=folder).fingerprint == splits.fingerprint
    assert asked == ["someone/photos.v2"]


@pytest.mark.parametrize(
    ("error", "words"), [("GatedRepoError", "is gated: accept"), ("RepositoryNotFoundError", "the hub has no")]
)
def test_a_closed_or_unknown_hub_id_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)

    def fail(*_: object, **__: object) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(RunError, match=rf"^[^\n]*{words}[^\n]*there is no folder or file someone/photos here either$"):
        load("someone/photos")


@pytest.mark.parametrize(("name", "hub_id"), [("cifar10", "uoft-cs/cifar10"), ("someone/photos", "someone/photos")])
def test_without_a_network_the_hub_is_refused_with_the_way_out(name: str, hub_id: str) -> None:
    with pytest.raises(
        RunError, match=rf"^cannot fetch {hub_id} from the hub \(\w+\); give a local copy with --data-dir"
    ):
        load(name)


# -- digits -------------------------------------------------------------------------------------------------------------


def test_digits_are_small_grey_and_come_in_four_parts() -> None:
    splits = load("digits")
    assert (splits.num_classes, splits.train.channels, splits.train.image_size) == (10, 1, 8)
    sizes = [len(part) for part in (splits.train, splits.pool, splits.val, splits.test) if part is not None]
    assert sizes == [810, 400, 90, 497]
    pixels = splits.train.images_NCHW[:]
    assert (pixels.dtype, pixels.min().item(), pixels.max().item()) == (torch.uint8, 0, 255)
    assert len(pixels.unique()) == 17
    assert splits.fingerprint == "0036531e4d54ae32"  # which recorded cells name
    assert load(DataSettings()).fingerprint == load("digits", size=8, channels=1).fingerprint == splits.fingerprint


def test_digits_take_no_folder_and_no_other_form(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits is embedded and reads no --data-dir"):
        load("digits", data_dir=tmp_path)
    for other in ({"size": 16}, {"channels": 3}, {"label_column": "label"}, {"value_range": (0, 16)}):
        with pytest.raises(UsageError, match="embedded"):
            load("digits", **other)


# -- names and settings -------------------------------------------------------------------------------------------------


def test_every_source_says_where_it_comes_from_and_how_it_is_trained() -> None:
    assert all(SOURCES.make(name).note and SOURCES.make(name).recipe for name in SOURCES.classes())


@pytest.mark.parametrize("name", ["", "cifar", "no/such/folder", "a b/c", "\0", "x" * 5000])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"no data set called .*the path of a folder or a hub id"):
        load(name)


@pytest.mark.parametrize("name", ["nofolder/", "../..x/", "./photos", "~/none-of-mine", "/nowhere/at/all"])
def test_a_path_that_is_not_there_is_no_misspelled_name(name: str) -> None:
    with pytest.raises(UsageError, match="no folder or file"):
        load(name)


@pytest.mark.parametrize("sizes", [{"val": float("inf")}, {"val": -1}, {"size": 3}, {"val": 10.7}])
def test_wrong_sizes_are_refused_in_one_sentence(sizes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        load("digits", **sizes)


# -- data_dir -----------------------------------------------------------------------------------------------------------


def test_a_folder_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'folder' needs to know where"):
        load("folder")
    with pytest.raises(UsageError, match=r"is a path, and data\.dir \(--data-dir\) names another"):
        load(str(class_folders(tmp_path / "photos")), data_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"is empty$"):
        load("folder", data_dir=tmp_path / "empty")
    with pytest.raises(UsageError, match=r"nowhere does not exist$"):
        cifar10(tmp_path / "nowhere")


def test_a_data_dir_is_the_set_or_the_folder_above_it(hub: Path, tmp_path: Path) -> None:
    own = hub.rename(tmp_path / "cifar10")
    above, itself = cifar10(tmp_path), cifar10(own)
    assert above.fingerprint == itself.fingerprint
    assert (above.settings["dir"], itself.settings["dir"]) == (str(tmp_path), str(own))
    assert load(DataSettings(**above.settings)).fingerprint == itself.fingerprint
    assert locate("cifar10", tmp_path) == locate("cifar10", own) == own


def test_a_hub_id_is_found_below_a_data_dir_by_its_whole_or_its_own_name(hub: Path, tmp_path: Path) -> None:
    for below in ("someone/photos", "photos"):
        (tmp_path / below).parent.mkdir(exist_ok=True)
        hub = hub.rename(tmp_path / below)
        assert locate("someone/photos", tmp_path) == hub
        splits = load("someone/photos", data_dir=tmp_path, image_column="img")
        assert (splits.name, splits.num_classes) == ("someone/photos", 3)


def test_a_data_dir_without_the_set_names_both_places(hub: Path, tmp_path: Path) -> None:
    above = tree(tmp_path / "above", {"empty": None, "notes/notes.rst": b"x"} | classes("mnist/train"))
    hub.rename(above / "cifar100")
    for folder in (above, above / "empty", above / "notes"):
        for refuses in (locate, lambda name, place: load(name, data_dir=place)):
            with pytest.raises(UsageError, match=r"^[^\n]*holds no folder 'cifar10'[^\n]*$") as refused:
                refuses("cifar10", folder)
            assert str(refused.value).endswith(f"tried {folder / 'cifar10'} and {folder}")
    (above / "cifar100").rename(tmp_path / "hub")
    with pytest.raises(UsageError, match="holds no folder"):  # another set is not taken for the one that was asked for
        load("someone/photos", data_dir=above)


def test_a_folder_of_ones_own_is_found_below_a_data_dir(hub: Path, tmp_path: Path) -> None:
    found = load("hub", data_dir=tmp_path, image_column="img")
    assert (found.settings["name"], found.settings["dir"]) == ("folder", str(hub))
    with pytest.raises(UsageError, match="no data set called 'hut'"):
        load("hut", data_dir=tmp_path)


def test_where_data_are_is_told_without_reading_them(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_dataset, "header", explode)
    assert (locate("digits"), locate("cifar10"), locate("someone/photos")) == (None, None, None)
    assert locate(str(hub)) == hub
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="'folder' needs to know where"):
        locate("folder")
    for name, folder in (("folder", tmp_path / "other"), (str(tmp_path / "other"), None), ("cifar10", "/nowhere")):
        with pytest.raises(UsageError, match=r"is empty|does not exist"):
            locate(name, folder)
