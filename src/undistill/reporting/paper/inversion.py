"""What DeepInversion draws out of a normal and a nasty teacher, class by class, side by side."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from undistill.errors import RunError
from undistill.experiments.cell import Array, Cell
from undistill.reporting.response import picture

WHO = ("normal", "nasty")
CLASSES, EACH = 20, 8
"""Classes shown at most, and images of each."""
ENLARGED, GAP, MARGIN = 3, 24, 18


@dataclass(frozen=True)
class Strip:
    """A class: its images from both teachers, as data addresses."""

    label: str
    normal: str
    nasty: str
    count: int


@dataclass(frozen=True)
class Inversion:
    """The figure of one cell. `classes` hold (label, images of the normal, of the nasty teacher)."""

    seed: int | None
    classes: tuple[tuple[str, Array, Array], ...]
    hidden: int

    @property
    def strips(self) -> list[Strip]:
        """For the page."""
        return [Strip(n, picture(_joined(a)), picture(_joined(b)), len(a)) for n, a, b in self.classes]

    @property
    def across(self) -> int:
        """Images of the widest class."""
        return max((len(images) for _, images, _ in self.classes), default=1)

    def png(self) -> bytes:
        """Both grids as one picture: normal left, nasty right, a class a row."""
        scaled = [(n, _enlarged(_joined(a)), _enlarged(_joined(b))) for n, a, b in self.classes]
        width = max((left.width for _, left, _ in scaled), default=1)
        height = sum(left.height + 2 for _, left, _ in scaled)
        names = max((len(name) for name, _, _ in scaled), default=0) * 7 + 14
        canvas = Image.new("RGB", (names + 2 * width + GAP, height + MARGIN), "white")
        pen = ImageDraw.Draw(canvas)
        for place, who in enumerate(WHO):
            pen.text((names + place * (width + GAP), 3), who, fill="black")
        y = MARGIN
        for name, left, right in scaled:
            pen.text((6, y + left.height // 2 - 6), name, fill="black")
            canvas.paste(left, (names, y))
            canvas.paste(right, (names + width + GAP, y))
            y += left.height + 2
        buffer = io.BytesIO()
        canvas.save(buffer, format="PNG")
        return buffer.getvalue()


def inversion(cell: Cell, arrays: dict[str, Array], seed: int | None) -> Inversion:
    """The figure of an `inversion` cell; RunError where its arrays do not fit each other."""
    missing = [name for name in (*WHO, "targets") if name not in arrays]
    if missing:
        raise RunError(f"the figure cell {cell.id} is damaged: its arrays lack {', '.join(missing)}")
    targets = arrays["targets"].astype(int)
    for who in WHO:
        images = arrays[who]
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(targets) or images.shape[1] not in (1, 3):
            raise RunError(f"the figure cell {cell.id} is damaged: {who} holds no image for each target")
    names = [str(name) for name in arrays.get("class_names", np.array([]))]
    found = sorted(set(targets.tolist()))
    classes = tuple(
        (
            names[target] if 0 <= target < len(names) else str(target),
            arrays["normal"][targets == target][:EACH],
            arrays["nasty"][targets == target][:EACH],
        )
        for target in found[:CLASSES]
    )
    return Inversion(seed, classes, max(0, len(found) - CLASSES))


def _joined(images_NCHW: Array) -> Array:
    """Images in a row, a white pixel between them."""
    line = np.ones((*images_NCHW.shape[1:3], 1), dtype=np.uint8) * np.uint8(255)
    parts = [part for image_CHW in images_NCHW for part in (image_CHW, line)]
    return np.concatenate(parts[:-1], axis=2)


def _enlarged(image_CHW: Array) -> Image.Image:
    pixels = np.repeat(image_CHW, 3, axis=0) if image_CHW.shape[0] == 1 else image_CHW
    drawn = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    return drawn.resize((drawn.width * ENLARGED, drawn.height * ENLARGED), Image.Resampling.NEAREST)
