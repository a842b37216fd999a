"""How the demo's settings were chosen: on images that are neither test images nor trained on by a student.

    python studies/demo/choose.py runs/choose

Accuracy is measured on 90 validation images and on those of the pool: for teachers all 400, for students the 350 that the attacker
does not hold. Teachers have seeds from 5000 on and meet two draws of 50 images each; no demo of `seeds.py` shares one. The rules:
the largest ω at which users lose less than 1 point; of the students that train within half a second, the one that learns most
from probabilities of the normal teacher. What came out is in `choice.md`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from undistill.data import ImageSet, load
from undistill.defenses.protect import protect
from undistill.experiments.extraction import AttackConfig, Extraction, plan_recipe, spare
from undistill.oracle.victim import resolve
from undistill.paper.demo_result import COLD, LABELS, REFIT, SOFT, Attacker
from undistill.training.evaluate import predict
from undistill.training.recipe import read
from undistill.training.run_folder import Run
from undistill.training.train import of_data, train

FIRST, DRAWS = 5000, 2
RECIPE, TRAINING = read("digits-demo"), read("digits-attacker")
DATA = load(RECIPE.data)


def score(network: torch.nn.Module, images: tuple[ImageSet, ...]) -> float:
    """Percent right."""
    right = torch.cat([predict(network, part).argmax(1) == part.labels_N for part in images])
    return 100 * float(right.double().mean())


def student(run: Run, attacker: Attacker, seed: int, width: float, steps: int) -> float:
    """Accuracy of one attacker's student on images that it does not hold."""
    recipe = read(TRAINING, (f"training.passes={steps // 4}", f"student.width={width}"))
    recipe = of_data(plan_recipe(recipe, dict(attacker.attack), None, seed), DATA)
    config = AttackConfig(threat_model=attacker.threat_model, experiment="choice", phase="selection")
    one = Extraction(resolve(run), DATA, recipe, config, torch.device("cpu"))
    for _ in one.steps(None, {}):
        pass
    return score(one.student, spare(DATA, one.images))


def each(runs: Mapping[int, Run], attacker: Attacker, draws: int, width: float = 1.0, steps: int = 100) -> Any:
    """Accuracies, pairs × draws; the draws of pair p have seeds from `draws + 10 p` on."""
    return np.array(
        [
            [student(run, attacker, draws + 10 * (pair - FIRST) + d, width, steps) for d in range(DRAWS)]
            for pair, run in runs.items()
        ]
    )


def main(out: Path) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    unseen = tuple(part for part in (DATA.val, DATA.pool) if part is not None)
    normal = {
        p: train(None, DATA, RECIPE, seed=p, out=out / f"normal-{p}", resume=True) for p in range(FIRST, FIRST + 6)
    }
    four = {pair: normal[pair] for pair in range(FIRST, FIRST + 4)}
    for width in (0.25, 0.5, 1.0):
        for steps in (100, 200, 400):
            soft, labels = (each(four, attacker, 6000, width, steps).mean() for attacker in (SOFT, LABELS))
            print(f"width {width}, {steps} steps: probabilities {soft:.1f}, predicted classes {labels:.1f}", flush=True)
    users, soft = np.mean([score(run.model(), unseen) for run in normal.values()]), each(normal, SOFT, 7000)
    print(f"normal teachers {users:.1f}, students {soft.mean():.1f}")
    for omega in (0.04, 0.05, 0.06, 0.07, 0.1):
        defense = {"name": "nasty", "omega": omega, "temperature": 4}
        nasty = {
            pair: protect(run, DATA, defense, seed=pair, out=out / f"nasty-{omega}-{pair}", resume=True, bank=None)
            for pair, run in normal.items()
        }
        lost = users - np.mean([score(run.model(), unseen) for run in nasty.values()])
        taken = (soft - each(nasty, SOFT, 7000)).mean(axis=1)
        others = ", ".join(f"{a.name} {each(nasty, a, 7000).mean():.1f}" for a in (COLD, LABELS, REFIT))
        print(
            f"ω {omega}: users lose {lost:.1f}, taken {taken.mean():.1f}, by pair {np.round(taken, 1)}; {others}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
