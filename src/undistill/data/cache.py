"""Decoded images on disk: written once, whole or not at all, memory-mapped after that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undistill.data.images import ImageSet
from undistill.files import writing

SCHEMA = 1


def cache_root() -> Path:
    """`$UNDISTILL_CACHE`, or `undistill` in the user's cache folder."""
    if "UNDISTILL_CACHE" in os.environ:
        return Path(os.environ["UNDISTILL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "undistill"


def key_of(files: Iterable[Path], extra: dict[str, Any]) -> str:
    """A name for what these files decode to: from the path, size and time of each, and how they are read."""
    stats = []
    for file in sorted(files):
        stat = file.stat()
        stats.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps([SCHEMA, stats, extra], sort_keys=True).encode()).hexdigest()[:24]


def read(key: str) -> dict[str, ImageSet] | None:
    """The splits kept under `key`, memory-mapped; None if there are none or they are damaged."""
    folder = cache_root() / "images" / key
    try:
        meta = json.loads((folder / "meta.json").read_text())
        return {name: _read_split(folder / name, entry) for name, entry in meta["splits"].items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _read_split(stem: Path, entry: dict[str, Any]) -> ImageSet:
    pixels = np.load(stem.with_suffix(".images.npy"), mmap_mode="c", allow_pickle=False)
    labels = np.load(stem.with_suffix(".labels.npy"), allow_pickle=False)
    if list(pixels.shape) != entry["shape"]:
        raise ValueError("shape")
    images = ImageSet.of(torch.from_numpy(pixels), torch.from_numpy(labels), tuple(entry["class_names"]))
    images.__dict__["fingerprint"] = entry["fingerprint"]
    return images


def write(key: str, splits: dict[str, ImageSet], source: str) -> None:
    """Keep `splits` under `key`: in a temporary folder first, then renamed, so that a killed process leaves nothing half-read."""
    root = cache_root() / "images"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
        try:
            meta: dict[str, Any] = {"schema": SCHEMA, "source": source, "splits": {}}
            for name, images in splits.items():
                np.save(folder / f"{name}.images.npy", images.images_NCHW.numpy(), allow_pickle=False)
                np.save(folder / f"{name}.labels.npy", images.labels_N.numpy(), allow_pickle=False)
                meta["splits"][name] = {
                    "shape": list(images.images_NCHW.shape),
                    "class_names": list(images.class_names),
                    "fingerprint": images.fingerprint,
                }
            (folder / "meta.json").write_text(json.dumps(meta, indent=1))
            folder.chmod(0o755)
            shutil.rmtree(root / key, ignore_errors=True)
            try:
                folder.rename(root / key)
            except OSError:  # another process may just have decoded the same files
                if read(key) is None:
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
