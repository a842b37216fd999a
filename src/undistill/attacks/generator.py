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
    image, 3×3 to 64, BN, leaky ReLU; 3×3 to the image, tanh, BN without weights. Source: Chen et al. 2019 (DAFL). Their network
    ends there, in the space of normalised pixels; ours normalise by themselves, so the output, whose channels have mean 0 and
    deviation 1, is taken back to pixels by `mean` and `std` and clamped. A sigmoid instead would keep away from black and white,
    and from the moments that the victim knows.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, latent: int, size: int, mean_C11: Tensor, std_C11: Tensor, width: float = 1.0) -> None:
        super().__init__()
        wide, narrow, channels = max(1, round(128 * width)), max(1, round(64 * width)), len(mean_C11)
        self.sizes = tuple(math.ceil(size / part) for part in (4, 2, 1))
        self.spread = nn.Linear(latent, wide * self.sizes[0] ** 2)
        self.first = nn.BatchNorm2d(wide)
        self.second = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2))
        self.third = nn.Sequential(nn.Conv2d(wide, narrow, 3, padding=1), nn.BatchNorm2d(narrow), nn.LeakyReLU(0.2))
        self.last = nn.Sequential(
            nn.Conv2d(narrow, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, affine=False)
        )
        self.register_buffer("mean_C11", mean_C11, persistent=False)
        self.register_buffer("std_C11", std_C11, persistent=False)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """The images, float32."""
        small, middle, whole = self.sizes
        hidden = self.first(self.spread(noise_BZ).unflatten(1, (-1, small, small)))
        hidden = self.second(F.interpolate(hidden, size=(middle, middle)))
        hidden = self.third(F.interpolate(hidden, size=(whole, whole)))
        return (self.last(hidden).float() * self.std_C11 + self.mean_C11).clamp(0, 1)


def build(latent: int, size: int, mean_C11: Tensor, std_C11: Tensor, width: float, *, seed: int) -> Generator:
    """A generator with fresh weights, drawn at (seed, "thief", "generator"); the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "thief", "generator"))
        return Generator(latent, size, mean_C11, std_C11, width)
