"""`make bench`: a few ratios, each of two arms timed in turn in one run; medians, as a table and as JSON.

Machines are noisy: read the ratios, not the milliseconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from undistill.data import VIEWS, ImageBatches, load
from undistill.data.views import Views, to_float
from undistill.models import build
from undistill.training import Training, fit
from undistill.training.objectives import CrossEntropy

Arm = Callable[[], object]


def in_turn(first: Arm, second: Arm, repeats: int) -> tuple[float, float]:
    """Median milliseconds of both arms, timed alternately after one warm-up each."""
    first(), second()
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for arm, times in zip((first, second), spent, strict=True):
            began = time.perf_counter()
            arm()
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent[0]), statistics.median(spent[1])


def views() -> tuple[float, float]:
    """Crop and flip of 256 images of 32 × 32: whole batch against one image at a time."""
    images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)
    index = torch.arange(256)
    whole = Views([VIEWS.make("crop"), VIEWS.make("flip")], 0, 0, 256, torch.device("cpu"))
    tops, mirrored = whole.tables

    def singly() -> torch.Tensor:
        out = []
        for image, (top, left), flip in zip(images, tops.tolist(), mirrored.squeeze(1).tolist(), strict=True):
            cut = F.pad(image, (4,) * 4)[:, top : top + 32, left : left + 32]
            out.append(to_float(cut.flip(2) if flip else cut))
        return torch.stack(out)

    assert torch.equal(whole(images, index), singly())
    return in_turn(lambda: whole(images, index), singly, 20)


def loop() -> tuple[float, float]:
    """Ten epochs of the demo's teacher on 810 digits: `fit` against a bare forward, backward and step over the same batches."""
    data = load("digits")
    training = Training.model_validate({"epochs": 10, "batch": 64, "optimizer": {"name": "sgd", "lr": 0.1}})
    batches = ImageBatches(data.train, 64, [VIEWS.make({"name": "crop", "padding": 1})], seed=0, role="bench")

    def ours() -> None:
        model = build("cnn", 10, 1, 8, width=0.5, seed=0)
        for _ in fit(model, batches, CrossEntropy(), training, seed=0):
            pass

    def bare() -> None:
        model = build("cnn", 10, 1, 8, width=0.5, seed=0).train()
        optimizer = training.optimizer.build(model.parameters())
        for epoch in range(10):
            for batch in batches.epoch(epoch):
                assert batch.labels_B is not None
                optimizer.zero_grad()
                F.cross_entropy(model(batch.images_BCHW), batch.labels_B).backward()
                optimizer.step()

    return in_turn(ours, bare, 5)


def start() -> tuple[float, float]:
    """`undistill --help` against an empty Python."""

    def run(*command: str) -> Arm:
        return lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True)

    return in_turn(run("-m", "undistill", "--help"), run("-c", "pass"), 5)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rows = {}
    for name, bench in (("views", views), ("loop", loop), ("start", start)):
        ours, other = bench()
        rows[name] = {"ours_ms": round(ours, 2), "other_ms": round(other, 2), "ratio": round(other / ours, 2)}
        print(
            f"{name:<6} {ours:9.2f} ms against {other:9.2f} ms: {other / ours:5.2f} ×   {(bench.__doc__ or '').splitlines()[0]}"
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
