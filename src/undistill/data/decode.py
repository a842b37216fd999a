"""Encoded images to uint8 pixels of one form. Whatever a decoder raises becomes one sentence that names the image."""

from __future__ import annotations

import io
import re
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from undistill.errors import UsageError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The formats that are opened. Not all that Pillow knows: some of its readers start other programs."""
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo .gif .bmp .webp .tif .tiff "  # noqa: SIM905
    ".ppm .pgm .pbm .pnm .jp2 .j2k .jpf .jpx .avif".split()
)
GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of one channel, with or without transparency."""
DEEP = {"I": "whole", "I;16": "whole", "I;16L": "whole", "I;16B": "whole", "I;16N": "whole", "F": "float"}
"""Those of more than 8 bits, which are to be scaled, and their numbers."""
FULL = (0.0, 65535.0)
"""The values of black and white of 16 bits."""
USUAL = {"whole": (255.0, 65535.0), "float": (1.0, 255.0, 65535.0)}
"""The values of white that images beyond 8 bits usually have; black is 0."""
DARK = 8
"""If the brightest pixel of all images is below white by this factor, the range is another: 12 bits kept in 16, say."""
MOST = 512_000_000
"""Bytes of an image file that are still read."""
LARGEST = 4_000_000_000
"""Bytes of decoded images that are held as one array, unless told otherwise: more would not fit beside a network on many a GPU."""
SIDE = 224
"""The largest side that is chosen without being asked for."""
SIGNS = (
    (rb"version https://git-lfs", "it is a pointer of git-lfs", "fetch the file with `git lfs pull`"),
    (rb"<!DOCTYPE|<html", "it is a page of HTML", "fetch it again"),
    (rb"<svg", "it is an SVG drawing", "convert it to PNG"),
    (rb"<\?xml", "it is XML", "convert it to PNG"),
    (rb"%PDF", "it is a PDF", "convert it to PNG"),
    (rb"PK\x03\x04", "it is a zip archive", "unpack it"),
    (rb".{4}ftyp(hei[cx]|m[is]f1|hevc)", "it is HEIC, which is not read", "convert it to JPEG or PNG"),
    *(
        (sign, f"it is {kind}, but damaged or of a pixel format that is not read", "convert it to 8-bit PNG")
        for sign, kind in (
            (rb"\x89PNG", "PNG"),
            (rb"\xff\xd8\xff", "JPEG"),
            (rb"GIF8", "GIF"),
            (rb"II\*\0|MM\0\*", "TIFF"),
            (rb"RIFF", "WEBP"),
            (rb".{4}ftypavi[fs]", "AVIF"),
        )
    ),
)
"""First bytes of what is found under the name of an image and does not decode: (pattern, what it is, what can be done)."""


@dataclass(frozen=True)
class Wanted:
    """What the settings ask of a source; None or False where they leave it to the data.

    `usual_columns` are those of images and labels that a known data set has. Images of more than `memory` bytes stay
    encoded.
    """

    image_column: str | None = None
    label_column: str | None = None
    size: int | None = None
    stored: int | None = None
    channels: int | None = None
    skip_corrupt: bool = False
    value_range: tuple[float, float] | None = None
    memory: int = LARGEST
    usual_columns: tuple[str, str] | None = None


class CorruptError(UsageError):
    """An image that cannot be decoded, by name. `cure` is what can be done about it."""

    def __init__(self, message: str, cure: str = "repair it") -> None:
        super().__init__(message)
        self.cure = cure


# -- the form of all images ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How decoded images look: `channels` 1 or 3, `stored` × `stored` pixels. `values` of more than 8 bits are black and white."""

    channels: int
    stored: int
    values: tuple[float, float] = FULL

    @property
    def bytes(self) -> int:
        """Of one image."""
        return self.channels * self.stored**2


class Header(NamedTuple):
    """What is known of an image before it is decoded. `deep` is (whole or float, lowest, highest value) beyond 8 bits."""

    grey: bool
    width: int
    height: int
    deep: tuple[str, float, float] | None


