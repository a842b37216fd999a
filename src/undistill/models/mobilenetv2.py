"""MobileNetV2 for small images (Sandler et al. 2018, Inverted Residuals and Linear Bottlenecks): a student of the paper."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from undistill.models.base import MODELS, Network


class InvertedResidual(nn.Module):
    """1×1 conv to `inner` channels → 3×3 conv a channel → 1×1 conv to `after`, each with BN, ReLU6 between; plus the input."""

    def __init__(self, before: int, inner: int, after: int, stride: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.inner = nn.Sequential(
            nn.Conv2d(before, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, after, 1),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return x + self.inner(x) if self.residual else self.inner(x)


@MODELS.register
class MobileNetV2(Network):
    """17 inverted residuals in seven groups of strides 1 2 2 2 1 1 1; 2,369,380 weights for 100 classes.

    As the authors of the paper train it: a 1×1 stem with padding 1 (32 pixels become 34), biases in all convolutions. Their
    classifier is a 1×1 convolution behind the pooling, here the linear layer of the same weights.
    """

    name: Literal["mobilenetv2"] = "mobilenetv2"
    foreign_keys = (
        (r"pre\.([01])\.(\w+)", r"body.0.\1.\2"),
        (r"stage([17])\.residual\.(\d)\.(\w+)", r"body.\1.0.inner.\2.\3"),
        (r"stage([2-6])\.(\d+)\.residual\.(\d)\.(\w+)", r"body.\1.\2.inner.\3.\4"),
        (r"conv1\.([01])\.(\w+)", r"neck.\1.\2"),
        (r"conv2\.(\w+)", r"head.\1"),
    )

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        before, last = self.channels(32), self.channels(1280)
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(in_channels, before, 1, padding=1), nn.BatchNorm2d(before), nn.ReLU6())
        ]
        for expansion, count, blocks, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 1),
            (6, 320, 1, 1),
        ):
            after = self.channels(count)
            # A group's first block changes the channels, so it adds no input; at tiny widths neither, though it could there.
            first = InvertedResidual(before, expansion * before, after, stride, residual=False)
            rest = (InvertedResidual(after, expansion * after, after, 1, residual=True) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
            before = after
        neck = nn.Sequential(
            nn.Conv2d(before, last, 1), nn.BatchNorm2d(last), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        return stages, neck, nn.Linear(last, num_classes)
