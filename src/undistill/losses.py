"""Distillation losses as pure functions of logits, for any training loop, and terms by which images are made without data.

Legend: B batch, C classes (of images and feature maps: channels), D features, H height, W width. Any float dtype comes in; half
precision is computed in float32, float64 stays. All terms are means over the batch, in nats, unless they say otherwise. Logits may
hold −∞ (a class the answer does not mention) as long as each row has one finite value.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from undistill.errors import UsageError

__all__ = [
    "activation_loss",
    "decoupled_kl",
    "distillation_loss",
    "distillation_terms",
    "information_entropy_loss",
    "mean_norm",
    "one_hot_loss",
    "self_undermining_loss",
    "smoothed_cross_entropy",
    "softened_kl",
    "standardised_kl",
    "statistics_distance",
    "total_variation",
]


def softened_kl(p_logits_BC: Tensor, q_logits_BC: Tensor, temperature: float) -> Tensor:
    """τ² · KL(softmax(p/τ) ‖ softmax(q/τ)), mean over the batch, in nats. Differentiable in both arguments.

    A class of probability 0 under p adds nothing (0 · log 0 = 0), also where both logits are −∞; probability under p where q
    has none is an honest ∞.

    Args:
        p_logits_BC: logits of the reference distribution, on the left of the KL.
        q_logits_BC: logits of the other one.
        temperature: τ > 0; τ² keeps gradients comparable across temperatures (Hinton et al. 2015, section 2).

    Returns:
        A scalar, float32 or wider.

    Raises:
        UsageError: τ ≤ 0, or shapes that differ or are not B × C.
    """
    _check_temperature(temperature)
    _check_pair("softened_kl", p_logits_BC, q_logits_BC)
    log_p_BC = F.log_softmax(_wide(p_logits_BC) / temperature, dim=1)
    log_q_BC = F.log_softmax(_wide(q_logits_BC) / temperature, dim=1)
    return _kl(log_p_BC, log_q_BC) * temperature**2


def distillation_loss(
    student_logits_BC: Tensor,
    teacher_logits_BC: Tensor,
    labels_B: Tensor | None,
    *,
    temperature: float,
    alpha: float,
    smoothing: float = 0.0,
) -> Tensor:
    """Knowledge distillation: α τ² KL(teacher ‖ student) + (1 − α) CE(student, labels). No gradient reaches the teacher.

    Source: Hinton et al. 2015; Ma et al. 2021, equation 1 (τ softens the first term only).

    Args:
        student_logits_BC: trained.
        teacher_logits_BC: the victim's response; logits, or log-probabilities, which are logits up to a shift.
        labels_B: int64 classes; may be None where α = 1.
        temperature: τ > 0.
        alpha: weight of the teacher, in [0, 1].
        smoothing: of the labels in the second term; none in the papers.

    Raises:
        UsageError: a value out of range, or no labels where α < 1.
    """
    terms = distillation_terms(
        student_logits_BC, teacher_logits_BC, labels_B, temperature=temperature, alpha=alpha, smoothing=smoothing
    )
    return terms["loss"]


def distillation_terms(
    student_logits_BC: Tensor,
    teacher_logits_BC: Tensor,
    labels_B: Tensor | None,
    *,
    temperature: float,
    alpha: float,
    smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """`loss`, which is `distillation_loss`, and what it weighs: `kd` = τ² KL and, unless α = 1, `ce`."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is a weight in [0, 1], not {alpha}")
    kd = softened_kl(teacher_logits_BC.detach(), student_logits_BC, temperature)
    if alpha == 1:
        return {"loss": kd, "kd": kd}
    if labels_B is None:
        raise UsageError(f"alpha {alpha} weighs labels by {1 - alpha:g}, but there are no labels")
    ce = smoothed_cross_entropy(student_logits_BC, labels_B, smoothing)
    return {"loss": alpha * kd + (1 - alpha) * ce, "kd": kd, "ce": ce}


def standardised_kl(p_logits_BC: Tensor, q_logits_BC: Tensor, temperature: float) -> Tensor:
    """`softened_kl` of z-scores: each row less its mean, divided by its standard deviation (divisor n), τ on top; in nats.

    It sees neither a shift nor a positive scale of a row. Only classes that p shows take part: one of −∞ under p has probability 0
    on both sides, and a row that shows one class adds 0. 10⁻⁶ is added to the variance, so that a row of equal logits has a finite
    gradient and becomes zeros. Source: Sun et al. 2024 (Logit Standardization in Knowledge Distillation), algorithm 1.

    Raises:
        UsageError: as `softened_kl`.
    """
    _check_pair("standardised_kl", p_logits_BC, q_logits_BC)
    shown_BC = p_logits_BC != -torch.inf
    return softened_kl(_z_scores(p_logits_BC, shown_BC), _z_scores(q_logits_BC, shown_BC), temperature)


