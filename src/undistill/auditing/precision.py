"""How precise an audit is, what would make it more precise, and how it is made to fit its time. Reads widths alone. No torch."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from undistill.auditing.case import Case, cases
from undistill.auditing.evidence import Arm, Evidence
from undistill.auditing.result import Outlook
from undistill.auditing.suite import SUITES, resolution_range, seeds_for
from undistill.auditing.text import clock, name_of_model, period, seeds_text, without
from undistill.experiments.plan import TWICE, Plan
from undistill.statistics import half_width, image_error
from undistill.threads import usable
from undistill.threat_model import ThreatModel

if TYPE_CHECKING:
    from undistill.auditing.config import AuditConfig
    from undistill.data.image_set import Splits

ENOUGH = 8
"""Seeds that are computed where no number of them resolves δ, because there are too few test images."""
MOST = 2_000
KNOWN = 4
"""Seeds from which their own spread says how many are needed; before, that of other audits does."""
FEWEST_TESTS = 200
"""Test images below which one image is half a point of accuracy or more."""
TOO_FEW_TESTS = 100
FEWEST_QUERIES = 20
CORES = 2
"""Processes that minutes are given for."""
STEPS = (500, 200, 100, 100)
"""Training steps of an attacker, from one try to the next, of an audit that is made smaller."""
ACCESS = ("probs", "label")
USUAL_SIDE = 64
"""Pixels that are offered where larger images take too long."""
ROLES = {
    "served": "what users get",
    "search": "the search",
    "soft": "attacks on soft outputs",
    "labels": "attacks on labels",
    "naive": "the paper's student",
    "alone": "baselines",
    "curve": "baselines, other numbers of images",
    "effort": "the best attack with more effort",
}


@dataclass(frozen=True)
class Precision:
    """`width`: half-width of the differences that the answer rests on, points; infinite where there is none yet.

    `seeds`: how many report seeds are expected to bring it to δ; None where the error from having few test images alone is larger,
    which is `of_images` points. `images`: how many test images would do then.
    """

    width: float
    seeds: int | None
    of_images: float = 0.0
    images: int | None = None


def precision(evidence: Evidence) -> Precision:
    """The widest of the first query budget, over output accesses that give more than labels; of labels where there is no other."""
    every = cases(evidence)
    first = _first_budget(every)
    here = [case for case in every if case.threat_model.questions == first]
    found = [_of(case) for case in [case for case in here if not case.label_only] or here]
    return max(found, key=lambda one: (one.width, one.of_images), default=Precision(math.inf, None))


def outlook(evidence: Evidence) -> Outlook:
    """What the first screen needs beside the numbers."""
    plan, folder = evidence.plan, str(evidence.folder)
    ours = next(subject for subject in plan.subjects if subject.side == "defended")
    control = next((subject for subject in plan.subjects if subject.side == "undefended"), None)
    found = precision(evidence)
    more = None if found.seeds is None or not math.isfinite(found.width) else max(found.seeds - len(plan.seeds), 0)
    minutes = None if more is None or plan.question == "method" else _minutes(evidence, more)
    return Outlook(
        model=name_of_model(ours, plan),
        control="" if control is None or plan.question == "method" else name_of_model(control, plan),
        defended=bool(ours.defense or ours.behind),
        folder=folder,
        place=ours.model,
        width=round(found.width, 4) if math.isfinite(found.width) else None,
        seeds_needed=found.seeds,
        images_needed=found.images,
        minutes=minutes,
        command=_command(plan, folder, found.seeds, minutes) if more and found.seeds else "",
        chance=round(100 / plan.classes, 4),
        few=too_few(plan.test_images, budgets(plan), plan.classes) or "",
    )


def budgets(plan: Plan) -> list[int]:
    """The plan's query budgets, in order."""
    return sorted({count for text in plan.cards if (count := ThreatModel.parse(text).questions) is not None})


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
        f"About {times:.1f} times as many images" if total is None else f"About {_two_digits(times * total):,} images"
    )
    parts = [f"{FEWEST_TESTS} for testing"] if tests < FEWEST_TESTS else []
    parts += [f"{enough} for an attacker to query"] if few_queries else []
    return (
        f"too few data for an answer: {tests:,} test images{budget}; one test image is {100 / tests:.1f} points of accuracy. "
        f"{wanted} would do ({' and '.join(parts)})"
    )


