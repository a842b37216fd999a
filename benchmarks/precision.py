"""What bf16 does to a nasty teacher and its students: the demo's paper card on digits, in fp32 and in bf16, seed by seed.

`python -m benchmarks.precision -o FOLDER`; numbers, and their paired differences with a 95 % interval, go to
`evidence/precision-digits.json`. A processor without bf16 emulates it: the numbers stand, the time does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from undistill import attack, load, protect, train
from undistill.oracle import LogitCache
from undistill.statistics import interval
from undistill.training.environment import choose_device, describe
from undistill.training.recipe import read

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "evidence" / "precision-digits.json"
ARMS = ("normal teacher", "nasty teacher", "student alone", "student of normal", "student of nasty")
KD = {"name": "kd", "temperature": 4, "alpha": 0.9}
STUDENT = {"name": "cnn", "width": 0.0625, "recipe": None}


def one(seed: int, precision: str, folder: Path) -> dict[str, float]:
    """Accuracy of each arm at one seed, percent."""
    data, recipe = load("digits"), read("digits", [f"training.precision={precision}"])
    bank = LogitCache(folder / "bank")
    normal = train(None, data, recipe, seed=seed, out=folder / "normal", resume=True)
    nasty = protect(normal, data, seed=seed, out=folder / "nasty", resume=True, bank=bank)
    found = {"normal teacher": normal.accuracy, "nasty teacher": nasty.accuracy}
    students = (("alone", normal, {"name": "scratch"}), ("of normal", normal, KD), ("of nasty", nasty, KD))
    for name, victim, how in students:
        cell = attack(
            victim,
            data,
            how,
            student=STUDENT,
            card="paper",
            seed=seed,
            out=folder / name.replace(" ", "-"),
            resume=True,
            bank=bank,
        )
        found[f"student {name}"] = cell.accuracy if cell.accuracy is not None else float("nan")
    return found


def differences(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By arm: mean in both precisions, mean paired difference (bf16 − fp32) and half its 95 % interval (Student's t)."""
    found = {}
    for name in ARMS:
        pairs = [(row["fp32"][name], row["bf16"][name]) for row in rows]
        gap = interval([half - full for full, half in pairs])
        means = {"fp32": statistics.mean(full for full, _ in pairs), "bf16": statistics.mean(half for _, half in pairs)}
        values = {**means, "difference": gap.mean, "half": (gap.high - gap.low) / 2}
        found[name] = {k: round(v, 2) for k, v in values.items()}
    return found


def main() -> None:
    """Train, or go on with what is there, and write."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    options.add_argument("-o", "--folder", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    rows = []
    for seed in range(given.seeds):
        row = {kind: one(seed, kind, given.folder / f"s{seed}-{kind}") for kind in ("fp32", "bf16")}
        rows.append({"seed": seed, **row})
        print(json.dumps(rows[-1]), flush=True)
    device = choose_device("auto")
    about = {"command": "python -m benchmarks.precision", "env": describe(device, "bf16")}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({**about, "arms": differences(rows), "seeds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
