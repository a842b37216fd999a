"""Victims known by their answers alone: a function behind an API, or a table of answers that were given before.

Legend: B batch, C classes, N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undistill.access import Access
from undistill.errors import RunError, UsageError

Predict = Callable[[NDArray[np.uint8]], Any]
"""uint8 N × C × H × W pixels to answers: N × C numbers, N labels, or for the top k a pair (N × k classes, N × k probabilities)."""


@dataclass(frozen=True)
class BlackBox:
    """A victim that only answers. `kind` is what it says, declared by whoever knows it and never guessed."""

    predict: Predict
    kind: Access
    num_classes: int
    name: str

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
        """What `answer` says, for uint8 pixels."""
        try:
            said = self.predict(pixels)
        except (UsageError, RunError):
            raise
        except Exception as error:
            raise RunError(f"{self.name} failed on {len(pixels)} images: {type(error).__name__}: {error}") from error
        return self.checked(said, len(pixels))

    def checked(self, said: Any, count: int) -> NDArray[Any]:
        """What was said about `count` images, as float32 scores or int64 labels; RunError where it is not what was declared."""
        if isinstance(said, Tensor):
            said = said.detach().cpu().numpy()
        if self.kind is Access.LABEL:
            return self._labels(said, count)
        scores = self._top_k(said, count) if self.kind is Access.TOPK and isinstance(said, tuple) else said
        try:
            if np.iscomplexobj(scores):
                scores = None  # no number on a scale
            scores_NC = np.asarray(scores, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise self._wrong("numbers", type(said).__name__) from error
        if scores_NC.shape != (count, self.num_classes):
            raise self._wrong(f"{count} × {self.num_classes} numbers", f"an array of {scores_NC.shape}")
        if not np.isfinite(scores_NC).all():
            raise self._wrong("finite numbers", "NaN or infinity")
        if self.kind is Access.LOGITS:
            return scores_NC
        total = scores_NC.sum(axis=1)
        whole = self.kind is Access.PROBS
        if scores_NC.min() < 0 or total.max() > 1.01 or (whole and total.min() < 0.99) or total.min() <= 0:
            raise self._wrong(
                "probabilities, at least 0 and " + ("1 in all" if whole else "at most 1 in all"),
                f"rows from {total.min():.3g} to {total.max():.3g} in all, the least value {scores_NC.min():.3g}",
            )
        return scores_NC

    def _labels(self, said: Any, count: int) -> NDArray[Any]:
        try:
            labels = np.asarray(said)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"{count} whole numbers", type(said).__name__) from error
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise self._wrong(f"{count} whole numbers", f"{labels.dtype} of shape {labels.shape}")
        if len(labels) and (labels.min() < 0 or labels.max() >= self.num_classes):
            raise self._wrong(f"classes from 0 to {self.num_classes - 1}", f"{labels.min()} to {labels.max()}")
        return labels.astype(np.int64)

    def _top_k(self, said: tuple[Any, ...], count: int) -> NDArray[Any]:
        try:
            classes, probs = (np.asarray(part) for part in said)
        except (TypeError, ValueError) as error:
            raise self._wrong("(classes, probabilities)", f"{len(said)} parts") from error
        if classes.shape != probs.shape or classes.ndim != 2 or len(classes) != count or classes.dtype.kind not in "iu":
            raise self._wrong(f"two arrays of {count} × k", f"{classes.shape} and {probs.shape}")
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


def to_bytes(images_BCHW: Tensor) -> Tensor:
    """Float images in [0, 1] as the uint8 they came from, on the CPU."""
    return images_BCHW.detach().mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