def announced(
    plan: Plan,
    span: tuple[float, float],
    *,
    seeds: tuple[int, int] | None = None,
    seconds: float | None = None,
    total: int | None = None,
) -> list[str]:
    """What is about to be computed, how long that takes and how precise it will be; a line each.

    Args:
        plan: of the first round.
        span: seconds of wall time that what is missing of it takes, from and to.
        seeds: how many are expected to fit into the time, from and to, where the suite adds some.
        seconds: the time, where the suite adds seeds until it is used.
        total: images of the data in all.
    """
    models = [ThreatModel.parse(text) for text in plan.cards]
    accesses = sorted(dict.fromkeys(one.serving for one in models), key=lambda name: name == "weights")
    counts = ", ".join(f"{count:,}" for count in budgets(plan))
    lines = [f"{_names(plan)}: outputs {', '.join(accesses)}; {counts or 'all'} queries"]
    takes = f"take {period(*span)}" if span[1] > 1 else "are there already"
    if seconds is None:
        lines.append(f"{len(plan.cells)} trainings {takes}")
    else:
        added = f"seeds are added until {clock(seconds)} are used, or until"
        lines.append(f"the first {len(plan.seeds)} seeds {takes}; {added}")
        lines.append(f"differences of δ = {plan.delta:g} points are resolved on {plan.test_images:,} test images")
    few, many = (max(count, len(plan.seeds)) for count in seeds or (0, 0))
    if plan.question == "model" and (best := resolution_range(many, plan.test_images)) is not None:
        worst = resolution_range(few, plan.test_images) or best
        how_many = f"{few} seeds" if few == many else f"{few} to {many} seeds"
        lines.append(f"expected resolution: {best[0]:.1f} to {worst[1]:.1f} points, with {how_many}")
        if best[0] > plan.delta and seeds_for(plan.delta, plan.test_images) is None:
            lines.append(
                f"warning: no number of seeds resolves {plan.delta:g} points on {plan.test_images:,} test images"
            )
    if any(one.data == "unlabelled" and one.pool == "trained" for one in models):
        lines.append(
            "warning: the attacker queries images that the model was trained on, where its labels are nearly the true ones; "
            "train it with --pool to set fresh images aside"
        )
    lines += [queried(plan, subject.name) for subject in plan.subjects if subject.answers]
    small = too_few(plan.test_images, budgets(plan), plan.classes, total)
    return lines + ([f"warning: {small}"] if small else [])


def queried(plan: Plan, victim: str) -> str:
    """How many images a function or an endpoint is queried about at most; what its query log holds already is not."""
    cells = [planned for planned in plan.cells if planned.victim == victim]
    again = TWICE * sum(planned.role == "served" for planned in cells)
    most: dict[int, int] = {}
    for planned in cells:
        most[planned.seed] = max(most.get(planned.seed, 0), ThreatModel.parse(planned.card).questions or 0)
    budget = sum(most.values())
    return (
        f"{plan.subject(victim).label} is queried about at most {plan.test_images + again + budget:,} images: {plan.test_images:,} "
        f"test images, {again} of them twice, and {budget:,} by attackers"
    )


def fewer_pixels(plan: Plan, size: int) -> str:
    """How much less work smaller images are, for an audited function; "" for a network, which has a size of its own."""
    return faster(size) if any(subject.answers for subject in plan.subjects) else ""


def faster(size: int) -> str:
    """How much less work images of a usual size are: as many times as there are fewer pixels; "" for small ones."""
    times = (size / USUAL_SIDE) ** 2
    return f"--size {USUAL_SIDE} makes it about {times:.0f} times faster" if times >= 2 else ""


def smaller(config: AuditConfig, data: Splits) -> Iterator[tuple[AuditConfig, str]]:
    """The audit made smaller again and again, each with what was taken away in words; what was asked for by name stays.

    First fewer steps, then one query budget, then two output accesses.
    """
    half = len(data.pool) // 2 if data.pool is not None else 0
    for place, steps in enumerate(STEPS):
        changes: dict[str, object] = {}
        lost = []
        if config.steps is None:
            changes["steps"] = steps
            lost.append(f"{steps} training steps per attacker (--steps)")
        if place > 0 and not config.queries and half > 1:
            changes["queries"] = (half,)
            lost.append(f"one query budget of {half} (--queries)")
        if place > 2 and not config.access and config.outputs is None:
            changes["access"] = ACCESS
            lost.append(f"output access {' and '.join(ACCESS)} (--access)")
        if changes:
            yield config.but(**changes), ", ".join(lost)


def plan_lines(plan: Plan, jobs: int | None = None) -> list[str]:
    """What a plan will compute, what that costs and resolves, and what is skipped; a line each."""
    count = jobs or usable()
    seconds = sum(cell.seconds or 0.0 for cell in plan.cells)
    lines = [
        *announced(plan, (seconds / count, 2 * seconds / count), seeds=(len(plan.seeds), len(plan.seeds))),
        f"suite {plan.suite}, seeds {seeds_text(plan.seeds)}, δ = {plan.delta:g} points on {plan.test_images:,} test images",
        f"{clock(seconds)} of processor time in {count} processes, by steps that were timed",
    ]
    if not plan.verdicts:
        lines.append(f"{plan.suite} gives an indication, no verdict")
    elif not plan.controlled:
        lines.append("no --control: what an attacker gets, no verdict on a defense")
    stages: dict[int, list[int]] = defaultdict(list)
    for place, cell in enumerate(plan.cells):
        stages[cell.stage].append(place)
    for stage, places in sorted(stages.items()):
        roles = Counter(plan.cells[place].role for place in places)
        what = ", ".join(f"{count} {ROLES[role]}" for role, count in roles.items())
        lines.append(f"stage {stage}: --index {places[0]} to {places[-1]}: {what}")
    lines += [f"threat model {text}" for text in plan.cards]
    return lines + [f"skipped: {left.what}: {left.why}" for left in plan.skipped]


