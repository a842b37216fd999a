"""The reference: the loop that a textbook would write, and nothing of undistill but its networks.

Pillow transforms one image at a time, in a `DataLoader` with workers; float32; both networks run forward on every batch; loss and
hits are read after every step. Legend: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset[tuple[Tensor, int]]):
    """uint8 images as Pillow has them, padded, cropped at random, mirrored at random, as tensors in [0, 1]."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, padding: int, *, flip: bool) -> None:
        pixels = images_NCHW.permute(0, 2, 3, 1).numpy()
        self.pictures = [Image.fromarray(image.squeeze()) for image in pixels]
        self.labels, self.padding, self.flip = labels_N.tolist(), padding, flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.pictures[index]
        side = picture.width
        if self.padding:
            picture = ImageOps.expand(picture, self.padding)
            left, top = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
            picture = picture.crop((left, top, left + side, top + side))
        if self.flip and torch.rand(1).item() < 0.5:
            picture = ImageOps.mirror(picture)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.view(side, side, -1).permute(2, 0, 1).float() / 255, self.labels[index]


Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


def cross_entropy(logits_BC: Tensor, _: Tensor | None, labels_B: Tensor) -> Tensor:
    """Ordinary training."""
    return F.cross_entropy(logits_BC, labels_B)


def nasty(
    logits_BC: Tensor, other_BC: Tensor | None, labels_B: Tensor, omega: float = 0.04, tau: float = 4.0
) -> Tensor:
    """Pushed away from the other network."""
    assert other_BC is not None
    kl = F.kl_div(F.log_softmax(other_BC / tau, 1), F.softmax(logits_BC / tau, 1), reduction="batchmean")
    return F.cross_entropy(logits_BC, labels_B) - omega * tau**2 * kl


def distillation(tau: float = 4.0, alpha: float = 0.9) -> Loss:
    """Drawn to the other network."""

    def loss(logits_BC: Tensor, other_BC: Tensor | None, labels_B: Tensor) -> Tensor:
        assert other_BC is not None
        kl = F.kl_div(F.log_softmax(logits_BC / tau, 1), F.softmax(other_BC / tau, 1), reduction="batchmean")
        return alpha * tau**2 * kl + (1 - alpha) * F.cross_entropy(logits_BC, labels_B)

    return loss


def epoch(
    model: nn.Module,
    other: nn.Module | None,
    loader: DataLoader[tuple[Tensor, int]],
    loss_of: Loss,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    bf16: bool = False,
) -> tuple[float, float]:
    """One pass; (mean loss, accuracy in percent)."""
    model.train()
    total, correct, count = 0.0, 0, 0
    for images_BCHW, labels_B in loader:
        images_BCHW, labels_B = images_BCHW.to(device), labels_B.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            other_BC = None
            if other is not None:
                with torch.no_grad():
                    other_BC = other(images_BCHW)
            logits_BC = model(images_BCHW)
        loss = loss_of(logits_BC, other_BC, labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels_B)
        correct += int((logits_BC.argmax(1) == labels_B).sum().item())
        count += len(labels_B)
    return total / count, 100 * correct / count
