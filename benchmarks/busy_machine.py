"""What a training takes beside processes that keep the machine busy, by how threads are chosen and how they wait.

`python -m benchmarks.busy_machine --out FILE`: `undistill train` on digits, in turns, beside as many busy processes as there are
cores. Arms: `spinning`, all cores, threads spin while they wait (as PyTorch has it by default); `sleeping`, all cores, threads
sleep; `one thread`; `chosen`, what the shell does by itself. Seconds are those of the epochs alone; ratios are to `chosen`,
of the minima over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from undistill.threads import WAITING, usable
from undistill.training.environment import describe

BUSY = "while True: pass"


def arms(cores: int) -> dict[str, tuple[dict[str, str], list[str]]]:
    """Environment and options of each arm."""
    spin = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "300000"}  # GNU's own number where nothing is set
    return {
        "spinning": (spin, ["--threads", str(cores)]),
        "sleeping": (WAITING, ["--threads", str(cores)]),
        "one thread": ({}, ["--threads", "1"]),
        "chosen": ({}, []),
    }


def one(environment: dict[str, str], options: list[str], model: str, epochs: int) -> float:
    """Seconds that the epochs of one training took."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "undistill",
            "train",
            "--data",
            "digits",
            "--model",
            model,
            "-q",
            "-o",
            str(out),
        ]
        settings = ["-s", f"training.epochs={epochs}"]
        subprocess.run([*command, *settings, *options], check=True, env=plain | environment, stdout=subprocess.DEVNULL)
        return sum(json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines())


def measure(model: str, epochs: int, rounds: int, busy: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round, in turns, beside `busy` processes."""
    beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    found: dict[str, list[float]] = {name: [] for name in arms(usable())}
    try:
        for _ in range(rounds):
            for name, (environment, options) in arms(usable()).items():
                found[name].append(one(environment, options, model, epochs))
                print(f"{name}: {found[name][-1]:.2f} s", file=sys.stderr)
    finally:
        for process in beside:
            process.kill()
    return found


def main() -> None:
    """Measure, print ratios, and write all seconds with the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=usable(), help="busy processes beside it; default one a core")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    seconds = measure(asked.model, asked.epochs, asked.rounds, asked.busy)
    best = {name: min(times) for name, times in seconds.items()}
    values: dict[str, Any] = {
        "model": asked.model,
        "epochs": asked.epochs,
        "busy": asked.busy,
        "seconds": seconds,
        "ratio": {name: round(time / best["chosen"], 2) for name, time in best.items()},
        "env": describe(torch.device("cpu")),
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps(values["ratio"], indent=1))


if __name__ == "__main__":
    main()
