"""Decoded images of one size with their classes, and the parts they are split into.

Legend: N images, K classes, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undistill.data.augment import centre, to_float
from undistill.data.decode import LARGEST, Form, Forms, Wanted, header_of, pixels, resolve
from undistill.data.encoded import Encoded, Lazy, Mapped
from undistill.data.listing import counted
from undistill.errors import UsageError

HASH = np.dtype("S32")
"""128 bits in hexadecimal digits."""
MAPPED = 500_000_000
"""Bytes of pixels above which a part of a set is no copy."""
CHUNK = 256
"""Images that are looked at together."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes. `index_N` is each image's place in the source split, the address of its views.

    Images may be stored larger than networks see them (`side`): views then have more to cut from, and all else sees the centre.
    """

    images_NCHW: Tensor | Lazy  # uint8, often memory-mapped, or still encoded on disk
    labels_N: Tensor  # int64
    class_names: tuple[str, ...]
    index_N: Tensor
    source_size: int
    labelled: bool = True
    side: int | None = None

    @classmethod
    def of(cls, images_NCHW: Tensor | Lazy, labels_N: Tensor, class_names: tuple[str, ...]) -> ImageSet:
        """A whole source split, checked: UsageError for no image, wrong shapes, one class or a label out of range."""
        if len(images_NCHW) == 0:
            raise UsageError("there are no images")
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
            raise UsageError(
                f"images must be uint8, N × 1 or 3 × H × W, not {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
            )
        if images_NCHW.shape[2] != images_NCHW.shape[3]:
            raise UsageError(f"images must be square, not {images_NCHW.shape[2]} × {images_NCHW.shape[3]} pixels")
        if len(labels_N) != len(images_NCHW):
            raise UsageError(f"there are {len(images_NCHW)} images but {len(labels_N)} labels")
        check_labels(labels_N, class_names)
        size = len(images_NCHW)
        return cls(images_NCHW, labels_N.long(), tuple(class_names), torch.arange(size), size)

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def num_classes(self) -> int:
        """How many classes the data name."""
        return len(self.class_names)

    @cached_property
    def counts_K(self) -> Tensor:
        """Images of each of the K classes. Zeros where the labels are hidden."""
        return self.labels_N[self.labels_N >= 0].bincount(minlength=self.num_classes)

    @property
    def chance_level(self) -> float:
        """Accuracy in percent of always naming the largest class."""
        return 100 * int(self.counts_K.max()) / len(self)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.images_NCHW.shape[1]

    @property
    def image_size(self) -> int:
        """Side in pixels of what networks see."""
        return self.side or self.stored_size

    @property
    def stored_size(self) -> int:
        """Side in pixels of what is stored: `image_size` or more."""
        return self.images_NCHW.shape[2]

    def seen_by(self, side: int) -> ImageSet:
        """The same images, of which networks see `side` × `side` pixels. Meant for a whole source split."""
        return self._with(self.hashes_N, self.__dict__.get("fingerprint"), side=side)

    def take(self, rows_M: Tensor) -> ImageSet:
        """These rows, in this order; they keep their index."""
        hashes, source = self.__dict__.get("hashes_N"), self.images_NCHW
        large = isinstance(source, Tensor) and len(rows_M) * source[0].numel() > MAPPED
        return self._with(
            None if hashes is None else hashes[rows_M.numpy()],
            images_NCHW=Mapped(source, rows_M) if large else source.index_select(0, rows_M),  # type: ignore[arg-type]
            labels_N=self.labels_N[rows_M],
            index_N=self.index_N[rows_M],
        )

    def unlabelled(self) -> ImageSet:
        """The same images with every label −1: for an attacker without labels."""
        hidden = torch.full_like(self.labels_N, -1)
        return self._with(self.__dict__.get("hashes_N"), labels_N=hidden, labelled=False)

    def _with(self, hashes: NDArray[Any] | None, fingerprint: str | None = None, **changes: Any) -> ImageSet:
        changed = replace(self, **changes)
        known = {"hashes_N": hashes, "fingerprint": fingerprint, "origin": self.origin}
        changed.__dict__.update({name: value for name, value in known.items() if value is not None})
        return changed

    def seen(self, rows: Tensor | slice = slice(None), device: torch.device | str = "cpu") -> Tensor:
        """B × C × H × W float32 in [0, 1]: the centre of these images, as a network sees them without any view."""
        return to_float(centre(self.images_NCHW[rows].to(device), self.image_size))

    def chunks(self, batch: int) -> list[slice]:
        """Consecutive rows, `batch` at a time, for `seen`."""
        return [slice(start, start + batch) for start in range(0, len(self), batch)]

    @classmethod
    def from_torch(
        cls,
        dataset: Any,
        *,
        class_names: Sequence[str] | None = None,
        size: int | None = None,
        channels: int | None = None,
    ) -> ImageSet:
        """The images of a map-style data set of (image, class number), as torch and torchvision have them.

        Args:
            dataset: with `len` and items (Pillow image | uint8 H × W × C array | uint8 or float C × H × W tensor, int).
            class_names: by class number; None for the data set's `classes`, or plain numbers.
            size: side of the square images; None for that of the data, or the median short side up to 224.
            channels: 1 or 3; None for 1 where all images are grey.

        Raises:
            UsageError: an item that is no such pair (named), floats outside [0, 1], more than 4 GB.
        """
        if size is not None and not 1 <= size <= 4096:
            raise UsageError(f"size is a side in pixels from 1 to 4096, not {size}")
        if channels not in (None, 1, 3):
            raise UsageError(f"channels is 1, 3 or None, not {channels}")
        form, labels = _look(dataset)
        shape, _ = resolve(form, Wanted(size=size, channels=channels), "this data set")
        if (total := len(labels) * shape.bytes) > LARGEST:
            fits = int((LARGEST / len(labels) / shape.channels) ** 0.5)
            raise UsageError(
                f"these {len(labels):,} images would take {total / 1e9:.1f} GB decoded to {shape.stored} × {shape.stored} pixels, "
                f"above the limit of {LARGEST / 1e9:g} GB: choose a smaller size ({fits} would fit), or load a folder of files"
            )
        images_NCHW = torch.empty(len(labels), shape.channels, shape.stored, shape.stored, dtype=torch.uint8)
        for number, label in enumerate(labels):
            opened, again = _item(dataset, number)
            if again != label:
                raise UsageError(
                    f"item {number} has the label {label} at first and {again} later; data must not change"
                )
            images_NCHW[number] = torch.from_numpy(pixels(opened, shape).copy())  # Pillow's memory is not writable
        names = class_names if class_names is not None else getattr(dataset, "classes", None)
        names = range(max([*labels, 1]) + 1) if names is None else names
        return cls.of(images_NCHW, torch.tensor(labels), tuple(map(str, names)))

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, standard deviation) of the pixels of each channel, in [0, 1]."""
        images_NCHW = self.images_NCHW
        counts = images_NCHW.histograms(self._histograms) if isinstance(images_NCHW, Encoded) else self._histograms()
        share = counts.double() / counts.sum(dim=1, keepdim=True)
        value = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ value
        std = (share @ value.square() - mean.square()).clamp_min(1e-6).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())

    def _histograms(self) -> Tensor:
        """C × 256: how many pixels of each channel have each value."""
        counts = torch.zeros(self.channels, 256, dtype=torch.int64)
        for rows in self.chunks(max(1, 2**23 // self.stored_size**2)):  # counts are of 8 bytes a pixel
            chunk = self.images_NCHW[rows]
            for channel in range(self.channels):
                counts[channel] += chunk[:, channel].flatten().bincount(minlength=256)
        return counts

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels, labels and class names, 16 hex digits: equal only for the same data in the same order."""
        pixels = (np.ascontiguousarray(self.images_NCHW[rows].numpy()).data for rows in self.chunks(CHUNK))
        return fingerprint_of(self.images_NCHW.shape, self.class_names, pixels, self.labels_N.numpy())

    @cached_property
    def origin(self) -> str:
        """The fingerprint of the whole source split that these images are part of, to which `index_N` refers."""
        return self.fingerprint

    @cached_property
    def hashes_N(self) -> NDArray[Any]:
        """The first 128 bits of SHA-256 of each image's stored pixels, in hexadecimal: equal for exact duplicates."""
        chunks = (self.images_NCHW[rows].numpy() for rows in self.chunks(CHUNK))
        return np.array([hash_of(image.tobytes()) for chunk in chunks for image in chunk], HASH)


def check_labels(labels_N: Tensor, class_names: tuple[str, ...]) -> None:
    """UsageError for fewer than two classes, two of one name, or a label out of range."""
    if len(set(class_names)) < len(class_names):
        name, count = Counter(class_names).most_common(1)[0]
        raise UsageError(f"{count} classes are called {name!r}; give each class a name of its own")
    if len(class_names) < 2:
        only = "".join(f", {name!r}" for name in class_names)
        raise UsageError(f"a classifier needs at least 2 classes; the data name {len(class_names)}{only}")
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= len(class_names):
        wrong = low if low < 0 else high
        raise UsageError(
            f"label {wrong} is out of range: the data name {len(class_names)} classes, 0 to {len(class_names) - 1}"
        )
    if low == high:
        raise UsageError(f"all {len(labels_N)} images are of one class, {class_names[low]!r}")


def fingerprint_of(
    shape: tuple[int, ...], class_names: tuple[str, ...], pixels: Iterable[Any], labels_N: NDArray[Any]
) -> str:
    """The fingerprint of pixels that come in pieces."""
    digest = hashlib.sha256(repr((tuple(shape), class_names)).encode())
    for piece in pixels:
        digest.update(piece)
    digest.update(np.ascontiguousarray(labels_N).data)
    return digest.hexdigest()[:16]


def hash_of(content: bytes) -> bytes:
    """32 hexadecimal digits for one image's pixels."""
    return hashlib.sha256(content).hexdigest()[:32].encode()


@dataclass(frozen=True, eq=False)
class Splits:
    """`train` for the victim, `pool` of fresh images that no victim sees, `val` to choose on, `test` to report.

    `settings` are what they were made with, for a run to write down; `dropped` counts what was left out: `corrupt` images,
    `duplicates`, and other files by their kind.
    """

    name: str
    train: ImageSet
    pool: ImageSet | None
    val: ImageSet | None
    test: ImageSet
    fingerprint: str
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = field(default=())
    std: tuple[float, ...] = field(default=())
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """How many classes the data name."""
        return self.train.num_classes

    @property
    def chance_level(self) -> float:
        """Accuracy in percent, on the test images, of always naming the largest class."""
        return self.test.chance_level

    def summary(self) -> str:
        """One line: sizes of all parts, classes and how evenly they are filled, chance level, what was left out."""
        parts = {"train": self.train, "pool": self.pool, "val": self.val, "test": self.test}
        sizes = ", ".join(f"{part} {len(images):,}" for part, images in parts.items() if images is not None)
        shape = f"{self.train.channels} × {self.train.image_size} × {self.train.image_size}"
        if self.train.stored_size != self.train.image_size:
            shape += f" of {self.train.stored_size} × {self.train.stored_size}"
        low, high = int(self.train.counts_K.min()), int(self.train.counts_K.max())
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        line = f"{self.name}: {sizes}; {self.num_classes:,} classes of {each} training images, {shape} pixels"
        line += f"; chance level {self.chance_level:.1f} %"
        left = counted(Counter(self.dropped))
        return line + (f"; left out: {left}" if left else "")


# -- items of torch-like data sets --------------------------------------------------------------------------------------


def _look(dataset: Any) -> tuple[Form, list[int]]:
    """One pass over sizes and labels."""
    forms, labels = Forms(), []
    for number in range(_length(dataset)):
        opened, label = _item(dataset, number)
        labels.append(label)
        try:
            forms.add(header_of(opened))
        except ValueError as error:
            raise UsageError(f"item {number} cannot be used: {error}") from error
    return Form(**forms.common()), labels


def _length(dataset: Any) -> int:
    try:
        count = len(dataset)
    except TypeError:
        raise UsageError(
            f"{type(dataset).__name__} has no length: give a map-style data set, or a list of its items"
        ) from None
    if count == 0:
        raise UsageError("there are no images")
    return count


def _item(dataset: Any, number: int) -> tuple[Any, int]:
    """(Pillow image, class number) of one item; UsageError names an item that is no such pair."""
    item = dataset[number]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UsageError(f"item {number} is no pair of an image and a class number, but {type(item).__name__}")
    image, label = item
    try:
        whole = int(label)
    except (TypeError, ValueError, RuntimeError):
        whole = -1
    if whole < 0 or isinstance(label, bool | float | str) or whole != label:
        raise UsageError(f"item {number} has the label {label!r}, which is no class number from 0")
    return _image(image, number), whole


def _image(image: Any, number: int) -> Any:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    array = _bytes_CHW(image, number).permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(image).__name__)
        raise UsageError(
            f"item {number} holds {kind}; an image is a Pillow image, a uint8 H × W × C array or a uint8 or float C × H × W tensor"
        )
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        order = "C × H × W" if isinstance(image, Tensor) else "H × W × C"
        raise UsageError(f"item {number} is of the shape {tuple(image.shape)}, not {order} with 1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(array))


def _bytes_CHW(image: Tensor, number: int) -> Tensor:
    """uint8 of a tensor; floats are rounded to the nearest of 256 steps."""
    image = image.detach().cpu()
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise UsageError(f"item {number} is of the shape {tuple(image.shape)}, not C × H × W with 1 or 3 channels")
    if not image.is_floating_point():
        return image
    low, high = (float(image.min()), float(image.max())) if image.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"item {number} holds floats from {low:.3g} to {high:.3g}, not in [0, 1]: "
            "leave normalisation out of its transforms, for the network does it"
        )
    return (image.float() * 255).round().to(torch.uint8)
