"""Training of teachers: on labels, and away from another network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from undistill.losses import self_undermining_loss, smoothed_cross_entropy
from undistill.types import Batch, Terms


def hits(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Percent of the batch whose largest logit is their label's, a scalar on the device."""
    return (logits_BC.detach().argmax(dim=1) == labels_B).float().mean() * 100


@dataclass(frozen=True)
class CrossEntropy:
    """CE against the batch's labels, smoothed if asked."""

    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss` and `accuracy` on the training views."""
        if batch.labels_B is None:
            raise ValueError("cross-entropy needs labels")
        logits_BC = model(batch.images_BCHW)
        loss = smoothed_cross_entropy(logits_BC, batch.labels_B, self.smoothing)
        return {"loss": loss, "accuracy": hits(logits_BC, batch.labels_B)}


@dataclass(frozen=True)
class SelfUndermining:
    """What makes a nasty teacher; the adversary's logits of a batch come from outside, so that no gradient reaches it.

    Source: Ma et al. 2021, equation 2.
    """

    adversary: Callable[[Batch], Tensor]
    omega: float
    temperature: float
    smoothing: float = 0.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, and `accuracy` on the training views."""
        if batch.labels_B is None:
            raise ValueError("a nasty teacher is trained on labels")
        logits_BC = model(batch.images_BCHW)
        loss = self_undermining_loss(
            logits_BC,
            self.adversary(batch),
            batch.labels_B,
            omega=self.omega,
            temperature=self.temperature,
            smoothing=self.smoothing,
        )
        return {"loss": loss, "accuracy": hits(logits_BC, batch.labels_B)}
