"""How each cell of an audit is computed. Runs in worker processes; every cell can be computed again without harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from undistill.access import Card
from undistill.auditing.attack import attack
from undistill.auditing.cell import Array, Cell, identify, save
from undistill.auditing.cell import read as read_cell
from undistill.auditing.choosing import pick
from undistill.auditing.heist import Phase
from undistill.auditing.planned import Plan, Planned, Subject
from undistill.auditing.planned import read as read_plan
from undistill.auditing.served import served
from undistill.data import Splits, load
from undistill.defenses.protect import protect
from undistill.errors import RunError, UndistillError, UsageError
from undistill.files import read_json, write_json
from undistill.oracle.bank import USUAL, Bank
from undistill.oracle.victim import Victim, resolve
from undistill.training.env import choose_device, describe
from undistill.training.recipe import Recipe, read
from undistill.training.train import train

EXPERIMENT = "audit"


@dataclass(frozen=True)
class Desk:
    """Where an audit lies and what it runs on; `victims` and `data` are those that no path leads to."""

    folder: Path
    cells: Path | None = None
    device: str = "auto"
    bank: Bank | None = USUAL
    victims: Mapping[str, Victim] = field(default_factory=dict)
    data: Splits | None = None

    @property
    def home(self) -> Path:
        """Where cells lie."""
        return self.cells or self.folder / "cells"

    def marker(self, key: str) -> Path:
        """The file that says which cell fills a key."""
        return self.folder / "done" / f"{key}.json"

    def done(self, key: str) -> Cell | None:
        """The cell that fills a key, or None."""
        marker = self.marker(key)
        told = read_json(marker) if marker.is_file() else None
        if not isinstance(told, dict) or not isinstance(told.get("cell"), str):
            return None
        path = (self.folder / str(told.get("cells", "cells")) / Path(told["cell"]).name).with_suffix(".json")
        return read_cell(path) if path.is_file() else None

    def put(self, key: str, cell: Cell, arrays: dict[str, Array] | None = None) -> Cell:
        """Keep a cell and say that it fills the key."""
        if arrays is not None:
            cell = save(self.home, cell, arrays)
        told = {"cell": cell.id}
        if self.cells is not None:
            told["cells"] = os.path.relpath(self.cells, self.folder)
        write_json(self.marker(key), told)
        return cell


def compute(desk: Desk, key: str) -> str:
    """Compute one planned cell, unless it is there; a line about it. What failed before is tried again.

    Raises:
        UsageError: a key that is not planned, cells missing that it needs, another process at it, a victim that changed.
        RunError: files that cannot be read or written.
    """
    plan = _plan(desk.folder)
    planned = plan.cell(key)
    cell = desk.done(planned.key)
    if cell is None or cell.status == "failed":
        needed = {need: desk.done(need) for need in planned.needs}
        if missing := [need for need, found in needed.items() if found is None]:
            raise UsageError(
                f"{planned.key} needs {len(missing)} cells that are not computed, {missing[0]} the first: do stage "
                f"{plan.cell(missing[0]).stage} first"
            )
        cell = _compute(desk, plan, planned, [found for found in needed.values() if found is not None])
    return f"{planned.key} {_line(planned, cell)}"


def _line(planned: Planned, cell: Cell) -> str:
    of = f" of {planned.victim}" if planned.victim else ""
    got = (
        cell.status if cell.status != "ok" else f"{cell.held_out:.2f} % held out" if cell.held_out is not None else "ok"
    )
    got = f"{cell.accuracy:.2f} %" if cell.accuracy is not None else got
    return f"{planned.role} {planned.label}{of}, {planned.card}, seed {planned.seed}: {got}"


def _compute(desk: Desk, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    lost = [cell for cell in needed if cell.status == "failed" and cell.kind == "victim"]
    if lost:
        return desk.put(planned.key, failed(planned, f"its victim failed: {lost[0].why}"), {})
    try:
        if planned.role == "served":
            return _served(desk, plan, planned)
        return _thief(desk, plan, planned, needed)
    except (RunError, KeyboardInterrupt, MemoryError):
        raise
    except UsageError as error:
        if isinstance(error, Changed):
            raise
        cell = failed(planned, str(error))
        if isinstance(error, Absent):
            cell = cell.model_copy(update={"status": "diverged"})
        return desk.put(planned.key, cell, {})
    except Exception as error:  # noqa: BLE001  an attack of anybody's may fail in any way, and that is a result
        why = str(error) if isinstance(error, UndistillError) else f"{type(error).__name__}: {error}"
        return desk.put(planned.key, failed(planned, why), {})


def failed(planned: Planned, why: str) -> Cell:
    """What could not be computed."""
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


class Absent(UsageError):
    """The search found no attack of the rank that is wanted: those that were tried diverged."""


class Changed(UsageError):
    """A victim or its data are no longer those that were planned for."""


def _served(desk: Desk, plan: Plan, planned: Planned) -> Cell:
    """What users get from a victim; the audit's own teachers are trained here."""
    data = _data(desk, plan)
    subject = plan.subject(planned.victim)
    if subject.recipe is not None:
        _trained(desk, plan, subject, data)
    victim = _victim(desk, plan, subject)
    numbers, said_N = served(victim, data, Card.parse(planned.card), bank=desk.bank)
    kept = {name: value for name, value in numbers.items() if value is not None}
    fixed = {"victim_id": victim.id, "data": data.fingerprint, "kind": "victim", "card": planned.card}
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
        accuracy=round(kept.pop("accuracy"), 6),
        nll=_rounded(kept.pop("nll", None)),
        ece=_rounded(kept.pop("ece", None)),
        numbers={name: round(value, 6) for name, value in kept.items()},
        n_test=len(data.test),
        data=data.fingerprint,
        data_note=data.note,
        env=describe(choose_device(desk.device)),
    )
    arrays: dict[str, Array] = {
        "predicted": said_N.numpy().astype(np.int16),
        "labels": data.test.labels_N.numpy().astype(np.int16),
    }
    return desk.put(planned.key, cell, arrays)


