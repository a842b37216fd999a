"""Whether a victim's accuracy can be that of a classifier of these data, or shows a mistake in how it was handed over.

Legend: N images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from undistill.seeds import generator

FEWEST = 25
"""Images below which nothing is concluded."""
SKILL = 0.1
"""An accuracy is near chance below this share of the way from guessing to 100 %."""
ERRORS = 3.0
"""Standard errors that luck is granted."""
SAME, OTHER = 2.0, 5.0
"""Points that an accuracy may be below the recorded one: on the same images, and on others."""
GAIN = 10.0
"""Points that another order of the classes must gain before it is taken for the reason."""
LISTED = 30
"""Classes up to which an error lists the whole order."""


@dataclass(frozen=True)
class Recorded:
    """An accuracy that is known of a model, percent, and the fingerprint of the data it was measured on, where that is known.

    `own`: a training of this package ended with it.
    """

    percent: float
    data: str | None = None
    own: bool = False


@dataclass(frozen=True)
class Measured:
    """Accuracy on `images` labeled images, what guessing at the same class frequencies gives, and its standard error; percent."""

    percent: float
    guessing: float
    images: int
    error: float

    def __str__(self) -> str:
        """`93.10 % on 1,000 test images (guessing 10.0 %)`."""
        return f"{self.percent:.2f} % on {self.images:,} labeled images (guessing {self.guessing:.1f} %)"


def measured(predicted_N: Tensor, labels_N: Tensor, classes: int) -> Measured:
    """Accuracy, and the accuracy that predictions of the same class frequencies would reach by chance: Σ p(label) p(predicted).

    Its standard error keeps both frequencies, as that of Cohen's κ under chance does (Fleiss, Cohen & Everitt 1969): where nearly
    all images are of one class, chance can move only the few others.
    """
    predicted_C, labels_C = (
        torch.bincount(part_N, minlength=classes).double() / len(labels_N) for part_N in (predicted_N, labels_N)
    )
    percent = 100 * float((predicted_N == labels_N).double().mean())
    chance = float((predicted_C * labels_C).sum())
    spread = chance + chance**2 - float((predicted_C * labels_C * (predicted_C + labels_C)).sum())
    return Measured(percent, 100 * chance, len(labels_N), 100 * math.sqrt(max(spread, 0.0) / len(labels_N)))


def doubt(
    predicted_N: Tensor,
    labels_N: Tensor,
    names: Sequence[str],
    recorded: Recorded | None = None,
    data: str | None = None,
    declare: str = "",
) -> str:
    """Why these predictions are no trained classifier's of these classes, as a sentence's middle; "" for no doubt.

    Args:
        predicted_N: the class named for each image.
        labels_N: its true class.
        names: of the C classes.
        recorded: an accuracy that is known of the model.
        data: fingerprint of the data that the images are from.
        declare: how another order of the classes is declared, with `{order}` where it belongs.
    """
    if len(labels_N) < FEWEST:
        return ""
    found = measured(predicted_N, labels_N, len(names))
    order = better_order(predicted_N, labels_N, len(names))
    if order is not None:
        return f"its accuracy is {found}, and {in_another_order(order, predicted_N, labels_N, names)}{_told(declare, order)}"
    if near_chance(found):
        return f"its accuracy is {found}: near chance"
    if recorded is not None and not as_recorded(found, recorded, data):
        return f"its accuracy is {found}, far below the {recorded.percent:.2f} % that are recorded of it"
    return ""


def near_chance(found: Measured) -> bool:
    """Whether an accuracy is hardly above guessing: by its size, or because it may be luck."""
    return found.percent <= found.guessing + max(SKILL * (100 - found.guessing), ERRORS * found.error)


def as_recorded(found: Measured, recorded: Recorded, data: str | None) -> bool:
    """Whether an accuracy is not far below the recorded one, measured on these `data` or on others."""
    return found.percent >= recorded.percent - _allowance(found, recorded, data)


def _allowance(found: Measured, recorded: Recorded, data: str | None) -> float:
    """Points that an accuracy may be below the recorded one."""
    share = min(max(recorded.percent / 100, 0.0), 1.0)
    luck = 100 * ERRORS * math.sqrt(share * (1 - share) / found.images)
    return luck + (SAME if data is not None and recorded.data == data else OTHER)


def better_order(predicted_N: Tensor, labels_N: Tensor, classes: int) -> list[int] | None:
    """The class that each output seems to stand for, where that is clearly not its own number; None otherwise.

    The best assignment is found on one half of each class's images and tried on the other, so that luck gains nothing.
    """
    drawn_N = torch.randperm(len(labels_N), generator=generator(0, "victim", "halves"))
    by_class_N = drawn_N[labels_N[drawn_N].argsort(stable=True)]
    halves = by_class_N[::2], by_class_N[1::2]
    gains: list[float] = []
    for one, other in (halves, halves[::-1]):
        moved_N = torch.tensor(_assignment(predicted_N[one], labels_N[one], classes))[predicted_N[other]]
        gains += ((moved_N == labels_N[other]).double() - (predicted_N[other] == labels_N[other]).double()).tolist()
    change_N = torch.tensor(gains, dtype=torch.float64)
    error = float(change_N.std()) / math.sqrt(len(change_N))
    if not 100 * float(change_N.mean()) > max(GAIN, 100 * (ERRORS + 1) * error):
        return None
    return _assignment(predicted_N, labels_N, classes)


def _assignment(predicted_N: Tensor, labels_N: Tensor, classes: int) -> list[int]:
    """One class for each output, such that the most images are right; a class keeps its number where nothing speaks against it."""
    counts_CC = torch.zeros(classes, classes, dtype=torch.float64)
    counts_CC.index_put_((predicted_N, labels_N), torch.ones(len(labels_N), dtype=torch.float64), accumulate=True)
    counts_CC += 1e-3 * torch.eye(classes, dtype=torch.float64)
    return linear_sum_assignment(-counts_CC.numpy())[1].tolist()


def in_another_order(order: Sequence[int], predicted_N: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    """What another order of the classes would give, and which it is."""
    better = 100 * float((torch.tensor(order)[predicted_N] == labels_N).double().mean())
    moved = [f"output {place} is {names[label]!r}" for place, label in enumerate(order) if place != label]
    told = ", ".join(moved[:4]) + (f" and {len(moved) - 4} more differ" if len(moved) > 4 else "")
    return f"{better:.2f} % if its classes are in another order than the data's: {told}"


def _told(declare: str, order: Sequence[int]) -> str:
    listed = ",".join(map(str, order)) if len(order) <= LISTED else "0,1,… (the class of the data for each output)"
    return f"; {declare.format(order=listed)}" if declare else ""
