"""How each cell of an audit is computed. Runs in worker processes; every cell can be computed again without harm.

Opens what a plan file names: its data and victims, each only if it is what was planned, and no code that was not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undistill.data import Splits, load
from undistill.defenses.protect import protect
from undistill.errors import Busy, NotFinite, RunError, UndistillError, UsageError
from undistill.experiments.cell import Cell, identify
from undistill.experiments.extraction import Phase, attack, remembering
from undistill.experiments.foreign import code_of
from undistill.experiments.graph import Graph, task_of
from undistill.experiments.plan import FILE, Plan, Planned, Subject
from undistill.experiments.plan import read as read_plan
from undistill.experiments.ranking import pick
from undistill.experiments.runtime import Runtime
from undistill.experiments.store import Store
from undistill.experiments.victim_metrics import served
from undistill.files import exclusive
from undistill.oracle.black_box import BlackBox
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Victim, needs_data, resolve
from undistill.threat_model import ThreatModel
from undistill.training.environment import choose_device, describe
from undistill.training.recipe import Recipe, read
from undistill.training.train import train

EXPERIMENT = "audit"
PLAIN = re.compile(r"[A-Za-z0-9_-]+")
"""Names that become files of the audit's folder."""
LONGEST = 300
"""Characters that a line says of why a cell failed; its file says all."""


class Unready(UsageError):
    """The plan, a victim or the data are missing, or no longer those that were planned for: nothing can be computed."""


class Absent(UsageError):
    """The search found no attack of the rank that is wanted: those that were tried diverged."""


@dataclass(frozen=True)
class AuditFolder(Store):
    """An audit on disk and what it runs on; `victims` and `data` are those that were given as objects, by no path."""

    runtime: Runtime = field(default_factory=Runtime)
    victims: Mapping[str, Victim] = field(default_factory=dict)
    data: Splits | None = None

    @property
    def local(self) -> bool:
        """Whether it holds objects that cannot be sent to another process."""
        return bool(self.victims) or self.data is not None

    def graph(self, plan: Plan) -> Graph:
        """The plan's cells as tasks, and which of them are done."""
        return Graph((task_of(planned, compute, (self, planned.key)) for planned in plan.cells), self.done)

    def valid(self, planned: Planned, plan: Plan | None = None) -> Cell | None:
        """The cell that fills a place of the plan (None: of the plan in the folder), if it counts."""
        return self.graph(plan or plan_of(self.folder)).valid(planned.key)

    def query_log(self, subject: Subject, victim: Victim) -> Path | None:
        """The file that keeps what a function returns, for all who query it; None for a network, or what keeps its own."""
        box = victim.model
        asked = isinstance(box, BlackBox) and not isinstance(box.predict, Ledger)
        return self.folder / f"answers-{subject.name}.parquet" if asked else None

    def splits(self, plan: Plan) -> Splits:
        """The audit's data; Unready where they are missing, or not those planned for."""
        with _or_unready():
            data = self.data or _opened(Recipe.model_validate({"data": plan.data}).data.model_dump_json())
        if data.fingerprint != plan.fingerprint:
            raise Unready(
                f"the data are not those that were planned for ({data.fingerprint}, not {plan.fingerprint}): plan anew"
            )
        return data

    def victim(self, plan: Plan, subject: Subject) -> Victim:
        """A victim of the plan; Unready where it is missing, its weights changed, or it is code that was not trusted."""
        if subject.name in self.victims:
            victim = self.victims[subject.name]
        else:
            path = str(self.folder / subject.model) if subject.recipe is not None else subject.model
            data = self.splits(plan) if needs_data(path) else None
            with _or_unready():
                victim = resolve(path, data, answers=subject.answers, behind=subject.behind, typed=False)
        if subject.id and victim.id != subject.id:
            raise Unready(
                f"{subject.model} is not the model that was planned for ({victim.id}, not {subject.id}): plan anew"
            )
        return victim


def plan_of(folder: Path) -> Plan:
    """The plan in a folder now; UsageError for none, and for one that would write outside of it."""
    path = folder / FILE
    about = path.stat() if path.is_file() else None
    return _plan(folder, *((about.st_mtime_ns, about.st_size) if about else (0, 0)))


@lru_cache(maxsize=2)
def _plan(folder: Path, written: int, size: int) -> Plan:  # the last two tell a plan from its successor
    plan = read_plan(folder)
    for name in [*(cell.key for cell in plan.cells), *(subject.name for subject in plan.subjects)]:
        if not PLAIN.fullmatch(name):
            raise Unready(f"{folder / FILE} names a file {name!r}: letters, digits, - and _ are all that it may have")
    for subject in plan.subjects:
        place = Path(subject.model)
        if subject.recipe is not None and (place.is_absolute() or ".." in place.parts or not place.parts):
            raise Unready(
                f"{folder / FILE} would train {subject.name} at {subject.model}, which is outside of {folder}"
            )
    return plan


