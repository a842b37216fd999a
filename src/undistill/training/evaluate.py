"""What a trained classifier is worth. Legend: N images, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.data.image_set import ImageSet
from undistill.errors import NotFinite


def batch_for(images: ImageSet, device: torch.device | str = "cpu") -> int:
    """How many of these images an untrained pass takes at a time."""
    return batch_of(images.image_size, torch.device(device))


def batch_of(side: int, device: torch.device) -> int:
    """How many images of this side an untrained pass takes at a time: 1,024 of 32 pixels on a GPU, and as many pixels of any other.

    128 on a CPU, whose caches hold no more.
    """
    most = 1024 if device.type == "cuda" else 128
    return max(16, min(most, most * 32 * 32 // side**2))


def predict(model: nn.Module, images: ImageSet, *, batch: int | None = None) -> Tensor:
    """N × C float32 logits on the CPU, in evaluation mode, without views. The model's mode is put back."""
    device = next(model.parameters(), torch.empty(0)).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            chunks = images.chunks(batch or batch_for(images, device))
            parts = [model(images.seen(chunk, device)).float().cpu() for chunk in chunks]
    finally:
        model.train(was_training)
    return torch.cat(parts).clone()


def predict_finite(model: nn.Module, images: ImageSet) -> Tensor:
    """`predict`, or NotFinite (a RunError): weights may be finite while a network in evaluation mode still overflows."""
    logits_NC = predict(model, images)
    if not bool(logits_NC.isfinite().all()):
        raise NotFinite(
            "the trained network answers with numbers that are not finite: try a lower training.optimizer.lr or set training.clip"
        )
    return logits_NC


@dataclass(frozen=True)
class Scores:
    """Accuracy in percent; NLL in nats; ECE in percent."""

    accuracy: float
    nll: float
    ece: float


def score(logits_NC: Tensor, labels_N: Tensor) -> Scores:
    """Top-1 accuracy over all samples, mean negative log-likelihood, and calibration error (15 equal bins; Guo et al. 2017)."""
    return Scores(
        accuracy(logits_NC, labels_N), float(F.cross_entropy(logits_NC.float(), labels_N)), ece(logits_NC, labels_N)
    )


def accuracy(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Percent of samples whose largest logit is their label's."""
    return 100 * float((logits_NC.argmax(dim=1) == labels_N).double().mean())


def ece(logits_NC: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error, percent: |accuracy − confidence| a bin, weighted by its samples."""
    confidence_N, predicted_N = logits_NC.double().softmax(dim=1).max(dim=1)
    gap_N = (predicted_N == labels_N).double() - confidence_N
    place_N = (confidence_N * bins).long().clamp_max(bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place_N, gap_N)
    return 100 * float(gaps.abs().sum()) / len(labels_N)
