"""A pilot with headroom: where do an undefended victim's soft answers teach an attacker more than it gets without them?

    python studies/pilot/pilot.py run SETTING --data-dir FOLDER -o OUT [--seeds 5] [--first 0] [--nasty] [--jobs 2]
    python studies/pilot/pilot.py table OUT [OUT …]

`run` goes on where it stopped. Settings were chosen on seed 10,000, where no nasty teacher was ever trained; reported are seeds
0 to 4. The API card: an attacker asks once about each of a few fresh, unlabelled images and trains on altered copies of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.data import load
from undistill.defenses.protect import protect
from undistill.experiments.cell import Cell, collect, save
from undistill.experiments.executors import Job, run_jobs
from undistill.experiments.extraction import attack
from undistill.experiments.victim_metrics import victim_cell
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5.0e-4, "nesterov": True}
ARMS: dict[str, dict[str, Any]] = {
    "alone": {"name": "scratch"},
    "alone-smooth": {"name": "scratch"},
    "labels": {"name": "label-only"},
    "kd-1": {"name": "kd", "temperature": 1, "alpha": 1.0},
    "kd-4": {"name": "kd", "temperature": 4, "alpha": 1.0},
}
SMOOTHING = 0.1
"""Of the labels of the student that is called `alone-smooth`."""


@dataclass(frozen=True)
class Setting:
    """Who is robbed, by whom, with how many questions about images that the victim never saw.

    `seen` is how many images an attacker trains on in all: altered copies of the few it holds.
    """

    data: str
    images: int
    epochs: int
    views: tuple[str, ...]
    questions: tuple[int, ...] = (500,)
    network: str = "cnn"
    width: float = 1.0
    student: str = "cnn"
    student_width: float = 0.5
    pool: int = 2_000
    seen: int = 40_000
    arms: tuple[str, ...] = ("alone", "labels", "kd-1", "kd-4")

    def victim(self, data_dir: str) -> Recipe:
        """How the victim is trained, and its nasty twin."""
        data = {"name": self.data, "dir": data_dir, "limit": self.images + self.pool, "pool": self.pool, "val": 0}
        training = {"epochs": self.epochs, "batch": 128, "clip": 5.0, "optimizer": SGD, "schedule": "one-cycle"}
        network = {"name": self.network, "width": self.width}
        return read({"data": {**data, "views": list(self.views)}, "model": network, "training": training})

    def attacker(self, data_dir: str, questions: int, arm: str) -> Recipe:
        """How its attacker is trained."""
        changes = [
            "training.epochs=10",
            f"training.passes={max(1, round(self.seen / questions / 10))}",
            "training.batch=64",
            f"training.smoothing={SMOOTHING if arm == 'alone-smooth' else 0.0}",
            'data.views=["crop", "flip"]',
        ]
        return read(self.victim(data_dir), changes)


SETTINGS = {
    # Tried, on seed 10,000.
    "c10-cnn-5k": Setting("cifar10", 5_000, 30, ("crop", "flip"), (500, 1000)),
    "c10-cnn-5k-flip": Setting("cifar10", 5_000, 30, ("flip",), (500, 1000)),
    "c100-cnn-10k": Setting("cifar100", 10_000, 30, ("crop", "flip"), (500, 1000)),
    # How small may the victim be? Five seeds from 10,000 on.
    "c10-cnn-500": Setting("cifar10", 500, 20, ("flip",), seen=24_000, arms=("alone", "labels", "kd-4")),
    "c10-cnn-1k": Setting("cifar10", 1_000, 20, ("flip",), seen=24_000, arms=("alone", "labels", "kd-4")),
    "c10-cnn-2k": Setting("cifar10", 2_000, 20, ("flip",), seen=24_000, arms=("alone", "labels", "kd-4")),
    # Chosen, for seeds 0 to 4.
    "cifar10": Setting(
        "cifar10", 4_000, 20, ("flip",), seen=24_000, arms=("alone", "alone-smooth", "labels", "kd-1", "kd-4")
    ),
    "cifar100": Setting(
        "cifar100", 5_000, 20, ("crop", "flip"), seen=24_000, arms=("alone", "alone-smooth", "labels", "kd-4")
    ),
}


@dataclass(frozen=True)
class Place:
    """One setting at work: what it is called, where its runs lie, where its data are."""

    name: str
    out: Path
    data_dir: str


def plan(place: Place, seeds: range, nasty: bool) -> Iterator[Job]:
    """Each seed's victims, and their attackers behind them."""
    setting = SETTINGS[place.name]
    for seed in seeds:
        yield Job(f"victims-{seed}", victims, (place, seed, nasty))
        names = [f"normal-s{seed}", *([f"nasty-s{seed}"] if nasty else [])]
        for questions in setting.questions:
            for arm in setting.arms:
                for name in names[:1] if arm.startswith("alone") else names:
                    key = f"{name}-{arm}-{questions}"
                    yield Job(key, attacker, (place, seed, questions, arm, name), (f"victims-{seed}",))