@lru_cache(maxsize=2)
def _opened(settings: str) -> Splits:
    return load(Recipe.model_validate_json(f'{{"data": {settings}}}').data)


@contextmanager
def _or_unready() -> Iterator[None]:
    try:
        yield
    except (Busy, Unready):
        raise
    except UsageError as error:
        raise Unready(str(error)) from error


def compute(audit: AuditFolder, key: str) -> str:
    """Compute one planned cell, unless it is done; a line about it.

    What failed before is tried again, and so is what its search chose otherwise by now.

    Raises:
        UsageError: a key that is not planned, cells missing that it needs, a victim or data that changed or are missing, code
            that was not trusted.
        Busy: another process is computing this cell.
        RunError: files that cannot be read or written.
    """
    plan = plan_of(audit.folder)
    planned, graph = plan.cell(key), audit.graph(plan)
    cell = graph.valid(planned.key)
    if cell is None:
        needed = {need: graph.current(need) for need in planned.needs}
        if missing := [need for need, found in needed.items() if found is None]:
            raise UsageError(
                f"{planned.key} needs {len(missing)} cells that are not computed, {missing[0]} the first: do stage "
                f"{plan.cell(missing[0]).stage} first"
            )
        if audit.done(planned.key) is not None:  # it failed, or was of other settings
            audit.clear(planned.key)
        cell = _compute(audit, plan, planned, [found for found in needed.values() if found is not None])
    return f"{planned.key} {_line(planned, cell)}"


def _line(planned: Planned, cell: Cell) -> str:
    of = f" of {planned.victim}" if planned.victim else ""
    got = cell.status if cell.held_out is None else f"{cell.held_out:.2f} % held out"
    got = got if cell.accuracy is None else f"{cell.accuracy:.2f} %"
    why = f" ({' '.join(cell.why.split())[:LONGEST]})" if cell.why else ""
    return f"{planned.role} {planned.label}{of}, {planned.card}, seed {planned.seed}{why}: {got}"


