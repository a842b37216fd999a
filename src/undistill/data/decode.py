"""Encoded images to uint8 pixels. Files are strangers: whatever their decoder raises becomes one sentence that names the image."""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undistill.errors import UsageError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")
"""What is opened. Not all that Pillow knows: some of its readers start other programs."""
SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .mpo .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k".split()  # noqa: SIM905
)
GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of one channel, with or without transparency."""


MOST = 512_000_000
"""Bytes of an image file that are still read."""


class CorruptError(UsageError):
    """An image that cannot be decoded, by name."""


@dataclass(frozen=True)
class Shape:
    """How decoded images look: `channels` 1 or 3, `stored` × `stored` pixels."""

    channels: int
    stored: int

    @property
    def bytes(self) -> int:
        """Of one image."""
        return self.channels * self.stored**2


def header(image: dict[str, Any], name: str) -> tuple[bool, int, int]:
    """(grey, width, height) as the file's first bytes say; CorruptError names one that says nothing."""
    with _opened(image, name) as opened:
        return opened.mode in GREY, opened.width, opened.height


def decode(image: dict[str, Any], name: str, shape: Shape) -> np.ndarray[Any, Any]:
    """C × S × S uint8 pixels of one encoded image, turned as its EXIF says, its short side scaled to S, the middle cut out.

    Scaling is bicubic with antialias. Sixteen bits become eight, transparency is dropped. CorruptError names what does not decode.
    """
    with _opened(image, name) as opened:
        return pixels(opened, shape)


def pixels(opened: Any, shape: Shape) -> np.ndarray[Any, Any]:
    """The same of a Pillow image."""
    from PIL import Image, ImageOps

    side = shape.stored
    if min(opened.size) > 2 * side:
        opened.draft(None, (2 * side, 2 * side))  # a JPEG decodes to an eighth, a quarter or a half at little cost
    opened = _eight_bits(ImageOps.exif_transpose(opened), "L" if shape.channels == 1 else "RGB")
    width, height = opened.size
    if (width, height) != (side, side):
        scale = side / min(width, height)
        wide, high = max(side, round(width * scale)), max(side, round(height * scale))
        left, top = (wide - side) / 2 / scale, (high - side) / 2 / scale  # cut first: a long panorama costs no memory
        box = (left, top, min(width, left + side / scale), min(height, top + side / scale))
        opened = opened.resize((side, side), Image.Resampling.BICUBIC, box=box)
    array = np.asarray(opened)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _eight_bits(opened: Any, mode: str) -> Any:
    """An image of mode L or RGB."""
    from PIL import Image

    if opened.mode.startswith("I"):
        deep = np.asarray(opened).astype(np.int64).clip(0, 65535)
        opened = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    elif opened.mode == "P" and "transparency" in opened.info:
        opened = opened.convert("RGBA")  # as Pillow wants it before any other conversion
    return opened if opened.mode == mode else opened.convert(mode)


@contextmanager
def _opened(image: dict[str, Any], name: str) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        content = image.get("bytes")
        if content is None:
            content = _content(Path(image["path"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                yield opened
    except UnidentifiedImageError as error:
        raise CorruptError(f"{name} is corrupt: its bytes are no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    except Exception as error:  # decoders raise struct.error, IndexError, zlib.error and more on bytes that lie
        raise CorruptError(f"{name} is corrupt: {sentence(error)}") from error


def _content(path: Path) -> bytes:
    """A file's bytes; ValueError for a device, a pipe or more than `MOST`."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > MOST:
        raise ValueError(
            f"its {found.st_size / 1e6:.0f} MB are more than the {MOST / 1e6:.0f} MB that an image may have"
        )
    return path.read_bytes()


def sentence(error: BaseException) -> str:
    """The first line of a foreign error, as a part of a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]