class Form(BaseModel):
    """What images have in common: `side` if all are squares of one size, `short` the median of their short sides.

    `deep` has the lowest and highest value of images beyond 8 bits, whole or float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grey: bool
    deep: dict[str, list[float]]
    side: int | None
    short: int


@dataclass
class Forms:
    """Collects the form of images one by one."""

    grey: bool = True
    deep: dict[str, list[float]] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, seen: Header) -> None:
        """One more image."""
        self.grey = self.grey and seen.grey
        self.sizes[seen.width, seen.height] += 1
        if seen.deep is not None:
            kind, low, high = seen.deep
            lowest, highest = self.deep.get(kind, [low, high])
            self.deep[kind] = [min(low, lowest), max(high, highest)]

    def common(self) -> dict[str, Any]:
        """The fields of `Form`."""
        width, height = next(iter(self.sizes))
        side = width if len(self.sizes) == 1 and width == height else None
        short = median_low([min(size) for size in self.sizes.elements()])
        return {"grey": self.grey, "deep": self.deep, "side": side, "short": short}


def resolve(form: Form, wanted: Wanted, where: str) -> tuple[Shape, int]:
    """(how images are stored, the side that networks see).

    Raises:
        UsageError: `stored` below `size`, or values beyond 8 bits of no usual range.
    """
    size = wanted.size or form.side or min(SIDE, form.short)
    if wanted.size is None and wanted.stored is not None:
        size = min(size, wanted.stored)
    stored = wanted.stored or size
    if stored < size:
        raise UsageError(
            f"data.stored {stored} is smaller than data.size {size}, which networks see; make it at least that"
        )
    shape = Shape(wanted.channels or (1 if form.grey else 3), stored, _values(form.deep, wanted, where))
    return shape, size


def _values(deep: dict[str, list[float]], wanted: Wanted, where: str) -> tuple[float, float]:
    """The values of black and white beyond 8 bits: those that were asked for, or the usual ones that the images fill."""
    if wanted.value_range is not None or not deep:
        return wanted.value_range or FULL
    way = "say which values are black and white with data.value_range, as in -s 'data.value_range=[0, 4095]'"
    if len(deep) > 1:
        raise UsageError(
            f"{where} has images of whole numbers beyond 8 bits and images of floats; save all in one form, or {way}"
        )
    ((kind, (low, high)),) = deep.items()
    top = next((top for top in USUAL[kind] if high <= top), None)
    if low < 0 or top is None or high * DARK < top:
        raise UsageError(f"{where} has images of {kind} numbers from {low:g} to {high:g}; {way}")
    return 0.0, top


# -- one image ----------------------------------------------------------------------------------------------------------


def header(image: dict[str, Any], name: str) -> Header:
    """What the file's first bytes say, and the range of values beyond 8 bits; CorruptError names a file that says nothing."""
    with _opened(image, name) as opened:
        return header_of(opened)


def header_of(opened: Any) -> Header:
    """The same of a Pillow image; ValueError for values that are not finite."""
    deep = None
    if opened.mode in DEEP:
        values = np.asarray(opened)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("it holds values that are not finite")
        deep = (DEEP[opened.mode], low, high)
    return Header(opened.mode in GREY, opened.width, opened.height, deep)


def decode(image: dict[str, Any], name: str, shape: Shape) -> np.ndarray[Any, Any]:
    """C × S × S uint8 pixels of one encoded image, turned as its EXIF says, its short side scaled to S, the middle cut out.

    Scaling is bicubic with antialias. More than 8 bits become 8 by `shape.values`, transparency is dropped.
    CorruptError names what does not decode.
    """
    with _opened(image, name) as opened:
        return pixels(opened, shape)


