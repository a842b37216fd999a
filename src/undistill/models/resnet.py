"""ResNets (He et al. 2016, Deep Residual Learning), for small images with a 3×3 stem of stride 1 and no pooling.

The paper's teachers (Ma et al. 2021, section 4.1; ResNet34 in its data-free experiment). With `stem: 7x7`, which takes photos to a
quarter of their side, they are the ones of He et al., table 1, and read weights saved under torchvision's and timm's names.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from undistill.models.base import MODELS, Network


def project(before: int, after: int, stride: int) -> nn.Sequential:
    """The shortcut around a block: nothing, or a 1×1 convolution and BN where shapes change."""
    if before == after and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    """conv → BN → ReLU → conv → BN, plus the input (1×1 convolution and BN where shapes change), → ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = project(before, after, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 conv to `inner` channels → strided 3×3 conv in `groups` → 1×1 conv to `after`, each with BN; input added, → ReLU."""

    def __init__(self, before: int, inner: int, after: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(inner), nn.BatchNorm2d(inner), nn.BatchNorm2d(after)
        self.shortcut = project(before, after, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        hidden = self.relu(self.norm1(self.conv1(x)))
        hidden = self.relu(self.norm2(self.conv2(hidden)))
        return self.relu(self.norm3(self.conv3(hidden)) + self.shortcut(x))


class ResNet(Network):
    """A stem of 64 channels and four groups of blocks, of which the last three halve the image."""

    stem: Literal["3x3", "7x7"] = "3x3"
    blocks: ClassVar[tuple[int, int, int, int]]
    expansion: ClassVar[int] = 1
    foreign_keys = (
        (r"conv1\.(\w+)", r"body.0.0.\1"),
        (r"bn1\.(\w+)", r"body.0.1.\1"),
        (r"layer([1-4])\.(\d+)\.conv([1-3])\.(\w+)", r"body.\1.\2.conv\3.\4"),
        (r"layer([1-4])\.(\d+)\.bn([1-3])\.(\w+)", r"body.\1.\2.norm\3.\4"),
        (r"layer([1-4])\.(\d+)\.(?:shortcut|downsample)\.([01])\.(\w+)", r"body.\1.\2.shortcut.\3.\4"),
        (r"(?:linear|fc)\.(\w+)", r"head.\1"),
    )
    """The names of the authors' model/resnet.py, which torchvision and timm share but for `downsample` and `fc`."""

    def block(self, before: int, width: int, stride: int) -> nn.Module:
        """A block from `before` to `expansion · width` channels."""
        return BasicBlock(before, width, stride)

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        widths = [self.channels(c) for c in (64, 128, 256, 512)]
        before = widths[0]
        first_conv = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        if self.stem == "7x7":
            first_conv = nn.Conv2d(in_channels, before, 7, 2, padding=3, bias=False)
        stem = nn.Sequential(first_conv, nn.BatchNorm2d(before), nn.ReLU())
        if self.stem == "7x7":
            stem.append(nn.MaxPool2d(3, 2, padding=1))
        stages: list[nn.Module] = [stem]
        for width, stride, count in zip(widths, (1, 2, 2, 2), self.blocks, strict=True):
            after = self.expansion * width
            first = self.block(before, width, stride)
            stages.append(nn.Sequential(first, *(self.block(after, width, 1) for _ in range(count - 1))))
            before = after
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return stages, neck, nn.Linear(before, num_classes)


@MODELS.register
class ResNet18(ResNet):
    """18 layers; 11,173,962 weights for 10 classes."""

    blocks = (2, 2, 2, 2)
    name: Literal["resnet18"] = "resnet18"


@MODELS.register
class ResNet34(ResNet):
    """34 layers; 21,282,122 weights for 10 classes."""

    blocks = (3, 4, 6, 3)
    name: Literal["resnet34"] = "resnet34"


@MODELS.register
class ResNet50(ResNet):
    """50 layers in bottlenecks of expansion 4; 23,705,252 weights for 100 classes."""

    blocks = (3, 4, 6, 3)
    expansion = 4
    name: Literal["resnet50"] = "resnet50"

    def block(self, before: int, width: int, stride: int) -> nn.Module:
        """A bottleneck."""
        return Bottleneck(before, width, self.expansion * width, stride)
