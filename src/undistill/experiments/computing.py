"""The two kinds of cells of an audit, computed: what users get from a victim, and a thief or a student alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from undistill.errors import Busy, UsageError
from undistill.experiments.attack import attack
from undistill.experiments.cell import Array, Cell, identify
from undistill.experiments.extraction import Phase
from undistill.experiments.foreign import code_of
from undistill.experiments.holdings import remembering
from undistill.experiments.opened import data_of, train_teacher, victim_of
from undistill.experiments.plan import Plan, Planned
from undistill.experiments.settled import resolved
from undistill.experiments.victim_metrics import served
from undistill.oracle.black_box import BlackBox
from undistill.threat_model import Card
from undistill.training.environment import choose_device, describe

if TYPE_CHECKING:
    from undistill.experiments.desk import Desk

EXPERIMENT = "audit"


def served_cell(desk: Desk, plan: Plan, planned: Planned) -> Cell:
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


def thief_cell(desk: Desk, plan: Plan, planned: Planned, needed: list[Cell]) -> Cell:
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
        accept_accuracy=True,  # looked at when the audit was planned
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
