"""Distillation of responses from which a defense was undone: the attacker knows its form and learns the way back.

Legend: B batch, C classes, M pairs, N images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_serializer, field_validator
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Responses
from undistill.attacks.kd import Distills
from undistill.attacks.sanitise import Cleaned, completed, first_answers
from undistill.data.batches import ImageBatches
from undistill.oracle.oracle import Oracle, Questions, cut
from undistill.oracle.output_defense import AnswerDefense, chain, rounded, serve
from undistill.seeds import derive, generator
from undistill.threat_model import Access
from undistill.training.optim import lean
from undistill.training.recipe import Recipe

HIDDEN = {10: (128, 64)}
"""Widths of the layers between, up to so many classes; more take `WIDE`."""
WIDE = (1024, 512)
BATCH, RATE = 256, 2e-3
SPREAD = 8.0
"""Concentration, times the classes, of what is drawn around an estimate."""


@ATTACKS.register
class Inverse(Distills):
    """Undo an output defense whose form is known, then distil what comes out.

    `kd` on g(response): α τ² KL(g(response) ‖ student) + (1 − α) CE(student, label), with g ≈ argmin E ‖g(d(y)) − y‖₁.

    `against` is the output defense d, or a chain of them, that the attacker assumes; without one, d is what the threat model does
    by itself. The attacker applies it to probabilities y that it generates itself, followed by the output access and rounding of
    the threat model. In a first round, y ranges from nearly uniform to nearly one-hot; the g fitted on these pairs estimates the
    outputs behind the real responses, and the final g is fitted on random draws around those estimates. g is a small network on
    responses sorted by size, because no defense here treats one class differently from another.

    Without a query budget, each image is queried one extra time, without augmentation, before training, to obtain the estimates.
    Source: D-DAE and D-DAE+ (Chen et al., IEEE S&P 2023, D-DAE: Defense-Penetrating Model Extraction Attacks); the sorting is ours.
    """

    name: Literal["inverse"] = "inverse"
    against: tuple[Any, ...] = ()
    pairs: int = Field(20_000, ge=100)
    steps: int = Field(1_500, ge=1)
    needs: ClassVar[Access | None] = Access.TOPK

    @field_validator("against", mode="before")
    @classmethod
    def _chain(cls, value: Any) -> tuple[AnswerDefense, ...]:
        return chain(value)

    @field_serializer("against")
    def _whole(self, value: Sequence[AnswerDefense]) -> list[dict[str, Any]]:
        return [defense.model_dump(mode="json", by_alias=True) for defense in value]

    def responses(self, oracle: Oracle, batches: ImageBatches, recipe: Recipe, *, resumed: bool) -> Responses:
        """Responses from which the defense is undone."""
        questions = Questions(oracle, batches, recipe.training)
        given_NC = first_answers(oracle, batches, questions, resumed=resumed)
        served = Served(self.against, oracle.access, oracle.top_k, oracle.digits, recipe.seed)
        return Cleaned(questions, self.undone(served, given_NC.cpu(), recipe.seed, batches.device))

    def undone(
        self, served: Callable[[Tensor], Tensor], given_NC: Tensor, seed: int, device: torch.device | str = "cpu"
    ) -> Callable[[Tensor], Tensor]:
        """What turns B × C completed responses into probabilities: fitted on simulated pairs, then on ones around the responses."""
        rng = generator(seed, "thief", "inverse")
        broad_MC = every_sharpness(self.pairs, given_NC.shape[1], rng)
        first = learned(served(broad_MC), broad_MC, self.steps, derive(seed, "thief", "inverse/first"), device)
        rows_M = torch.randint(len(given_NC), (self.pairs,), generator=rng)
        near_MC = around(first(given_NC.to(device)).cpu()[rows_M], rng)
        return learned(served(near_MC), near_MC, self.steps, derive(seed, "thief", "inverse/second"), device)


class Served:
    """What an attacker would be shown of probabilities: through the defenses, the access and the rounding, and completed."""

    def __init__(
        self, defenses: Sequence[AnswerDefense], access: Access, top_k: int, digits: int | None, seed: int
    ) -> None:
        self.defenses, self.access, self.top_k, self.digits = tuple(defenses), access, top_k, digits
        self.rng = generator(seed, "thief", "inverse/noise")

    def __call__(self, probs_MC: Tensor) -> Tensor:
        """M × C."""
        shown_MC = cut(
            serve(probs_MC, Access.PROBS, self.defenses, self.rng), self.access, self.top_k, given=Access.PROBS
        )
        if self.digits is not None:
            shown_MC = rounded(shown_MC, self.digits)
        return completed(shown_MC)


def every_sharpness(count: int, classes: int, rng: torch.Generator) -> Tensor:
    """M × C float32 probabilities from nearly even to nearly sure: softmax of s · normal numbers, s in [½, 16] evenly in log s."""
    scale_M1 = (torch.rand(count, 1, generator=rng) * math.log(32) + math.log(0.5)).exp()
    return (torch.randn(count, classes, generator=rng) * scale_M1).softmax(dim=1)


def around(probs_MC: Tensor, rng: torch.Generator) -> Tensor:
    """M × C: a draw from the Dirichlet distribution of concentration 8 C · p for each row p."""
    alpha_MC = (SPREAD * probs_MC.shape[1] * probs_MC.double()).clamp_min(1e-3)
    drawn_MC = torch._standard_gamma(alpha_MC, generator=rng).clamp_min(1e-300)
    return (drawn_MC / drawn_MC.sum(dim=1, keepdim=True)).float()


class Sorted(nn.Module):
    """A network on a row of probabilities in descending order, whose outputs go back to their classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = next((w for most, w in HIDDEN.items() if classes <= most), WIDE)
        layers: list[nn.Module] = []
        for before, after in zip((classes, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, probs_BC: Tensor) -> Tensor:
        """B × C probabilities."""
        order_BC = probs_BC.argsort(dim=1, descending=True, stable=True)
        return torch.empty_like(probs_BC).scatter(1, order_BC, self.layers(probs_BC.gather(1, order_BC)).softmax(dim=1))


def learned(
    given_MC: Tensor, clean_MC: Tensor, steps: int, seed: int, device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """A network that leads from the one to the other, by the mean L1 distance; Adam, with a rate that falls to 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Sorted(given_MC.shape[1])
    network.to(device)
    given_MC, clean_MC = given_MC.to(device), clean_MC.to(device)
    optimizer = lean(torch.optim.Adam)(network.parameters(), RATE, fused=True)
    for step in range(steps):
        rows_B = torch.randint(len(given_MC), (BATCH,), generator=rng).to(device)
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss = (network(given_MC[rows_B]) - clean_MC[rows_B]).abs().sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval().requires_grad_(False)

    def undo(probs_BC: Tensor) -> Tensor:
        with torch.autocast(probs_BC.device.type, enabled=False):
            return network(probs_BC.float())

    return undo
