"""A custom view (augmentation). Usage: … --plugin examples/plugins/toy_view.py -s 'data.views=[{name: toy-view}]'"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undistill.data.augment import VIEWS, View


@VIEWS.register
class ToyView(View):
    """Swap black and white with probability `share`."""

    name: Literal["toy-view"] = "toy-view"
    share: float = Field(0.5, ge=0, le=1)

    def draw(self, rng: torch.Generator, count: int) -> Tensor:
        """0 or 1."""
        return (torch.rand(count, 1, generator=rng) < self.share).long()

    def apply(self, images_BCHW: Tensor, choices_BK: Tensor) -> Tensor:
        """The drawn images inverted."""
        return torch.where(choices_BK[:, 0].bool()[:, None, None, None], 255 - images_BCHW, images_BCHW)
