"""A linear layer on public features: an attacker who trains only the last layer of a public network.

Legend: B batch, C classes, D features, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.kd import Distills
from undistill.data.image_set import ImageSet
from undistill.losses import smoothed_cross_entropy
from undistill.oracle.oracle import Answer, Oracle
from undistill.seeds import derive
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for
from undistill.training.features import FeatureBatches, Scale, check_head, linear_head, read_all, write_head
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.types import Terms


@ATTACKS.register
class LinearProbe(Distills):
    """Train only a linear layer on the fixed features of the student.

    α τ² KL(victim ‖ W z + b) + (1 − α) CE(W z + b, label), z the standardised features of the student, which stay as they are.

    A victim that gives labels alone is learned by CE(W z + b, its label). Each image is asked about once, as it is, and its
    features are computed once; behind each epoch the layer is written into the student's head. The student is handed over with the
    weights that it starts from; fresh ones make random features. On a card without labels the second term uses the victim's top
    class. Source: Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016; here a victim answers.
    """

    name: Literal["linear-probe"] = "linear-probe"
    needs: ClassVar[Access | None] = Access.LABEL

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError for a student without a linear head that has a bias."""
        check_head(student, self.name, "student", biased=True)

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        """`loss`, `kd` and `ce`; of labels `loss` alone."""
        if response.access is Access.LABEL:
            return {"loss": smoothed_cross_entropy(logits_BC, response.labels_B, smoothing)}
        return super().loss(logits_BC, response, labels_B, smoothing)

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
        """Train the head of `student`; UsageError for a student without a linear one."""
        network, head = linear_head(student, self.name, "student", biased=True)
        if state is not None:
            student.load_state_dict(state["model"])
        features_ND, _ = read_all(network, images, device)
        answer = asked(oracle, images, device, state)
        scale, training = Scale.of(features_ND), recipe.training
        labels_N = images.labels_N.to(device) if images.labelled else None
        order = derive(recipe.seed, "thief", "order")
        batches = FeatureBatches(scale(features_ND), labels_N, training.batch, training.passes, order)
        probe = nn.utils.skip_init(nn.Linear, head.in_features, head.out_features).to(device)
        write_head(probe, *scale.onto(head.weight.detach(), head.bias.detach()))
        past: dict[str, Any] | None = None
        if state is not None:
            past = {**state, "model": state["modules"]["probe"], "modules": {}}
        lesson = Lesson(self.loss, lambda batch: answer.take(batch.index_B), training.smoothing)
        for record in fit(probe, batches, lesson, training, seed=recipe.seed, state=past):
            write_head(head, *scale.off(probe.weight, probe.bias))
            kept = {"probe": probe.state_dict(), "answers": {"values": answer.values}}
            yield replace(record, state={**record.state, "model": student.state_dict(), "modules": kept})


def asked(oracle: Oracle, images: ImageSet, device: torch.device, state: State | None) -> Answer:
    """The answer about each image, asked once; without a budget, a resumed attacker reads those that it was given before."""
    if state is not None and oracle.budget is None:
        return Answer(oracle.access, state["modules"]["answers"]["values"].to(device))
    rows = images.chunks(batch_for(images, device))
    return Answer(oracle.access, torch.cat([oracle.ask(images.seen(chunk, device)).values for chunk in rows]))