def _compute(audit: AuditFolder, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    lost = [cell for cell in needed if cell.status == "failed" and cell.kind == "victim"]
    if lost:
        return audit.put(planned.key, _failed(planned, f"its victim failed: {lost[0].why}"), {})
    try:
        if planned.role == "served":
            return _served(audit, plan, planned)
        return _extracted(audit, plan, planned, needed)
    except (Busy, Unready, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RunError) and not isinstance(error, NotFinite):
            raise
        return _fell(audit, plan, planned, error)


def _fell(audit: AuditFolder, plan: Plan, planned: Planned, error: Exception) -> Cell:
    """Record why a cell could not be computed, unless another process has computed it by now."""
    audit.clear(planned.key)
    if (there := audit.valid(planned, plan)) is not None:
        return there
    cell = _failed(planned, str(error) if isinstance(error, UndistillError) else f"{type(error).__name__}: {error}")
    if isinstance(error, Absent):
        cell = cell.model_copy(update={"status": "diverged"})
    return audit.put(planned.key, cell, {})


def _failed(planned: Planned, why: str) -> Cell:
    """A cell that could not be computed."""
    kind: Any = "victim" if planned.role == "served" else "control" if planned.side == "alone" else "cell"
    return Cell(
        id=identify({"failed": planned.key}),
        key=planned.key,
        kind=kind,
        experiment=EXPERIMENT,
        victim=planned.victim or "none",
        victim_id="",
        attack=planned.attack.get("name", planned.label),
        card=planned.card,
        seeds={"student": planned.seed},
        phase="selection" if planned.role == "search" else "report",
        status="failed",
        why=why,
    )


def _served(audit: AuditFolder, plan: Plan, planned: Planned) -> Cell:
    """What users get from a victim; the audit's own teachers are trained here."""
    data, subject = audit.splits(plan), plan.subject(planned.victim)
    if subject.recipe is not None:
        train_teacher(audit, plan, subject, data)
    victim, where = audit.victim(plan, subject), torch.device("cpu")
    if (log := audit.query_log(subject, victim)) is not None:
        victim = remembering(victim, log)
    if not isinstance(victim.model, BlackBox):
        where = choose_device(audit.runtime.device)
        victim.network.to(where)
    measured, predicted_N = served(victim, data, ThreatModel.parse(planned.card), bank=audit.runtime.cache)
    numbers = {name: round(value, 6) for name, value in measured.items() if value is not None}
    fixed = {"victim_id": victim.id, "data": data.fingerprint, "kind": "victim", "card": planned.card}
    if code := code_of(victim.behind):
        fixed["code"] = code
    cell = Cell(
        id=identify(fixed),
        key=planned.key,
        kind="victim",
        experiment=EXPERIMENT,
        victim=victim.label,
        victim_id=victim.id,
        defense=victim.defense,
        student=subject.network,
        card=planned.card,
        seeds={"victim": victim.seed or 0},
        accuracy=numbers.pop("accuracy"),
        nll=numbers.pop("nll", None),
        ece=numbers.pop("ece", None),
        numbers=numbers,
        n_test=len(data.test),
        data=data.fingerprint,
        data_note=data.note,
        env=describe(where),
    )
    labels_N = data.test.labels_N.numpy().astype(np.int16)
    return audit.put(planned.key, cell, {"predicted": predicted_N.numpy().astype(np.int16), "labels": labels_N})


def _extracted(audit: AuditFolder, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    """One extracted model, or one baseline."""
    searched = [cell for cell in needed if cell.kind != "victim" and cell.status != "failed"]
    recipe = resolved(plan, planned, searched)
    data = audit.splits(plan)
    subject = plan.subject(planned.victim) if planned.victim else plan.subjects[0]
    phase: Phase = "selection" if planned.role == "search" else "report"
    victim, work = audit.victim(plan, subject), audit.work(planned.key)
    extract = partial(
        attack,
        victim,
        data,
        out=work,
        runtime=audit.runtime,
        threat_model=planned.card,
        recipe=recipe,
        seed=planned.seed,
        cells=audit.cells,
        experiment=EXPERIMENT,
        assume_fresh=subject.unseen,
        query_log=audit.query_log(subject, victim),
        accept_accuracy=True,  # looked at when the audit was planned
        resume=True,
        phase=phase,
        key=planned.key,
        reuse=True,
    )
    begun = (work / "config.yaml").exists()
    try:
        cell = extract()
    except UsageError as error:
        if isinstance(error, Busy) or not begun:
            raise
        audit.clear(planned.key)  # most likely begun with what the search gave before
        cell = extract()
    cell = audit.put(planned.key, cell)
    audit.clear(planned.key)
    return cell


def resolved(plan: Plan, planned: Planned, found: Sequence[Cell]) -> Recipe:
    """The recipe of a planned attack; `found` are cells of its search that did not fail.

    Raises:
        Absent: the search has fewer attacks than the rank that is asked for.
    """
    training, attack_settings = dict(planned.recipe["training"]), dict(planned.attack)
    if planned.choice is not None:
        best = pick(found, planned.choice.rank)
        if best is None:
            raise Absent(f"fewer than {planned.choice.rank} attacks of the search came to an end")
        attack_settings = best.record
        training |= {name: best.training[name] for name in ("optimizer", "clip")}
    values: dict[str, Any] = {
        "data": {**plan.data, "views": planned.recipe["views"]},
        "training": training,
        "attack": attack_settings,
        "student": {"recipe": None, **planned.student},
        "seed": planned.seed,
    }
    for path, value in planned.changes.items():
        values = _changed(values, path, lambda _, value=value: value)
    for path, factor in planned.times.items():
        values = _changed(values, path, lambda old, factor=factor: _multiplied(old, factor))
    return read(values)


def _changed(values: dict[str, Any], path: str, change: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    if not rest:
        return {**values, first: change(values.get(first, 1.0 if first == "width" else None))}
    return {**values, first: _changed(values[first], rest, change)}


def _multiplied(old: Any, factor: float) -> Any:
    return max(1, round(old * factor)) if isinstance(old, int) else old * factor


def train_teacher(audit: AuditFolder, plan: Plan, subject: Subject, data: Splits) -> None:
    """Train one of the audit's own teachers, unless it is done. Waits for another process that is training it."""
    recipe, device = read(subject.recipe or {}), audit.runtime.device
    out = audit.folder / subject.model
    if subject.side == "undefended":
        with exclusive(out):
            train(None, data, recipe, seed=recipe.seed, out=out, resume=True, device=device)
        return
    normal = plan.subject(subject.adversary or "")
    train_teacher(audit, plan, normal, data)
    if out == audit.folder / normal.model:  # an output defense is applied to the control itself
        return
    teacher = resolve(str(audit.folder / normal.model), data, typed=False)
    with exclusive(out):
        protect(
            teacher,
            data,
            subject.defense,
            seed=recipe.seed,
            out=out,
            resume=True,
            device=device,
            bank=audit.runtime.cache,
            accept_accuracy=True,  # the audit judges what it trains itself by its cells
        )
