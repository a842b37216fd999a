"""`audit`: what a thief still gets from a model, by how it is served and how often it may be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.auditing.compute import AuditFolder
from undistill.auditing.config import (
    ALWAYS_SKIPPED,
    Request,
    cards_of,
    left_out,
    seeds_of,
    thieves_of,
    time_of,
    with_more,
    without_search,
)
from undistill.auditing.evidence import read as read_evidence
from undistill.auditing.planner import Planner
from undistill.auditing.precision import ENOUGH, precision
from undistill.auditing.subjects import GIVEN, check, subject, teachers
from undistill.auditing.suite import Suite, expected_resolution, suite, usual_delta
from undistill.data import Splits
from undistill.data.load import load
from undistill.errors import UsageError
from undistill.experiments import graph
from undistill.experiments import plan as planned
from undistill.experiments.executors import processes
from undistill.experiments.plan import Plan, Skipped, Subject
from undistill.experiments.runtime import Runtime
from undistill.files import locked
from undistill.oracle.black_box import BlackBox
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.oracle.output_defense import AnswerDefense
from undistill.oracle.victim import Model, Victim, resolve
from undistill.threads import usable
from undistill.threat_model import Card
from undistill.training.environment import choose_device
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import of_data

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """A plan and what its cells are computed from.

    `replan` gives the same plan with another number of report seeds, where the suite adds seeds for `seconds`; else None.
    """

    plan: Plan
    folder: AuditFolder
    replan: Callable[[int], Plan] | None = None
    seconds: float = 0.0


def prepare(
    model: Model | None,
    data: Splits | None,
    request: Request,
    *,
    control: Model | None = None,
    recipe: str | Path | dict[str, Any] | Recipe | None = None,
    out: str | Path,
    cells: str | Path | None = None,
    device: str = "auto",
    bank: Bank | None = USUAL,
    command: str = "",
    accept_accuracy: bool = False,
) -> Ready:
    """The plan of an audit, not written yet. Arguments and errors as `undistill.audit` has them."""
    if (model is None) == (request.method is None):
        raise UsageError("audit what? Name a MODEL, or a defense with --method: one of the two")
    if model is None and (control is not None or request.behind or request.answers):
        raise UsageError(
            "a method is audited on teachers of its own: --control, --output-defense and --outputs go with a MODEL"
        )
    recipe = _recipe(model, recipe)
    splits = data if data is not None else load(recipe.data)
    recipe = of_data(recipe, splits)
    delta = request.delta if request.delta is not None else usual_delta(len(splits.test))
    if not 0 < delta < 100:
        raise UsageError(f"delta is a difference that matters, in points between 0 and 100, not {delta:g}")
    victims: dict[str, Victim] = {}
    if model is None:
        subjects = teachers(request, recipe)
    else:
        twin = model if control is None and request.behind else control  # without what stands in front of it
        sides = {"defended": (model, request.behind), "undefended": (twin, ())}
        known = {side: pair for side, pair in sides.items() if pair[0] is not None}
        victims = {
            side: _victim(given or "", splits, request.answers, behind, request.name if side == "defended" else None)
            for side, (given, behind) in known.items()
        }
        check(victims, splits, 100.0 if accept_accuracy else delta)
        for victim in victims.values():
            if not isinstance(victim.model, BlackBox):
                victim.network.to(choose_device(device))
            victim.plausible(splits, accept=accept_accuracy, strict=True)
        subjects = tuple(subject(side, given or "", victims[side], request) for side, (given, _) in known.items())

    def replan(seeds: int | None) -> Plan:
        asked = request if seeds is None else replace(request, seeds=seeds)
        return _plan(asked, recipe, splits, subjects, victims, delta).model_copy(update={"command": command})

    plan = replan(None)
    by_hand = {each.name: victims[each.side] for each in subjects if each.model == GIVEN}
    kept = data if by_hand or not splits.settings else None  # what no path leads to stays in this process
    folder = AuditFolder(Path(out), None if cells is None else Path(cells), Runtime(device, bank), by_hand, kept)
    grows = suite(request.suite).grows and request.seeds is None and model is not None
    seconds = time_of(request)
    if request.time is not None and not grows:
        raise UsageError(
            f"--time belongs to the suite timed, which adds seeds until it is used; {request.suite} with "
            f"{'--method' if model is None else '--seeds' if request.seeds else 'its own seeds'} takes what it takes"
        )
    return Ready(plan, folder, replan if grows else None, seconds)


def _victim(
    model: Model,
    data: Splits,
    answers: str | None,
    behind: Sequence[str | dict[str, Any] | AnswerDefense],
    name: str | None = None,
) -> Victim:
    """A victim; `answers` belongs to a function or a table alone."""
    foreign = isinstance(model, str | Path) and not Path(model).is_dir()
    return resolve(model, data, answers=answers if foreign else None, called=name, behind=behind)


def _plan(
    request: Request,
    recipe: Recipe,
    data: Splits,
    subjects: Sequence[Subject],
    victims: dict[str, Victim],
    delta: float,
) -> Plan:
    """The cells, what is left out, and all that the judge needs to know."""
    chosen = with_more(suite(request.suite), request.also)
    cards = cards_of(request, chosen, data, victims)
    chosen, unsearched = _searchable(chosen, cards[0], data, victims)
    seeds = seeds_of(request, chosen, recipe.seed)
    thieves = thieves_of(request, recipe, data, next(iter(victims.values()), None))
    found, skipped = Planner(chosen, subjects, cards, thieves, seeds, data.fingerprint).plan()
    return Plan(
        title=_title(subjects, request),
        suite=chosen.name,
        question="model" if victims else "method",
        verdicts=chosen.verdicts,
        delta=delta,
        resolves=expected_resolution(len(seeds) if victims else request.teachers, len(data.test)),
        data=recipe.data.model_dump(mode="json") | {"views": []},
        fingerprint=data.fingerprint,
        data_note=data.note,
        test_images=len(data.test),
        classes=data.num_classes,
        subjects=tuple(subjects),
        cells=found,
        skipped=(*skipped, *unsearched, *left_out(chosen, cards, request), *ALWAYS_SKIPPED),
        known={name: attack.knows for name, attack in ATTACKS.classes().items()},
        grid={"temperature": chosen.temperatures, "alpha": chosen.alphas},
        seeds=tuple(sorted({cell.seed for cell in found if cell.role in ("soft", "labels", "naive", "alone")})),
    )


def _searchable(
    chosen: Suite, card: Card, data: Splits, victims: dict[str, Victim]
) -> tuple[Suite, tuple[Skipped, ...]]:
    """The suite, without its search where there is nothing to score it on, or each answer to score it by could cost something."""
    if not chosen.search:
        return chosen, ()
    if card.data != "labelled" and any(isinstance(victim.model, BlackBox) for victim in victims.values()):
        return without_search(chosen, "an attacker without labels would have to query the function on more images")
    held = len(data.pool or ()) - (card.questions or 0 if card.pool == "fresh" else 0)
    if data.val is None and held < 1:
        return without_search(chosen, "no image is left to score it on; -s data.val=0.1 or a larger pool leaves some")
    return chosen, ()


def run(ready: Ready, *, jobs: int | None = None, say: Say | None = None, failed: Say | None = None) -> Plan:
    """Write the plan and compute all of its cells that are not there; returns the plan, with the seeds that were added.

    `say` receives a line for each cell, `failed` those of the cells that failed.

    Where seeds are added, each round ends whole: a round that is not expected to fit into the time is not begun. Rounds are sized
    by the width of the intervals alone, never by what they say.
    """
    audit = ready.folder
    if audit.victims or audit.data is not None:
        jobs = 1  # objects without a path cannot be sent to another process
    count = processes(jobs, audit.runtime.device)
    with locked(audit.folder):
        plan = _begun(ready)
        planned.write(audit.folder, plan, grown=ready.replan is not None)
        todo = audit.graph(plan).missing()
        if say is not None and len(todo) < len(plan.cells):
            say(f"{len(plan.cells) - len(todo)} of {len(plan.cells)} cells are there already")
        clock = Clock(ready.seconds, _usual(audit, plan, count or usable()))
        while True:
            for line in graph.run(todo, count):
                clock.add()
                if say is not None:
                    say(line)
                if failed is not None and (": failed" in line or line.startswith("failed")):
                    failed(line)
            more = None if ready.replan is None else _more(ready, plan, clock)
            if more is None:
                break
            plan = more
            planned.write(audit.folder, plan, grown=True)
            todo = audit.graph(plan).missing()
        with suppress(OSError):  # it is not there, or a cell is being computed in it
            (audit.folder / "work").rmdir()
    return plan


class Clock:
    """The time that an audit has used, and what a cell takes of it: `usual` seconds until one is done."""

    def __init__(self, seconds: float, usual: float = 0.0) -> None:
        self.began, self.seconds, self.usual = time.monotonic(), seconds, usual
        self.cells = 0

    def add(self) -> None:
        """A cell is done."""
        self.cells += 1

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def room(self) -> int:
        """How many more cells fit into the time, less a tenth of it for the page."""
        left = 0.9 * self.seconds - self.spent
        of_a_cell = self.spent / self.cells if self.cells else self.usual
        return max(0, int(left / of_a_cell)) if of_a_cell > 0 else 0


def _usual(audit: AuditFolder, plan: Plan, count: int) -> float:
    """Seconds of wall time that a cell of the folder took, on average, in so many processes; 0.0 where there is none."""
    found = [cell.seconds for each in plan.cells if (cell := audit.done(each.key)) is not None and cell.seconds > 0]
    return sum(found) / len(found) / count if found else 0.0


def _begun(ready: Ready) -> Plan:
    """The plan with as many seeds as the folder's own already has, where seeds are added."""
    path = ready.folder.folder / planned.FILE
    if ready.replan is not None and path.is_file():
        old = planned.read(ready.folder.folder)
        if len(old.seeds) > len(ready.plan.seeds):
            more = ready.replan(len(old.seeds))
            return more if planned.grows(ready.plan, more) else ready.plan
    return ready.plan


