"""How the recipes `speed-…` were chosen: on 5,000 held-out training images of CIFAR-10, never on test images.

    python studies/laptop/search.py OUT.csv --data-dir DATA [--only cnn] [--jobs 12]

Each line of the table is one training, with its accuracy on the held-out images. A training that is in the table is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from undistill.data import load
from undistill.experiments.executors import Job, run_jobs
from undistill.training.recipe import read
from undistill.training.train import train

PLAIN = {"name": "sgd", "momentum": 0.9, "weight_decay": 5.0e-4, "nesterov": True}
SPEED = {"name": "decoupled-sgd"}
AVERAGE = {"every": 5, "decay": 0.95, "power": 3}


def trials() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → (recipe, changes of its training section; `padding` changes how far images are shifted)."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for epochs in (10, 16, 24):
        found[f"airbench epochs={epochs}"] = ("speed-cifar10", {"epochs": epochs})
    found["airbench epochs=16 smoothing=0.2"] = ("speed-cifar10", {"epochs": 16, "smoothing": 0.2})
    for lr in (2e-3, 4e-3, 8e-3):
        for decay in (0.01, 0.05):
            optimizer = {"name": "adamw", "lr": lr, "weight_decay": decay}
            found[f"cnn adamw lr={lr:g} decay={decay:g} epochs=20"] = ("speed-cifar10-cnn", {"optimizer": optimizer})
    for lr in (4.0, 8.0):
        changes = {"optimizer": {**SPEED, "lr": lr, "norm_bias": 8.0}, "average": AVERAGE}
        found[f"cnn decoupled-sgd lr={lr:g} epochs=20"] = ("speed-cifar10-cnn", changes)
    for epochs in (12, 30):
        found[f"cnn adamw lr=0.004 decay=0.01 epochs={epochs}"] = ("speed-cifar10-cnn", {"epochs": epochs})
    for lr in (0.2, 0.4, 0.8):
        found[f"resnetc20 sgd lr={lr:g} epochs=20"] = ("speed-cifar10-resnetc", {"optimizer": {**PLAIN, "lr": lr}})
    found["resnetc20 sgd lr=0.4 epochs=30"] = ("speed-cifar10-resnetc", {"epochs": 30})
    changes = {"optimizer": {**SPEED, "lr": 8.0, "norm_bias": 8.0}, "average": AVERAGE}
    found["resnetc20 decoupled-sgd lr=8 epochs=20"] = ("speed-cifar10-resnetc", changes)
    for lr in (0.2, 0.4):
        found[f"resnet18 sgd lr={lr:g} epochs=16"] = ("speed-cifar10-resnet18", {"optimizer": {**PLAIN, "lr": lr}})
    changes = {"optimizer": {**SPEED, "lr": 8.0, "norm_bias": 8.0}, "average": AVERAGE}
    found["resnet18 decoupled-sgd lr=8 epochs=16"] = ("speed-cifar10-resnet18", changes)
    for padding in (3, 4):
        found[f"airbench epochs=24 padding={padding}"] = ("speed-cifar10", {"epochs": 24, "padding": padding})
    found["airbench epochs=24 padding=4 lr=9"] = (
        "speed-cifar10",
        {"epochs": 24, "padding": 4, "optimizer": {**SPEED, "lr": 9.0}},
    )
    for epochs in (16, 24):
        found[f"resnet18 sgd lr=0.4 epochs={epochs} padding=4"] = (
            "speed-cifar10-resnet18",
            {"epochs": epochs, "padding": 4, "optimizer": {**PLAIN, "lr": 0.4}},
        )
    found["resnet18 sgd lr=0.2 epochs=24 padding=4 batch=256"] = (
        "speed-cifar10-resnet18",
        {"epochs": 24, "padding": 4, "batch": 256, "optimizer": {**PLAIN, "lr": 0.2}},
    )
    return found


def one(name: str, data_dir: str, table: str) -> str:
    """Do one training and append its line."""
    base, changes = trials()[name]
    values = read(base).dump()
    changes = dict(changes)
    values["data"]["views"][0]["padding"] = changes.pop("padding", 2)
    values["training"] |= changes
    values["data"] |= {"val": 5_000, "dir": data_dir}
    recipe = read(values)
    data = load(recipe.data)
    assert data.val is not None
    shown = replace(data, test=data.val)  # what `train` reads at its end are the held-out images too
    with tempfile.TemporaryDirectory() as folder:
        run = train(None, shown, recipe, seed=0, out=Path(folder) / "run")
        env = json.loads((run.folder / "env.json").read_text())
    seconds = f"{run.result['seconds']:.0f}"
    with Path(table).open("a", newline="") as file:
        csv.writer(file).writerow(
            [name, f"{run.accuracy:.2f}", seconds, env["device"], env["precision"], env["commit"]]
        )
    return f"{name}: {run.accuracy:.2f} ({seconds} s)"


def main() -> None:
    """All trainings that the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data-dir", required=True, help="CIFAR-10 in the hub's format")
    parser.add_argument("--only", default="", help="names that begin so")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    if not asked.table.exists():
        asked.table.write_text("trial,accuracy on 5000 held-out images,seconds,device,precision,commit\n")
    done = {line.split(",")[0] for line in asked.table.read_text().splitlines()}
    wanted = [name for name in trials() if name.startswith(asked.only) and name not in done]
    for line in run_jobs([Job(name, one, (name, asked.data_dir, str(asked.table))) for name in wanted], asked.jobs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
