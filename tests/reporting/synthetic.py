"""Cells as a demo would leave them, without any training. Their numbers are made up, and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from undistill.experiments.cell import Cell, identify, save

PAPER = "logits/labelled(1.0)/trained/random"
API = "probs/unlabelled(1.0)/fresh/random/50"
NASTY = {"name": "nasty", "omega": 0.04, "temperature": 4.0}
KD4 = {"temperature": 4.0, "alpha": 0.9}
KD1 = {"temperature": 1.0, "alpha": 0.9}
ENV = {
    "undistill": "0.1.0",
    "commit": "abc1234",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "device": "cpu",
    "processor": "AMD EPYC",
}
GRID: dict[
    tuple[str, str, float | None, str], tuple[float, ...]
] = {  # (card, attack, settings, victim): accuracy of seeds 0, 1, 2
    (PAPER, "scratch", None, "none"): (97.0, 97.4, 97.2),
    (PAPER, "kd", 4.0, "normal"): (97.4, 97.6, 97.2),
    (PAPER, "kd", 4.0, "nasty"): (92.0, 93.0, 91.0),
    (PAPER, "kd", 1.0, "normal"): (97.6, 97.2, 97.4),
    (PAPER, "kd", 1.0, "nasty"): (96.4, 96.8, 96.0),
    (PAPER, "label-only", None, "normal"): (97.2, 97.0, 97.4),
    (PAPER, "label-only", None, "nasty"): (96.8, 97.2, 96.9),
    (API, "scratch", None, "none"): (90.2, 91.4, 90.9),
    (API, "kd", 4.0, "normal"): (97.0, 97.6, 97.4),
    (API, "kd", 4.0, "nasty"): (89.4, 90.6, 89.8),
    (API, "label-only", None, "normal"): (90.1, 90.9, 90.2),
    (API, "label-only", None, "nasty"): (90.0, 90.6, 90.1),
}


def attacker(seed: int = 0, accuracy: float | None = 90.0, victim: str = "nasty", **changes: Any) -> Cell:
    """One attacker; changes are fields of the cell."""
    values: dict[str, Any] = {
        "victim": victim,
        "victim_id": f"{victim}-{seed}",
        "defense": NASTY if victim == "nasty" else {},
        "attack": "kd",
        "attack_settings": KD4,
        "student": "cnn",
        "student_settings": {"width": 0.125},
        "card": PAPER,
        "queries": 48600,
        "images": 810,
        "seeds": {"student": seed, "victim": seed},
        "accuracy": accuracy,
        "agreement": 91.5,
        "nll": 0.31,
        "ece": 2.5,
        "n_test": 500,
        "data": "f1ngerpr1nt",
        "data_note": "made-up digits, 1,797 images",
        "recipe": {"training": {"epochs": 4, "passes": 1}, "views": []},
        "env": ENV,
        "seconds": 2.5,
        "curve": [{"epoch": e, "loss": 2.0 / e, "accuracy_val": 80.0 + 3 * e + seed} for e in range(1, 5)],
    } | changes
    return Cell(id=values.pop("id", identify(values)), **values)


def control(seed: int = 0, accuracy: float | None = 97.0, **changes: Any) -> Cell:
    """A student alone."""
    own = {"kind": "control", "victim_id": "", "defense": {}, "attack": "scratch", "attack_settings": {}, "queries": 0}
    return attacker(seed, accuracy, "none", **{**own, "seeds": {"student": seed}, "agreement": None, **changes})


def victim(seed: int = 0, accuracy: float | None = 99.0, name: str = "normal", **changes: Any) -> Cell:
    """A teacher."""
    own = {"kind": "victim", "attack": "", "attack_settings": {}, "card": "", "queries": 0, "seeds": {"victim": seed}}
    return attacker(seed, accuracy, name, **{**own, "student_settings": {"width": 1.0}, "agreement": None, **changes})


def figure(classes: tuple[str, ...] = ("zero", "one", "two"), **changes: Any) -> tuple[Cell, dict[str, Any]]:
    """A logit response to two images, with its arrays."""
    generator = np.random.default_rng(0)
    cell = victim(
        name="nasty",
        kind="figure",
        attack="logit-response",
        attack_settings={"temperatures": [1, 4]},
        accuracy=None,
        curve=[],
        **changes,
    )
    arrays = {
        "images": generator.integers(0, 256, (2, 1, 8, 8), dtype=np.uint8),
        "labels": np.array([0, 1]),
        "class_names": np.array(classes),
        "normal": generator.normal(0, 4, (2, len(classes))).astype(np.float32),
        "hardened": generator.normal(0, 4, (2, len(classes))).astype(np.float32),
    }
    return cell, arrays


def grid() -> list[Cell]:
    """Three seeds on two cards, as the demo does."""
    cells = [
        victim(s, a, name)
        for name, each in (("normal", (99.4, 99.8, 99.6)), ("nasty", (98.6, 99.0, 98.8)))
        for s, a in enumerate(each)
    ]
    for (card, attack, hot, whose), each in GRID.items():
        for seed, accuracy in enumerate(each):
            settings = {"temperature": hot, "alpha": 0.9} if hot else {}
            own: dict[str, Any] = {"card": card, "attack": attack, "attack_settings": settings, "experiment": "demo"}
            own |= {"images": 50, "queries": 50, "student_settings": {"width": 0.5}} if card == API else {}
            cells.append(control(seed, accuracy, **own) if whose == "none" else attacker(seed, accuracy, whose, **own))
    return cells


def write(folder: Path, cells: list[Cell], *figures: tuple[Cell, dict[str, Any]]) -> Path:
    """Save cells below `folder`, which is returned."""
    for cell in cells:
        save(folder / "cells", cell)
    for cell, arrays in figures:
        save(folder / "cells", cell, arrays)
    return folder