def pixels(opened: Any, shape: Shape) -> np.ndarray[Any, Any]:
    """The same of a Pillow image."""
    from PIL import Image, ImageOps

    side = shape.stored
    if min(opened.size) > 2 * side:
        opened.draft(None, (2 * side, 2 * side))  # a JPEG decodes to an eighth, a quarter or a half at little cost
    opened = _eight_bits(ImageOps.exif_transpose(opened), "L" if shape.channels == 1 else "RGB", shape.values)
    width, height = opened.size
    if (width, height) != (side, side):
        scale = side / min(width, height)
        wide, high = max(side, round(width * scale)), max(side, round(height * scale))
        left, top = (wide - side) / 2 / scale, (high - side) / 2 / scale  # cut first: a long panorama costs no memory
        box = (left, top, min(width, left + side / scale), min(height, top + side / scale))
        opened = opened.resize((side, side), Image.Resampling.BICUBIC, box=box)
    array = np.asarray(opened)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _eight_bits(opened: Any, mode: str, values: tuple[float, float]) -> Any:
    """An image of mode L or RGB. Values beyond 8 bits are scaled from black and white, and cut off outside."""
    from PIL import Image

    if opened.mode in DEEP:
        low, high = values
        share = (np.asarray(opened).astype(np.float64) - low) / (high - low)
        if not np.isfinite(share).all():
            raise ValueError("it holds values that are not finite")
        opened = Image.fromarray(np.rint(share.clip(0, 1) * 255).astype(np.uint8))
    elif opened.mode == "P" and "transparency" in opened.info:
        opened = opened.convert("RGBA")  # as Pillow wants it before any other conversion
    return opened if opened.mode == mode else opened.convert(mode)


@contextmanager
def _opened(image: dict[str, Any], name: str) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    content = b""
    try:
        content = _bytes_of(image)
        with _silence(), Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            yield opened
    except UnidentifiedImageError as error:
        what, cure = _foreign(content)
        raise CorruptError(f"{name} is corrupt: {what}", cure) from error
    except (Image.DecompressionBombError, _TooLargeError) as error:
        raise CorruptError(f"{name} is too large: {sentence(error)}", "scale it down") from error
    except Exception as error:  # decoders raise struct.error, IndexError, zlib.error and more on bytes that lie
        raise CorruptError(f"{name} is corrupt: {sentence(error)}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """What decoders warn of is nothing to us. Only where no other thread could leave its filters behind: see `encoded.ahead`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def content_of(image: dict[str, Any], name: str) -> bytes:
    """The bytes of an encoded image; CorruptError names what cannot be read."""
    try:
        return _bytes_of(image)
    except _TooLargeError as error:
        raise CorruptError(f"{name} is too large: {sentence(error)}", "scale it down") from error
    except Exception as error:  # archives raise errors of their own
        raise CorruptError(f"{name} is corrupt: {sentence(error)}") from error


class _TooLargeError(ValueError):
    """A file of more than `MOST` bytes."""


def _bytes_of(image: dict[str, Any]) -> bytes:
    """The encoded image: `bytes` themselves, what `read` returns, or the file at `path`."""
    content: bytes | None = image.get("bytes")
    if content is not None:
        return content
    if "read" in image:
        return bytes(image["read"]())
    path = Path(image["path"])
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    return within_limit(found.st_size, path.read_bytes)


def within_limit(size: int, read: Callable[[], bytes]) -> bytes:
    """What `read` returns, if that is no more than an image may have."""
    if size > MOST:
        raise _TooLargeError(f"its {size / 1e6:.0f} MB are more than the {MOST / 1e6:.0f} MB that an image may have")
    return read()


def _foreign(content: bytes) -> tuple[str, str]:
    """(what bytes are that are no image, what can be done)."""
    if not content:
        return "it is empty", "fetch it again"
    start = content[:64].lstrip()
    for sign, what, cure in SIGNS:
        if re.match(sign, start, re.DOTALL):
            return what, cure
    return f"its bytes are no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", "repair it"


def sentence(error: BaseException) -> str:
    """The first line of a foreign error, as a part of a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]