def decoupled_kl(
    p_logits_BC: Tensor,
    q_logits_BC: Tensor,
    classes_B: Tensor,
    *,
    temperature: float,
    target: float = 1.0,
    beta: float = 0.0,
) -> Tensor:
    """τ² · (target · KL(b ‖ b′) + beta · KL(r ‖ r′)), mean over the batch, in nats. No gradient reaches p.

    b is (probability of the row's class, that of all others together) under softmax(p/τ), r the distribution among the others
    alone; b′ and r′ are those of q. Where p leaves the others nothing there is no r, and that term is 0. For one row
    KL(p ‖ q) = KL(b ‖ b′) + (1 − b of the class) · KL(r ‖ r′).

    Source: Zhao et al. 2022 (Decoupled Knowledge Distillation): its target-class and its non-target-class term, weighed by α and β.

    Args:
        p_logits_BC: logits of the reference, C ≥ 2.
        q_logits_BC: logits of the other one.
        classes_B: int64, the class of each row that is told apart from the others.
        temperature: τ > 0.
        target: weight of the first term.
        beta: weight of the second; 0 leaves it out.

    Raises:
        UsageError: τ ≤ 0, or shapes that differ or are not B × C.
    """
    _check_temperature(temperature)
    _check_pair("decoupled_kl", p_logits_BC, q_logits_BC)
    chosen_BC = F.one_hot(classes_B, p_logits_BC.shape[1]).bool()
    pairs, others = [], []
    for logits_BC in (p_logits_BC.detach(), q_logits_BC):
        log_BC = F.log_softmax(_wide(logits_BC) / temperature, dim=1)
        rest_BC = log_BC.masked_fill(chosen_BC, -torch.inf)
        log_rest_B1 = rest_BC.logsumexp(dim=1, keepdim=True)
        pairs.append(torch.cat([log_BC.gather(1, classes_B[:, None]), log_rest_B1], dim=1))
        others.append(rest_BC - torch.where(log_rest_B1 == -torch.inf, 0.0, log_rest_B1))
    loss = target * _kl(pairs[0], pairs[1])
    if beta:
        loss = loss + beta * _kl(others[0], others[1])
    return loss * temperature**2


def self_undermining_loss(
    logits_BC: Tensor,
    adversary_logits_BC: Tensor,
    labels_B: Tensor,
    *,
    omega: float,
    temperature: float,
    smoothing: float = 0.0,
) -> Tensor:
    """What makes a teacher nasty: CE(nasty, labels) − ω τ² KL(nasty ‖ adversary). No gradient reaches the adversary.

    Source: Ma et al. 2021, equation 2. The gradient flows through the left argument of the KL.

    Args:
        logits_BC: of the network that is trained.
        adversary_logits_BC: of the frozen, normally trained network that it is pushed away from.
        labels_B: int64 classes.
        omega: ω ≥ 0; 0 is ordinary training.
        temperature: τ > 0.
        smoothing: of the labels; none in the paper.

    Raises:
        UsageError: a value out of range.
    """
    if not (omega >= 0 and math.isfinite(omega)):
        raise UsageError(f"omega is a weight of at least 0, not {omega}")
    right = smoothed_cross_entropy(logits_BC, labels_B, smoothing)
    away = softened_kl(logits_BC, adversary_logits_BC.detach(), temperature)
    return right - omega * away


