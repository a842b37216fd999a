"""What the demo measures: its attackers, and from their cells the effect of nasty training on each. Never imports torch.

Every attacker is tried on several draws of query images against several pairs of teachers, a normal and a nasty one. Draws of one
pair share its teachers and are not independent of each other. A difference is therefore averaged over the draws of each pair
first, and the interval is Student's t over the pairs' means: exact for balanced, normal draws whatever the ratio of the two
variances, where an interval over all draws would be too narrow. The error from having these test images and no others is added as
`statistics.interval` does.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undistill.errors import RunError
from undistill.experiments.cell import Array, Cell, collect, read_arrays
from undistill.files import read_json
from undistill.statistics import Difference, image_error, interval

SCHEMA = 2
FILE = "demo.json"
QUERIES = 50
NORMAL, NASTY = "normal", "nasty"


@dataclass(frozen=True)
class Attacker:
    """One way to use what a teacher gives out. `teachers` are those that it is tried on; the baseline has none."""

    name: str
    label: str
    attack: Mapping[str, Any]
    access: str = "probs"
    teachers: tuple[str, ...] = (NORMAL, NASTY)

    @property
    def threat_model(self) -> str:
        """`probs/unlabelled(1.0)/fresh/random/50`."""
        return f"{self.access}/unlabelled(1.0)/fresh/random/{QUERIES}"

    def made(self, cell: Cell) -> bool:
        """Whether this attacker's cell it is."""
        settings = {"name": cell.attack, **cell.attack_settings}
        return cell.card == self.threat_model and all(settings.get(key) == value for key, value in self.attack.items())


SOFT = Attacker("kd-4", "probabilities, τ 4", {"name": "kd", "temperature": 4, "alpha": 1.0})
COLD = Attacker("kd-1", "probabilities, τ 1", {"name": "kd", "temperature": 1, "alpha": 1.0})
LABELS = Attacker("labels", "labels only", {"name": "label-only"}, access="label")
REFIT = Attacker(
    "weights",
    "weights, last layer refitted",
    {"name": "head-refit", "temperature": 4, "alpha": 1.0},
    access="weights",
    teachers=(NASTY,),
)
BASELINE = Attacker("baseline", "no teacher, true labels", {"name": "scratch"}, teachers=())
ATTACKERS = (SOFT, COLD, LABELS, REFIT, BASELINE)


@dataclass(frozen=True)
class Draw:
    """What one draw of query images gave an attacker, percent, by the teacher that it was tried on (`""` for none)."""

    pair: int
    draw: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Demo:
    """All that the demo measured. Accuracies are percent of the test images, differences are points.

    `draws` are by attacker's name, ordered by pair and draw; a draw that diverged is not among them. `taken` is what an attacker's
    model loses by nasty training, for the refitting one against `SOFT` on the normal teacher; `headroom` is what probabilities of
    the normal teacher are worth over its labels; `users` is what the nasty teacher's own accuracy is below the normal one's.
    """

    settings: Mapping[str, Any]
    teachers: Mapping[str, tuple[float, ...]]
    draws: Mapping[str, tuple[Draw, ...]]
    taken: Mapping[str, Difference]
    headroom: Difference
    users: Difference
    n_test: int
    lost: int
    bars: tuple[Cell, dict[str, Array]] | None
    cells: tuple[Cell, ...]

    def mean(self, attacker: Attacker, teacher: str = "") -> float | None:
        """Accuracy over all draws; None without one."""
        found = [draw.accuracy[teacher] for draw in self.draws[attacker.name] if teacher in draw.accuracy]
        return statistics.fmean(found) if found else None


def is_demo(folder: Path) -> bool:
    """Whether a folder holds a demo of this kind; those of an earlier one are cells like others."""
    settings = read_json(folder / FILE) if (folder / FILE).is_file() else None
    return isinstance(settings, dict) and settings.get("schema") == SCHEMA


