"""A network that turns noise into images. Legend: B batch, Z latent, C channels, H height, W width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.seeds import derive


class Generator(nn.Module):
    """B × Z noise to B × C × size × size float images in [0, 1], for any square size of at least 1.

    Linear to ⌈size/4⌉² maps of 128 channels, BN; twice as wide, 3×3 convolution to 128, BN, leaky ReLU (0.2); as wide as the
    image, 3×3 to 64, BN, leaky ReLU; 3×3 to the image. Source: Chen et al. 2019 (DAFL), whose output is tanh and a batch
    normalisation without weights, in the space of normalised pixels. Here a victim normalises by itself and takes [0, 1]: the
    same normalisation without tanh, then a sigmoid. That keeps the pixels' spread near 0.2 (CIFAR-10's is 0.25) whatever the
    weights are, and its gradient never dies as a clamp's would.
    """

    def __init__(self, latent: int, channels: int, size: int, width: float = 1.0) -> None:
        super().__init__()
        wide, narrow = max(1, round(128 * width)), max(1, round(64 * width))
        self.sizes = tuple(math.ceil(size / part) for part in (4, 2, 1))
        self.spread = nn.Linear(latent, wide * self.sizes[0] ** 2)
        self.first = nn.BatchNorm2d(wide)
        self.second = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2))
        self.third = nn.Sequential(nn.Conv2d(wide, narrow, 3, padding=1), nn.BatchNorm2d(narrow), nn.LeakyReLU(0.2))
        self.last = nn.Sequential(nn.Conv2d(narrow, channels, 3, padding=1), nn.BatchNorm2d(channels, affine=False))

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """The images, float32."""
        small, middle, whole = self.sizes
        hidden = self.first(self.spread(noise_BZ).unflatten(1, (-1, small, small)))
        hidden = self.second(F.interpolate(hidden, size=(middle, middle)))
        hidden = self.third(F.interpolate(hidden, size=(whole, whole)))
        return self.last(hidden).float().sigmoid()


def build(latent: int, channels: int, size: int, width: float, *, seed: int) -> Generator:
    """A generator with fresh weights, drawn at (seed, "thief", "generator"); the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "thief", "generator"))
        return Generator(latent, channels, size, width)
