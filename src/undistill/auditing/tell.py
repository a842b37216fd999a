"""A plan in lines for a terminal. Never imports torch."""

from __future__ import annotations

from collections import Counter, defaultdict

from undistill.auditing.outlook import budgets, name_of_model, too_few
from undistill.auditing.suite import resolution_range, seeds_for
from undistill.experiments.plan import Plan
from undistill.threads import usable
from undistill.threat_model import Card

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
    accesses = sorted(
        dict.fromkeys(Card.parse(card).serving for card in plan.cards), key=lambda name: name == "weights"
    )
    counts = ", ".join(f"{count:,}" for count in budgets(plan))
    lines = [f"{_names(plan)}: outputs {', '.join(accesses)}; {counts or 'all'} queries"]
    few, many = (max(count, len(plan.seeds)) for count in seeds or (0, 0))
    takes = f"take {period(*span)}" if span[1] > 1 else "are there already"
    if seconds is None:
        lines.append(f"{len(plan.cells)} trainings {takes}")
    else:
        lines.append(
            f"the first {len(plan.seeds)} seeds {takes}; seeds are added until {clock(seconds)} are used, or until"
        )
        lines.append(f"differences of δ = {plan.delta:g} points are resolved on {plan.test_images:,} test images")
    if plan.question == "model" and (best := resolution_range(many, plan.test_images)) is not None:
        worst = resolution_range(few, plan.test_images) or best
        how_many = f"{few} seeds" if few == many else f"{few} to {many} seeds"
        lines.append(f"expected: differences of {best[0]:.1f} to {worst[1]:.1f} points, with {how_many}")
        if best[0] > plan.delta and seeds_for(plan.delta, plan.test_images) is None:
            lines.append(
                f"warning: no number of seeds resolves {plan.delta:g} points on {plan.test_images:,} test images"
            )
    if any((card := Card.parse(text)).data == "unlabelled" and card.pool == "trained" for text in plan.cards):
        lines.append(
            "warning: the attacker queries images that the model was trained on, where its labels are nearly the true ones; "
            "train it with --pool to set fresh images aside"
        )
    if small := too_few(plan.test_images, budgets(plan), plan.classes, total):
        lines.append(f"warning: {small}")
    return lines


def _names(plan: Plan) -> str:
    """`nasty against its control normal`, by the models' own names; of a method the plan's title."""
    if plan.question == "method":
        return plan.title
    names = {subject.side: name_of_model(subject, plan) for subject in plan.subjects}
    control = names.get("undefended")
    return names["defended"] if control is None else f"{names['defended']} against its control {control}"


def period(low: float, high: float) -> str:
    """`2 to 4 min`, `48 s to 2 min`."""
    one, other = clock(low), clock(high)
    if one == other:
        return f"about {one}"
    number, unit = one.split()
    return f"{number if other.endswith(f' {unit}') else one} to {other}"


def told(plan: Plan, jobs: int | None = None) -> list[str]:
    """What will be computed, what it costs, what it can resolve, and what is skipped."""
    count = jobs or usable()
    seconds = sum(cell.seconds or 0.0 for cell in plan.cells)
    units = len({s.teacher for s in plan.subjects}) if plan.question == "method" else len(plan.seeds)
    found = resolution_range(units, plan.test_images)
    resolves = "nothing" if found is None else f"differences of {found[0]:.1f} to {found[1]:.1f} points"
    lines = [
        f"{plan.title}: {len(plan.cells)} cells of {plan.suite}, seeds {span(plan.seeds)}",
        f"{clock(seconds)} of processor time, {period(seconds / count, 2 * seconds / count)} in {count} processes, by steps that "
        "were timed",
        f"δ {plan.delta:g} points on {plan.test_images:,} test images; expected to resolve {resolves}",
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
        said = ", ".join(f"{count} {ROLES[role]}" for role, count in roles.items())
        lines.append(f"stage {stage}: --index {places[0]} to {places[-1]}: {said}")
    lines += [f"threat model {card}" for card in plan.cards]
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
