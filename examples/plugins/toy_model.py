"""A custom network. Usage: undistill train --plugin examples/plugins/toy_model.py --model toy --data digits -o OUT"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from undistill.models.base import MODELS, Network


@MODELS.register
class Toy(Network):
    """`depth` × (conv 3×3 → BN → ReLU → max-pool 2), mean over all places, linear; 32 channels, twice as many in each stage.

    Source: none, an example.
    """

    name: Literal["toy"] = "toy"
    depth: int = Field(3, ge=1, le=4)

    @property
    def smallest(self) -> int:
        """Each stage halves the image."""
        return 2**self.depth

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        widths = [self.channels(32 * 2**stage) for stage in range(self.depth)]
        stages: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)
            )
            for before, after in zip([in_channels, *widths], widths, strict=False)
        ]
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return stages, neck, nn.Linear(widths[-1], num_classes)
