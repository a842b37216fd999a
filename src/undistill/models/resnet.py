"""ResNets for small images (He et al. 2016, Deep Residual Learning) with a 3×3 stem of stride 1 and no pooling."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from undistill.models.base import MODELS, Network


class BasicBlock(nn.Module):
    """conv → BN → ReLU → conv → BN, plus the input (1×1 convolution and BN where shapes change), → ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner + self.shortcut(x))


class BasicResNet(Network):
    """Four groups of basic blocks with 64, 128, 256, 512 channels."""

    blocks: ClassVar[tuple[int, int, int, int]]

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        widths = [self.channels(c) for c in (64, 128, 256, 512)]
        before = widths[0]
        stem = nn.Sequential(
            nn.Conv2d(in_channels, before, 3, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU()
        )
        stages: list[nn.Module] = [stem]
        for after, stride, count in zip(widths, (1, 2, 2, 2), self.blocks, strict=True):
            first = BasicBlock(before, after, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(after, after, 1) for _ in range(count - 1))))
            before = after
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return stages, neck, nn.Linear(before, num_classes)


@MODELS.register
class ResNet18(BasicResNet):
    """18 layers; 11,173,962 weights for 10 classes."""

    blocks = (2, 2, 2, 2)
    name: Literal["resnet18"] = "resnet18"
