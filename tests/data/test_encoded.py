"""Images that stay encoded on disk are the pixels of those that are decoded once, wherever they are asked for."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import undistill
from data.made import class_folders, encoded, parquet, picture, png, rows
from undistill.data import ImageBatches, ImageSet, Splits, image_set, load
from undistill.data.augment import Flip, ResizedCrop
from undistill.data.encoded import VARIABLE, Encoded, Mapped, limit
from undistill.errors import RunError, UsageError
from undistill.files import cache_root

SETTINGS: dict[str, Any] = {"test": 4, "val": 3, "pool": 3, "size": 12}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """JPEGs and PNGs of several shapes, one of them twice, and a grey one with more than 8 bits."""
    top = class_folders(tmp_path / "photos", each=8, size=(20, 16))
    (top / "cat" / "wide.jpg").write_bytes(encoded(picture(90, (40, 18)), "JPEG"))
    (top / "dog" / "grey.png").write_bytes(png(91, (16, 16), "L"))
    (top / "dog" / "again.png").write_bytes((top / "dog" / "0.png").read_bytes())
    return top


def both(folder: Path, **settings: Any) -> tuple[Splits, Splits]:
    """The same folder decoded and encoded."""
    return load(folder, **settings), load(folder, memory_limit="1kB", **settings)


def parts(data: Splits) -> dict[str, ImageSet]:
    return {name: part for name in ("train", "pool", "val", "test") if (part := getattr(data, name)) is not None}


@pytest.mark.parametrize("stored", [None, 15])
@pytest.mark.parametrize("channels", [None, 1])
def test_every_part_is_the_same_to_the_bit(folder: Path, stored: int | None, channels: int | None) -> None:
    decoded, kept = both(folder, **SETTINGS, stored=stored, channels=channels)
    assert (decoded.fingerprint, decoded.mean, decoded.std) == (kept.fingerprint, kept.mean, kept.std)
    assert (decoded.settings, decoded.dropped) == (kept.settings, kept.dropped)
    assert decoded.summary() == kept.summary()
    for name, part in parts(kept).items():
        whole = parts(decoded)[name]
        assert isinstance(part.images_NCHW, Encoded)
        assert isinstance(whole.images_NCHW, torch.Tensor)
        assert part.images_NCHW.shape == whole.images_NCHW.shape
        assert torch.equal(part.images_NCHW[:], whole.images_NCHW)
        assert torch.equal(part.seen(), whole.seen())
        assert torch.equal(part.seen(torch.tensor([2, 0, 2])), whole.seen(torch.tensor([2, 0, 2])))
        assert torch.equal(part.index_N, whole.index_N)
        assert part.hashes_N.tolist() == whole.hashes_N.tolist()
        assert (part.moments(), part.fingerprint) == (whole.moments(), whole.fingerprint)
        some = torch.tensor([1, 0])
        assert torch.equal(part.take(some).take(some).images_NCHW[:], whole.images_NCHW[:2])


def test_parts_of_a_large_set_are_no_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = load(folder, **SETTINGS, stored=15)
    monkeypatch.setattr(image_set, "MAPPED", 0)
    mapped = load(folder, **SETTINGS, stored=15)
    assert (copied.fingerprint, copied.mean, copied.std) == (mapped.fingerprint, mapped.mean, mapped.std)
    for name, part in parts(mapped).items():
        assert isinstance(part.images_NCHW, Mapped)
        assert torch.equal(part.images_NCHW[:], parts(copied)[name].images_NCHW[:])
        few = part.take(torch.tensor([2, 0]))
        assert torch.equal(few.images_NCHW[:], parts(copied)[name].images_NCHW[:][[2, 0]])
        assert few.fingerprint == parts(copied)[name].take(torch.tensor([2, 0])).fingerprint
        meta = part.images_NCHW.to("meta")
        assert (meta.shape, meta.dtype) == (part.images_NCHW.shape, torch.uint8)
    pairs = [ImageBatches(data.train, 4, [Flip()], seed=1, role="teacher") for data in (copied, mapped)]
    for a, b in zip(*(batches.epoch(2) for batches in pairs), strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)


def test_values_beyond_8_bits_are_scaled_alike(tmp_path: Path) -> None:
    top = class_folders(tmp_path / "deep", each=6, mode="I;16")
    decoded, kept = both(top, test=4, val=2)
    assert torch.equal(decoded.train.images_NCHW[:], kept.train.images_NCHW[:])
    assert kept.train.channels == 1


def packed(tmp_path: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The same 30 images in one of the forms that are read, and the settings that read it."""
    if kind == "parquet":
        return parquet(tmp_path / "table", train=rows(30)), {}
    if kind == "webdataset":
        (tmp_path / "shards").mkdir()
        with tarfile.open(tmp_path / "shards" / "train-000.tar", "w") as archive:
            for k in range(30):
                for suffix, content in (("png", png(k)), ("cls", str(k % 3).encode())):
                    info = tarfile.TarInfo(f"{k:04d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return tmp_path / "shards", {"image_column": "png", "label_column": "cls"}
    folder = class_folders(tmp_path / "photos", each=10)
    return Path(shutil.make_archive(str(tmp_path / "packed"), kind, folder)), {}


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet", "webdataset"])
def test_every_form_of_data_can_stay_encoded(tmp_path: Path, kind: str) -> None:
    place, settings = packed(tmp_path, kind)
    decoded, kept = both(place, **settings, test=5, val=3)
    assert isinstance(kept.train.images_NCHW, Encoded)
    assert decoded.fingerprint == kept.fingerprint
    assert torch.equal(decoded.train.images_NCHW[:], kept.train.images_NCHW[:])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_are_decoded_ahead_in_their_order(folder: Path, accumulate: int) -> None:
    decoded, kept = both(folder, **SETTINGS, stored=16)
    views = [ResizedCrop(), Flip()]

    def batches(data: Splits) -> ImageBatches:
        return ImageBatches(data.train, 4, views, seed=1, role="teacher", passes=2, accumulate=accumulate)

    one, other = batches(decoded), batches(kept)
    for epoch in (0, 3):
        pairs = list(zip(one.epoch(epoch), other.epoch(epoch), strict=True))
        assert len(pairs) >= len(one)
        for a, b in pairs:
            assert torch.equal(a.images_BCHW, b.images_BCHW)
            assert torch.equal(a.index_B, b.index_B)
            assert a.part == b.part
    assert torch.equal(one.stored(torch.tensor([3, 1])), other.stored(torch.tensor([3, 1])))


def test_a_training_and_an_attack_are_the_same(folder: Path, tmp_path: Path) -> None:
    reached = []
    for number, data in enumerate(both(folder, **SETTINGS)):
        recipe = undistill.recipe(
            "folder", ["training.epochs=2", "training.batch=8", "model.width=0.125", "model.name=cnn"]
        )
        run = undistill.train(None, data, recipe, seed=0, out=tmp_path / f"run{number}")
        cell = undistill.attack(
            run, data, {"name": "kd"}, out=tmp_path / f"attack{number}", student="cnn", accept_accuracy=True
        )
        reached.append((run.result["model_id"], run.config["data_fingerprint"], cell.id, cell.accuracy, cell.queries))
    assert reached[0] == reached[1]


def test_a_second_reading_makes_nothing_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder, memory_limit="1kB", **SETTINGS)

    def refuse(*_: object) -> None:
        raise AssertionError("it was made again")

    monkeypatch.setattr("undistill.data.folder_dataset._Reading._keep", refuse)
    monkeypatch.setattr(ImageSet, "_histograms", refuse)
    again = load(folder, memory_limit="1kB", **SETTINGS)
    assert (again.fingerprint, again.mean) == (first.fingerprint, first.mean)


