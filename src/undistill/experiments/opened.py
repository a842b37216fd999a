"""What a plan file names, opened: its data and victims, each only if it is what was planned, and no code that nobody trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from undistill.data import Splits, load
from undistill.defenses.protect import protect
from undistill.errors import Busy, UsageError
from undistill.experiments.plan import FILE, Plan, Subject
from undistill.experiments.plan import read as read_plan
from undistill.files import exclusive
from undistill.oracle.victim import Victim, resolve
from undistill.training.recipe import Recipe, read
from undistill.training.train import train

if TYPE_CHECKING:
    from undistill.experiments.desk import Desk

PLAIN = re.compile(r"[A-Za-z0-9_-]+")
"""Names that become files of the audit's folder."""


class Unready(UsageError):
    """The plan, a victim or the data are not there, or no longer those that were planned for: nothing can be computed."""


def plan_of(folder: Path) -> Plan:
    """The plan that lies in a folder now; UsageError for none, and for one that would write outside of it."""
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
        if subject.recipe is not None and (place.is_absolute() or ".." in place.parts):
            raise Unready(
                f"{folder / FILE} would train {subject.name} at {subject.model}, which is outside of {folder}"
            )
    return plan


def data_of(desk: Desk, plan: Plan) -> Splits:
    """The audit's data; Unready where they are not there, or not those planned for."""
    with _or_unready():
        data = desk.data or _opened(Recipe.model_validate({"data": plan.data}).data.model_dump_json())
    if data.fingerprint != plan.fingerprint:
        raise Unready(
            f"the data are not those that were planned for ({data.fingerprint}, not {plan.fingerprint}): plan anew"
        )
    return data


@lru_cache(maxsize=2)
def _opened(settings: str) -> Splits:
    return load(Recipe.model_validate_json(f'{{"data": {settings}}}').data)


def victim_of(desk: Desk, plan: Plan, subject: Subject) -> Victim:
    """A victim of the plan; Unready where it is not there, its weights are others, or it is code that nobody trusted."""
    if subject.name in desk.victims:
        victim = desk.victims[subject.name]
    else:
        path = str(desk.folder / subject.model) if subject.recipe is not None else subject.model
        data = data_of(desk, plan) if ":" in path else None
        with _or_unready():
            victim = resolve(path, data, answers=subject.answers, behind=subject.behind, typed=False)
    if subject.id and victim.id != subject.id:
        raise Unready(
            f"{subject.model} is not the model that was planned for ({victim.id}, not {subject.id}): plan anew"
        )
    return victim


@contextmanager
def _or_unready() -> Iterator[None]:
    try:
        yield
    except (Busy, Unready):
        raise
    except UsageError as error:
        raise Unready(str(error)) from error


def train_teacher(desk: Desk, plan: Plan, subject: Subject, data: Splits) -> None:
    """Train one of the audit's own teachers, unless it is there. Who finds another process at it waits for it."""
    recipe = read(subject.recipe or {})
    out = desk.folder / subject.model
    if subject.side == "undefended":
        with exclusive(out):
            train(None, data, recipe, seed=recipe.seed, out=out, resume=True, device=desk.device)
        return
    normal = plan.subject(subject.adversary or "")
    train_teacher(desk, plan, normal, data)
    if out == desk.folder / normal.model:  # an answer-side defense stands in front of the twin itself
        return
    teacher = resolve(str(desk.folder / normal.model), data, typed=False)
    with exclusive(out):
        protect(
            teacher,
            data,
            subject.defense,
            seed=recipe.seed,
            out=out,
            resume=True,
            device=desk.device,
            bank=desk.bank,
            accept_accuracy=True,  # what the audit trains itself it judges by its cells
        )
