"""What a judgement says in sentences, for an owner who knows nothing of distillation. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterator

from undistill.auditing.case import Case
from undistill.auditing.naming import shown
from undistill.auditing.result import Estimate
from undistill.auditing.verdict import INCONCLUSIVE, NOTHING
from undistill.experiments.plan import Plan
from undistill.threat_model import Access, Card

ALWAYS = "Attacks that are not implemented: every number is of the best attack found, and a better one may exist."


def sentence(
    case: Case,
    *,
    tried: int,
    images: int,
    best: Estimate | None,
    twin: Estimate | None,
    labels: Estimate | None,
    equivalents: tuple[float | None, bool],
) -> str:
    """What a threat model amounts to: the best attack found beside the model, its control and labels; what the defense took."""
    if best is None:
        return "No attack on your model has been computed yet."
    parts = [_reached(case, tried, images, best)]
    served = case.evidence.accuracy("defended", case.card.serving)
    if served is not None:
        parts[0] += f"; your model has {served:.1f}"
    beside = []
    if twin is not None:
        beside.append(f"Undefended: {twin.mean:.1f}")
    if labels is not None and case.card.access is not Access.LABEL:
        beside.append(f"{'labels' if beside else 'Labels'} alone: {labels.mean:.1f}")
    parts += ["; ".join(beside)] if beside else []
    number, beyond = equivalents
    if number is not None:
        more = "more than " if beyond else "about "
        parts.append(f"Without your model, an attacker would need {more}{number:,.0f} labeled images for that")
    parts += _took(case)
    return " ".join(f"{part}." for part in parts)


def _reached(case: Case, tried: int, images: int, best: Estimate) -> str:
    card = case.card
    answers = "your weights" if card.access is Access.WEIGHTS else _yours(card)
    kind = {"labelled": "labeled", "unlabelled": "unlabeled"}.get(card.data, card.data)
    held = f"{images:,} {kind} images" if card.data != "none" else "no images of its own"
    if card.pool == "trained":
        held += " that your model was trained on"
    who = f"the best of {tried} attacks found" if tried != 1 else "the one attack tried"
    interval = "" if best.low is None or best.high is None else f" (95 %: {best.low:.1f}–{best.high:.1f})"
    return f"With {held} and {answers}, {who} reached {best.mean:.1f} %{interval}"


def _yours(card: Card) -> str:
    text = shown(card)
    return f"your {text.removeprefix('the ')}"


def _took(case: Case) -> Iterator[str]:
    verdict, _ = case.judged
    if verdict is None or verdict == INCONCLUSIVE:
        return
    room, took = case.contrasts.headroom, case.contrasts.took
    if verdict == NOTHING:
        yield (
            f"Soft outputs of the undefended control are worth {max(room.mean, 0.0):.1f} points here, so there is no "
            "soft-label advantage to defend"
        )
        return
    yield (
        f"The defense removed {max(took.mean, 0.0):.1f} of the {room.mean:.1f} points that a defense keeping the class can remove"
    )


def not_tried(plan: Plan) -> tuple[str, ...]:
    """What the plan left out and why, and what no plan can try."""
    return (*(f"{skipped.what[:1].upper()}{skipped.what[1:]}: {skipped.why}." for skipped in plan.skipped), ALWAYS)
