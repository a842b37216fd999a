"""A folder of JPEGs that would not fit into memory, against the same folder decoded: peak memory, images a second, same bits.

    python -m benchmarks.memory --out evidence/memory.json

Trainings in processes of their own: one epoch after the images are in the cache, the network and everything else alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from undistill.training.environment import describe

CLASSES = 10
VIEWS = "data.views=[{name: resized-crop}, {name: flip}]"


def photo(number: int, side: int, seed: int) -> Image.Image:
    """A picture of soft colored shapes, about as many bytes as a photo; its class shows in its colors."""
    rng = np.random.default_rng([seed, number])
    coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    coarse[..., number % 3] = (25 * (number % CLASSES) + rng.integers(0, 25, (12, 12))).astype(np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((soft + rng.integers(-12, 13, (side, side, 1))).clip(0, 255).astype(np.uint8))


def make(folder: Path, count: int, side: int, seed: int) -> int:
    """Write the folder; its bytes."""
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        photo(number, side, seed).save(place / f"{number:05d}.jpg", quality=90)
    return sum(file.stat().st_size for file in folder.rglob("*.jpg"))


def train(folder: Path, out: Path, limit: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train in a process of its own; its peak resident memory in MB, seconds, and what it reached."""
    settings = [
        f"data.stored={args.side}",
        VIEWS,
        "model.width=0.5",
        f"training.epochs={args.epochs}",
        "training.batch=32",
    ]
    words = [
        "train",
        "--data",
        str(folder),
        "--memory-limit",
        limit,
        "--size",
        "64",
        "--model",
        "cnn",
        "--threads",
        "1",
        "-q",
    ]
    words += [word for setting in settings for word in ("-s", setting)]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "undistill", *words, "-o", str(out)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the training ended with {process.returncode}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "peak_mb": round(used.ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "images_per_second": round(max(line["images"] / line["seconds"] for line in lines), 1),
        "accuracy": json.loads((out / "result.json").read_text())["accuracy"],
        "weights": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()[:16],
        "losses": [line["loss"] for line in lines],
    }


def main() -> None:
    """Measure, and print or write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", default="200MB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the images and caches go; a temporary one by default")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = (args.folder or Path(temporary)).resolve()
        photos = home / "photos"
        encoded = (
            sum(f.stat().st_size for f in photos.rglob("*.jpg"))
            if photos.exists()
            else make(photos, args.images, args.side, args.seed)
        )
        found: dict[str, Any] = {"images": args.images, "side": args.side, "encoded_mb": round(encoded / 1e6)}
        found["decoded_mb"] = round(args.images * 3 * args.side**2 / 1e6)
        for name, limit in (("encoded", args.limit), ("decoded", "1TB")):
            os.environ["UNDISTILL_CACHE"] = str(home / f"cache-{name}")
            first = train(photos, home / f"{name}-first", limit, args)
            found[name] = {
                "limit": limit,
                "first_seconds": first["seconds"],
                "first_peak_mb": first["peak_mb"],
                **train(photos, home / f"{name}-again", limit, args),
            }
            found[name]["same_again"] = first["weights"] == found[name]["weights"]
    found["same_bits"] = found["encoded"]["weights"] == found["decoded"]["weights"]
    found["rate"] = round(found["encoded"]["images_per_second"] / found["decoded"]["images_per_second"], 3)
    env = describe(torch.device("cpu"))
    command = (
        f"python -m benchmarks.memory --images {args.images} --side {args.side} --limit {args.limit} --seed {args.seed}"
    )
    found |= {"command": command, **{name: env[name] for name in ("commit", "processor", "torch")}}
    content = json.dumps(found, indent=1) + "\n"
    if args.out:
        args.out.write_text(content, encoding="utf-8")
    sys.stdout.write(content)


if __name__ == "__main__":
    main()
