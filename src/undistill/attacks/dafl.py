"""Data-free learning: a generator makes images that excite the victim, and the student learns the victim's answers to them.

Legend: B batch, Z latent, C classes, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill import seeds
from undistill.attacks import generator
from undistill.attacks.base import ATTACKS, Attack
from undistill.attacks.insider import at_inputs, differentiable, frozen, head_of, scale_of
from undistill.data.image_set import ImageSet
from undistill.losses import activation_loss, information_entropy_loss, one_hot_loss, softened_kl
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import hits
from undistill.training.optim import lean
from undistill.training.precision import arithmetic
from undistill.training.recipe import Recipe
from undistill.types import Batch, Terms


@ATTACKS.register
class DAFL(Attack):
    """Data-free distillation from the weights: a generator makes the images (DAFL).

    A generator learns by one_hot · CE(t, argmax t) − activation · mean |features| + entropy · Σ p̄ log₁₀ p̄, with t the victim's
    logits and p̄ its mean softmax; the student by τ² KL(victim ‖ student).

    Both take one step on each batch of `batch` images from `latent` normal numbers; `steps` batches make an epoch. How many epochs,
    and the student's optimiser and schedule, are the recipe's `training`; its `batch` and `passes` play no part. The generator
    is trained by Adam at a constant `lr`. Weights are the paper's for CIFAR-10; for CIFAR-100 it has one_hot 0.5, activation 0.1,
    entropy 20. Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019.
    """

    name: Literal["dafl"] = "dafl"
    one_hot: float = Field(0.05, ge=0)
    activation: float = Field(0.01, ge=0)
    entropy: float = Field(5.0, ge=0)
    latent: int = Field(1000, ge=1)
    batch: int = Field(1024, ge=2)
    steps: int = Field(120, ge=1)
    lr: float = Field(0.02, gt=0)
    temperature: float = Field(1.0, gt=0)
    width: float = Field(1.0, gt=0, le=16)
    needs: ClassVar[Access | None] = Access.WEIGHTS
    reads: ClassVar[Access] = Access.WEIGHTS
    holds_images: ClassVar[bool] = False

    def steal(
        self,
        oracle: Oracle,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Iterator[EpochRecord]:
        """Train a generator and `student` together; UsageError for a victim without features or gradients."""
        made = Generated(self, oracle, images.channels, images.image_size, recipe, device)
        if state is not None:
            made.load(state)
        objective = GeneratedLesson(made, self.temperature)
        for record in fit(student, made, objective, recipe.training, seed=recipe.seed, state=state):
            yield replace(record, state={**record.state, "modules": {**record.state["modules"], **made.state()}})


class Generated:
    """Batches from a generator that takes one step against the frozen victim before each is handed over.

    Noise is drawn at (seed, "thief", "latent/EPOCH"): with weights and momenta from `state`, a resumed epoch is the same. The
    images are handed over detached, so no step of the student reaches the generator, and no gradient of its own the student.
    """

    def __init__(
        self, settings: DAFL, oracle: Oracle, channels: int, size: int, recipe: Recipe, device: torch.device
    ) -> None:
        self.settings, self.oracle, self.seed, self.device = settings, oracle, recipe.seed, device
        self.half = arithmetic(recipe.training.precision, device) == "bf16"
        self.victim = frozen(oracle.weights(), device)
        empty_BCHW = torch.zeros(2, channels, size, size, device=device)
        self.head = head_of(self.victim, empty_BCHW, settings.name)
        differentiable(self.victim, empty_BCHW, settings.name)
        mean_C11, std_C11 = scale_of(self.victim, channels)
        made = generator.build(settings.latent, size, mean_C11, std_C11, settings.width, seed=recipe.seed)
        self.generator = made.to(device).train()
        self.optimizer = lean(torch.optim.Adam)(self.generator.parameters(), settings.lr, fused=True)
        self.index_B = torch.arange(settings.batch, device=device)
        self.answer_BC = torch.empty(0)
        """The victim's logits of the batch that was handed over last."""
        self.terms: Terms = {}
        """The generator's terms on it."""

    def __len__(self) -> int:
        return self.settings.steps

    def epoch(self, e: int) -> Iterator[Batch]:
        """The batches of epoch `e`; the generator trains along, so an epoch can be had once, in its turn."""
        rng = seeds.generator(self.seed, "thief", f"latent/{e}")
        for _ in range(len(self)):
            noise_BZ = torch.randn(self.settings.batch, self.settings.latent, generator=rng)
            if self.device.type == "cuda":
                noise_BZ = noise_BZ.pin_memory()
            yield Batch(self.step(noise_BZ.to(self.device, non_blocking=True)), None, self.index_B, e)

    def step(self, noise_BZ: Tensor) -> Tensor:
        """One step of the generator; the images that it was taken on, B × C × H × W in [0, 1], detached."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            images_BCHW = self.generator(noise_BZ)
            with at_inputs([self.head], lambda _, features_BD: features_BD) as seen:
                logits_BC = self.victim(images_BCHW)
        self.oracle.forwards += len(images_BCHW)
        self.terms = {
            "one_hot": one_hot_loss(logits_BC),
            "activation": activation_loss(seen[-1]),
            "entropy": information_entropy_loss(logits_BC),
        }
        weights = {name: getattr(self.settings, name) for name in self.terms}
        loss = torch.stack([weights[name] * term for name, term in self.terms.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.answer_BC = logits_BC.detach()
        return images_BCHW.detach()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Generator and Adam as named tensors."""
        momenta = self.optimizer.state_dict()["state"]
        flat = {f"{index}/{name}": value for index, entry in momenta.items() for name, value in entry.items()}
        return {"generator": self.generator.state_dict(), "generator_adam": flat}

    def load(self, state: State) -> None:
        """Go on from a record's state."""
        self.generator.load_state_dict(state["modules"]["generator"])
        momenta: dict[int, dict[str, Tensor]] = {}
        for path, value in state["modules"]["generator_adam"].items():
            index, name = path.split("/")
            momenta.setdefault(int(index), {})[name] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": momenta})


@dataclass(frozen=True)
class GeneratedLesson:
    """The student's objective on generated batches, τ² KL(victim ‖ student), on the answers that the generator's step left."""

    made: Generated
    temperature: float
    modules: Mapping[str, nn.Module] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> Terms:
        """`loss`, `agreement`, and the generator's `one_hot`, `activation` and `entropy`, before their weights."""
        answer_BC = self.made.answer_BC
        logits_BC = model(batch.images_BCHW)
        loss = softened_kl(answer_BC, logits_BC, self.temperature)
        terms = {name: term.detach() for name, term in self.made.terms.items()}
        return {"loss": loss, "agreement": hits(logits_BC, answer_BC.argmax(dim=1)), **terms}
