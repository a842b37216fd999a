"""Victims known by their answers alone: a function behind an API, or a table of answers that were given before.

Legend: B batch, C classes, N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undistill.errors import RunError, UsageError
from undistill.threat_model import Access

Predict = Callable[[NDArray[np.uint8]], Any]
"""uint8 N × C × H × W pixels to answers: N × C numbers, N labels, or for the top k a pair (N × k classes, N × k probabilities)."""


@dataclass(frozen=True)
class BlackBox:
    """A victim that only answers. `kind` is what its responses are; it is declared, never guessed.

    It is given at most `batch` images at a time, at most `rate` images a second, and `limit` images in all, as a query log counts.
    """

    predict: Predict
    kind: Access
    num_classes: int
    name: str
    batch: int = 256
    rate: float | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.kind is Access.WEIGHTS:
            raise UsageError("a function that answers gives no weights; its answers are logits, probs, topk or label")

    def answer(self, images_BCHW: Tensor) -> Tensor:
        """B × C float32 scores of its kind, or B labels, checked.

        Args:
            images_BCHW: float in [0, 1]; the function is handed them as uint8.

        Raises:
            RunError: it failed, or answered with something else than it was declared to.
        """
        return torch.from_numpy(self.checked_answer(to_bytes(images_BCHW).numpy())).to(images_BCHW.device)

    def checked_answer(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """What `answer` returns, for uint8 pixels."""
        parts = [pixels[start : start + self.batch] for start in range(0, max(len(pixels), 1), self.batch)]
        return np.concatenate([self.checked(self.response(part), len(part)) for part in parts])

    def response(self, pixels: NDArray[np.uint8]) -> Any:
        """What the function returns for uint8 pixels, tensors in it as arrays; not checked. RunError where it fails."""
        try:
            return as_arrays(self.predict(pixels))
        except (UsageError, RunError):
            raise
        except Exception as error:
            raise RunError(f"{self.name} failed on {len(pixels)} images: {type(error).__name__}: {error}") from error

    def checked(self, said: Any, count: int) -> NDArray[Any]:
        """The response about `count` images, as float32 scores or int64 labels; RunError where it is not what was declared."""
        return self.sound(self.shaped(said, count))

    def shaped(self, said: Any, count: int) -> NDArray[Any]:
        """`count` × C float32 numbers, or `count` int64 labels; RunError for a response of another form.

        What the numbers are is not looked at: a query log keeps them first, for they were paid for.
        """
        said = self._bare(as_arrays(said))
        if self.kind is Access.LABEL:
            return self._labels(said, count)
        scores = self._top_k(said, count) if self.kind is Access.TOPK and _pair(said) else said
        try:
            if np.iscomplexobj(scores):
                scores = None  # no number on a scale
            scores_NC = np.asarray(scores, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise self._wrong("numbers", type(said).__name__) from error
        scores_NC = _squeezed(scores_NC, count)  # N × C × 1 × 1, as convolutions give
        if scores_NC.shape != (count, self.num_classes):
            raise self._wrong(f"{count} × {self.num_classes} numbers", f"an array of {scores_NC.shape}")
        return scores_NC

    def sound(self, scores_NC: NDArray[Any]) -> NDArray[Any]:
        """The numbers, if they are what was declared; values below 0 by rounding become 0. RunError otherwise.

        A row of probabilities may miss 1 by 0.01, and by half a unit of the last digit for each class where they were rounded.
        """
        if self.kind is Access.LABEL or not len(scores_NC):
            return scores_NC
        wrong = int((~np.isfinite(scores_NC).all(axis=1)).sum())
        if wrong:
            raise self._wrong("finite numbers", f"NaN or infinity for {wrong} of {len(scores_NC)} images")
        low, least, most = scores_NC.min(), *_bounds(scores_NC)
        total = scores_NC.sum(axis=1, dtype=np.float64)
        if self.kind is Access.LOGITS:
            if low >= 0 and (total >= least).all() and (total <= most).all():
                raise self._wrong(
                    "numbers of any size",
                    "rows that are at least 0 and 1 in all, as probabilities are: declare them with --outputs probs",
                )
            return scores_NC
        whole = self.kind is Access.PROBS
        if low < -BELOW or (total > most).any() or (whole and (total < least).any()) or total.min() <= 0:
            raise self._wrong(
                "probabilities, at least 0 and " + ("1 in all" if whole else "at most 1 in all"),
                f"rows from {total.min():.3g} to {total.max():.3g} in all, the least value {low:.3g}{_instead(low, total)}",
            )
        return np.maximum(scores_NC, 0) if low < 0 else scores_NC

    def _bare(self, said: Any) -> Any:
        """The numbers out of a dictionary that holds nothing else, or holds them under the name of their kind."""
        if isinstance(said, nn.Module):
            raise self._wrong("numbers", f"a network, {type(said).__name__}: it is a factory, leave --outputs out")
        if not isinstance(said, Mapping):
            return said
        named = [name for name in NAMES[self.kind] if name in said] or (list(said) if len(said) == 1 else [])
        if len(named) != 1:
            raise self._wrong(
                "numbers", f"a dictionary of {', '.join(map(str, said)) or 'nothing'}; return its numbers alone"
            )
        return said[named[0]]

    def _labels(self, said: Any, count: int) -> NDArray[Any]:
        try:
            labels = np.asarray(said)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"{count} whole numbers", type(said).__name__) from error
        if labels.dtype.kind in "iu":
            labels = _squeezed(labels, count)
        elif labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels == np.floor(labels))).all()):
            labels = labels.astype(np.int64)
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise self._wrong(f"{count} whole numbers", f"{labels.dtype} of shape {labels.shape}")
        if len(labels) and (labels.min() < 0 or labels.max() >= self.num_classes):
            raise self._wrong(f"classes from 0 to {self.num_classes - 1}", f"{labels.min()} to {labels.max()}")
        return labels.astype(np.int64)

    def _top_k(self, said: Sequence[Any], count: int) -> NDArray[Any]:
        try:
            classes, probs = (np.asarray(part) for part in said)
        except (TypeError, ValueError) as error:
            raise self._wrong("(classes, probabilities)", f"{len(said)} parts") from error
        if classes.shape != probs.shape or classes.ndim != 2 or len(classes) != count or classes.dtype.kind not in "iu":
            turned = probs.dtype.kind in "iu" and classes.dtype.kind == "f"
            found = (
                "probabilities first; return classes, probabilities" if turned else f"{classes.shape} and {probs.shape}"
            )
            raise self._wrong(f"two arrays of {count} × k, classes first", found)
        if probs.dtype.kind not in "fiu":
            raise self._wrong("numbers", str(probs.dtype))
        if classes.min(initial=0) < 0 or classes.max(initial=0) >= self.num_classes:
            raise self._wrong(f"classes from 0 to {self.num_classes - 1}", f"{classes.min()} to {classes.max()}")
        ordered = np.sort(classes, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise self._wrong("k different classes for each image", "one class twice")
        scores = np.zeros((count, self.num_classes), np.float32)
        np.put_along_axis(scores, classes.astype(np.int64), probs.astype(np.float32), axis=1)
        return scores

    def _wrong(self, wanted: str, found: str) -> RunError:
        return RunError(f"{self.name} was declared to answer with {self.kind.label}: {wanted}; it gave {found}")


BELOW = 1e-4
"""How far below 0 a probability may be by arithmetic."""
SLACK = 0.01
"""How far from 1 a row of probabilities may be by arithmetic in half precision."""
DIGITS = 4
"""Digits behind the point up to which rounding is looked for: with more, a row misses 1 by less than `SLACK`."""
NAMES = {
    Access.LABEL: ("label", "labels"),
    Access.TOPK: ("topk",),
    Access.PROBS: ("probs", "probabilities"),
    Access.LOGITS: ("logits",),
}
"""Entries of a dictionary that hold an answer of each kind."""


def as_arrays(said: Any) -> Any:
    """A response with its tensors as NumPy arrays, within lists, tuples and dictionaries too; floats at least of 32 bits."""
    if isinstance(said, Tensor):
        said = said.detach().cpu()
        said = said.to_dense() if said.layout is not torch.strided else said
        return (said.float() if said.dtype.is_floating_point and said.dtype != torch.float64 else said).numpy()
    if isinstance(said, Mapping):
        return {name: as_arrays(value) for name, value in said.items()}
    if isinstance(said, list | tuple) and any(isinstance(part, Tensor | list | tuple | Mapping) for part in said):
        parts = [as_arrays(part) for part in said]
        return tuple(parts) if isinstance(said, tuple) else parts
    return said


def _pair(said: Any) -> bool:
    """Whether a response is (classes, probabilities): a tuple, or a list of two arrays of rows, as JSON has it."""
    if isinstance(said, tuple):
        return True
    if not isinstance(said, list) or len(said) != 2:
        return False
    try:
        return all(np.asarray(part).ndim == 2 for part in said)
    except ValueError:
        return False


def _squeezed(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Without axes of length 1 behind the first, which counts the images."""
    if values.ndim < 2 or len(values) != count:
        return values
    return values.reshape(count, *(side for side in values.shape[1:] if side != 1))


