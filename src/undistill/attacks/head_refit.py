"""A new classifier on the victim's features, and a student of the two.

Legend: C classes, D features, M labelled images, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.insider import PAST_ANSWERS, Inside, frozen
from undistill.attacks.kd import Distills
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Oracle
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.evaluate import accuracy
from undistill.training.features import Scale, check_head, linear_head, read_all, write_head
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches


@ATTACKS.register
class HeadRefit(Distills):
    """Fit a new last layer on the features of the victim, then distil that; needs the weights.

    A new last layer of the victim minimises Σ CE(W z + b, label) + l2/2 · ‖W‖², z its standardised features.

    `labels_per_class` images of each class are used, drawn at (seed, "thief", "refit"); None uses all that the attacker holds.
    Labels are the true ones where it holds them, else the victim's own top classes. Then the student learns from the victim with
    that layer: α τ² KL(victim ‖ student) + (1 − α) CE(student, label). Source: our own. A defense that
    is trained on answers leaves features that tell classes apart, for else its accuracy would be gone; the layer that reads them
    is cheap to fit again.
    """

    name: Literal["head-refit"] = "head-refit"
    labels_per_class: int | None = Field(20, ge=1)
    l2: float = Field(1.0, gt=0)
    needs: ClassVar[Access | None] = Access.WEIGHTS
    reads: ClassVar[Access] = Access.WEIGHTS
    knows: ClassVar[tuple[str, ...]] = PAST_ANSWERS

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError where the victim does not end in a linear layer on features."""
        if victim is not None:
            check_head(victim, self.name, "victim")

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
        """Refit, then train `student`; a resumed attacker refits again, to the same layer.

        UsageError for a victim without a linear head. In the records `refit` is how often the new layer and the victim name the
        same class, percent of the images held.
        """
        victim, head = linear_head(frozen(oracle.weights(), device), self.name, "victim")
        features_ND, logits_NC = read_all(victim, images, device)
        if state is None:
            oracle.forwards += len(images)
        agreement = refit(head, features_ND, logits_NC, images, self.labels_per_class, self.l2, recipe.seed)
        batches = image_batches(images, recipe, role="thief", device=str(device))
        lesson = Lesson(self.loss, Inside(oracle, victim), recipe.training.smoothing)
        for record in fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=state):
            yield replace(record, terms={**record.terms, "refit": agreement})


@torch.no_grad()
def refit(
    head: nn.Linear,
    features_ND: Tensor,
    logits_NC: Tensor,
    images: ImageSet,
    per_class: int | None,
    l2: float,
    seed: int,
) -> float:
    """Fit `head` in place on a few labels; how often it and the logits name the same class, percent.

    Args:
        head: reads the features; gets a bias where it has none.
        features_ND: of the images, on any device.
        logits_NC: the victim's, whose top classes are the labels where `images` have none.
        images: whose labels are used.
        per_class: images of each class; None for all.
        l2: on the weights over standardised features.
        seed: draws the images.
    """
    said_N = logits_NC.argmax(dim=1).cpu()
    labels_N = images.labels_N if images.labelled else said_N
    rows_M = few(labels_N, per_class, seed)
    scale = Scale.of(features_ND)
    z_MD = scale(features_ND)[rows_M.to(features_ND.device)].cpu()
    weight_CD, bias_C = logistic(z_MD, labels_N[rows_M], logits_NC.shape[1], l2)
    write_head(head, *scale.off(weight_CD.to(features_ND), bias_C.to(features_ND)))
    return accuracy(head(features_ND).cpu(), said_N)


def few(labels_N: Tensor, per_class: int | None, seed: int) -> Tensor:
    """Rows of at most `per_class` images of each class, in order, drawn at (seed, "thief", "refit"); all of them for None."""
    if per_class is None:
        return torch.arange(len(labels_N))
    order_N = torch.randperm(len(labels_N), generator=generator(seed, "thief", "refit"))
    drawn = [order_N[labels_N[order_N] == label][:per_class] for label in labels_N.unique()]
    return torch.cat(drawn).sort().values


def logistic(features_MD: Tensor, labels_M: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor]:
    """(C × D weights, C biases) in float64 that minimise Σ CE(W x + b, label) + l2/2 · ‖W‖², on the CPU.

    A class without an image gets a bias so low that it is never named.
    """
    return fitted(features_MD, F.one_hot(labels_M, classes), l2)


def fitted(features_MD: Tensor, target_MC: Tensor, l2: float, iterations: int = 2000) -> tuple[Tensor, Tensor]:
    """`logistic` for rows of probabilities in place of labels. L-BFGS, until it stands still or has taken so many steps."""
    from scipy.optimize import minimize

    x_MD, right_MC, (count, classes) = features_MD.double(), target_MC.double(), target_MC.shape
    size = classes * x_MD.shape[1]

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean over the images, and its gradient."""
        weight_CD, bias_C = torch.from_numpy(flat[:size]).view(classes, -1), torch.from_numpy(flat[size:])
        log_p_MC = F.log_softmax(x_MD @ weight_CD.T + bias_C, dim=1)
        loss = -(right_MC * log_p_MC).sum() + l2 / 2 * weight_CD.square().sum()
        wrong_MC = log_p_MC.exp() - right_MC
        gradient = torch.cat([(wrong_MC.T @ x_MD + l2 * weight_CD).flatten(), wrong_MC.sum(dim=0)])
        return float(loss) / count, gradient.numpy() / count

    most = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": 1e-8, "ftol": 1e-14}
    found = torch.from_numpy(minimize(value, np.zeros(size + classes), jac=True, method="L-BFGS-B", options=most).x)
    return found[:size].view(classes, -1), found[size:]
