"""How each cell of an audit is computed. Runs in worker processes; every cell can be computed again without harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undistill.access import Card
from undistill.auditing.attack import attack
from undistill.auditing.cell import Array, Cell, identify, save
from undistill.auditing.cell import read as read_cell
from undistill.auditing.choosing import matches
from undistill.auditing.foreign import code_of
from undistill.auditing.heist import Phase
from undistill.auditing.opened import Unready, data_of, plan_of, train_teacher, victim_of
from undistill.auditing.plan import remembering
from undistill.auditing.planned import Plan, Planned, Subject
from undistill.auditing.served import served
from undistill.auditing.settled import Absent, resolved
from undistill.data import Splits
from undistill.errors import Busy, NotFinite, RunError, UndistillError, UsageError
from undistill.files import locked, read_json, write_json
from undistill.oracle.bank import USUAL, Bank
from undistill.oracle.blackbox import BlackBox
from undistill.oracle.ledger import Ledger
from undistill.oracle.victim import Victim
from undistill.training.env import choose_device, describe

EXPERIMENT = "audit"
LONGEST = 300
"""Characters that a line says of why a cell failed; its file says all."""


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
        """The cell that was computed last for a key, or None; `standing` says whether it still counts."""
        marker = self.marker(key)
        told = read_json(marker) if marker.is_file() else None
        if not isinstance(told, dict) or not isinstance(told.get("cell"), str):
            return None
        path = (self.folder / str(told.get("cells", "cells")) / Path(told["cell"]).name).with_suffix(".json")
        return read_cell(path) if path.is_file() else None

    def standing(self, planned: Planned, plan: Plan) -> Cell | None:
        """The cell that fills a place of the plan: done, not failed, and of the settings that its search gives now. Or None."""
        cell = self._current(planned, plan, {})
        return None if cell is None or cell.status == "failed" else cell

    def todo(self, plan: Plan) -> tuple[Planned, ...]:
        """The cells to compute, in the plan's order: those that do not stand, and all whose search rests on one of them."""
        known: dict[str, Cell | None] = {}
        found: dict[str, Planned] = {}
        for planned in plan.cells:
            cell = self._current(planned, plan, known)
            among = () if planned.choice is None else planned.choice.among
            if cell is None or cell.status == "failed" or not found.keys().isdisjoint(among):
                found[planned.key] = planned
        return tuple(found.values())

    def current(self, planned: Planned, plan: Plan) -> Cell | None:
        """As `standing`, but also a cell that failed."""
        return self._current(planned, plan, {})

    def _current(self, planned: Planned, plan: Plan, known: dict[str, Cell | None]) -> Cell | None:
        if planned.key in known:
            return known[planned.key]
        known[planned.key] = None
        cell = self.done(planned.key)
        if cell is not None and planned.choice is not None:
            found = [self._current(plan.cell(key), plan, known) for key in planned.choice.among]
            whole = [other for other in found if other is not None and other.status != "failed"]
            if None in found or not matches(planned, cell, whole):
                cell = None
        known[planned.key] = cell
        return cell

    def work(self, key: str) -> Path:
        """The folder that a thief is trained in."""
        return self.folder / "work" / key

    def clear(self, key: str) -> None:
        """Remove what an unfinished training left, unless another process is at it."""
        work = self.work(key)
        if work.is_dir():
            with suppress(Busy), locked(work):
                shutil.rmtree(work, ignore_errors=True)

    def ledger(self, subject: Subject, victim: Victim) -> Path | None:
        """The file that keeps what a function answers, for all who ask it; None for a network, and for what keeps its own."""
        box = victim.model
        asked = isinstance(box, BlackBox) and not isinstance(box.predict, Ledger)
        return self.folder / f"answers-{subject.name}.parquet" if asked else None

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
    """Compute one planned cell, unless it is there; a line about it.

    What failed before is tried again, and so is what its search chose otherwise by now.

    Raises:
        UsageError: a key that is not planned, cells missing that it needs, a victim or data that changed or are not there, code
            that nobody trusted.
        Busy: another process is at this cell.
        RunError: files that cannot be read or written.
    """
    plan = plan_of(desk.folder)
    planned = plan.cell(key)
    cell = desk.standing(planned, plan)
    if cell is None:
        needed = {need: desk.current(plan.cell(need), plan) for need in planned.needs}
        if missing := [need for need, found in needed.items() if found is None]:
            raise UsageError(
                f"{planned.key} needs {len(missing)} cells that are not computed, {missing[0]} the first: do stage "
                f"{plan.cell(missing[0]).stage} first"
            )
        if desk.done(planned.key) is not None:  # it failed, or was of other settings
            desk.clear(planned.key)
        cell = _compute(desk, plan, planned, [found for found in needed.values() if found is not None])
    return f"{planned.key} {_line(planned, cell)}"