def smoothed_cross_entropy(logits_BC: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against (1 − s) on the label and s / C everywhere (Szegedy et al. 2016, section 7), mean over the batch.

    Raises:
        UsageError: s outside [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing lies in [0, 1), not {smoothing}")
    return F.cross_entropy(_wide(logits_BC), labels_B, label_smoothing=smoothing)


def one_hot_loss(logits_BC: Tensor) -> Tensor:
    """CE(logits, argmax of the logits), mean over the batch, in nats: 0 where the network is sure of each image, ln C at most.

    Source: Chen et al. 2019 (DAFL), equation 3. A scalar; no gradient flows through the argmax.
    """
    return -F.log_softmax(_wide(logits_BC), dim=1).amax(dim=1).mean()


def activation_loss(features_BD: Tensor) -> Tensor:
    """−mean |features| over batch and features, in their own units: low where an image excites the network.

    Source: Chen et al. 2019 (DAFL), equation 4. Any shape.
    """
    return -_wide(features_BD).abs().mean()


def information_entropy_loss(logits_BC: Tensor) -> Tensor:
    """Σ p̄ log₁₀ p̄ with p̄ the batch's mean softmax, in decimal digits: −log₁₀ C where all classes are equally frequent, 0 at most.

    Computed in log space, so that a class that no image is taken for adds 0 and has a finite gradient.
    Source: Chen et al. 2019 (DAFL), equation 5, with the logarithm of the authors' code.
    """
    log_p_BC = F.log_softmax(_wide(logits_BC), dim=1)
    log_mean_C = log_p_BC.logsumexp(dim=0) - math.log(len(log_p_BC))
    log_mean_C = log_mean_C.clamp_min(torch.finfo(log_mean_C.dtype).min)  # 0 · −∞ is no number
    return (log_mean_C.exp() * log_mean_C).sum() / math.log(10)


def statistics_distance(inputs_BC: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
    """‖μ(inputs) − mean‖₂ + ‖σ²(inputs) − variance‖₂, in the units of the inputs and of their square.

    Source: Yin et al. 2020 (DeepInversion), equation 4, for one layer.

    Args:
        inputs_BC: B × C, or B × C × any further dimensions; moments are taken for each channel over all others, σ² with divisor n.
        mean_C: to compare with, such as a batch normalisation's running mean.
        variance_C: likewise.

    Raises:
        UsageError: channels that do not fit.
    """
    if inputs_BC.ndim < 2 or mean_C.shape != inputs_BC.shape[1:2] or variance_C.shape != mean_C.shape:
        raise UsageError(
            f"statistics_distance compares B × C … with C moments, not {tuple(inputs_BC.shape)} with {tuple(mean_C.shape)} and "
            f"{tuple(variance_C.shape)}"
        )
    others = [dim for dim in range(inputs_BC.ndim) if dim != 1]
    variance, mean = torch.var_mean(_wide(inputs_BC), dim=others, correction=0)
    return torch.linalg.vector_norm(mean - mean_C) + torch.linalg.vector_norm(variance - variance_C)


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Σ ‖x − x shifted by a pixel‖₂ over four directions (right, down, both diagonals), each norm over the whole batch.

    In the units of the pixels; 0 for images of one colour. Source: the authors' code of Yin et al. 2020 (DeepInversion), where the
    norm is the batch's, so the term grows with √B.
    """
    x = _wide(images_BCHW)
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()


def mean_norm(images_BCHW: Tensor) -> Tensor:
    """‖x‖₂ of each image, mean over the batch, in the units of the pixels. Source: Yin et al. 2020 (DeepInversion), section 3.1."""
    return torch.linalg.vector_norm(_wide(images_BCHW).flatten(1), dim=1).mean()


def _kl(log_p_BC: Tensor, log_q_BC: Tensor) -> Tensor:
    """KL of log-probabilities, mean over the batch; 0 · log 0 = 0."""
    p_BC = log_p_BC.exp()
    held_BC = p_BC > 0
    log_ratio_BC = torch.where(held_BC, log_p_BC, 0.0) - torch.where(held_BC, log_q_BC, 0.0)
    return (p_BC * log_ratio_BC).sum(dim=1).mean()


def _z_scores(logits_BC: Tensor, shown_BC: Tensor) -> Tensor:
    """Each row's z-scores over the classes that are shown; −∞ elsewhere."""
    count_B1 = shown_BC.sum(dim=1, keepdim=True)
    logits_BC = torch.where(shown_BC, _wide(logits_BC), 0.0)
    centred_BC = torch.where(shown_BC, logits_BC - logits_BC.sum(dim=1, keepdim=True) / count_B1, 0.0)
    variance_B1 = centred_BC.square().sum(dim=1, keepdim=True) / count_B1
    return (centred_BC * (variance_B1 + 1e-6).rsqrt()).masked_fill(~shown_BC, -torch.inf)


def _check_pair(who: str, p_logits_BC: Tensor, q_logits_BC: Tensor) -> None:
    if p_logits_BC.shape != q_logits_BC.shape or p_logits_BC.ndim != 2:
        raise UsageError(
            f"{who} compares two B × C tensors of one shape, not {tuple(p_logits_BC.shape)} and {tuple(q_logits_BC.shape)}"
        )


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature must be above 0, not {temperature}")


def _wide(logits_BC: Tensor) -> Tensor:
    return logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()
