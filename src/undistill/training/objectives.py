"""Ordinary training: cross-entropy on labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from undistill.losses import smoothed_cross_entropy
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
