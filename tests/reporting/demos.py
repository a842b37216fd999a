"""Made-up demos: cells with predictions that are right as often as asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reporting.synthetic import ENV, figure
from undistill.experiments.cell import Array, Cell, save
from undistill.paper.demo_result import ATTACKERS, BASELINE, NASTY, NORMAL, SCHEMA

N = 500
LABELS = np.arange(N, dtype=np.int16) % 10
SOFT_EFFECT: Mapping[str, tuple[float, float]] = {
    "kd-4": (92.0, 86.0),
    "kd-1": (88.0, 87.0),
    "labels": (86.0, 86.0),
    "weights": (0.0, 91.0),
    "baseline": (86.0, 0.0),
}
"""(normal, nasty) accuracy of each attacker."""


def predicted(accuracy: float, seed: int) -> Array:
    """Right on `accuracy` percent of the images, drawn by the seed."""
    wrong = np.random.default_rng(seed).permutation(N)[: round(N * (1 - accuracy / 100))]
    found = LABELS.copy()
    found[wrong] = (found[wrong] + 1) % 10
    return found


def write(
    folder: Path,
    accuracy: Mapping[str, tuple[float, float]] = SOFT_EFFECT,
    *,
    teachers: int = 4,
    draws: int = 3,
    spread: float = 1.0,
    diverged: bool = False,
) -> Path:
    """Save a demo below `folder`, which is returned. Accuracies differ between draws by up to `spread` points."""
    settings = {"schema": SCHEMA, "seed": 0, "teachers": teachers, "draws": draws, "quick": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(settings))
    for pair in range(teachers):
        for name, own in ((NORMAL, 98.4), (NASTY, 98.0)):
            _save(folder, f"{name}{pair}", own, pair, kind="victim", victim=name, seeds={"victim": pair})
        for draw in range(pair * draws, (pair + 1) * draws):
            for attacker in ATTACKERS:
                for name in attacker.teachers or ("none",):
                    at = accuracy[attacker.name][name == NASTY] + spread * (draw % 3 - 1)
                    lost = diverged and draw == 0 and name == NASTY and attacker.name == "kd-4"
                    _save(
                        folder,
                        f"{attacker.name}{name}{draw}",
                        None if lost else at,
                        draw,
                        kind="control" if attacker == BASELINE else "cell",
                        victim=name,
                        seeds={"student": draw} | ({} if attacker == BASELINE else {"victim": pair}),
                        attack=attacker.attack["name"],
                        attack_settings={key: value for key, value in attacker.attack.items() if key != "name"},
                        card=attacker.threat_model,
                    )
    drawn, arrays = figure(tuple("0123456789"), experiment="demo")
    save(folder / "cells", drawn, arrays)
    return folder


def _save(folder: Path, name: str, accuracy: float | None, seed: int, **fields: object) -> None:
    values = {"victim_id": "", "experiment": "demo", "data": "f1ngerpr1nt", "data_note": "made-up digits", "env": ENV}
    status = "diverged" if accuracy is None else "ok"
    cell = Cell.model_validate({**values, **fields, "id": name, "accuracy": accuracy, "n_test": N, "status": status})
    arrays = {} if accuracy is None else {"predicted": predicted(accuracy, seed), "labels": LABELS}
    save(folder / "cells", cell, arrays)
