"""`audit`: what an attacker still gets from a model, by how it is served and how often it may be asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.auditing.compute import AuditFolder, plan_of
from undistill.auditing.config import (
    ALWAYS_SKIPPED,
    GIVEN,
    AuditConfig,
    attackers_of,
    cards_of,
    check,
    left_out,
    seeds_of,
    subject,
    teachers,
    time_of,
    with_more,
    without_search,
)
from undistill.auditing.evidence import read as read_evidence
from undistill.auditing.planner import Planner
from undistill.auditing.precision import ENOUGH, precision, smaller
from undistill.auditing.suite import Suite, expected_resolution, suite, usual_delta
from undistill.auditing.text import clock
from undistill.data import Splits
from undistill.data.load import load
from undistill.errors import UsageError
from undistill.experiments import graph
from undistill.experiments import plan as planned
from undistill.experiments.cost import Span, forecast, span
from undistill.experiments.executors.base import is_failed
from undistill.experiments.executors.local import Local
from undistill.experiments.plan import Plan, Skipped, Subject
from undistill.experiments.runtime import Runtime, runtime_of
from undistill.files import locked
from undistill.models import build
from undistill.oracle.black_box import BlackBox
from undistill.oracle.output_defense import AnswerDefense
from undistill.oracle.victim import Model, Victim, resolve
from undistill.threads import usable
from undistill.threat_model import ThreatModel
from undistill.training.environment import choose_device
from undistill.training.recipe import Recipe, Student, read
from undistill.training.run_folder import Run
from undistill.training.train import of_data

Say = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A plan and what its cells are computed from.

    `replan` gives the same plan with another number of report seeds, where the suite adds seeds for `seconds`; else None.
    """

    plan: Plan
    folder: AuditFolder
    runtime: Runtime
    replan: Callable[[int], Plan] | None = None
    seconds: float = 0.0

    @property
    def processes(self) -> int:
        """How many compute its cells, for a forecast."""
        return self.at_once or usable()

    @property
    def at_once(self) -> int | None:
        """How many may: one where victims or data are objects that cannot be sent to another; None for a cluster's own number."""
        return 1 if self.folder.local else self.runtime.at_once

    def takes(self, *, whole: bool = False) -> Span:
        """Wall time, by a forecast, of the planned cells that are missing, or of all."""
        missing = {task.key for task in self.folder.graph(self.plan).missing()}
        return span([cell for cell in self.plan.cells if whole or cell.key in missing], self.processes)


def prepare(
    model: Model | None,
    data: Splits | None,
    config: AuditConfig,
    *,
    out: str | Path,
    runtime: Runtime | None = None,
    command: str = "",
    **settings: Any,
) -> Ready:
    """The plan of an audit, not written yet. Arguments and errors as `undistill.audit` has them; `settings` change `config`."""
    runtime, settings = runtime_of(runtime, settings)
    config = config.but(**settings)
    if (model is None) == (config.method is None):
        raise UsageError("audit what? Name a MODEL, or a defense with --method: one of the two")
    if model is None and (config.control is not None or config.output_defense or config.outputs):
        raise UsageError(
            "a method is audited on teachers of its own: --control, --output-defense and --outputs go with a MODEL"
        )
    recipe = _recipe(model, config.recipe)
    splits = data if data is not None else load(recipe.data)
    recipe = of_data(recipe, splits)
    delta = config.delta if config.delta is not None else usual_delta(len(splits.test))
    if not 0 < delta < 100:
        raise UsageError(f"delta is a difference that matters, in points between 0 and 100, not {delta:g}")
    grows = suite(config.suite).grows and config.seeds is None and model is not None
    seconds = time_of(config)
    if config.time is not None and not grows:
        raise UsageError(
            f"--time belongs to the suite timed, which adds seeds until it is used; {config.suite} with "
            f"{'--method' if model is None else '--seeds' if config.seeds else 'its own seeds'} takes what it takes"
        )
    victims: dict[str, Victim] = {}
    if model is None:
        subjects = teachers(config, recipe)
    else:
        subjects, victims = _subjects(model, splits, config, delta, runtime.device)

    def replan(seeds: int | None) -> Plan:
        asked = config if seeds is None else config.but(seeds=seeds)
        return _plan(asked, recipe, splits, subjects, victims, delta).model_copy(update={"command": command})

    by_hand = {each.name: victims[each.side] for each in subjects if each.model == GIVEN}
    kept = data if by_hand or not splits.settings else None  # data without a path stay in this process
    folder = AuditFolder(Path(out), config.cells, runtime.in_worker(), by_hand, kept)
    return Ready(replan(None), folder, runtime, replan if grows else None, seconds)