def test_a_cache_that_cannot_be_written_to_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder, memory_limit="1kB", **SETTINGS)

    def refuse(*_: object, **__: object) -> None:
        raise RunError("cannot write: Read-only file system")

    monkeypatch.setattr("undistill.data.encoded.write_bytes", refuse)
    other = load(folder, memory_limit="1kB", **{**SETTINGS, "split_seed": 3})
    assert other.mean == load(folder, **{**SETTINGS, "split_seed": 3}).mean


def test_threads_that_decode_leave_warnings_on(folder: Path) -> None:
    images = load(folder, memory_limit="1kB", **SETTINGS).train.images_NCHW
    for _ in range(20):
        images[:]
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)
    assert not any(
        kind is Warning and action == "ignore" and not module for action, _, kind, module, _ in warnings.filters
    )


@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_cache_that_changes_is_told_or_made_again(folder: Path, damage: str) -> None:
    data = load(folder, memory_limit="1kB", **SETTINGS)
    before = data.train.images_NCHW[:]
    (file,) = cache_root().glob("images/*/train.encoded")
    fresh = pickle.loads(pickle.dumps(data.train.images_NCHW))
    assert torch.equal(fresh[:], before)
    fresh = pickle.loads(pickle.dumps(data.train.images_NCHW))
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:100] if damage == "short" else bytes(len(content)))
    with pytest.raises(RunError, match="the cache changed: `undistill cache --prune --kind images` and begin again"):
        fresh[:]
    if damage != "changed":
        again = load(folder, memory_limit="1kB", **SETTINGS)
        assert torch.equal(again.train.images_NCHW[:], before)


def test_a_corrupt_image_is_named_or_left_out(folder: Path) -> None:
    bad = folder / "frog" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"frog/0\.png is corrupt"):
        load(folder, memory_limit="1kB", **SETTINGS)
    decoded, kept = both(folder, **SETTINGS, skip_corrupt=True)
    assert kept.dropped == decoded.dropped
    assert kept.dropped["corrupt"] == 1
    assert kept.fingerprint == decoded.fingerprint
    assert torch.equal(decoded.train.images_NCHW[:], kept.train.images_NCHW[:])


def test_the_limit_counts_all_splits_and_may_come_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_ = 27 * 3 * 12 * 12
    for text, kind in ((f"{bytes_ / 1000}kB", torch.Tensor), (f"{(bytes_ - 1) / 1000}kB", Encoded)):
        monkeypatch.setenv(VARIABLE, text)
        assert isinstance(load(folder, **SETTINGS).train.images_NCHW, kind)
    monkeypatch.setenv(VARIABLE, "1kB")
    assert isinstance(load("digits").train.images_NCHW, torch.Tensor)  # 115 kB, in scikit-learn


@pytest.mark.parametrize(
    ("text", "size"), [("200MB", 200_000_000), ("1.5 gb", 1_500_000_000), ("12kB", 12_000), (None, 4_000_000_000)]
)
def test_a_limit_is_a_size(text: str | None, size: int) -> None:
    assert limit(text) == size


@pytest.mark.parametrize("text", ["200", "MB", "-1MB", "1MiB", "many"])
def test_anything_else_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match=f"the memory limit is a size such as 200MB or 4GB, not '{text}'"):
        limit(text)
