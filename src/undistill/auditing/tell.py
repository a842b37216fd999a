"""A plan in lines for a terminal. Never imports torch."""

from __future__ import annotations

import os
from collections import Counter, defaultdict

from undistill.auditing.planned import Plan

ROLES = {
    "served": "what users get",
    "search": "the search",
    "soft": "thieves of scores",
    "labels": "thieves of labels",
    "naive": "the paper's student",
    "alone": "students alone",
    "curve": "students alone, other numbers of images",
    "effort": "the best thief with more effort",
}


def told(plan: Plan, jobs: int | None = None) -> list[str]:
    """What will be computed, what it costs, what it can resolve, and what is skipped."""
    count = jobs or len(os.sched_getaffinity(0))
    seconds = sum(cell.seconds or 0.0 for cell in plan.cells)
    resolves = "nothing" if plan.resolves is None else f"differences of about {plan.resolves:g} points"
    lines = [
        f"{plan.title}: {len(plan.cells)} cells of {plan.suite}, seeds {span(plan.seeds)}",
        f"about {clock(seconds)} of one process, {clock(seconds / count)} with {count}; a few steps were timed",
        f"δ {plan.delta:g} points on {plan.test_images:,} test images; expected to resolve {resolves}",
    ]
    if not plan.verdicts:
        lines.append(f"{plan.suite} gives an indication, no verdict")
    elif not plan.controlled:
        lines.append("no --control: exposure alone, no verdict")
    stages: dict[int, list[int]] = defaultdict(list)
    for place, cell in enumerate(plan.cells):
        stages[cell.stage].append(place)
    for stage, places in sorted(stages.items()):
        roles = Counter(plan.cells[place].role for place in places)
        said = ", ".join(f"{count} {ROLES[role]}" for role, count in roles.items())
        lines.append(f"stage {stage}: --index {places[0]} to {places[-1]}: {said}")
    lines += [f"card {card}" for card in plan.cards]
    lines += [f"skipped: {left.what}: {left.why}" for left in plan.skipped]
    return lines


def span(seeds: tuple[int, ...]) -> str:
    """`0–4`, or each of them."""
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def clock(seconds: float) -> str:
    """`48 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