def victims(place: Place, seed: int, nasty: bool) -> str:
    """Train the undefended victim, and its nasty twin if asked."""
    setting = SETTINGS[place.name]
    recipe = setting.victim(place.data_dir)
    data = load(recipe.data)
    runs = [train(None, data, recipe, seed=seed, out=place.out / "teachers" / f"normal-s{seed}", resume=True)]
    if nasty:
        runs.append(protect(runs[0], data, seed=seed, out=place.out / "teachers" / f"nasty-s{seed}", resume=True))
    for run in runs:
        save(place.out / "cells", *victim_cell(run, data, f"pilot/{place.name}"))
    return f"{place.name} seed {seed}: " + ", ".join(f"{run.folder.name} {run.accuracy:.1f}" for run in runs)


def attacker(place: Place, seed: int, questions: int, arm: str, victim: str) -> str:
    """Train one attacker."""
    setting = SETTINGS[place.name]
    recipe = setting.attacker(place.data_dir, questions, arm)
    cell = attack(
        Run.open(place.out / "teachers" / victim),
        load(recipe.data),
        ARMS[arm],
        student={"name": setting.student, "width": setting.student_width, "recipe": None},
        card=f"probs/unlabelled/fresh/random/{questions}",
        recipe=recipe,
        seed=seed,
        out=place.out / "students" / f"{victim}-{arm}-{questions}",
        cells=place.out / "cells",
        experiment=f"pilot/{place.name}",
        resume=True,
    )
    return f"{place.name} {arm} of {victim}, {questions} questions: {cell.accuracy}"


def table(folders: list[Path]) -> str:
    """Markdown: every arm's mean ± standard deviation, and its paired gain over the student alone ± standard error."""
    lines = ["| setting | questions | victim | arm | accuracy | over alone | seeds |", "|---|---|---|---|---|---|---|"]
    cells = [cell for _, cell in collect(folders)]
    for experiment in sorted({cell.experiment for cell in cells}):
        groups: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
        for cell in cells:
            if cell.experiment == experiment and cell.accuracy is not None:
                groups[_group(cell)][cell.seeds.get("student", cell.seeds.get("victim", 0))] = cell.accuracy
        for (questions, victim, arm), scores in sorted(groups.items()):
            alone = groups.get((questions, "none", "alone"), {})
            both = [scores[seed] - alone[seed] for seed in sorted(scores.keys() & alone.keys())]
            gain = f"{statistics.mean(both):+.2f}" if both and arm != "alone" else ""
            if gain and len(both) > 1:
                gain += f" ± {statistics.stdev(both) / len(both) ** 0.5:.2f}"
            spread = f" ± {statistics.stdev(scores.values()):.2f}" if len(scores) > 1 else ""
            mean = f"{statistics.mean(scores.values()):.2f}{spread}"
            lines.append(f"| {experiment} | {questions} | {victim} | {arm} | {mean} | {gain} | {len(scores)} |")
        spent = sum(cell.seconds for cell in cells if cell.experiment == experiment)
        lines.append(f"| {experiment} | | | *training, core-minutes* | {spent / 60:.0f} | | |")
    return "\n".join(lines)


def _group(cell: Cell) -> tuple[str, str, str]:
    if cell.kind == "victim":
        return "", cell.victim, "the victim itself"
    smooth = cell.recipe["training"]["smoothing"] > 0
    temperature = cell.attack_settings.get("temperature")
    arm = {"scratch": "alone-smooth" if smooth else "alone", "label-only": "labels"}.get(cell.attack, cell.attack)
    return cell.card.rpartition("/")[2], cell.victim, arm if temperature is None else f"{arm}-{temperature:g}"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("setting", choices=SETTINGS)
    run.add_argument("--data-dir", required=True)
    run.add_argument("-o", "--out", type=Path, required=True)
    run.add_argument("--seeds", type=int, default=5)
    run.add_argument("--first", type=int, default=0)
    run.add_argument("--nasty", action="store_true")
    run.add_argument("--jobs", type=int, default=2)
    verbs.add_parser("table").add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    if options.verb == "table":
        return print(table(options.folders))
    if options.nasty and options.first >= 10_000:
        parser.error("settings are chosen without looking at a nasty teacher")
    began, place = time.monotonic(), Place(options.setting, options.out / options.setting, options.data_dir)
    seeds = range(options.first, options.first + options.seeds)
    for line in run_jobs(list(plan(place, seeds, options.nasty)), options.jobs):
        print(f"{time.monotonic() - began:7.0f} s  {line}", flush=True)
    return None


if __name__ == "__main__":
    main()
