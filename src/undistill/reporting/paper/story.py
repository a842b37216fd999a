"""Sentences and facts of a reproduction, each computed from its plan and cells."""

from __future__ import annotations

from collections import Counter
from typing import Any

from undistill.paper.experiments import EXPERIMENTS
from undistill.paper.published import DOUBTS, ITSELF, SELF
from undistill.reporting.blocks import Entry, Head, Table
from undistill.reporting.naming import ENVIRONMENT, listed, number, plural
from undistill.reporting.paper.entries import HEADS
from undistill.reporting.paper.judge import VERDICTS, Case, Claim
from undistill.reporting.paper.source import Source, covered
from undistill.reporting.paper.sweeps import SYMBOLS

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny-ImageNet"}
ARTICLE = (
    "The article is Ma et al., “Undistillable: Making A Nasty Teacher That CANNOT teach students”, ICLR 2021. Its numbers were "
    "carried over by hand; single ones may be off by 0.1."
)
METHOD = (
    "Each case is a number a seed (a difference between two students of that seed, a slope over the varied setting, or a "
    "difference of figures) that the claim says is above 0. It is seen where the one-sided 95 % t bound of the mean lies above 0, "
    "opposite where the other bound lies below, not shown in between, and not judged below three seeds. A claim of several cases "
    "is seen only where all of them are; one that is opposite makes it opposite; else one that cannot be judged leaves it not "
    "judged."
)


def title(sources: list[Source]) -> str:
    """The page's title."""
    return f"“Undistillable” (ICLR 2021), reproduced: {listed([source.title for source in sources])}"


def lead(sources: list[Source], claims: list[Claim]) -> list[str]:
    """How much is measured, and what became of the claims: two sentences a reproduction."""
    sentences = []
    for source in sources:
        who = f"{source.title}: " if len(sources) > 1 else ""
        sentences.append(f"{who}{_measured(source)}")
        own = Counter(claim.verdict for claim in claims if claim.source is source)
        if own:
            parts = [f"{own[verdict]} {verdict}" for verdict in VERDICTS if own[verdict]]
            sentences.append(
                f"Of {plural(sum(own.values()), 'claim')} with a direction that the article makes about them, judged by code: "
                f"{listed(parts)}."
            )
    return sentences


def _measured(source: Source) -> str:
    status = Counter(source.cells[key].status if key in source.cells else "missing" for key in source.keys)
    total, each = len(source.keys), sorted({len(measured.points) for measured in source.places.values()})
    seeds = (
        plural(each[-1], "seed") + " each" if len(each) == 1 else f"{each[0]} to {each[-1]} seeds each" if each else ""
    )
    done = f"{status['ok']:,} of {plural(total, 'cell')}"
    gone = [f"{status[what]:,} {what}" for what in ("missing", "diverged", "failed") if status[what]]
    rest = f"; {listed(gone)}" if gone else "; none is missing, diverged or failed"
    where = plural(len({point.experiment for point in source.plan.points}), "table or figure", "tables and figures")
    return f"{done} of {where} are measured, with {seeds or 'no seed'}{rest}."


def multiple(claims: list[Claim]) -> str:
    """How many cases are judged, and what that means."""
    cases = [case for claim in claims for case in claim.cases]
    judged = sum(case.verdict != "not judged" for case in cases)
    expected = number(0.05 * judged, 1)
    return (
        f"Each case is judged at 5 % on its own: {judged:,} of {len(cases):,} cases are judged here. Were nothing true of any "
        f"of them, about {expected} would be called seen by chance, and as many opposite."
    )


def case_text(case: Case, claim: Claim) -> str:
    """`ResNet18, CNN`, or `CNN, share of images 0.25`."""
    parts = []
    for name, value in case.where.items():
        if name == "x":
            parts.append(
                f"{SYMBOLS.get(claim.experiment.vary, 'x')} {value:g}" if isinstance(value, float) else str(value)
            )
        else:
            parts.append(HEADS.get(value, value))
    return ", ".join(parts) or "the one case"


def unit(claim: Claim) -> str:
    """What a case's number is in."""
    if claim.direction.kind == "numbers":
        return "silhouette"
    if claim.direction.kind == "difference":
        return "points"
    symbol = SYMBOLS[claim.experiment.vary]
    return f"points per {'ln ' if claim.direction.log else 'unit of '}{symbol}"


