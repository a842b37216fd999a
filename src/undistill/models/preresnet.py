"""Thin pre-activation ResNets for 32×32 images (He et al. 2016, Identity Mappings): the paper's ResNetC students.

Where a block changes the shape, its shortcut projects the block's raw input, as in the authors' code; He et al. project the
activated one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from undistill.models.base import MODELS, Network


class PreActivationBlock(nn.Module):
    """BN → ReLU → conv, twice, and a shortcut: the identity, or a 1×1 convolution of the input where shapes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.project = None if before == after and stride == 1 else nn.Conv2d(before, after, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        shortcut = x if self.project is None else self.project(x)
        inner = self.conv1(self.relu(self.norm1(x)))
        return shortcut + self.conv2(self.relu(self.norm2(inner)))


class ResNetC(Network):
    """Three groups of `blocks` blocks with 16, 32, 64 channels."""

    blocks: ClassVar[int]
    foreign_keys = (
        (r"conv1\.(\w+)", r"body.0.\1"),
        (r"layer([1-3])\.(\d+)\.conv([12])\.(\w+)", r"body.\1.\2.conv\3.\4"),
        (r"layer([1-3])\.(\d+)\.bn([12])\.(\w+)", r"body.\1.\2.norm\3.\4"),
        (r"layer([1-3])\.(\d+)\.downsample\.0\.(\w+)", r"body.\1.\2.project.\3"),
        (r"bn\.(\w+)", r"neck.0.\1"),
        (r"fc\.(\w+)", r"head.\1"),
    )

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        widths = [self.channels(c) for c in (16, 32, 64)]
        stages: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)]
        before = widths[0]
        for after, stride in zip(widths, (1, 2, 2), strict=True):
            first = PreActivationBlock(before, after, stride)
            stages.append(nn.Sequential(first, *(PreActivationBlock(after, after, 1) for _ in range(self.blocks - 1))))
            before = after
        neck = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return stages, neck, nn.Linear(before, num_classes)


@MODELS.register
class ResNetC20(ResNetC):
    """20 layers; 272,282 weights for 10 classes."""

    blocks = 3
    name: Literal["resnetc20"] = "resnetc20"


@MODELS.register
class ResNetC32(ResNetC):
    """32 layers; 466,714 weights for 10 classes."""

    blocks = 5
    name: Literal["resnetc32"] = "resnetc32"
