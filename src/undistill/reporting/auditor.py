"""`undistill.audit`: plan an audit, compute its cells, judge them and draw the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undistill.reporting.report import write_report
from undistill.reporting.written import Report

if TYPE_CHECKING:
    from undistill.access import Card
    from undistill.data import Splits
    from undistill.oracle.bank import Bank
    from undistill.oracle.serving import AnswerDefense
    from undistill.oracle.victim import Model
    from undistill.training.recipe import Recipe

USUAL: Any = "usual"


def audit(
    model: Model | None,
    data: Splits | None = None,
    *,
    control: Model | None = None,
    suite: str = "quick",
    card: str | Card = "unlabelled/fresh",
    serve: Sequence[str] = (),
    questions: Sequence[int] = (),
    students: Sequence[str | dict[str, Any]] = (),
    seeds: int | None = None,
    steps: int | None = None,
    delta: float | None = None,
    public: str | None = None,
    also: Sequence[str | dict[str, Any]] = (),
    behind: Sequence[str | dict[str, Any] | AnswerDefense] = (),
    answers: str | None = None,
    unseen: bool = False,
    accept_accuracy: bool = False,
    method: str | dict[str, Any] | None = None,
    teachers: int = 3,
    recipe: str | Path | dict[str, Any] | Recipe | None = None,
    out: str | Path,
    cells: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    bank: Bank | None = USUAL,
    say: Callable[[str], None] | None = None,
) -> Report:
    """What a thief still gets from a model. What was computed before is found in `out` and not done again.

    Args:
        model: as `attack` takes it; None with `method`.
        data: the victim's; None to load what its recipe names. A model that no path leads to needs them.
        control: the undefended twin: same data, about as accurate. Without one, exposure alone; behind a defense it is `model`.
        suite: `quick`, an indication in minutes, or `standard` (the newest version), which gives verdicts.
        card: what the thief holds: `unlabelled/fresh`, `labelled/fresh`, `paper`, or a whole card.
        serve: ways of serving: `probs`, `top5:2`, `top1`, `label`, `weights`. None for the suite's.
        questions: numbers of questions; the first is searched on. None for an eighth of the pool, and for a suite with verdicts
            twice and four times as many.
        students: thieves' networks: `cnn:0.5` or settings; the first is searched with. None for the victim's own architecture.
        seeds: report seeds; with a method, for each teacher. None for the suite's.
        steps: training steps of a thief with a number of questions.
        delta: the smallest difference that matters, in points of accuracy. None for half a point on 10,000 test images, 2 on 500.
        public: weights that thieves start from.
        also: attacks of one's own, tried too.
        behind: answer-side defenses in front of `model`, the first one first.
        answers: what a callable answers with.
        unseen: your word that a model of unknown origin never saw the fresh pool.
        accept_accuracy: go on with a model whose accuracy cannot be that of a classifier of these data.
        method: a defense to audit as a method, on pairs of teachers that are trained for it.
        teachers: how many pairs.
        recipe: of thieves (and of a method's teachers); None for the one that `model` was trained by.
        out: folder of the audit.
        cells: folder of cells, for audits to share; None for `cells` in `out`.
        jobs: processes; None for one a core. 1 where the model or the data were handed over as objects.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        bank: keeps a network's answers; None keeps nothing.
        say: told each cell.

    Returns:
        The report in `out/report`: `text` for a terminal, `values`, and the `page`.

    Raises:
        UsageError: models, data or settings that do not fit, a control that is none, a folder that holds another audit.
    """
    from undistill.auditing.asking import Request
    from undistill.auditing.audit import prepare, run
    from undistill.oracle.bank import USUAL as USUAL_BANK

    asked = Request(
        suite=suite,
        card=card,
        serve=serve,
        questions=questions,
        students=students,
        seeds=seeds,
        steps=steps,
        delta=delta,
        public=public,
        also=also,
        behind=behind,
        answers=answers,
        unseen=unseen,
        method=method,
        teachers=teachers,
    )
    kept = USUAL_BANK if bank is USUAL else bank
    given: dict[str, Any] = {"control": control, "recipe": recipe, "out": out, "cells": cells, "device": device}
    given["accept_accuracy"] = accept_accuracy
    run(prepare(model, data, asked, **given, bank=kept), jobs=jobs, say=say)
    return write_report([Path(out)], Path(out) / "report")
