"""`attack`: one thief against one victim, into a run folder and a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from undistill.attacks.base import Attack
from undistill.data import Splits
from undistill.errors import UsageError
from undistill.experiments.cell import Cell, save
from undistill.experiments.cell import read as read_cell
from undistill.experiments.extraction import Heist, Phase
from undistill.experiments.holdings import plan_recipe, remembering
from undistill.oracle.black_box import BlackBox
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.oracle.output_defense import AnswerDefense
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Model, resolve
from undistill.threat_model import Card
from undistill.training.environment import choose_device, describe
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe, Student, read
from undistill.training.run_folder import Watch, drive
from undistill.training.train import of_data, validation


def attack(
    model: Model,
    data: Splits,
    attack: str | dict[str, Any] | Attack | None = None,
    *,
    student: str | dict[str, Any] | Student | None = None,
    card: str | Card = "paper",
    recipe: str | Path | dict[str, Any] | Recipe | None = None,
    seed: int | None = None,
    out: str | Path,
    cells: str | Path | None = None,
    experiment: str = "attack",
    answers: str | None = None,
    called: str | None = None,
    unseen: bool = False,
    ask_test: bool = False,
    ledger: str | Path | None = None,
    accept_accuracy: bool = False,
    resume: bool = False,
    device: str = "auto",
    bank: Bank | None = USUAL,
    behind: Sequence[str | dict[str, Any] | AnswerDefense] = (),
    phase: Phase = "report",
    key: str = "",
    reuse: bool = False,
    watch: Watch | None = None,
) -> Cell:
    """Train a student on what a victim answers, and measure what it got. For models that you own or may test.

    Args:
        model: the victim: a run folder, a model folder, `timm:NAME@weights`, `package.module:callable`, a file of answers, what a
            verb returned, a module, a `BlackBox`.
        data: the victim's data; which part of it the thief holds is the card's.
        attack: a name, `{name: …, …}` or a record; None for the recipe's.
        student: a name, `{name: …, width: …, recipe: …}`; None for the recipe's.
        card: `paper`, `api`, or written out as `probs/unlabelled/fresh/random/50`.
        recipe: None for the recipe that the victim was trained by. The student's own recipe, if it names one, trains it.
        seed: the thief's: its images, initial weights, order and views. None for the recipe's.
        out: run folder of the student.
        cells: where the cell goes; None for `cells` in `out`.
        experiment: what the cell belongs to.
        answers: `logits`, `probs`, `topk` or `label`: what a callable or a file of answers says, where it does not say so itself.
        called: what reports call the victim; two functions of one name need it to be told apart.
        unseen: your word that a victim of unknown origin never saw the images of `data.pool`; a fresh card needs it then.
        ask_test: ask a function about the test images too, for its own accuracy and the student's agreement with it; these
            questions are not the thief's and are not counted as such.
        ledger: file that keeps a function's answers; None for `answers.parquet` in `out`. Thieves that share one pay once.
        accept_accuracy: go on with a victim whose accuracy cannot be that of a classifier of these data (`Victim.plausible`).
        resume: go on with an unfinished run there.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        bank: keeps a network's answers for the next thief of the same seed; None keeps nothing.
        behind: answer-side defenses in front of the victim, the first one first: names, `rounding digits=1`, `{name: …}`.
        phase: `selection` measures no test image: a search may choose by `held_out` alone.
        key: of the plan that the cell is made for.
        reuse: a whole cell of these very settings that lies in `cells` is returned as it is, and nothing is trained.
        watch: told each epoch.

    Returns:
        The cell. A student whose loss was not finite gives one of status `diverged`, without an accuracy.

    Raises:
        UsageError: a card the attack or the data cannot play, settings that do not fit, a victim near chance.
        RunError: the victim's answers are not finite, or not what was declared.
    """
    victim = resolve(model, data, answers=answers, called=called, behind=behind)
    victim.check(data)
    if ledger is not None and (not isinstance(victim.model, BlackBox) or isinstance(victim.model.predict, Ledger)):
        raise UsageError(f"--query-log keeps what a function answers; {victim.label} is none")
    source = victim.recipe if recipe is None else recipe
    if source is None:
        raise UsageError("the model brings no recipe for its thief; name one with --config")
    where = choose_device(device)
    planned = of_data(plan_recipe(read(source), attack, student, seed), data)
    victim = remembering(victim, Path(ledger) if ledger else Path(out) / "answers.parquet")
    heist = Heist(
        victim,
        data,
        Card.parse(card),
        planned,
        where,
        describe(where, planned.training.precision),
        experiment,
        unseen=unseen,
        ask_test=ask_test,
        bank=bank,
        phase=phase,
        key=key,
    )
    where_to = Path(cells) if cells else Path(out) / "cells"
    if reuse and not isinstance(victim.model, BlackBox) and (where_to / f"{heist.id}.json").is_file():
        return read_cell(where_to / f"{heist.id}.json")
    if not planned.attack.control:
        victim.plausible(data, accept=accept_accuracy)

    def steps(state: State | None, before: dict[str, Any]) -> Iterator[EpochRecord]:
        """The attacker's epochs; behind the first, the responses of a function are there to be looked at."""
        for number, record in enumerate(heist.steps(state, before)):
            if number == 0 and isinstance(victim.model, BlackBox) and not planned.attack.control:
                victim.plausible(data, accept=accept_accuracy)
            yield record

    run = drive(
        Path(out),
        heist.config,
        heist.env,
        steps,
        lambda metrics: heist.finish(metrics, Path(out), where_to),
        resume=resume,
        extra=heist.counts,
        measure=lambda: validation(heist.student, data),
        watch=watch,
    )
    cell = Cell.model_validate(run.result["cell"])
    if not (where_to / f"{cell.id}.json").exists():  # a finished run whose cell was lost, or is wanted elsewhere
        measured = cell.status == "ok" and phase == "report"
        cell = save(where_to, cell, heist.predictions(run.model()) if measured else {})
    return cell
