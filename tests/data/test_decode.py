"""Pixels: modes, turned photos, sizes; what is stored and what is seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.made import class_folders, encoded, parquet, picture, png
from undistill.data import load
from undistill.data.batches import ImageBatches
from undistill.data.decode import CorruptError, Shape, decode, header
from undistill.errors import UsageError

MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK")
GREY = ("1", "L", "LA", "I;16")
RGB8 = Shape(3, 8)


def by_mode(mode: str, seed: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(picture(seed, size, mode), "TIFF" if mode == "CMYK" else "PNG")


def kept(modes: list[str], folder: Path, **settings: Any) -> Any:
    table = [(by_mode(modes[k % len(modes)], k), k % 3) for k in range(30)]
    return load(parquet(folder / "hub", train=table), **settings)


# -- modes --------------------------------------------------------------------------------------------------------------


def test_a_mode_is_grey_or_colour() -> None:
    assert [mode for mode in MODES if header({"bytes": by_mode(mode)}, "it").grey] == list(GREY)


def test_all_grey_modes_together_are_grey_and_one_colour_makes_colours(tmp_path: Path) -> None:
    assert kept(list(GREY), tmp_path / "grey").train.channels == 1
    assert kept([*GREY, "RGB"], tmp_path / "mixed").train.channels == 3


def test_colour_in_the_test_split_alone_makes_colours(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos" / "train", mode="L")
    class_folders(tmp_path / "photos" / "test", first=100)
    assert load(tmp_path / "photos").train.channels == 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_channels_can_be_forced(mode: str, channels: int) -> None:
    assert decode({"bytes": by_mode(mode)}, "image", Shape(channels, 8)).shape == (channels, 8, 8)


def test_channels_are_written_down(tmp_path: Path) -> None:
    splits = kept(["RGB"], tmp_path, channels=1)
    assert (splits.train.channels, splits.settings["channels"]) == (1, 1)


def test_transparency_is_dropped() -> None:
    opaque = picture(0, mode="RGBA").convert("RGB")
    np.testing.assert_array_equal(
        decode({"bytes": png(0, mode="RGBA")}, "image", RGB8), np.asarray(opaque).transpose(2, 0, 1)
    )


def test_a_palette_with_transparency_is_no_warning() -> None:
    drawn = picture(0, mode="P")
    content = encoded(drawn, transparency=bytes([0, 128] + [255] * 254))
    np.testing.assert_array_equal(
        decode({"bytes": content}, "image", RGB8), np.asarray(drawn.convert("RGB")).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation: int) -> None:
    turns = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.transpose(1, 0, 2)]
    turns += [lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).transpose(1, 0, 2), np.rot90]
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = turns[orientation - 1](np.asarray(picture(3)))
    content = encoded(picture(3), exif=exif)
    np.testing.assert_array_equal(decode({"bytes": content}, "image", RGB8), shown.transpose(2, 0, 1))


def test_an_image_beside_its_row_is_read_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(png(4))
    beside = decode({"bytes": None, "path": str(tmp_path / "file.png")}, "image", RGB8)
    np.testing.assert_array_equal(beside, np.asarray(picture(4)).transpose(2, 0, 1))
    with pytest.raises(CorruptError, match=r"^image is corrupt: "):
        decode({"bytes": None, "path": str(tmp_path / "none.png")}, "image", RGB8)
    with pytest.raises(CorruptError, match=r"^image is corrupt: "):
        decode({}, "image", RGB8)


# -- sizes --------------------------------------------------------------------------------------------------------------


def test_the_short_side_is_scaled_and_the_middle_cut() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    middle = decode({"bytes": encoded(Image.fromarray(wide))}, "image", Shape(3, 10))
    assert (middle == 200).all()
    half = decode({"bytes": encoded(Image.fromarray(wide))}, "image", Shape(3, 5))
    assert half.shape == (3, 5, 5)
    assert (half > 180).all()  # of black beside it, hardly any


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_every_size_becomes_every_size(width: int, height: int, side: int) -> None:
    grey = Image.new("L", (width, height), 77)
    assert (decode({"bytes": encoded(grey)}, "image", Shape(1, side)) == 77).all()
    assert decode({"bytes": encoded(grey)}, "image", Shape(1, side)).shape == (1, side, side)


def test_a_jpeg_is_reduced_while_it_is_decoded() -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 480))
    smooth = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8))
    fast = decode({"bytes": encoded(smooth, "JPEG", quality=95)}, "image", Shape(3, 24)).astype(int)
    slow = decode({"bytes": encoded(smooth)}, "image", Shape(3, 24)).astype(int)
    assert abs(fast - slow).max() <= 6


def test_the_median_short_side_is_the_size_of_mixed_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for first, size in ((0, (12, 30)), (100, (16, 20)), (200, (50, 20))):
        class_folders(folder / "train", each=3, first=first, size=size)
        for c in (folder / "train").iterdir():
            for file in c.glob("[0-9].png"):
                file.rename(c / f"{first}-{file.name}")
    assert load(folder).train.image_size == 16
    assert load(folder, size=9).train.image_size == 9
    assert load(folder, stored=10).train.image_size == 10


def test_squares_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    splits = load(class_folders(tmp_path / "photos", size=(11, 11)))
    assert (splits.train.image_size, splits.train.stored_size) == (11, 11)
    assert "stored" not in splits.settings


def test_more_may_be_stored_than_is_seen(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", each=8, size=(14, 12))
    large, splits = load(folder, size=12).train, load(folder, size=8, stored=12)
    assert (splits.train.image_size, splits.train.stored_size) == (8, 12)
    assert torch.equal(splits.train.seen(), large.images_NCHW[:][:, :, 2:10, 2:10].float() / 255)
    assert torch.equal(splits.train.seen(torch.tensor([3, 1])), splits.train.seen()[[3, 1]])
    assert "3 × 8 × 8 of 12 × 12 pixels" in splits.summary()
    assert splits.mean == load(folder, size=12).mean
    assert splits.fingerprint not in (load(folder, size=12).fingerprint, load(folder, size=10, stored=12).fingerprint)
    assert torch.equal(torch.cat([splits.train.seen(rows) for rows in splits.train.chunks(5)]), splits.train.seen())
    batch = next(iter(ImageBatches(splits.train, 4, seed=0, role="teacher").epoch(0)))
    row = int((splits.train.index_N == batch.index_B[0]).nonzero()[0, 0])
    assert torch.equal(batch.images_BCHW[0], splits.train.seen()[row])


def test_less_stored_than_seen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.stored 4 is smaller than data\.size 8"):
        load(class_folders(tmp_path / "photos"), size=8, stored=4)


# -- strangers ----------------------------------------------------------------------------------------------------------


def survives(content: bytes) -> None:
    for read in (lambda: header({"bytes": content}, "it"), lambda: decode({"bytes": content}, "it", RGB8)):
        try:
            read()
        except CorruptError as error:
            said = str(error)
            assert said.startswith("it is corrupt: ")
            assert "\n" not in said


@given(st.binary(max_size=200))
def test_random_bytes_are_pixels_or_a_sentence(content: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"):
        survives(start + content)


SEEDS = [
    *(by_mode(mode, size=(9, 6)) for mode in MODES),
    *(encoded(picture(0), kind) for kind in ("JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_mutated_files_are_pixels_or_a_sentence(content: bytes, changes: list[tuple[float, int]]) -> None:
    changed = bytearray(content)
    for place, value in changes:
        changed[math.floor(place * len(changed))] = value
    survives(bytes(changed))
    survives(bytes(changed[: math.floor(changes[0][0] * len(changed))]))