def read(folder: Path) -> Demo:
    """The demo in a folder, from its cells; RunError where there are none yet."""
    found = [(place, cell) for place, cell in collect([folder]) if cell.experiment == "demo"]
    settings = read_json(folder / FILE)
    victims = [(place, cell) for place, cell in found if cell.kind == "victim"]
    if not victims:
        raise RunError(f"{folder} holds no finished teacher yet; go on with `undistill demo -o {folder}`")
    truth_N = next((read_arrays(*victim).get("labels") for victim in victims), None)
    if truth_N is None:
        raise RunError(f"the cells of {folder} lack the test labels; run the demo again in another folder")
    right = {cell.id: _right(place, cell, truth_N) for place, cell in found if cell.kind != "figure" and cell.arrays}
    table = {attacker.name: _table(attacker, found, right, settings["draws"]) for attacker in ATTACKERS}
    teachers = {
        name: dict(sorted((cell.seeds["victim"], right[cell.id]) for _, cell in victims if cell.victim == name))
        for name in (NORMAL, NASTY)
    }
    soft = table[SOFT.name]
    return Demo(
        settings=settings,
        teachers={name: tuple(100 * float(row.mean()) for row in rows.values()) for name, rows in teachers.items()},
        draws={name: _draws(rows) for name, rows in table.items()},
        taken={
            **{a.name: _contrast(table[a.name], NORMAL, table[a.name], NASTY) for a in (SOFT, COLD, LABELS)},
            REFIT.name: _contrast(soft, NORMAL, table[REFIT.name], NASTY),
        },
        headroom=_contrast(soft, NORMAL, table[LABELS.name], NORMAL),
        users=_paired(teachers[NORMAL], teachers[NASTY]),
        n_test=len(truth_N),
        lost=sum(cell.status != "ok" for _, cell in found),
        bars=_bars(found),
        cells=tuple(cell for _, cell in found),
    )


Right = Mapping[tuple[int, int], Mapping[str, Any]]
"""By (pair, draw) and teacher: which test images an attacker's model had right, N of 0 or 1."""


def _right(place: Path, cell: Cell, truth_N: Array) -> Any:
    return (read_arrays(place, cell)["predicted"] == truth_N).astype(np.float64)


def _table(attacker: Attacker, found: list[tuple[Path, Cell]], right: Mapping[str, Any], draws: int) -> Right:
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for _, cell in found:
        if cell.kind in ("cell", "control") and attacker.made(cell) and cell.id in right:
            draw = cell.seeds["student"]
            rows.setdefault((draw // draws, draw), {})[cell.victim if attacker.teachers else ""] = right[cell.id]
    return dict(sorted(rows.items()))


def _draws(rows: Right) -> tuple[Draw, ...]:
    return tuple(
        Draw(pair, draw, {teacher: 100 * float(right_N.mean()) for teacher, right_N in by_teacher.items()})
        for (pair, draw), by_teacher in rows.items()
    )


def _contrast(first: Right, of: str, second: Right, against: str) -> Difference:
    """`first` on the teacher `of` less `second` on the teacher `against`, over the draws that have both."""
    shared = [at for at in first if of in first[at] and against in second.get(at, {})]
    return over_pairs(
        [pair for pair, _ in shared], [first[at][of] for at in shared], [second[at][against] for at in shared]
    )


def _paired(first: Mapping[int, Any], second: Mapping[int, Any]) -> Difference:
    shared = [pair for pair in first if pair in second]
    return over_pairs(shared, [first[pair] for pair in shared], [second[pair] for pair in shared])


def over_pairs(pairs: list[int], first_DN: list[Any], second_DN: list[Any]) -> Difference:
    """Mean of `first − second` in points with its 95 % interval, each pair's draws averaged first.

    Args:
        pairs: of each draw, its pair of teachers.
        first_DN: for each draw, which test images were right, N of 0 or 1.
        second_DN: likewise.

    Returns:
        Infinite bounds for one pair, a mean of NaN for none.
    """
    units = sorted(set(pairs))
    if not units:
        return interval([float("nan")])
    each = [
        [np.mean([row for pair, row in zip(pairs, rows, strict=True) if pair == unit], axis=0) for unit in units]
        for rows in (first_DN, second_DN)
    ]
    differences_U = [100 * float(np.mean(a) - np.mean(b)) for a, b in zip(*each, strict=True)]
    return interval(differences_U, image_error(*each))


def _bars(found: list[tuple[Path, Cell]]) -> tuple[Cell, dict[str, Array]] | None:
    """The answers of the first pair of teachers to a few images."""
    figures = sorted((c.seeds["victim"], c.id, place, c) for place, c in found if c.attack == "logit-response")
    return (figures[0][3], read_arrays(figures[0][2], figures[0][3])) if figures else None