def doubts(experiment: str, sources: list[Source]) -> list[str]:
    """Reasons to doubt an experiment's numbers: the article's own, and those that the plans and cells give."""
    found = list(DOUBTS.get(experiment, ()))
    for source in sources:
        cells = {cell.id: cell for m in source.of(experiment).values() for cell in m.cells.values()}
        if any(cell.vouched for cell in cells.values()):
            found.append(f"{source.title}: that the attacker's images are fresh is asserted, not verified.")
        seeds = {point.seed for point in source.plan.of(experiment)}
        if seeds and len(seeds) < 3:
            found.append(f"{source.title}: nothing can be concluded from {plural(len(seeds), 'seed')}.")
    return found


def scale_note(sources: list[Source]) -> str:
    """Why the article's numbers stand beside measured ones without a difference; empty where all are at its own scale."""
    small = [source.title for source in sources if not source.paper]
    if not small:
        return ""
    return (
        f"The article's numbers stand for orientation: at {listed(small)} other networks were trained on fewer or other images, so "
        "their difference from the measured numbers means nothing and is left out here (the CSV files hold it)."
    )


def roles(source: Source, caption: str) -> Table | None:
    """What plays each of the paper's parts, by data set."""
    rows: dict[str, dict[str, str]] = {}
    data = list(dict.fromkeys(experiment.data for experiment in covered([source])))
    for experiment in covered([source]):
        networks = source.plan.networks.get(experiment.data, {})
        for role in _roles(source, experiment.name):
            if role in networks:
                alone = networks.get(f"{role} as a student")
                text = networks[role] + (f"; as a student {alone}" if alone and alone != networks[role] else "")
                rows.setdefault(role, {})[experiment.data] = text
    if not rows:
        return None
    lines = [[Entry(role), *(Entry(by_data.get(name, "–")) for name in data)] for role, by_data in rows.items()]
    return Table(caption, [Head("the paper's"), *(Head(DATA.get(name, name)) for name in data)], lines, "slim text")


def _roles(source: Source, experiment: str) -> list[str]:
    points = source.plan.of(experiment)
    found = [role for point in points for role in (point.teacher, point.column, point.x) if isinstance(role, str)]
    kept = [role for role in EXPERIMENTS[experiment].students if role in found and role not in (SELF, ITSELF)]
    return list(
        dict.fromkeys([*EXPERIMENTS[experiment].teachers, *kept, *(r for r in found if r not in ("", SELF, ITSELF))])
    )


def provenance(source: Source) -> dict[str, str]:
    """What fixes a reproduction's numbers, and what computed them."""
    cells = [source.cells[key] for key in source.keys if key in source.cells]
    data = sorted({f"{cell.data_note or 'unnamed'} (fingerprint {cell.data})" for cell in cells if cell.data})
    facts: dict[str, str] = {
        "folder": source.folder.name or ".",
        "scale": source.plan.title,
        "seeds": ", ".join(map(str, source.plan.seeds)),
        "data": listed(data),
        "training time": f"{sum(cell.seconds for cell in cells):,.0f} seconds in all",
    }
    for key, name in ENVIRONMENT.items():
        facts[name] = listed(sorted({_said(cell.env.get(key)) for cell in cells}), "or")
    return {key: value for key, value in facts.items() if value}


def every_cell(source: Source, links: dict[str, str]) -> Table:
    """All cells that the plan asks for."""
    rows = []
    for key, points in source.keys.items():
        cell = source.cells.get(key)
        also = f" and {plural(len(points) - 1, 'other place')}" if len(points) > 1 else ""
        status = "not measured" if cell is None else cell.status + (f": {cell.why}" if cell.why else "")
        values = [str(points[0].seed), number(cell.accuracy, 2) if cell else "–", status]
        file = Entry(cell.id, href=links.get(cell.id, "")) if cell else Entry("–")
        rows.append([Entry(points[0].name + also), *map(Entry, values), Entry(key), file])
    heads = [Head(name) for name in ("place", "seed", "accuracy, %", "status", "key", "cell")]
    return Table(f"Every cell of {source.title}", heads, rows, "long text")


def _said(value: Any) -> str:
    return "unknown" if value is None else str(value)
