"""An audit that would take longer than its time is made smaller: fewer steps, then one query budget, then two output accesses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from undistill.auditing.config import Request
from undistill.data.image_set import Splits

STEPS = (500, 200, 100, 100)
"""Training steps of an attacker, from one try to the next."""
ACCESS = ("probs", "label")


def smaller(request: Request, data: Splits) -> Iterator[tuple[Request, str]]:
    """The request made smaller again and again, each with what was taken away in words; what was asked for by name stays."""
    half = len(data.pool) // 2 if data.pool is not None else 0
    for place, steps in enumerate(STEPS):
        changes: dict[str, object] = {}
        told = []
        if request.steps is None:
            changes["steps"] = steps
            told.append(f"{steps} training steps per attacker (--steps)")
        if place > 0 and not request.questions and half > 1:
            changes["questions"] = (half,)
            told.append(f"one query budget, {half} (--queries)")
        if place > 2 and not request.serve and request.answers is None:
            changes["serve"] = ACCESS
            told.append(f"output access {' and '.join(ACCESS)} (--access)")
        if changes:
            yield replace(request, **changes), ", ".join(told)  # type: ignore[arg-type]