def _thief(desk: Desk, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    """One thief, or one student alone."""
    searched = [cell for cell in needed if cell.kind != "victim" and cell.status != "failed"]  # the judge counts those
    recipe = resolved(plan, planned, searched)
    data = _data(desk, plan)
    subject = plan.subject(planned.victim) if planned.victim else plan.subjects[0]
    phase: Phase = "selection" if planned.role == "search" else "report"
    work = desk.folder / "work" / planned.key
    cell = attack(
        _victim(desk, plan, subject),
        data,
        card=planned.card,
        recipe=recipe,
        seed=planned.seed,
        out=work,
        cells=desk.home,
        experiment=EXPERIMENT,
        unseen=subject.unseen,
        ledger=desk.folder / f"answers-{subject.name}.parquet" if subject.answers else None,
        resume=True,
        device=desk.device,
        bank=desk.bank,
        phase=phase,
        key=planned.key,
        reuse=True,
    )
    shutil.rmtree(work, ignore_errors=True)
    return desk.put(planned.key, cell)


def resolved(plan: Plan, planned: Planned, found: list[Cell]) -> Recipe:
    """The recipe of a planned thief, once the search that it rests on is done.

    Raises:
        UsageError: the search has fewer attacks than the rank that is asked for.
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


def _trained(desk: Desk, plan: Plan, subject: Subject, data: Splits) -> None:
    """Train one of the audit's own teachers, unless it is there."""
    recipe = read(subject.recipe or {})
    out = desk.folder / subject.model
    if subject.side == "undefended":
        train(None, data, recipe, seed=recipe.seed, out=out, resume=True, device=desk.device)
        return
    normal = plan.subject(subject.adversary or "")
    _trained(desk, plan, normal, data)
    protect(
        desk.folder / normal.model,
        data,
        subject.defense,
        seed=recipe.seed,
        out=out,
        resume=True,
        device=desk.device,
        bank=desk.bank,
    )


def _victim(desk: Desk, plan: Plan, subject: Subject) -> Victim:
    """A victim of the plan; Changed where its weights are others than those planned for."""
    if subject.name in desk.victims:
        victim = desk.victims[subject.name]
    else:
        path = str(desk.folder / subject.model) if subject.recipe is not None else subject.model
        victim = _loaded(path, subject, _data(desk, plan) if ":" in path else None)
    if subject.id and victim.id != subject.id:
        raise Changed(
            f"{subject.model} is not the model that was planned for ({victim.id}, not {subject.id}): plan anew"
        )
    return victim


def _loaded(path: str, subject: Subject, data: Splits | None) -> Victim:
    return resolve(path, data, answers=subject.answers, behind=subject.behind)


def _data(desk: Desk, plan: Plan) -> Splits:
    """The audit's data; Changed where they are not those planned for."""
    data = desk.data or _opened(Recipe.model_validate({"data": plan.data}).data.model_dump_json())
    if data.fingerprint != plan.fingerprint:
        raise Changed(
            f"the data are not those that were planned for ({data.fingerprint}, not {plan.fingerprint}): plan anew"
        )
    return data


@lru_cache(maxsize=2)
def _opened(settings: str) -> Splits:
    return load(Recipe.model_validate_json(f'{{"data": {settings}}}').data)


@lru_cache(maxsize=2)
def _plan(folder: Path) -> Plan:
    return read_plan(folder)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
