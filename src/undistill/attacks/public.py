"""The last layer of a victim, solved for: an attacker who knows the encoder in front of it.

Legend: B batch, C classes, D features, M of N images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.attacks.average import Noted
from undistill.attacks.base import ATTACKS, Lesson
from undistill.attacks.head_refit import fitted
from undistill.attacks.kd import DistillsAnything
from undistill.attacks.linear_probe import asked
from undistill.attacks.sanitise import completed, probabilities
from undistill.data.image_set import ImageSet
from undistill.oracle.oracle import Answer, Oracle
from undistill.threat_model import Access
from undistill.training.evaluate import accuracy
from undistill.training.features import Scale, check_head, linear_head, read_all, write_head
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.recipe import Recipe
from undistill.training.train import image_batches

RIDGE = 1e-12
"""Of the squared singular values, relative to the largest: what of the features is rounding is not read."""
SMALLEST = math.log(torch.finfo(torch.float32).tiny)
"""Logarithm of the smallest probability that float32 keeps whole."""
ITERATIONS = 300
"""Of a fit, at most."""
L2 = 1e-3
"""On the weights over standardised features, where outputs are no exact probabilities and a layer is fitted instead."""


@ATTACKS.register
class Public(DistillsAnything):
    """Solve for the last layer of the victim, where its encoder is public: no training, one query more than there are features.

    log p_i − mean log p = (w_i − mean w) · z + b_i − mean b: linear equations in the last layer, z the student's features.

    Each image is queried once, without augmentation. With all probabilities at full precision this is least squares in float64.
    Rounded or top-k probabilities, or labels, make it a cross-entropy fit instead, Σ CE(W z + b, response) + l2/2 · ‖W‖². The
    least-squares solution is exact if the student starts from the encoder that the victim uses; otherwise it is approximate.
    `finetune` then trains all layers from there, as `kd` does, on the same responses. Source: our own; the softmax equations are
    those of Tramèr et al., Stealing Machine Learning Models via Prediction APIs, 2016, section 4.1.
    """

    name: Literal["public"] = "public"
    finetune: bool = False

    def check(self, student: nn.Module, victim: nn.Module | None = None) -> None:
        """UsageError for a student without a linear head that has a bias."""
        check_head(student, self.name, "student", biased=True)

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
        """Solve, and with `finetune` train; UsageError for a student without a linear head."""
        began = time.perf_counter()
        network, head = linear_head(student, self.name, "student", biased=True)
        answer = asked(oracle, images, device, state)
        kept = {"answers": {"values": answer.values}} if oracle.budget is None else {}  # else they are asked for again
        solved: dict[str, float] = {}
        if state is None:
            features_ND, _ = read_all(network, images, device)
            exact = answer.access is not Access.LABEL and oracle.digits is None
            found = solve(features_ND, answer, head.out_features, exact=exact)
            write_head(head, *(part.to(features_ND) for part in found))
            with torch.no_grad():
                logits_NC = head(features_ND)
                labels_N = images.labels_N.to(device) if images.labelled else answer.labels_B
                terms = self.loss(logits_NC, answer, labels_N, recipe.training.smoothing)
            solved = {name: float(term) for name, term in terms.items()}
            solved["agreement"] = accuracy(logits_NC.cpu(), answer.labels_B.cpu())
        if not self.finetune:
            if state is not None:
                student.load_state_dict(state["model"])
                return
            whole = {
                "epoch": 1,
                "model": student.state_dict(),
                "modules": kept,
                "optimizer": {"state": {}, "param_groups": []},
            }
            yield EpochRecord(1, 1, solved, len(images), time.perf_counter() - began, 0.0, whole)
            return
        batches = image_batches(images, recipe, role="thief", device=str(device))
        row_N = torch.full((images.source_size,), -1, device=device)
        row_N[images.index_N.to(device)] = torch.arange(len(images), device=device)
        lesson = Lesson(self.loss, Noted(answer, row_N), recipe.training.smoothing)
        past = None if state is None else {**state, "modules": {}}
        for record in fit(student, batches, lesson, recipe.training, seed=recipe.seed, state=past):
            record.state["modules"] = kept
            yield record


def solve(features_ND: Tensor, answer: Answer, classes: int, *, exact: bool) -> tuple[Tensor, Tensor]:
    """(C × D weights, C biases) in float64 on the CPU of a layer that reads these features and answers as the victim did.

    `exact` where the responses are not rounded; still a fit where too few of them show all classes.
    """
    scale = Scale.of(features_ND)
    z_ND = scale(features_ND).double().cpu()
    if exact:
        log_p_NC = answer.scores_BC.double().log_softmax(dim=1).cpu()
        whole_N = (log_p_NC > SMALLEST).all(dim=1)  # a smaller probability may have lost digits, or all of them
        if int(whole_N.sum()) > z_ND.shape[1] or bool(whole_N.all()):
            return _unscaled(scale, *least_squares(z_ND[whole_N], log_p_NC[whole_N]))
    if answer.access is Access.LABEL:
        return _unscaled(scale, *fitted(z_ND, F.one_hot(answer.labels_B.cpu(), classes), L2, ITERATIONS))
    return _unscaled(scale, *fitted(z_ND, completed(probabilities(answer)).cpu(), L2, ITERATIONS))


def _unscaled(scale: Scale, weight_CD: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    rate_D = scale.rate_D.double().cpu()
    plain_CD = weight_CD * rate_D
    return plain_CD, bias_C - plain_CD @ scale.mean_D.double().cpu()


def least_squares(features_ND: Tensor, log_p_NC: Tensor) -> tuple[Tensor, Tensor]:
    """(C × D weights, C biases) in float64: the smallest that answer with these log-probabilities, up to a shift of each row.

    Nothing is clipped: small probabilities say as much about the layer as large ones. `RIDGE` drops directions in which the
    features do not differ.
    """
    a_NE = torch.cat([features_ND.double(), torch.ones(len(features_ND), 1, dtype=torch.float64)], dim=1)
    target_NC = log_p_NC.double() - log_p_NC.double().mean(dim=1, keepdim=True)
    u_NR, s_R, vh_RE = torch.linalg.svd(a_NE, full_matrices=False)
    gain_R = s_R / (s_R.square() + RIDGE * s_R[0] ** 2)
    solution_EC = vh_RE.T @ (gain_R[:, None] * (u_NR.T @ target_NC))
    return solution_EC[:-1].T, solution_EC[-1]
