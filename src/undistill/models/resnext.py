"""ResNeXt for small images (Xie et al. 2017, Aggregated Residual Transformations): the paper's largest teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from undistill.models.base import MODELS, Network
from undistill.models.resnet import Bottleneck


@MODELS.register
class ResNeXt29(Network):
    """29 layers, 8 × 64d, widen factor 4; 34,518,948 weights for 100 classes.

    A 3×3 stem of 64 channels, then three groups of three bottlenecks with 256, 512, 1024 channels around 3×3 convolutions
    of 8 groups. `width` scales the channels of a group; there are always 8 groups.
    """

    groups: ClassVar[int] = 8
    name: Literal["resnext29"] = "resnext29"
    foreign_keys = (
        (r"conv_1_3x3\.(\w+)", r"body.0.0.\1"),
        (r"bn_1\.(\w+)", r"body.0.1.\1"),
        *(
            (rf"stage_([1-3])\.stage_\1_bottleneck_(\d+)\.{theirs}\.(\w+)", rf"body.\1.\2.{ours}.\3")
            for theirs, ours in (
                ("conv_reduce", "conv1"),
                ("bn_reduce", "norm1"),
                ("conv_conv", "conv2"),
                ("bn", "norm2"),
                ("conv_expand", "conv3"),
                ("bn_expand", "norm3"),
                (r"shortcut\.shortcut_conv", "shortcut.0"),
                (r"shortcut\.shortcut_bn", "shortcut.1"),
            )
        ),
        (r"classifier\.(\w+)", r"head.\1"),
    )

    def assemble(
        self, num_classes: int, in_channels: int, image_size: int
    ) -> tuple[list[nn.Module], nn.Module, nn.Linear]:
        """Stages, neck and head."""
        before = self.channels(64)
        stem = nn.Sequential(
            nn.Conv2d(in_channels, before, 3, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU()
        )
        stages: list[nn.Module] = [stem]
        for group, stride in ((64, 1), (128, 2), (256, 2)):
            inner, after = self.groups * self.channels(group), self.channels(4 * group)
            first = Bottleneck(before, inner, after, stride, self.groups)
            stages.append(nn.Sequential(first, *(Bottleneck(after, inner, after, 1, self.groups) for _ in range(2))))
            before = after
        neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return stages, neck, nn.Linear(before, num_classes)
