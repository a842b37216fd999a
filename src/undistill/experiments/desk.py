"""How each cell of an audit is computed. Runs in worker processes; every cell can be computed again without harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undistill.data import Splits
from undistill.errors import Busy, NotFinite, RunError, UndistillError, UsageError
from undistill.experiments.cell import Array, Cell, identify, save
from undistill.experiments.cell import read as read_cell
from undistill.experiments.computing import EXPERIMENT, served_cell, thief_cell
from undistill.experiments.opened import Unready, plan_of
from undistill.experiments.plan import Plan, Planned, Subject
from undistill.experiments.ranking import matches
from undistill.experiments.settled import Absent
from undistill.files import locked, read_json, write_json
from undistill.oracle.black_box import BlackBox
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Victim

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

    def standing(self, planned: Planned, plan: Plan | None = None) -> Cell | None:
        """The cell that fills a place of the plan: done, not failed, and of the settings that its search gives now. Or None.

        The plan is the one that lies in the folder, unless another is given.
        """
        cell = self.current(planned, plan or plan_of(self.folder), {})
        return None if cell is None or cell.status == "failed" else cell

    def todo(self, plan: Plan) -> tuple[Planned, ...]:
        """The cells to compute, in the plan's order: those that do not stand, and all whose search rests on one of them."""
        known: dict[str, Cell | None] = {}
        found: dict[str, Planned] = {}
        for planned in plan.cells:
            cell = self.current(planned, plan, known)
            among = () if planned.choice is None else planned.choice.among
            if cell is None or cell.status == "failed" or not found.keys().isdisjoint(among):
                found[planned.key] = planned
        return tuple(found.values())

    def current(self, planned: Planned, plan: Plan, known: dict[str, Cell | None]) -> Cell | None:
        """As `standing`, but also a cell that failed. `known` spares looking at the same search again."""
        if planned.key in known:
            return known[planned.key]
        known[planned.key] = None
        cell = self.done(planned.key)
        if cell is not None and planned.choice is not None:
            found = [self.current(plan.cell(key), plan, known) for key in planned.choice.among]
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
        known: dict[str, Cell | None] = {}
        needed = {need: desk.current(plan.cell(need), plan, known) for need in planned.needs}
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
    got = cell.status if cell.held_out is None else f"{cell.held_out:.2f} % held out"
    got = got if cell.accuracy is None else f"{cell.accuracy:.2f} %"
    why = f" ({' '.join(cell.why.split())[:LONGEST]})" if cell.why else ""
    return f"{planned.role} {planned.label}{of}, {planned.card}, seed {planned.seed}{why}: {got}"


def _compute(desk: Desk, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
    lost = [cell for cell in needed if cell.status == "failed" and cell.kind == "victim"]
    if lost:
        return desk.put(planned.key, failed(planned, f"its victim failed: {lost[0].why}"), {})
    try:
        if planned.role == "served":
            return served_cell(desk, plan, planned)
        return thief_cell(desk, plan, planned, needed)
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
