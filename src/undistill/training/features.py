"""Features that are computed once, and linear layers that read them.

Legend: B batch, C classes, D features, H height, W width, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undistill.data.image_set import ImageSet
from undistill.errors import NotFinite, UsageError
from undistill.models import Classifier
from undistill.seeds import generator
from undistill.training.evaluate import batch_for
from undistill.types import Batch

FLAT = 1e-5
"""A feature whose deviation is below this share of its mean does not vary but for rounding."""


@dataclass(frozen=True)
class FeatureBatches:
    """Shuffled batches of features where a network's batches hold images; `index_B` is the row that holds them.

    The order is drawn at (`order_seed`, "order", pass); an epoch is `passes` passes.
    """

    features_ND: Tensor
    labels_N: Tensor | None
    size: int
    passes: int
    order_seed: int

    def __len__(self) -> int:
        full, rest = divmod(len(self.features_ND), self.size)
        return self.passes * (full + (rest > 0))

    def epoch(self, e: int) -> Iterator[Batch]:
        """The batches of epoch `e`."""
        for number in range(e * self.passes, (e + 1) * self.passes):
            rng = generator(self.order_seed, "order", str(number))
            order = torch.randperm(len(self.features_ND), generator=rng).to(self.features_ND.device)
            for rows in order.split(self.size):
                labels_B = None if self.labels_N is None else self.labels_N[rows]
                yield Batch(self.features_ND[rows], labels_B, rows, number)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of each feature; called, it gives features of mean 0 and deviation 1, or all 0 for one that does not vary.

    No feature's scale bears upon another's. Both ways of rewriting a linear layer keep its outputs on the features that were
    measured; one that does not vary is read no more, for nothing is known of it but its mean, and its deviation counts as 0.
    """

    mean_D: Tensor
    std_D: Tensor

    @classmethod
    def of(cls, features_ND: Tensor) -> Scale:
        """Of these features, deviations with divisor N. NotFinite where one of them is no number."""
        variance_D, mean_D = torch.var_mean(features_ND.double(), dim=0, correction=0)
        if not bool(variance_D.isfinite().all()):
            raise NotFinite("the network's features are not finite, so nothing can be learned from them")
        std_D = variance_D.sqrt()
        std_D = torch.where(std_D > FLAT * mean_D.abs(), std_D, 0.0)
        return cls(mean_D.to(features_ND.dtype), std_D.to(features_ND.dtype))

    def __call__(self, features_BD: Tensor) -> Tensor:
        """Standardised features."""
        return (features_BD - self.mean_D) * self.rate_D

    @property
    def rate_D(self) -> Tensor:
        """1 / deviation, 0 for a feature that does not vary."""
        return torch.where(self.std_D > 0, 1 / self.std_D, 0.0)

    def onto(self, weight_CD: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """What a layer that reads features is on standardised ones."""
        return weight_CD * self.std_D, bias_C + weight_CD @ self.mean_D

    def off(self, weight_CD: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """What a layer that reads standardised features is on the features themselves."""
        plain_CD = weight_CD * self.rate_D
        return plain_CD, bias_C - plain_CD @ self.mean_D


def linear_head(network: nn.Module, who: str, whose: str, *, biased: bool = False) -> tuple[Classifier, nn.Linear]:
    """(the network, its head); UsageError where `whose` (victim, student) has none that `who` needs, or one without a bias."""
    name = network.config["name"] if isinstance(network, Classifier) else type(network).__name__
    if not isinstance(network, Classifier) or not isinstance(network.head, nn.Linear):
        raise UsageError(f"{who} needs a {whose} that ends in a linear layer; {name} does not")
    if biased and network.head.bias is None:
        raise UsageError(f"{who} needs a {whose} whose last linear layer has a bias; that of {name} has none")
    return network, network.head


def check_head(network: nn.Module, who: str, whose: str, *, biased: bool = False) -> None:
    """UsageError where `linear_head` or `read_out` would refuse the network."""
    classifier, _ = linear_head(network, who, whose, biased=biased)
    config, device = classifier.config, next(classifier.parameters()).device
    training = classifier.training
    read_out(
        classifier, torch.rand(2, config["in_channels"], config["image_size"], config["image_size"], device=device)
    )
    classifier.train(training)


@torch.no_grad()
def read_out(network: Classifier, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """(B × D features, B × C logits) in float32, without a gradient; the network is put in evaluation mode.

    UsageError for a network whose logits are not its head on its features.
    """
    network.eval()
    features_BD = network.features(images_BCHW).float()
    logits_BC = network.head(features_BD)
    if not torch.allclose(logits_BC[:2], network(images_BCHW[:2]).float(), rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"{network.config['name']} does something behind its last linear layer: its head cannot be changed alone"
        )
    return features_BD, logits_BC


def read_all(network: Classifier, images: ImageSet, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(N × D features, N × C logits) of these images as they are, on the device; UsageError as `read_out` has it."""
    parts = [read_out(network, images.seen(rows, device)) for rows in images.chunks(batch_for(images, device))]
    return torch.cat([features_BD for features_BD, _ in parts]), torch.cat([logits_BC for _, logits_BC in parts])


@torch.no_grad()
def write_head(head: nn.Linear, weight_CD: Tensor, bias_C: Tensor) -> None:
    """Put weights into a linear layer; one without a bias gets it."""
    head.weight.copy_(weight_CD)
    if head.bias is None:
        head.bias = nn.Parameter(torch.zeros_like(head.weight[:, 0]), requires_grad=head.weight.requires_grad)
    head.bias.copy_(bias_C)