def _line(planned: Planned, cell: Cell) -> str:
    of = f" of {planned.victim}" if planned.victim else ""
    if cell.status != "ok":
        got = f"{cell.status}: {' '.join(cell.why.split())[:LONGEST]}" if cell.why else cell.status
    elif cell.accuracy is not None:
        got = f"{cell.accuracy:.2f} %"
    else:
        got = f"{cell.held_out:.2f} % held out" if cell.held_out is not None else "ok"
    return f"{planned.role} {planned.label}{of}, {planned.card}, seed {planned.seed}: {got}"


def _compute(desk: Desk, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    lost = [cell for cell in needed if cell.status == "failed" and cell.kind == "victim"]
    if lost:
        return desk.put(planned.key, failed(planned, f"its victim failed: {lost[0].why}"), {})
    try:
        if planned.role == "served":
            return _served(desk, plan, planned)
        return _thief(desk, plan, planned, needed)
    except NotFinite as error:
        return _fell(desk, plan, planned, error)
    except (Busy, Unready, RunError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  an attack of anybody's may fail in any way, and that is a result
        return _fell(desk, plan, planned, error)


def _fell(desk: Desk, plan: Plan, planned: Planned, error: Exception) -> Cell:
    """Write down why a cell could not be computed, unless another process has computed it by now."""
    desk.clear(planned.key)
    if (there := desk.standing(planned, plan)) is not None:
        return there
    cell = failed(planned, str(error) if isinstance(error, UndistillError) else f"{type(error).__name__}: {error}")
    if isinstance(error, Absent):
        cell = cell.model_copy(update={"status": "diverged"})
    return desk.put(planned.key, cell, {})


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


def _served(desk: Desk, plan: Plan, planned: Planned) -> Cell:
    """What users get from a victim; the audit's own teachers are trained here."""
    data = data_of(desk, plan)
    subject = plan.subject(planned.victim)
    if subject.recipe is not None:
        train_teacher(desk, plan, subject, data)
    victim = victim_of(desk, plan, subject)
    where = torch.device("cpu")
    if (ledger := desk.ledger(subject, victim)) is not None:
        victim = remembering(victim, ledger)
    if not isinstance(victim.model, BlackBox):
        where = choose_device(desk.device)
        victim.network.to(where)
    numbers, said_N = served(victim, data, Card.parse(planned.card), bank=desk.bank)
    kept = {name: value for name, value in numbers.items() if value is not None}
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
        accuracy=round(kept.pop("accuracy"), 6),
        nll=_rounded(kept.pop("nll", None)),
        ece=_rounded(kept.pop("ece", None)),
        numbers={name: round(value, 6) for name, value in kept.items()},
        n_test=len(data.test),
        data=data.fingerprint,
        data_note=data.note,
        env=describe(where),
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
    data = data_of(desk, plan)
    subject = plan.subject(planned.victim) if planned.victim else plan.subjects[0]
    phase: Phase = "selection" if planned.role == "search" else "report"
    victim, work = victim_of(desk, plan, subject), desk.work(planned.key)
    rob = partial(
        attack,
        victim,
        data,
        card=planned.card,
        recipe=recipe,
        seed=planned.seed,
        out=work,
        cells=desk.home,
        experiment=EXPERIMENT,
        unseen=subject.unseen,
        ledger=desk.ledger(subject, victim),
        resume=True,
        device=desk.device,
        bank=desk.bank,
        phase=phase,
        key=planned.key,
        reuse=True,
    )
    begun = (work / "config.yaml").exists()
    try:
        cell = rob()
    except UsageError as error:
        if isinstance(error, Busy) or not begun:
            raise
        desk.clear(planned.key)  # most likely begun with what the search gave before
        cell = rob()
    cell = desk.put(planned.key, cell)
    desk.clear(planned.key)
    return cell


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
