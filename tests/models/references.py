"""What other people's files of the paper's networks are: the names of their layers, and what those compute.

No modules here: each network is a function of a flat dictionary under the names of the authors' files (torchvision's too, for
ResNets). Depths, strides and groups come from the paper. A dictionary notes which weights were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

CONV, BIASED, NORM = ("weight",), ("weight", "bias"), ("weight", "bias", "running_mean", "running_var")
Parts = Iterator[tuple[str, tuple[str, ...]]]  # a layer's name and its weights


class Weights:
    """Layers by their foreign names; remembers which were used."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.used = tensors, set[str]()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def conv(self, name: str, x: Tensor, stride: int = 1, groups: int = 1, padding: int | None = None) -> Tensor:
        """A convolution that keeps the size unless told otherwise."""
        kernel = self[f"{name}.weight"]
        biased = f"{name}.bias" in self
        bias = self[f"{name}.bias"] if biased else None
        return F.conv2d(x, kernel, bias, stride, kernel.shape[2] // 2 if padding is None else padding, 1, groups)

    def deep(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """A convolution of its own for each channel."""
        return self.conv(name, x, stride, groups=x.shape[1])

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch normalisation by its formula."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale, shift, mean, var = (self[f"{name}.{part}"].view(shape) for part in NORM)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def linear(self, name: str, x_BD: Tensor) -> Tensor:
        """x Wᵀ + b."""
        return x_BD @ self[f"{name}.weight"].flatten(1).T + self[f"{name}.bias"]


def cnn_layout() -> Parts:
    for i in (1, 2, 3):
        yield from ((f"conv{i}", BIASED), (f"bn{i}", NORM))
    yield from (("fc1", BIASED), ("fcbn1", NORM), ("fc2", BIASED))


def cnn(w: Weights, x: Tensor) -> Tensor:
    for i in (1, 2, 3):
        x = F.max_pool2d(w.norm(f"bn{i}", w.conv(f"conv{i}", x)), 2).relu()
    return w.linear("fc2", w.norm("fcbn1", w.linear("fc1", x.flatten(1))).relu())


def blocks_of(counts: tuple[int, ...]) -> Iterator[tuple[str, int, bool, bool]]:
    """A block's name, its stride, whether it is its layer's first, whether it is the network's first."""
    for layer, count in enumerate(counts, 1):
        for block in range(count):
            yield f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1, block == 0, layer == 1 and block == 0


def resnet_layout(counts: tuple[int, ...], convs: int, shortcut: str, head: str) -> Parts:
    yield from (("conv1", CONV), ("bn1", NORM))
    for name, _, first, very_first in blocks_of(counts):
        for i in range(1, convs + 1):
            yield from ((f"{name}.conv{i}", CONV), (f"{name}.bn{i}", NORM))
        if first and (convs == 3 or not very_first):
            yield from ((f"{name}.{shortcut}.0", CONV), (f"{name}.{shortcut}.1", NORM))
    yield head, BIASED


def resnet(counts: tuple[int, ...], convs: int, shortcut: str, head: str, w: Weights, x: Tensor) -> Tensor:
    x = w.norm("bn1", w.conv("conv1", x)).relu()
    for name, stride, _, _ in blocks_of(counts):
        y = x
        for i in range(1, convs + 1):  # the first convolution of two strides, the second of three
            y = w.norm(f"{name}.bn{i}", w.conv(f"{name}.conv{i}", y, stride if i == convs - 1 else 1))
            y = y if i == convs else y.relu()
        if f"{name}.{shortcut}.0.weight" in w:
            x = w.norm(f"{name}.{shortcut}.1", w.conv(f"{name}.{shortcut}.0", x, stride))
        x = (x + y).relu()
    return w.linear(head, x.mean((2, 3)))


def resnetc_layout(blocks: int) -> Parts:
    yield "conv1", CONV
    for name, _, first, very_first in blocks_of((blocks,) * 3):
        for i in (1, 2):
            yield from ((f"{name}.bn{i}", NORM), (f"{name}.conv{i}", CONV))
        if first and not very_first:
            yield f"{name}.downsample.0", CONV
    yield from (("bn", NORM), ("fc", BIASED))


def resnetc(blocks: int, w: Weights, x: Tensor) -> Tensor:
    x = w.conv("conv1", x)
    for name, stride, _, _ in blocks_of((blocks,) * 3):
        y = w.conv(f"{name}.conv1", w.norm(f"{name}.bn1", x).relu(), stride)
        y = w.conv(f"{name}.conv2", w.norm(f"{name}.bn2", y).relu())
        if f"{name}.downsample.0.weight" in w:
            x = w.conv(f"{name}.downsample.0", x, stride)  # of the raw input, not the activated one
        x = x + y
    return w.linear("fc", w.norm("bn", x).relu().mean((2, 3)))


def resnext_layout() -> Parts:
    yield from (("conv_1_3x3", CONV), ("bn_1", NORM))
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name = f"stage_{stage}.stage_{stage}_bottleneck_{block}"
            for part, norm in (("conv_reduce", "bn_reduce"), ("conv_conv", "bn"), ("conv_expand", "bn_expand")):
                yield from ((f"{name}.{part}", CONV), (f"{name}.{norm}", NORM))
            if block == 0:
                yield from ((f"{name}.shortcut.shortcut_conv", CONV), (f"{name}.shortcut.shortcut_bn", NORM))
    yield "classifier", BIASED


def resnext(w: Weights, x: Tensor) -> Tensor:
    x = w.norm("bn_1", w.conv("conv_1_3x3", x)).relu()
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        for block in (0, 1, 2):
            name = f"stage_{stage}.stage_{stage}_bottleneck_{block}"
            stride = stride if block == 0 else 1
            y = w.norm(f"{name}.bn_reduce", w.conv(f"{name}.conv_reduce", x)).relu()
            y = w.norm(f"{name}.bn", w.conv(f"{name}.conv_conv", y, stride, groups=8)).relu()
            if block == 0:
                shortcut = f"{name}.shortcut.shortcut"
                x = w.norm(f"{shortcut}_bn", w.conv(f"{shortcut}_conv", x, stride))
            x = (x + w.norm(f"{name}.bn_expand", w.conv(f"{name}.conv_expand", y))).relu()
    return w.linear("classifier", x.mean((2, 3)))


MOBILE = {"stage1": 1}  # strides by block
for stage, count in enumerate((2, 3, 4, 3, 3), 2):
    MOBILE |= {f"stage{stage}.{block}": 2 if block == 0 and stage <= 4 else 1 for block in range(count)}
MOBILE["stage7"] = 1


def mobile_layout() -> Parts:
    yield from (("pre.0", BIASED), ("pre.1", NORM))
    for name in MOBILE:
        yield from ((f"{name}.residual.{i}", NORM if i in (1, 4, 7) else BIASED) for i in (0, 1, 3, 4, 6, 7))
    yield from (("conv1.0", BIASED), ("conv1.1", NORM), ("conv2", BIASED))


def mobile(w: Weights, x: Tensor) -> Tensor:
    x = w.norm("pre.1", w.conv("pre.0", x, padding=1)).clamp(0, 6)
    for name, stride in MOBILE.items():
        y = w.norm(f"{name}.residual.1", w.conv(f"{name}.residual.0", x)).clamp(0, 6)
        y = w.norm(f"{name}.residual.4", w.deep(f"{name}.residual.3", y, stride)).clamp(0, 6)
        y = w.norm(f"{name}.residual.7", w.conv(f"{name}.residual.6", y))
        x = y if name[-2:] == ".0" or "." not in name else x + y
    return w.linear("conv2", w.norm("conv1.1", w.conv("conv1.0", x)).clamp(0, 6).mean((2, 3)))


SHUFFLE = [(f"stage{s}.{b}", b == 0) for s, n in ((2, 4), (3, 8), (4, 4)) for b in range(n)]


def shuffle_layout() -> Parts:
    yield from (("pre.0", BIASED), ("pre.1", NORM))
    for name, halves in SHUFFLE:
        yield from ((f"{name}.residual.{i}", NORM if i in (1, 4, 6) else BIASED) for i in (0, 1, 3, 4, 5, 6))
        if halves:
            yield from ((f"{name}.shortcut.{i}", NORM if i in (1, 3) else BIASED) for i in range(4))
    yield from (("conv5.0", BIASED), ("conv5.1", NORM), ("fc", BIASED))


def shuffle(w: Weights, x: Tensor) -> Tensor:
    x = w.norm("pre.1", w.conv("pre.0", x))  # no ReLU
    for name, halves in SHUFFLE:
        half, stride = x.shape[1] // 2, 2 if halves else 1
        left, right = (x, x) if halves else (x[:, :half], x[:, half:])
        if halves:
            left = w.norm(f"{name}.shortcut.1", w.deep(f"{name}.shortcut.0", left, stride))
            left = w.norm(f"{name}.shortcut.3", w.conv(f"{name}.shortcut.2", left)).relu()
        right = w.norm(f"{name}.residual.1", w.conv(f"{name}.residual.0", right)).relu()
        right = w.norm(f"{name}.residual.4", w.deep(f"{name}.residual.3", right, stride))
        right = w.norm(f"{name}.residual.6", w.conv(f"{name}.residual.5", right)).relu()
        both = torch.cat((left, right), dim=1)
        order = [i // 2 + (i % 2) * left.shape[1] for i in range(both.shape[1])]
        x = both[:, order]
    return w.linear("fc", w.norm("conv5.1", w.conv("conv5.0", x)).relu().mean((2, 3)))


Layout = Callable[[], Parts]
Reference = Callable[[Weights, Tensor], Tensor]
FOREIGN: dict[str, tuple[str, Layout, Reference]] = {  # network, layout of the foreign file, what it computes
    "cnn": ("cnn", cnn_layout, cnn),
    "resnetc20": ("resnetc20", partial(resnetc_layout, 3), partial(resnetc, 3)),
    "resnetc32": ("resnetc32", partial(resnetc_layout, 5), partial(resnetc, 5)),
    "resnext29": ("resnext29", resnext_layout, resnext),
    "mobilenetv2": ("mobilenetv2", mobile_layout, mobile),
    "shufflenetv2": ("shufflenetv2", shuffle_layout, shuffle),
}
for depths, convs, network in (
    ((2, 2, 2, 2), 2, "resnet18"),
    ((3, 4, 6, 3), 2, "resnet34"),
    ((3, 4, 6, 3), 3, "resnet50"),
):
    for names in (("shortcut", "linear"), ("downsample", "fc")):
        files = partial(resnet_layout, depths, convs, *names)
        FOREIGN[f"{network} with {names[1]}"] = (network, files, partial(resnet, depths, convs, *names))


def keys(layout: str) -> list[str]:
    """All names in the file."""
    return [
        f"{name}.{part}"
        for name, parts in FOREIGN[layout][1]()
        for part in (*parts, *(("num_batches_tracked",) if parts is NORM else ()))
    ]
