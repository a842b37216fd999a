"""How the demo's settings were chosen: on images that are neither test images nor trained on by a student.

    python results/demo/choose.py runs/choose > results/demo/choice.txt

Teachers have seeds 5000 to 5005 and meet two draws of 50 images each; no demo of `seeds.py` shares one. Accuracy is measured on 90
validation images and on those of the pool: for teachers all 400, for students the 350 that the attacker does not hold. The rule:
the largest ω at which users lose less than 1 point, and of the students that train in half a second the one that is most accurate
on probabilities of the normal teacher.
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

from undistill.access import Card
from undistill.auditing.heist import Heist
from undistill.auditing.plan import plan_recipe, spare
from undistill.data import ImageSet, load
from undistill.defenses.protect import protect
from undistill.oracle.victim import resolve
from undistill.reproduction.demo_result import COLD, LABELS, REFIT, SOFT, Attacker
from undistill.training.evaluate import predict
from undistill.training.recipe import read
from undistill.training.run import Run
from undistill.training.train import of_data, train

PAIRS, DRAWS = range(5000, 5006), 2
RECIPE, TRAINING = read("digits-demo"), read("digits-attacker")
DATA = load(RECIPE.data)


def score(network: torch.nn.Module, images: tuple[ImageSet, ...]) -> float:
    """Percent right."""
    return 100 * float(
        torch.cat([predict(network, part).argmax(1) == part.labels_N for part in images]).double().mean()
    )


def student(run: Run, attacker: Attacker, seed: int, width: float, passes: int) -> float:
    """Accuracy of one attacker's student on images that it does not hold."""
    recipe = read(TRAINING, (f"training.passes={passes}", f"student.width={width}"))
    recipe = of_data(plan_recipe(recipe, dict(attacker.attack), None, seed), DATA)
    one = Heist(
        resolve(run), DATA, Card.parse(attacker.threat_model), recipe, torch.device("cpu"), {}, "", phase="selection"
    )
    for _ in one.steps(None, {}):
        pass
    return score(one.student, spare(DATA, one.images))


def each(runs: Mapping[int, Run], attacker: Attacker, width: float = 1.0, passes: int = 25) -> Any:
    """Pairs × draws accuracies."""
    return np.array(
        [[student(runs[p], attacker, 7000 + 10 * (p - 5000) + d, width, passes) for d in range(DRAWS)] for p in PAIRS]
    )


def main(out: Path) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    unseen = tuple(part for part in (DATA.val, DATA.pool) if part is not None)
    normal = {p: train(None, DATA, RECIPE, seed=p, out=out / f"normal-{p}", resume=True) for p in PAIRS}
    users = np.mean([score(run.model(), unseen) for run in normal.values()])
    print(f"normal teachers: {users:.1f} %")
    for width in (0.25, 0.5, 1.0):
        for passes in (25, 50):
            soft, labels = each(normal, SOFT, width, passes), each(normal, LABELS, width, passes)
            print(
                f"width {width}, {4 * passes} steps: probabilities {soft.mean():.1f}, predicted classes {labels.mean():.1f}",
                flush=True,
            )
    soft = each(normal, SOFT)
    for omega in (0.04, 0.05, 0.06, 0.07, 0.1):
        defense = {"name": "nasty", "omega": omega, "temperature": 4}
        nasty = {
            p: protect(normal[p], DATA, defense, seed=p, out=out / f"nasty-{omega}-{p}", resume=True, bank=None)
            for p in PAIRS
        }
        lost = users - np.mean([score(run.model(), unseen) for run in nasty.values()])
        taken = (soft - each(nasty, SOFT)).mean(axis=1)
        others = ", ".join(f"{a.name} {each(nasty, a).mean():.1f}" for a in (COLD, LABELS, REFIT))
        print(
            f"ω {omega}: users lose {lost:.1f}, taken {taken.mean():.1f} (by pair {np.round(taken, 1).tolist()}); {others}",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
