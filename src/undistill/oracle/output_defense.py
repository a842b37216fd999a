"""Answer-side defenses: they change responses and nothing else.

Legend: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from undistill.errors import UsageError
from undistill.registry import Component, Registry, parsed, registry
from undistill.threat_model import Access


class AnswerDefense(Component):
    """Changes answers and trains nothing. `shows` is the most that its answers can be served as; `random`: it draws noise."""

    shows: ClassVar[Access] = Access.PROBS
    random: ClassVar[bool] = False

    def answer(self, probs_BC: Tensor, rng: torch.Generator) -> Tensor:
        """What the server sends in place of these probabilities.

        Args:
            probs_BC: float32 or float64, at least 0; a row sums to at most 1, and may hold zeros.
            rng: a CPU generator, for those that are `random`.

        Returns:
            B × C of the same dtype and device, at least 0. A row sums to at most 1, but for the last digit of rounded ones.
        """
        raise NotImplementedError


ANSWER_DEFENSES: Registry[AnswerDefense] = Registry("answer-defense", "undistill.defenses")


def chain(items: Sequence[str | dict[str, Any] | AnswerDefense]) -> tuple[AnswerDefense, ...]:
    """Answer-side defenses, the first of which acts first, from names, shell texts, settings or records.

    A shell text is `NAME [SETTING=VALUE …]`, each value YAML: `rounding digits=1`.

    Raises:
        UsageError: a name, a setting or a value that there is not.
    """
    wanted = [items] if isinstance(items, str | dict | AnswerDefense) else items
    return tuple(_made(item) for item in wanted)


def _made(item: Any) -> AnswerDefense:
    values = parsed(item, "output defense", "rounding digits=1") if isinstance(item, str) else item
    name = values.get("name") if isinstance(values, dict) else None
    if isinstance(name, str) and name not in ANSWER_DEFENSES.everything() and name in registry("defense").everything():
        raise UsageError(
            f"{name} trains a network and changes no answers: make a hardened one with protect --defense {name}"
        )
    return ANSWER_DEFENSES.make(values)


def shown(access: Access, defenses: Sequence[AnswerDefense]) -> Access:
    """The access that is left behind a chain: never more than probabilities, unless the attacker holds the weights anyway."""
    if access is Access.WEIGHTS or not defenses:
        return access
    return min(access, Access.PROBS, *(defense.shows for defense in defenses))


def suits(defenses: Sequence[AnswerDefense], given: Access, victim: str) -> None:
    """UsageError where a victim that answers with labels alone is put behind something that changes probabilities."""
    wrong = [defense.name for defense in defenses if defense.shows > Access.LABEL]
    if given is Access.LABEL and wrong:
        raise UsageError(f"{victim} answers with labels, and {wrong[0]} changes probabilities: leave it out")


def serve(scores_BC: Tensor, given: Access, defenses: Sequence[AnswerDefense], rng: torch.Generator) -> Tensor:
    """B × C probabilities behind a chain, float32 or wider.

    Args:
        scores_BC: logits where `given` is LOGITS or more, else probabilities; −∞ and 0 may be among them.
        given: what the scores are; not LABEL.
        defenses: the first acts first.
        rng: for those that are random.
    """
    wide_BC = scores_BC.float() if scores_BC.dtype in (torch.float16, torch.bfloat16) else scores_BC
    probs_BC = wide_BC.softmax(dim=1) if given >= Access.LOGITS else wide_BC / wide_BC.sum(1, keepdim=True).clamp_min(1)
    for defense in defenses:
        probs_BC = defense.answer(probs_BC, rng)
    return probs_BC


def keep_top(probs_BC: Tensor, k: int) -> Tensor:
    """B × C: the k largest of each row as they are, the others 0. Of equal ones the first is kept."""
    if k >= probs_BC.shape[1]:
        return probs_BC
    order_BC = probs_BC.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(probs_BC).scatter_(1, order_BC, probs_BC.gather(1, order_BC))


def rounded(probs_BC: Tensor, digits: int) -> Tensor:
    """B × C: to so many digits behind the point, half to even; a row may then sum to a little more than 1.

    Where every class would be 0, the top one (the first of equals) keeps one unit of the last digit.
    """
    rounded_BC = probs_BC.round(decimals=digits)
    nothing_B = (rounded_BC == 0).all(dim=1)
    rows_M = nothing_B.nonzero().squeeze(1)
    rounded_BC[rows_M, probs_BC[rows_M].argmax(dim=1)] = 10.0**-digits
    return rounded_BC
