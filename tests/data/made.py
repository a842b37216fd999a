"""Small made-up files: images of every mode, class folders, parquet in the hub's format."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("cat", "dog", "frog")
LABEL = {"names": list(CLASSES), "_type": "ClassLabel"}


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """Noise of width × height in any of Pillow's common modes; no two seeds alike."""
    width, height = size
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    drawn = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode in ("RGBA", "LA"):
        drawn.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
    return drawn.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    return encoded(picture(seed, size, mode))


def class_folders(top: Path, each: int = 4, classes: Sequence[str] = CLASSES, first: int = 0, **shape: Any) -> Path:
    """`each` PNG files a class below `top`."""
    for c, name in enumerate(classes):
        (top / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            (top / name / f"{k}.png").write_bytes(png(first + c * each + k, **shape))
    return top


Tree = dict[str, Any]


def classes(top: str = "", each: int = 10, names: Sequence[str] = CLASSES) -> Tree:
    """`tree` of class folders below `top`."""
    return {f"{top}/{name}".removeprefix("/"): each for name in names}


def tree(top: Path, content: Tree) -> Path:
    """Folders with as many images, no two alike; files with these bytes; links to a path; empty folders for None."""
    made = 0
    for name, what in content.items():
        place = top / name
        (place.parent if isinstance(what, bytes | Path) else place).mkdir(parents=True, exist_ok=True)
        if isinstance(what, bytes):
            place.write_bytes(what)
        elif isinstance(what, Path):
            place.symlink_to(what)
        for _ in range(what if isinstance(what, int) else 0):
            (place / f"{made}.png").write_bytes(png(made))
            made += 1
    return top


def parquet(top: Path, columns: dict[str, Any] | None = None, **splits: list[tuple[Any, ...]]) -> Path:
    """One parquet file a split; `columns` name → feature, in the order of the rows' values."""
    features = columns or {"image": {"_type": "Image"}, "label": LABEL}
    kinds = {"Image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "ClassLabel": pa.int64()}
    fields = [(name, kinds.get(f["_type"]) or getattr(pa, f["dtype"])()) for name, f in features.items()]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    (top / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        values = zip(*rows, strict=True) if rows else [()] * len(features)
        arrays = [
            pa.array([{"bytes": v, "path": None} if isinstance(v, bytes) else v for v in column], field.type)
            for column, field in zip(values, schema, strict=True)
        ]
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), top / "data" / f"{split}-00000-of-00001.parquet")
    return top


def rows(count: int, first: int = 0) -> list[tuple[Any, ...]]:
    return [(png(first + k), k % 3) for k in range(count)]