def prepare_in_time(
    model: Model | None,
    data: Splits | None,
    config: AuditConfig,
    *,
    out: str | Path,
    runtime: Runtime | None = None,
    command: str = "",
    say: Say | None = None,
) -> Ready:
    """The plan of an audit with the seconds that each cell is expected to take, made smaller as far as its time asks for.

    One that was begun in the folder goes on as it was begun. Arguments and errors as `prepare` has them; `say` receives a line for
    each network that is timed, and what was made smaller (None: the runtime's log).
    """
    runtime = runtime or Runtime()
    say = say or runtime.say
    splits = data if data is not None else load(_recipe(model, config.recipe).data)

    def expected(config: AuditConfig) -> Ready:
        ready = prepare(model, splits if data is None else data, config, out=out, runtime=runtime, command=command)
        return replace(ready, plan=_forecast(ready.plan, splits, runtime.device, say))

    ready = whole = expected(config)
    path = ready.folder.folder / planned.FILE
    begun = {cell.key for cell in planned.read(path.parent).cells} if path.is_file() else None
    said = ""
    for less, told in smaller(config, splits):
        keys = {cell.key for cell in ready.plan.cells}
        if ready.replan is None or (begun & keys if begun else ready.takes().high <= ready.seconds):
            break
        ready, said = expected(less), told
    if said:
        say(f"a full audit would take about {clock(whole.takes().low)} here, longer than --time; reduced to {said}")
    return ready


def _forecast(plan: Plan, data: Splits, device: str, say: Say) -> Plan:
    shape = (data.num_classes, data.train.channels, data.train.image_size)
    held_out = min(sum(len(part) for part in (data.val, data.pool) if part is not None), 4000)
    return forecast(plan, shape, trained=len(data.train), held_out=held_out, device=choose_device(device), say=say)


def _subjects(
    model: Model, data: Splits, config: AuditConfig, delta: float, device: str
) -> tuple[tuple[Subject, ...], dict[str, Victim]]:
    """The audited model and its control, opened and checked, by side."""
    control = model if config.control is None and config.output_defense else config.control
    sides = {"defended": (model, config.output_defense), "undefended": (control, ())}
    known = {side: pair for side, pair in sides.items() if pair[0] is not None}
    victims = {
        side: _victim(given, data, config.outputs, behind, config.name if side == "defended" else None)
        for side, (given, behind) in known.items()
    }
    check(victims, data, 100.0 if config.accept_accuracy else delta)
    for victim in victims.values():
        if not isinstance(victim.model, BlackBox):
            victim.network.to(choose_device(device))
        victim.plausible(data, accept=config.accept_accuracy, strict=True)
    return tuple(subject(side, given, victims[side], config) for side, (given, _) in known.items()), victims


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
    config: AuditConfig,
    recipe: Recipe,
    data: Splits,
    subjects: Sequence[Subject],
    victims: dict[str, Victim],
    delta: float,
) -> Plan:
    """The cells, what is left out, and all that the judge needs to know."""
    chosen = with_more(suite(config.suite), config.extra_attack)
    cards = cards_of(config, chosen, data, victims)
    chosen, unsearched = _searchable(chosen, cards[0], data, victims)
    seeds = seeds_of(config, chosen, recipe.seed)
    attackers = attackers_of(config, recipe, data, next(iter(victims.values()), None))
    found, skipped = Planner(
        chosen, subjects, cards, attackers, seeds, data.fingerprint, _unfit(data, attackers.students[0], victims)
    ).plan()
    return Plan(
        title=_title(subjects, config),
        suite=chosen.name,
        question="model" if victims else "method",
        verdicts=chosen.verdicts,
        delta=delta,
        resolves=expected_resolution(len(seeds) if victims else config.teachers, len(data.test)),
        data=recipe.data.model_dump(mode="json") | {"views": []},
        fingerprint=data.fingerprint,
        data_note=data.note,
        test_images=len(data.test),
        classes=data.num_classes,
        subjects=tuple(subjects),
        cells=found,
        skipped=(*skipped, *unsearched, *left_out(chosen, cards, config), *ALWAYS_SKIPPED),
        known={name: attack.knows for name, attack in ATTACKS.classes().items()},
        grid={"temperature": chosen.temperatures, "alpha": chosen.alphas},
        seeds=tuple(sorted({cell.seed for cell in found if cell.role in ("soft", "labels", "naive", "alone")})),
    )


def _unfit(data: Splits, student: dict[str, Any], victims: dict[str, Victim]) -> Callable[[dict[str, Any]], str]:
    """Why an attack cannot work with this student and these victims, by its settings; "" if it can."""
    sizes = (data.num_classes, data.train.channels, data.train.image_size)
    network = build(Student.model_validate(student).network, *sizes, seed=0)
    networks = [None if isinstance(v.model, BlackBox) else v.network for v in victims.values()]

    def why(settings: dict[str, Any]) -> str:
        attack = ATTACKS.make(settings)
        try:
            for victim in networks or [None]:
                attack.check(network, victim)
        except UsageError as error:
            return str(error)
        return ""

    return why


