"""Keeps a normal and a nasty teacher in half precision, with a model card each, and compares their outputs with those of float32.

    python studies/laptop/pair.py RUNS/teachers OUT DATA NOTE   # OUT/normal, OUT/nasty: folders that `attack` and `audit` take

NOTE says of the card what is special about these data.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from undistill.data import load
from undistill.files import write_bytes, write_json, write_text
from undistill.models import model_folder as models
from undistill.training.evaluate import accuracy, predict
from undistill.training.run_folder import Run

CARD = """---
library_name: undistill
pipeline_tag: image-classification
---

# {title}

`airbench` (2 million weights, Jordan 2024) trained on all 50,000 training images of CIFAR-10, {how}. Weights are kept in float16.

- accuracy on the 10,000 test images: {half:.2f} % (in float32: {full:.2f} %)
- test images whose top class differs from that in float32: {moved}; largest difference of a logit: {far:.4f}
- recipe `speed-cifar10`, seed {seed}, commit `{commit}`, {device}, torch {torch}, {precision}
- data: {note}
- every training image was used, so none of them is a fresh query for an audit of this model

Read it with `undistill.load_model(FOLDER)`. Pixels go in as float NCHW in [0, 1]; normalization is inside.
"""


def keep(run: Run, out: Path, title: str, how: str, data: Any, note: str) -> None:
    """Write one model folder."""
    network = run.model()
    half = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    shutil.rmtree(out, ignore_errors=True)
    write_bytes(out / "model.safetensors", safetensors.torch.save({k: v.contiguous() for k, v in half.items()}))
    write_json(out / "config.json", json.loads((run.folder / "model" / "config.json").read_text()))
    exact = predict(network, data.test)
    rounded = predict(models.read(out)[0], data.test)
    env = json.loads((run.folder / "env.json").read_text())
    facts = {key: env[key] for key in ("commit", "device", "torch", "precision")}
    labels = data.test.labels_N
    card = CARD.format(
        title=title,
        how=how,
        half=accuracy(rounded, labels),
        full=accuracy(exact, labels),
        moved=int((rounded.argmax(1) != exact.argmax(1)).sum()),
        far=float((rounded - exact).abs().max()),
        seed=run.result["seed"],
        note=f"{data.note}, {note}",
        **facts,
    )
    write_text(out / "README.md", card)
    print(card.split("\n\n")[3])


def main(teachers: Path, out: Path, data_dir: str, note: str) -> None:
    """Both teachers of seed 0."""
    torch.set_num_threads(1)
    data = load("cifar10", data_dir=data_dir)
    normal, nasty = (Run.open(next(teachers.glob(f"{kind}-resnet18-s0-*"))) for kind in ("normal", "nasty"))
    keep(normal, out / "normal", "A normal teacher for CIFAR-10", "by cross-entropy", data, note)
    how = "as a nasty teacher (ω 0.04, τ 4) pushed away from the normal one beside it"
    keep(nasty, out / "nasty", "A nasty teacher for CIFAR-10", how, data, note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