def _bounds(scores_NC: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(least, most) that each row of probabilities may be in all, by what their rounding to a few digits can do."""
    wide_NC = scores_NC.astype(np.float64)
    unit = 0.0
    for digits in range(1, DIGITS + 1):
        steps_NC = wide_NC * 10**digits
        if (np.abs(steps_NC - steps_NC.round()) < 1e-6 * 10**digits).all():
            unit = 0.0 if scores_NC.max() > 1 else 10.0**-digits
            break
    shown_N = (scores_NC != 0).sum(axis=1)
    return 1 - SLACK - unit / 2 * scores_NC.shape[1] * np.ones(len(scores_NC)), 1 + SLACK + unit / 2 * shown_N


def _instead(low: float, total_N: NDArray[Any]) -> str:
    """What numbers that are no probabilities may be, and how to declare that."""
    if low < -BELOW:
        return ": are they logits (--outputs logits)?"
    if total_N.min() <= 0:
        return ": a row of nothing says nothing, return more digits"
    if total_N.min() > 98 and total_N.max() < 102:
        return ": are they percent? divide by 100"
    return ": are they the top classes alone (--outputs topk)?" if total_N.max() <= 1 + SLACK else ""


def to_bytes(images_BCHW: Tensor) -> Tensor:
    """Float images in [0, 1] as the uint8 they came from, on the CPU."""
    return images_BCHW.detach().mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