def _searchable(
    chosen: Suite, card: ThreatModel, data: Splits, victims: dict[str, Victim]
) -> tuple[Suite, tuple[Skipped, ...]]:
    """The suite, without its search where there is nothing to score it on, or each answer to score it by could cost something."""
    if not chosen.search:
        return chosen, ()
    if card.data != "labelled" and any(isinstance(victim.model, BlackBox) for victim in victims.values()):
        return without_search(chosen, "an attacker without labels would have to query the function on more images")
    held = len(data.pool or ()) - ((card.questions or 0) + card.unqueried if card.pool == "fresh" else 0)
    if data.val is None and held < 1:
        return without_search(chosen, "no image is left to score it on; -s data.val=0.1 or a larger pool leaves some")
    return chosen, ()


def run(ready: Ready, *, say: Say | None = None, failed: Say | None = None) -> Plan:
    """Write the plan and compute all of its cells that are missing; returns the plan, with the seeds that were added.

    Args:
        ready: the audit.
        say: receives a line for each cell; None for the runtime's log.
        failed: receives the lines of cells that failed.

    Where seeds are added, each round is completed: a round that is not expected to fit into the time is not begun. The size of a
    round follows from the width of the intervals alone, never from their position.
    """
    audit, say, executor = ready.folder, say or ready.runtime.say, ready.runtime.executor
    count = ready.processes
    if audit.local and not isinstance(executor, Local):
        raise UsageError(
            f"a model or data given as an object stay in this process, where {executor.name} cannot reach them: give their paths"
        )
    with locked(audit.folder):
        plan = _begun(ready)
        planned.write(audit.folder, plan, grown=ready.replan is not None)
        watch = Clock(ready.seconds, _usual(audit, plan, count))
        todo = audit.graph(plan).missing()
        if len(todo) < len(plan.cells):
            say(f"{len(plan.cells) - len(todo)} of {len(plan.cells)} cells are there already")
        while True:
            for line in graph.run(todo, ready.at_once, executor, audit.folder):
                watch.add()
                say(line)
                if failed is not None and is_failed(line):
                    failed(line)
            more, why = (None, "") if ready.replan is None else _more(ready, plan, watch)
            if more is None:
                break
            plan = more
            planned.write(audit.folder, plan, grown=True)
            todo = tuple(replace(task, seconds=count * watch.each) for task in audit.graph(plan).missing())
        if why:
            log.info("%d seeds: %s", len(plan.seeds), why)
        with suppress(OSError):  # it is not there, or a cell is being computed in it
            (audit.folder / "work").rmdir()
    return plan


def resume(
    folder: Path, *, cells: Path | None = None, runtime: Runtime | None = None, failed: Say | None = None
) -> Plan:
    """Compute what is missing of the plan in a folder; no seeds are added. Errors as `compute`."""
    runtime = runtime or Runtime()
    audit = AuditFolder(folder, cells, runtime.in_worker())
    return run(Ready(plan_of(folder), audit, runtime), failed=failed)


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

    @property
    def each(self) -> float:
        """Seconds of wall time that a cell took so far."""
        return self.spent / self.cells if self.cells else self.usual

    def room(self) -> int:
        """How many more cells fit into the time, less a tenth of it for the page."""
        left = 0.9 * self.seconds - self.spent
        return max(0, int(left / self.each)) if self.each > 0 else 0


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


def _more(ready: Ready, plan: Plan, watch: Clock) -> tuple[Plan | None, str]:
    """The plan of the next round; None, and why, where δ is resolved, the time is used, or no number of seeds resolves it."""
    assert ready.replan is not None
    found = precision(read_evidence(ready.folder.folder))
    seeds = len(plan.seeds)
    wanted = found.seeds if found.seeds is not None else ENOUGH
    if found.width <= plan.delta:
        return None, f"differences of δ = {plan.delta:g} points are resolved"
    if wanted <= seeds:
        return None, "more would not resolve δ on so few test images"
    of_a_seed = max(1, len(ready.replan(seeds + 1).cells) - len(plan.cells))
    count = min(wanted, 2 * seeds, seeds + watch.room() // of_a_seed)
    return (ready.replan(count), "") if count > seeds else (None, "another round does not fit into --time")


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


def _title(subjects: Sequence[Subject], config: AuditConfig) -> str:
    if config.method is not None and subjects[0].recipe is not None:
        name = config.method if isinstance(config.method, str) else config.method.get("name")
        return f"the method {name}, {config.teachers} teachers"
    first = next(subject for subject in subjects if subject.side == "defended")
    twin = next((subject.label for subject in subjects if subject.side == "undefended"), None)
    return first.label if twin is None else f"{first.label} against {twin.removesuffix(', the control')}"
