"""What it costs to decode pictures anew in each epoch, and to have done so once."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNT = 2000
AGAINST = {"once": "decoding, checking and hashing them once", "again": "opening what was decoded"}


def decode(bench: Any) -> list[dict[str, Any]]:
    """PNGs of 32 × 32: an epoch of a `DataLoader`, against decoding into the cache and against opening that."""
    from torch.utils.data import DataLoader

    from undistill.data import load
    from undistill.data.load import DataSettings

    times: dict[str, list[float]] = {"reference": [], **{name: [] for name in AGAINST}}

    def timed(name: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        times[name].append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as name:
        files = _write(Path(name) / "photos")
        before = os.environ.get("UNDISTILL_CACHE")
        os.environ["UNDISTILL_CACHE"] = f"{name}/cache"
        settings = DataSettings(name="folder", dir=f"{name}/photos", test=0.2)
        for _ in range(bench.repeats):
            timed("reference", lambda: list(DataLoader(_files(files), 128, shuffle=True, num_workers=2)))
            timed("once", lambda: load(settings))
            timed("again", lambda: load(settings))
            shutil.rmtree(f"{name}/cache")
        del os.environ["UNDISTILL_CACHE"]
        if before is not None:
            os.environ["UNDISTILL_CACHE"] = before
    middle = {name: statistics.median(spent) for name, spent in times.items()}
    what = f"{COUNT:,} PNGs, an epoch of a DataLoader against"
    return [
        {
            "what": f"{what} {told}",
            "reference": middle["reference"],
            "ours": middle[name],
            "unit": "s",
            "ratio": round(middle["reference"] / middle[name], 3),
        }
        for name, told in AGAINST.items()
    ]


def _write(folder: Path) -> list[Path]:
    """Random pictures in ten classes."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    files = [folder / str(number % 10) / f"{number}.png" for number in range(COUNT)]
    for file, image in zip(files, pixels, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return files


def _files(files: list[Path]) -> Any:
    """What a textbook hands to a `DataLoader`."""
    import numpy as np
    import torch
    from PIL import Image

    class Files(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            with Image.open(files[index]) as picture:
                return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255

    return Files()
