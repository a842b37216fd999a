"""Images beyond 8 bits, of very many pixels, or of another kind than their names say."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.made import class_folders, encoded, picture
from undistill.data import ImageSet, cache, load
from undistill.data.decode import CorruptError, Shape, Wanted, decode, header
from undistill.data.folder_dataset import _Reading
from undistill.data.load import DataSettings
from undistill.errors import UsageError


def grey(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (8, 8))


def deep_folders(top: Path, dtype: str, factor: float = 1.0, offset: float = 0.0, suffix: str = ".tif") -> Path:
    """Class folders of grey images whose 8-bit values are multiplied by `factor` and kept in `dtype`."""
    for c, name in enumerate(("cat", "dog")):
        (top / name).mkdir(parents=True)
        for k in range(10):
            values = (grey(10 * c + k) * factor + offset).astype(dtype)
            Image.fromarray(values).save(top / name / f"{k}{suffix}")
    return top


@pytest.fixture
def expected(tmp_path: Path) -> str:
    """The fingerprint of the same images in 8 bits."""
    return load(deep_folders(tmp_path / "eight", "uint8")).fingerprint


def refuse(folder: Path, **settings: Any) -> str:
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        load(folder, **settings)
    return str(refused.value)


# -- values beyond 8 bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "factor", "suffix"),
    [
        ("uint16", 257, ".png"),
        ("uint16", 1, ".tif"),
        ("int32", 257, ".tif"),
        ("float32", 1 / 255, ".tif"),
        ("float32", 1, ".tif"),
        ("float32", 257, ".tif"),
    ],
)
def test_values_of_a_usual_range_become_eight_bits(
    tmp_path: Path, expected: str, dtype: str, factor: float, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = deep_folders(tmp_path / "deep", dtype, factor, suffix=suffix)
    assert load(folder).fingerprint == expected
    assert load(folder).fingerprint == expected  # from the cache
    assert any("values beyond 8 bits are read as 0 to" in message for message in caplog.messages) == (factor != 257)


def test_floats_that_an_earlier_version_cut_off_are_not_taken_from_its_cache(tmp_path: Path, expected: str) -> None:
    folder = deep_folders(tmp_path / "deep", "float32", 257)
    reading = _Reading(folder, Wanted(), lambda *_: None)
    found = reading.survey()
    earlier = cache.key_from(reading.stats, {"columns": found.columns, "splits": found.splits} | reading.extra)
    cache.read_or_make(earlier, "earlier", partial(reading._decode, found, Shape(1, 8, (0, 255))))
    assert load(folder).fingerprint == expected


@pytest.mark.parametrize(
    ("dtype", "factor", "offset", "values"),
    [
        ("uint16", 16, 0, (0, 4080)),
        ("int32", 16, -1000, (-1000, 3080)),
        ("int32", 1000, 0, (0, 255_000)),
        ("float32", 1, -128, (-128, 127)),
        ("float32", 2 / 255, -1, (-1, 1)),
        ("float32", 1e6, 0, (0, 255e6)),
    ],
)
def test_values_of_another_range_are_refused_until_it_is_declared(
    tmp_path: Path, expected: str, dtype: str, factor: float, offset: float, values: tuple[float, float]
) -> None:
    folder = deep_folders(tmp_path / "deep", dtype, factor, offset)
    said = refuse(folder)
    assert "data.value_range" in said
    assert "from" in said
    splits = load(folder, value_range=values)
    assert splits.fingerprint == expected
    again = DataSettings.model_validate(DataSettings(**splits.settings).model_dump(mode="json"))
    assert load(again).fingerprint == expected


def test_values_outside_a_declared_range_are_cut_off() -> None:
    values = np.array([[-50, 0], [100, 500]], np.int32)
    shape = Shape(1, 2, (0, 100))
    assert decode({"bytes": encoded(Image.fromarray(values), "TIFF")}, "it", shape).tolist() == [[[0, 0], [255, 255]]]


def test_sixteen_bits_are_rounded_as_ever() -> None:
    values = np.arange(65536).reshape(256, 256)
    made = decode({"bytes": encoded(Image.fromarray(values.astype(np.uint16)))}, "it", Shape(1, 256))
    assert (made[0] == (values * 255 + 32767) // 65535).all()


def test_whole_numbers_and_floats_together_are_refused(tmp_path: Path) -> None:
    folder = deep_folders(tmp_path / "deep", "uint16", 257)
    Image.fromarray((grey(50) / 255).astype(np.float32)).save(folder / "cat" / "float.tif")
    assert "in one form" in refuse(folder)


def test_values_that_are_not_finite_are_corrupt(tmp_path: Path) -> None:
    folder = deep_folders(tmp_path / "deep", "float32", 1 / 255)
    for value in (np.nan, np.inf):
        Image.fromarray(np.full((8, 8), value, np.float32)).save(folder / "cat" / "3.tif")
        assert "cat/3.tif is corrupt: it holds values that are not finite" in refuse(folder)
    assert load(folder, skip_corrupt=True).dropped == {"corrupt": 1}


@pytest.mark.parametrize("values", [[1, 0], [5, 5], [0], "x"])
def test_a_range_of_black_above_white_is_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(UsageError, match=r"^data: [^\n]*value_range[^\n]*$"):
        load(class_folders(tmp_path / "photos"), value_range=values)


def test_items_of_torch_data_sets_are_scaled_alike() -> None:
    items = [(Image.fromarray((grey(k) / 255).astype(np.float32)), k % 2) for k in range(4)]
    assert (ImageSet.from_torch(items).images_NCHW[:][:, 0].numpy() == np.stack([grey(k) for k in range(4)])).all()
    items = [(Image.fromarray((grey(k) - 1000).astype(np.int32)), k % 2) for k in range(4)]
    with pytest.raises(UsageError, match="-1000"):
        ImageSet.from_torch(items)
    with pytest.raises(UsageError, match=r"item 0 .* not finite"):
        ImageSet.from_torch([(Image.fromarray(np.full((8, 8), np.nan, np.float32)), 0)])


# -- very many pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG"])
def test_a_photo_of_108_megapixels_is_read(kind: str) -> None:
    content = encoded(Image.new("L", (12000, 9000), 77), kind)
    assert header({"bytes": content}, "it")[:3] == (True, 12000, 9000)
    assert (decode({"bytes": content}, "it", Shape(1, 8)) == 77).all()


def test_more_pixels_than_are_read_are_too_many_not_corrupt(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=4)
    (folder / "cat" / "huge.png").write_bytes(encoded(Image.new("1", (20000, 10000))))
    said = refuse(folder)
    assert "huge.png is too large" in said
    assert "scale it down" in said
    assert "corrupt;" not in said


# -- other kinds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04....", "zip"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "TIFF, but damaged"),
        (b"no image", "no PNG"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, said: str) -> None:
    with pytest.raises(CorruptError, match=rf"^it is corrupt: [^\n]*{said}"):
        header({"bytes": content}, "it")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_wrong_suffix_does_not_matter(tmp_path: Path, kind: str) -> None:
    folder = class_folders(tmp_path / "photos", each=4)
    (folder / "cat" / "other.jpg").write_bytes(encoded(picture(50), kind))
    assert len(load(folder).train) > 0


def test_an_animated_image_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode({"bytes": content}, "it", Shape(3, 8))[:, 0, 0].tolist() == [255, 0, 0]
