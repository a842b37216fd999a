"""The paper's five-layer CNN (Ma et al. 2021, section 4.1, its CIFAR-10 student)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from undistill.models.base import MODELS, Network


@MODELS.register
class CNN(Network):
    """3 × (conv 3×3 → BN → max-pool 2 → ReLU), linear → BN → ReLU, linear.

    32, 64, 128 channels and 128 hidden units; 357,514 weights for 10 classes at 32 pixels.
    """

    name: Literal["cnn"] = "cnn"
    foreign_keys = (
        *(
            (rf"{theirs}{layer}\.(\w+)", rf"body.{layer - 1}.{ours}.\1")
            for layer in (1, 2, 3)
            for theirs, ours in (("conv", 0), ("bn", 1))
        ),
        (r"fc1\.(\w+)", r"neck.1.\1"),
        (r"fcbn1\.(\w+)", r"neck.2.\1"),
        (r"fc2\.(\w+)", r"head.\1"),
    )

    @property
    def smallest(self) -> int:
        """Three halvings leave one pixel of eight."""
        return 8

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        widths = [self.channels(c) for c in (32, 64, 128)]
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU())
            for before, after in zip([in_channels, *widths], widths, strict=False)
        ]
        hidden = self.channels(128)
        neck = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * (image_size // 8) ** 2, hidden), nn.BatchNorm1d(hidden), nn.ReLU()
        )
        return stages, neck, nn.Linear(hidden, num_classes)
