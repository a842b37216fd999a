"""A realistic folder of JPEGs: class folders, many sizes, gray and color images, one truncated file.

    python examples/photos/make.py OUT [--data digits] [--data-dir FOLDER] [--classes 6] [--each 60]

The images are those of a data set, enlarged to about 224 pixels.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

import undistill


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--each", type=int, default=60)
    options = parser.parse_args()
    draw = random.Random(0)  # noqa: S311  no secret, a repeatable mess
    images = undistill.load(options.data, data_dir=options.data_dir).train
    written = []
    for label in range(options.classes):
        folder = options.out / f"{label:02d} {images.class_names[label]}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = (images.labels_N == label).nonzero().flatten()[: options.each].tolist()
        for row in rows:
            pixels = images.images_NCHW[row].numpy()
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            size = (draw.randint(200, 320), draw.randint(200, 280))
            gray = draw.random() < 0.2
            path = folder / f"{row:05d}.jpg"
            picture.convert("L" if gray else "RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
            written.append(path)
    whole = written[7].read_bytes()
    written[7].write_bytes(whole[: len(whole) // 2])
    print(f"{len(written)} photos of {options.classes} classes in {options.out}; {written[7]} is cut short")


if __name__ == "__main__":
    main()
