"""`audit`: what a thief still gets from a model, by how it is served and how often it may be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.access import Card
from undistill.attacks.base import ATTACKS
from undistill.auditing import planned
from undistill.auditing.asking import (
    ALWAYS_SKIPPED,
    Request,
    cards_of,
    left_out,
    seeds_of,
    thieves_of,
    with_more,
    without_search,
)
from undistill.auditing.desk import Desk, compute
from undistill.auditing.planned import Plan, Skipped, Subject
from undistill.auditing.planner import Planner
from undistill.auditing.subjects import GIVEN, check, subject, teachers
from undistill.auditing.suite import Suite, expected_resolution, suite, usual_delta
from undistill.data import Splits
from undistill.data.load import load
from undistill.errors import UsageError
from undistill.files import locked
from undistill.jobs import Job, processes, run_jobs
from undistill.oracle.bank import USUAL, Bank
from undistill.oracle.blackbox import BlackBox
from undistill.oracle.serving import AnswerDefense
from undistill.oracle.victim import Model, Victim, resolve
from undistill.training.env import choose_device
from undistill.training.recipe import Recipe, read
from undistill.training.run import Run
from undistill.training.train import of_data

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """A plan and what its cells are computed from."""

    plan: Plan
    desk: Desk


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
            "a method is audited on teachers of its own: --control, --behind and --answers go with a MODEL"
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
            side: _victim(given or "", splits, request.answers, behind) for side, (given, behind) in known.items()
        }
        check(victims, splits, delta)
        for victim in victims.values():
            if not isinstance(victim.model, BlackBox):
                victim.network.to(choose_device(device))
            victim.plausible(splits, accept=accept_accuracy, strict=True)
        subjects = tuple(subject(side, given or "", victims[side], request) for side, (given, _) in known.items())
    plan = _plan(request, recipe, splits, subjects, victims, delta).model_copy(update={"command": command})
    by_hand = {each.name: victims[each.side] for each in subjects if each.model == GIVEN}
    kept = data if by_hand or not splits.settings else None  # what no path leads to stays in this process
    desk = Desk(Path(out), None if cells is None else Path(cells), device, bank, by_hand, kept)
    return Ready(plan, desk)


def _victim(
    model: Model, data: Splits, answers: str | None, behind: Sequence[str | dict[str, Any] | AnswerDefense]
) -> Victim:
    """A victim; `answers` belongs to a function or a table alone."""
    foreign = isinstance(model, str | Path) and not Path(model).is_dir()
    return resolve(model, data, answers=answers if foreign else None, behind=behind)


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
        return without_search(chosen, "a thief without labels would have to ask the function about more images")
    held = len(data.pool or ()) - (card.questions or 0 if card.pool == "fresh" else 0)
    if data.val is None and held < 1:
        return without_search(chosen, "no image is left to score it on; -s data.val=0.1 or a larger pool leaves some")
    return chosen, ()


def run(ready: Ready, *, jobs: int | None = None, say: Say | None = None) -> None:
    """Write the plan and compute all of its cells that are not there."""
    folder, desk = ready.desk.folder, ready.desk
    with locked(folder):
        planned.write(folder, ready.plan)
        todo = desk.todo(ready.plan)
        if say is not None and len(todo) < len(ready.plan.cells):
            say(f"{len(ready.plan.cells) - len(todo)} of {len(ready.plan.cells)} cells are there already")
        waits = {cell.key for cell in todo}
        if desk.victims or desk.data is not None:
            jobs = 1  # what no path leads to cannot be told to another process
        work = [
            Job(cell.key, compute, (desk, cell.key), tuple(need for need in cell.needs if need in waits))
            for cell in todo
        ]
        for number, line in enumerate(run_jobs(work, processes(jobs, desk.device)), start=1):
            if say is not None:
                say(f"[{number}/{len(work)}] {line}")
        with suppress(OSError):  # it is not there, or a cell is at work in it
            (folder / "work").rmdir()


def _recipe(model: Model | None, recipe: str | Path | dict[str, Any] | Recipe | None) -> Recipe:
    if recipe is not None:
        return read(recipe)
    if model is None:
        raise UsageError("a method needs a recipe for its teachers; name one with --config or --data")
    source = model.recipe if isinstance(model, Victim | Run) else None
    if source is None and isinstance(model, str | Path) and (Path(model) / "config.yaml").exists():
        source = resolve(model).recipe
    if source is None:
        raise UsageError("the model brings no recipe for its thieves; name one with --config")
    return source


def _title(subjects: Sequence[Subject], request: Request) -> str:
    if request.method is not None and subjects[0].recipe is not None:
        name = request.method if isinstance(request.method, str) else request.method.get("name")
        return f"the method {name}, {request.teachers} teachers"
    first = next(subject for subject in subjects if subject.side == "defended")
    twin = next((subject.label for subject in subjects if subject.side == "undefended"), None)
    return first.label if twin is None else f"{first.label} against {twin.removesuffix(', the twin')}"
