"""The demo: a normal and a nasty teacher of digits, and the students that steal from both, on two cards.

The grid is data; every part is a run folder of its own, so that an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.auditing.attack import attack
from undistill.auditing.cell import save
from undistill.auditing.describe import logit_response, victim_cell
from undistill.data import load
from undistill.defenses.protect import protect
from undistill.errors import UsageError
from undistill.files import locked, read_json, write_json
from undistill.jobs import Job, run_jobs
from undistill.oracle.bank import USUAL, Bank
from undistill.training.recipe import Recipe, read
from undistill.training.run import Run
from undistill.training.train import train

Say = Callable[[str], None]
CARDS: dict[str, dict[str, Any]] = {
    "paper": {
        "card": "logits/labelled(1.0)/trained/random",
        "student": {"name": "cnn", "width": 0.0625, "recipe": None},
        "arms": {
            "alone": {"name": "scratch"},
            "kd-4": {"name": "kd", "temperature": 4, "alpha": 0.9},
            "kd-1": {"name": "kd", "temperature": 1, "alpha": 0.9},
            "labels": {"name": "label-only"},
        },
    },
    "api": {
        "card": "probs/unlabelled(1.0)/fresh/random/50",
        "student": {"name": "cnn", "width": 0.5, "recipe": "digits-api"},
        "arms": {
            "alone": {"name": "scratch"},
            "kd-4": {"name": "kd", "temperature": 4, "alpha": 1.0},
            "kd-1": {"name": "kd", "temperature": 1, "alpha": 1.0},
            "labels": {"name": "label-only"},
        },
    },
}
QUICK = ("training.epochs=3",)
"""What `--quick` changes: enough to see every part work, not enough to learn anything from the numbers."""


@dataclass(frozen=True)
class Demo:
    """What fixes a demo, and where it lies."""

    out: Path
    seed: int = 0
    seeds: int = 3
    quick: bool = False
    bank: Bank | None = USUAL

    @property
    def recipe(self) -> Recipe:
        """The teachers' recipe."""
        return read("digits", QUICK if self.quick else ())

    def teacher(self, name: str, seed: int) -> Path:
        """A teacher's run folder."""
        return self.out / "teachers" / f"{name}-s{seed}"


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    seeds: int = 3,
    quick: bool = False,
    resume: bool = False,
    jobs: int | None = None,
    bank: Bank | None = USUAL,
    say: Say | None = None,
) -> Path:
    """Train teachers and students for `seeds` seeds from `seed` on; cells lie in `out/cells`. Returns `out`.

    Args:
        out: folder; locked meanwhile.
        seed: the first seed of teachers and students.
        seeds: how many.
        quick: one seed, three epochs.
        resume: go on with what is there.
        jobs: processes at a time, of one thread each; None for one a core.
        bank: keeps the teachers' answers for students that ask again; None keeps nothing.
        say: told what was done, a line at a time.
    """
    if seeds < 1 or seed < 0:
        raise UsageError(f"the demo needs at least 1 seed from 0 up, not {seeds} from {seed}")
    demo = Demo(Path(out), seed, 1 if quick else seeds, quick, bank)
    with locked(demo.out):
        _claim(demo, resume=resume)
        load("digits")  # decoded and cached once, before the workers look for it
        for line in run_jobs(list(_jobs(demo)), jobs):
            if say is not None:
                say(line)
    return demo.out


def _claim(demo: Demo, *, resume: bool) -> None:
    """Settle that this folder belongs to this demo; UsageError if it belongs to something else."""
    path = demo.out / "demo.json"
    settings = {"schema": 1, "seed": demo.seed, "seeds": demo.seeds, "quick": demo.quick}
    if path.exists():
        found = read_json(path)
        if not resume:
            raise UsageError(
                f"{demo.out} holds a demo already; go on with it by --resume, or choose another folder with -o"
            )
        if found != settings:
            raise UsageError(f"{demo.out} holds a demo with other settings ({found}); choose another folder with -o")
        return
    others = [entry.name for entry in demo.out.iterdir() if not entry.name.startswith(".")]
    if others:
        raise UsageError(
            f"{demo.out} is not empty and holds no demo ({others[0]!r} is there); choose another folder with -o"
        )
    write_json(path, settings)


def _jobs(demo: Demo) -> Iterator[Job]:
    """Each seed's teachers, and its students behind them."""
    for seed in range(demo.seed, demo.seed + demo.seeds):
        yield Job(f"teachers-{seed}", _teachers, (demo, seed))
        for arm in _arms():
            yield Job("-".join((*arm, str(seed))), _student, (demo, seed, *arm), (f"teachers-{seed}",))


def _teachers(demo: Demo, seed: int) -> str:
    """Train a normal teacher and its nasty twin."""
    data = load(demo.recipe.data)
    normal = train(None, data, demo.recipe, seed=seed, out=demo.teacher("normal", seed), resume=True)
    nasty = protect(
        normal, data, seed=seed, out=demo.teacher("nasty", seed), resume=True, bank=demo.bank, accept_accuracy=True
    )
    for run in (normal, nasty):
        save(demo.out / "cells", *victim_cell(run, data, "demo"))
    save(demo.out / "cells", *logit_response(normal, nasty, data, "demo", temperatures=(1, 4)))
    return f"seed {seed}: teachers normal {normal.accuracy:.1f}, nasty {nasty.accuracy:.1f}"


def _arms() -> Iterator[tuple[str, str, str]]:
    """(card, arm, teacher) of every student of one seed; the student alone has no teacher and is trained once."""
    for card, grid in CARDS.items():
        for arm, settings in grid["arms"].items():
            for teacher in ("normal",) if settings["name"] == "scratch" else ("normal", "nasty"):
                yield card, arm, teacher


def _student(demo: Demo, seed: int, card: str, arm: str, teacher: str) -> str:
    grid = CARDS[card]
    recipe = demo.recipe
    student = grid["student"]
    if student["recipe"] is not None:
        recipe = recipe.model_copy(update={"training": read(student["recipe"], QUICK if demo.quick else ()).training})
        student = {**student, "recipe": None}
    cell = attack(
        Run.open(demo.teacher(teacher, seed)),
        load(recipe.data),
        grid["arms"][arm],
        student=student,
        card=grid["card"],
        recipe=recipe,
        seed=seed,
        out=demo.out / "students" / f"{card}-{arm}-{teacher}-s{seed}",
        cells=demo.out / "cells",
        experiment="demo",
        resume=True,
        bank=demo.bank,
        accept_accuracy=True,
    )
    whose = "alone" if arm == "alone" else f"{arm} from {teacher}"
    got = "diverged" if cell.accuracy is None else f"{cell.accuracy:.1f}"
    return f"seed {seed}: {card} card, {whose} {got}"
