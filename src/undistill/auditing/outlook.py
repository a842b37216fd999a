"""What an audit's first screen says beside its numbers: names, whether the data are enough, what would tell more. No torch."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from undistill.auditing.evidence import Evidence
from undistill.auditing.precision import first_budget, precision
from undistill.auditing.result import Outlook
from undistill.auditing.suite import SUITES
from undistill.experiments.plan import Plan, Subject
from undistill.threat_model import Card

FEWEST_TESTS = 200
"""Test images below which one image is half a point of accuracy or more."""
TOO_FEW_TESTS = 100
FEWEST_QUERIES = 20
CORES = 2
"""Processes that minutes are given for."""
PLAIN = ("model", "", ".")
"""Last parts of a path that name no model."""


def outlook(evidence: Evidence) -> Outlook:
    """All of it."""
    plan = evidence.plan
    ours = next(subject for subject in plan.subjects if subject.side == "defended")
    control = next((subject for subject in plan.subjects if subject.side == "undefended"), None)
    found = precision(evidence)
    more = None if found.seeds is None or not math.isfinite(found.width) else max(found.seeds - len(plan.seeds), 0)
    minutes = None if more is None or plan.question == "method" else _minutes(evidence, more)
    return Outlook(
        model=name_of_model(ours, plan),
        control="" if control is None or plan.question == "method" else name_of_model(control, plan),
        defended=bool(ours.defense or ours.behind),
        folder=str(evidence.folder),
        place=ours.model,
        width=round(found.width, 4) if math.isfinite(found.width) else None,
        seeds_needed=found.seeds,
        images_needed=found.images,
        minutes=minutes,
        command=_command(plan, str(evidence.folder), found.seeds, minutes) if more else "",
        chance=round(100 / plan.classes, 4),
        few=too_few(plan.test_images, budgets(plan), plan.classes) or "",
    )


def name_of_model(subject: Subject, plan: Plan) -> str:
    """The model's own name: the last part of its path that says something, `predict` of `my_api.py:predict`, else its label."""
    label = (subject.label or subject.name).removesuffix(", the twin")
    if plan.question == "method" or subject.model.startswith("("):
        return label
    if ":" in subject.model:
        return label if subject.answers else subject.model.partition("@")[0].rpartition(":")[2]
    name = next((part for part in reversed(PurePath(subject.model).parts) if part not in PLAIN), label)
    name = re.sub(r"-[0-9a-f]{8,}$", "", name)  # a hash tells a person nothing
    behind = ", ".join(str(item.get("name", "")) for item in subject.behind)
    return f"{name} with {behind}" if behind else name


def budgets(plan: Plan) -> list[int]:
    """The plan's numbers of queries, in order."""
    return sorted({count for card in plan.cards if (count := Card.parse(card).questions) is not None})


def too_few(tests: int, queries: Sequence[int], classes: int, total: int | None = None) -> str | None:
    """Why so few data answer nothing, and how many would do; None where they are enough.

    Args:
        tests: test images.
        queries: the query budgets; empty for none.
        classes: of the data.
        total: images in all, which the number that would do is then given for.
    """
    enough = max(FEWEST_QUERIES, 2 * classes)
    few_queries = bool(queries) and max(queries) < enough
    if tests >= TOO_FEW_TESTS and not few_queries:
        return None
    times = max(FEWEST_TESTS / tests, enough / max(queries) if few_queries else 1.0)
    budget = f" and {queries[0] if len(queries) == 1 else f'{queries[0]} to {queries[-1]}'} queries" if queries else ""
    wanted = (
        f"about {times:.1f} times as many images" if total is None else f"about {_round_up(times * total):,} images"
    )
    return (
        f"too few data for an answer: {tests:,} test images{budget}; one test image is {100 / tests:.1f} points of accuracy. "
        f"{wanted[0].upper()}{wanted[1:]} would do, so that {FEWEST_TESTS} are for testing and an attacker can query {enough}"
    )


def _round_up(count: float) -> int:
    """To two digits: 1,030 → 1,100."""
    step = 10 ** max(0, len(str(int(count))) - 2)
    return math.ceil(count / step) * step


def _minutes(evidence: Evidence, seeds: int) -> float:
    """Minutes that so many more seeds take on two cores, by what the cells of a seed took."""
    first = first_budget(evidence)
    report = [
        p
        for p in evidence.plan.cells
        if p.role not in ("served", "search") and Card.parse(p.card).questions in (first, None)
    ]
    spent = [evidence.done[p.key].seconds for p in report if p.key in evidence.done]
    of_a_seed = sum(spent) / max(len({p.seed for p in report if p.key in evidence.done}), 1)
    return round(seeds * of_a_seed / CORES / 60, 2)


def _command(plan: Plan, folder: str, seeds: int | None, minutes: float | None) -> str:
    """The command that adds what is missing: in the same folder where the suite adds seeds, else in a new one."""
    if plan.question == "method" or seeds is None:
        return ""
    words = shlex.split(plan.command) or ["undistill", "audit", *_arguments(plan)]
    grows = plan.suite in SUITES and SUITES[plan.suite].grows and "--seeds" not in words
    words = _without(words, ("--time", "--out", "-o", "--seeds"))
    if grows:
        whole = max(1, math.ceil(1.25 * (minutes or 0)))
        return shlex.join([*words, "--time", f"{whole}m", "-o", folder])
    return shlex.join([*words, "--seeds", str(seeds), "-o", f"{folder}-{seeds}-seeds"])


def _arguments(plan: Plan) -> list[str]:
    ours = next(subject for subject in plan.subjects if subject.side == "defended")
    control = next((subject for subject in plan.subjects if subject.side == "undefended"), None)
    given = ["--control", control.model] if control is not None and control.model != ours.model else []
    for item in ours.behind:
        settings = [f"{key}={value}" for key, value in item.items() if key != "name"]
        given += ["--output-defense", " ".join([str(item["name"]), *settings])]
    return [ours.model, *given]


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words of a command without these options and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not any(re.match(rf"{re.escape(option)}=", word) for option in options):
            kept.append(word)
    return kept
