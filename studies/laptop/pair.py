"""Keeps a normal or nasty classifier in half precision, with a model card, and compares its outputs with those of float32.

    python studies/laptop/pair.py runs/owner/normal examples/cifar10/normal DATA NOTE   # of studies/audits/owner.sh; then nasty

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

from undistill.data.load import load
from undistill.files import write_bytes, write_json, write_text
from undistill.models import model_folder as models
from undistill.training.evaluate import accuracy, predict
from undistill.training.recipe import read
from undistill.training.run_folder import Run

CARD = """---
library_name: undistill
pipeline_tag: image-classification
---

# {title}

`airbench` (2 million weights, Jordan 2024) trained on 40,000 of CIFAR-10's training images, {how}. Weights are kept in float16.

- accuracy on the 10,000 test images: {half:.2f} % (in float32: {full:.2f} %)
- test images whose top class differs from that in float32: {moved}; largest difference of a logit: {far:.4f}
- recipe `speed-cifar10`, seed {seed}, commit `{commit}`, {device}, torch {torch}, {precision}
- data: {note}
- the other 10,000 training images are fresh: `-c speed-cifar10 --pool 10000` sets the same ones aside

Read it with `undistill.load_model(FOLDER)`. Pixels go in as float NCHW in [0, 1]; normalization is inside.
"""

KINDS = {
    "train": ("A normal teacher for CIFAR-10", "by cross-entropy"),
    "protect": (
        "A nasty teacher for CIFAR-10",
        "as a nasty teacher (ω 0.04, τ 4) pushed away from the normal one beside it",
    ),
}


def keep(run: Run, out: Path, data: Any, note: str) -> None:
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
    title, how = KINDS[models.read_origin(run.folder / "model")["kind"]]
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe = read("speed-cifar10", ["data.pool=10000", f"data.dir={json.dumps(sys.argv[3])}"])
    keep(Run.open(Path(sys.argv[1])), Path(sys.argv[2]), load(recipe.data), sys.argv[4])
