"""ShuffleNetV2 for small images (Ma, N. et al. 2018, Practical Guidelines for Efficient CNN Design): a student of the paper."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from undistill.models.base import MODELS, Network


def branch(before: int, after: int, stride: int) -> nn.Sequential:
    """1×1 conv → BN → ReLU → 3×3 conv a channel → BN → 1×1 conv to `after` channels → BN → ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, before, 1), nn.BatchNorm2d(before), nn.ReLU(), *shrink(before, after, stride)
    )


def shrink(before: int, after: int, stride: int) -> nn.Sequential:
    """3×3 conv a channel → BN → 1×1 conv to `after` channels → BN → ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride, padding=1, groups=before),
        nn.BatchNorm2d(before),
        nn.Conv2d(before, after, 1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def interleave(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Channels 0 of both, channels 1 of both, …: concatenation and channel shuffle with two groups in one."""
    return torch.stack((first_BCHW, second_BCHW), dim=2).flatten(1, 2)


class Unit(nn.Module):
    """The first half of the channels passes unchanged, the second through a branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        kept, changed = x.chunk(2, dim=1)
        return interleave(kept, self.branch(changed))


class HalvingUnit(nn.Module):
    """Two branches read all channels and halve the image; each makes half of the `after` channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.shortcut = shrink(before, after // 2, 2)
        self.branch = branch(before, after // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        return interleave(self.shortcut(x), self.branch(x))


@MODELS.register
class ShuffleNetV2(Network):
    """Three groups of 4, 8, 4 units with 116, 232, 464 channels; 1,360,896 weights for 100 classes.

    As the authors of the paper train it: a 3×3 stem of stride 1 without pooling or ReLU, biases in all convolutions. `width`
    scales all channels alike; the widths 0.5, 1.5 and 2 of the ShuffleNetV2 article have channels of their own.
    """

    name: Literal["shufflenetv2"] = "shufflenetv2"
    foreign_keys = (
        (r"pre\.([01])\.(\w+)", r"body.0.\1.\2"),
        *(
            pair
            for theirs, ours in ((2, 1), (3, 2), (4, 3))  # their first stage of units is called stage2
            for pair in (
                (rf"stage{theirs}\.(\d+)\.residual\.(\d)\.(\w+)", rf"body.{ours}.\1.branch.\2.\3"),
                (rf"stage{theirs}\.(\d+)\.shortcut\.(\d)\.(\w+)", rf"body.{ours}.\1.shortcut.\2.\3"),
            )
        ),
        (r"conv5\.([01])\.(\w+)", r"neck.\1.\2"),
        (r"fc\.(\w+)", r"head.\1"),
    )

    def channels(self, count: int) -> int:
        """`count` channels at this width, even because units halve them, at least 2."""
        return 2 * super().channels(count // 2)

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        before, last = self.channels(24), self.channels(1024)
        stages: list[nn.Module] = [nn.Sequential(nn.Conv2d(in_channels, before, 3, padding=1), nn.BatchNorm2d(before))]
        for count, units in ((116, 3), (232, 7), (464, 3)):
            after = self.channels(count)
            stages.append(nn.Sequential(HalvingUnit(before, after), *(Unit(after) for _ in range(units))))
            before = after
        neck = nn.Sequential(
            nn.Conv2d(before, last, 1), nn.BatchNorm2d(last), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        return stages, neck, nn.Linear(last, num_classes)