def _more(ready: Ready, plan: Plan, clock: Clock) -> Plan | None:
    """The plan of the next round; None where δ is resolved, the time is used, or no number of seeds resolves it."""
    assert ready.replan is not None
    found = precision(read_evidence(ready.folder.folder))
    seeds = len(plan.seeds)
    wanted = found.seeds if found.seeds is not None else ENOUGH
    if found.width <= plan.delta or wanted <= seeds:
        return None
    of_a_seed = max(1, len(ready.replan(seeds + 1).cells) - len(plan.cells))
    count = min(wanted, 2 * seeds, seeds + clock.room() // of_a_seed)
    return ready.replan(count) if count > seeds else None


def _recipe(model: Model | None, recipe: str | Path | dict[str, Any] | Recipe | None) -> Recipe:
    if recipe is not None:
        return read(recipe)
    if model is None:
        raise UsageError("a method needs a recipe for its teachers; name one with --config or --data")
    source = model.recipe if isinstance(model, Victim | Run) else None
    if source is None and isinstance(model, str | Path) and (Path(model) / "config.yaml").exists():
        source = resolve(model).recipe
    if source is None:
        raise UsageError("the model brings no recipe for its attackers; name one with --config")
    return source


def _title(subjects: Sequence[Subject], request: Request) -> str:
    if request.method is not None and subjects[0].recipe is not None:
        name = request.method if isinstance(request.method, str) else request.method.get("name")
        return f"the method {name}, {request.teachers} teachers"
    first = next(subject for subject in subjects if subject.side == "defended")
    twin = next((subject.label for subject in subjects if subject.side == "undefended"), None)
    return first.label if twin is None else f"{first.label} against {twin.removesuffix(', the twin')}"