def _names(plan: Plan) -> str:
    """`nasty against its control normal`, by the models' own names; of a method the plan's title."""
    if plan.question == "method":
        return plan.title
    names = {subject.side: name_of_model(subject, plan) for subject in plan.subjects}
    control = names.get("undefended")
    return names["defended"] if control is None else f"{names['defended']} against its control {control}"


def _two_digits(count: float) -> int:
    """Rounded up to two digits: 1,030 → 1,100."""
    step = 10 ** max(0, len(str(int(count))) - 2)
    return math.ceil(count / step) * step


def _first_budget(every: Sequence[Case]) -> int | None:
    """The smallest query budget, which seeds are added to; None where queries are not counted."""
    counts = [case.threat_model.questions for case in every]
    known = [count for count in counts if count is not None]
    return min(known) if known and len(known) == len(counts) else (counts[0] if counts else None)


def _of(case: Case) -> Precision:
    delta, tests = case.delta, case.evidence.plan.test_images
    width, units = _width(case)
    error = max((_images(*pair) for pair in _pairs(case)), default=0.0)
    images = float(half_width(0.0, 2, error))
    enough = math.ceil(tests * (images / (0.7 * delta)) ** 2) if images >= delta else None
    if not math.isfinite(width) or units < KNOWN:  # the spread of so few seeds says too little
        usual = max(seeds_for(delta, tests) or ENOUGH, units + 1)
        return Precision(width, None if images >= delta else usual, images, enough)
    sd = math.sqrt(max(width**2 - images**2, 0.0)) / float(half_width(1.0, units))
    wanted = (n for n in range(2, MOST) if half_width(sd, n, error) <= delta)
    return Precision(width, next(wanted, MOST) if images < delta else None, images, enough)


def _width(case: Case) -> tuple[float, int]:
    """(half-width, units): of headroom and gap with an undefended control, else of the gap, of labels alone their accuracy's."""
    if case.label_only:
        got = None if case.best_found is None else case.best_found.result()
        return (float(got.half), got.n) if got is not None and got.finite else (math.inf, 0)
    gap = case.contrasts.gap
    return (case.contrasts.half_width if case.evidence.plan.controlled else float(gap.half)), gap.n


def _pairs(case: Case) -> list[tuple[Arm, Arm]]:
    """The pairs of attacks whose difference counts."""
    floor = case.comparison.floor.chosen
    soft = [one.chosen for one in (case.comparison.soft, case.comparison.soft0)]
    return [(one, floor) for one in soft if one is not None and floor is not None and one is not floor]


def _images(first: Arm, second: Arm) -> float:
    """Standard error from having these test images, points."""
    ours, theirs = first.right(), second.right()
    shared = sorted(ours.keys() & theirs.keys())
    return image_error([ours[unit] for unit in shared], [theirs[unit] for unit in shared]) if shared else 0.0


def _minutes(evidence: Evidence, seeds: int) -> float:
    """Minutes that so many more seeds take on two cores, by what the cells of a seed took."""
    first = _first_budget(cases(evidence))
    report = [
        p
        for p in evidence.plan.cells
        if p.role not in ("served", "search")
        and ThreatModel.parse(p.card).questions in (first, None)
        and p.key in evidence.done
    ]
    of_a_seed = sum(evidence.done[p.key].seconds for p in report) / max(len({p.seed for p in report}), 1)
    return round(seeds * of_a_seed / CORES / 60, 2)


def _command(plan: Plan, folder: str, seeds: int, minutes: float | None) -> str:
    """The audit's command with what is missing: in the same folder where the suite adds seeds, else in a new one."""
    if plan.question == "method" or not plan.command:
        return ""
    unlimited = without(plan.command, "--seeds") == shlex.split(plan.command)
    grows = plan.suite in SUITES and SUITES[plan.suite].grows and unlimited
    words = without(plan.command, "--time", "--out", "-o", "--seeds")
    if grows:
        return shlex.join([*words, "--time", f"{max(1, math.ceil(1.25 * (minutes or 0)))}m", "-o", folder])
    return shlex.join([*words, "--seeds", str(seeds), "-o", f"{folder}-{seeds}-seeds"])
