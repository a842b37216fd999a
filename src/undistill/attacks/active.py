"""Distillation of chosen queries. Legend: B batch, C classes, H held images, N queried ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undistill import ranks
from undistill.attacks.average import Noted, as_many_steps
from undistill.attacks.base import ATTACKS, Attack, Lesson
from undistill.attacks.kd import DistillsAnything
from undistill.data.image_set import ImageSet
from undistill.errors import UsageError
from undistill.losses import smoothed_cross_entropy
from undistill.oracle.oracle import Answer, Oracle
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for, predict
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches
from undistill.types import Terms


class Chooses(Attack):
    """Queries images in `rounds` equal parts of the budget, chosen by a substitute that is trained anew before each.

    The first part is drawn at random. `k-center` takes again and again the image whose substitute's probabilities are farthest
    (L2) from those of all images taken so far, `entropy` the most uncertain ones. Source: Pal et al. 2020 (ActiveThief, AAAI).
    """

    choice: Literal["k-center", "entropy"] = "k-center"
    rounds: int = Field(10, ge=2)
    uses_unqueried: ClassVar[bool] = True

    def steal(
        self,
        oracle: Oracle,
        student: nn.Module,
        images: ImageSet,
        recipe: Recipe,
        *,
        device: torch.device,
        state: State | None = None,
        held: ImageSet | None = None,
    ) -> Iterator[EpochRecord]:
        """Query in rounds, then train `student` on all responses. UsageError under torchrun."""
        if ranks.count() > 1:
            raise UsageError(f"{self.name} chooses its images one after another: run it without torchrun")
        every = images if held is None else held
        every = every.take(
            torch.randperm(len(every), generator=generator(recipe.seed, "thief", "active"))
        )  # ties are random
        ends = sorted({max(2, round(len(images) * part / self.rounds)) for part in range(1, self.rounds + 1)})
        if state is None:
            first = torch.isin(every.index_N, images.index_N).nonzero().squeeze(1)
            rows_N, fresh = first[: ends[0]], copy.deepcopy(student.state_dict())
            noted = self.ask(oracle, every, rows_N, device)
            for end in ends[1:]:
                for _ in self.train(student, every.take(rows_N), noted, recipe, len(images), device):
                    pass
                new = chosen(self.choice, predict(student, every).softmax(dim=1), rows_N, end - len(rows_N))
                student.load_state_dict(fresh)
                values = torch.cat([noted.values, self.ask(oracle, every, new, device).values])
                rows_N, noted = torch.cat([rows_N, new]), Answer(noted.access, values)
        else:
            kept = state["modules"]["queried"]
            rows_N, noted = kept["rows"].cpu(), Answer(Access(int(kept["access"])), kept["values"].to(device))
            if oracle.budget is not None:  # counted anew, as they were asked
                for part in rows_N.tensor_split(ends[:-1]):
                    self.ask(oracle, every, part, device)
        whole = {"rows": rows_N, "values": noted.values, "access": torch.tensor(int(noted.access))}
        state = None if state is None else {**state, "modules": {}}
        for record in self.train(student, every.take(rows_N), noted, recipe, len(images), device, state):
            record.state["modules"] = {"queried": whole}
            yield record

    def ask(self, oracle: Oracle, every: ImageSet, rows_N: Tensor, device: torch.device) -> Answer:
        """The responses to these images as they are."""
        images = every.take(rows_N)
        parts = [oracle.ask(images.seen(rows, device)).values for rows in images.chunks(batch_for(images, device))]
        oracle.check()
        return Answer(oracle.access, torch.cat(parts))

    def train(
        self,
        student: nn.Module,
        images: ImageSet,
        responses: Answer,
        recipe: Recipe,
        of: int,
        device: torch.device,
        state: State | None = None,
    ) -> Iterator[EpochRecord]:
        """Learn from the responses to these images, in as many steps as the recipe takes on `of` images."""
        recipe = as_many_steps(recipe, of, len(images))
        row_N = torch.full((images.source_size,), -1, device=device)
        row_N[images.index_N.to(device)] = torch.arange(len(images), device=device)
        images = images.take(images.index_N.argsort()).unlabelled()
        batches = image_batches(images, recipe, role="thief", device=str(device))
        lesson = Lesson(self.loss, Noted(responses, row_N), recipe.training.smoothing)
        return fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=state)


@ATTACKS.register
class Active(Chooses, DistillsAnything):
    """Choose which of the held images to query, and distil the responses.

    `kd`, α τ² KL(response ‖ student) + (1 − α) CE(student, top class), or CE against predicted classes, on images that are chosen
    in rounds. All images of the threat model can be chosen, those behind the `+` of `/50+1000` too; labels are not used. Its
    baseline is `active-scratch`. Source: Pal et al. 2020 (ActiveThief, AAAI), k-center and uncertainty.
    """

    name: Literal["active"] = "active"


@ATTACKS.register
class ActiveScratch(Chooses):
    """The baseline of `active`: choose which of the held images are labeled, and train on their true labels.

    CE(student, true label). Queries nothing; a control, and no attacker. Source: Sener and Savarese 2018 (active learning by
    k-center).
    """

    name: Literal["active-scratch"] = "active-scratch"
    needs: ClassVar[Access | None] = None
    control: ClassVar[bool] = True

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss` alone."""
        return {"loss": smoothed_cross_entropy(logits_BC, response.labels_B, smoothing)}

    def ask(self, oracle: Oracle, every: ImageSet, rows_N: Tensor, device: torch.device) -> Answer:
        """Their true labels."""
        return Answer(Access.LABEL, every.labels_N[rows_N].to(device))


def chosen(choice: str, probs_HC: Tensor, known_N: Tensor, count: int) -> Tensor:
    """Rows of the held images to query next, by a substitute's probabilities; never one of the `known` ones."""
    if choice == "entropy":
        entropy_H = torch.special.entr(probs_HC).sum(dim=1)
        entropy_H[known_N] = -1
        return entropy_H.argsort(descending=True, stable=True)[:count]
    nearest = [torch.cdist(probs_HC, some_MC).amin(dim=1) for some_MC in probs_HC[known_N].split(1024)]
    far_H = torch.stack(nearest).amin(dim=0)
    far_H[known_N] = -1
    rows = []
    for _ in range(count):
        rows.append(far_H.argmax())
        far_H = torch.minimum(far_H, (probs_HC - probs_HC[rows[-1]]).norm(dim=1))
        far_H[rows[-1]] = -1
    return torch.stack(rows)
