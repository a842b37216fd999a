"""`undistill.audit`: plan an audit, compute its cells, judge them and draw the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undistill.reporting.report import write_report
from undistill.reporting.written import Report

if TYPE_CHECKING:
    from undistill.data import Splits
    from undistill.oracle.logit_cache import Bank
    from undistill.oracle.output_defense import AnswerDefense
    from undistill.oracle.victim import Model
    from undistill.threat_model import ThreatModel
    from undistill.training.recipe import Recipe

USUAL: Any = "usual"


OLD = {
    "serve": "access",
    "questions": "queries",
    "behind": "output_defense",
    "unseen": "assume_fresh",
    "also": "extra_attack",
    "called": "name",
    "card": "threat_model",
}
"""Names that arguments had; they are still read."""


def audit(
    model: Model | None,
    data: Splits | None = None,
    *,
    control: Model | None = None,
    suite: str = "timed",
    time: str | float | None = None,
    threat_model: str | ThreatModel = "unlabelled/fresh",
    access: Sequence[str] = (),
    queries: Sequence[int] = (),
    output_defense: Sequence[str | dict[str, Any] | AnswerDefense] = (),
    answers: str | None = None,
    assume_fresh: bool = False,
    name: str | None = None,
    students: Sequence[str | dict[str, Any]] = (),
    extra_attack: Sequence[str | dict[str, Any]] = (),
    public: str | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    delta: float | None = None,
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
    **old: Any,
) -> Report:
    """What an attacker gets from a model. What was computed before is found in `out` and not computed again.

    Args:
        model: as `attack` takes it; None with `method`.
        data: the victim's; None to load what its recipe names. A model that no path leads to needs them.
        control: the same network without the defense: same data, about as accurate. Without one the audit says what an attacker
            gets, and not whether a defense helps; with an output defense it is `model` itself.
        suite: `timed` adds seeds until differences of `delta` are resolved or `time` is used; `quick` is an indication in minutes;
            `standard` (the newest version) searches and gives verdicts.
        time: of the suite `timed`: `"10m"`, `"90s"`, `"2h"`, or a number of minutes.
        threat_model: what the attacker holds: `unlabelled/fresh`, `labelled/fresh`, `paper`, or all of it.
        access: output accesses: `probs`, `top5:2`, `top1`, `label`, `weights`. None for the suite's.
        queries: query budgets; the first is searched on. None for an eighth of the pool, and twice and four times as many.
        output_defense: output defenses of `model`, the first one first.
        answers: what a callable returns.
        assume_fresh: asserts, unverified, that a model of unknown origin was not trained on the fresh pool.
        name: what reports call a callable.
        students: attackers' networks: `cnn:0.5` or settings; the first is searched with. None for the victim's own architecture.
        extra_attack: attacks of your own, tried too.
        public: weights that attackers start from.
        seeds: report seeds; with a method, for each teacher. None for the suite's.
        steps: training steps of an attacker with a query budget.
        delta: the smallest difference that matters, in points of accuracy. None for half a point on 10,000 test images, 2 on 500.
        accept_accuracy: go on with a model whose accuracy cannot be that of a classifier of these data.
        method: a defense to audit as a method, on pairs of teachers that are trained for it.
        teachers: how many pairs.
        recipe: of attackers (and of a method's teachers); None for the one that `model` was trained by.
        out: folder of the audit.
        cells: folder of cells, for audits to share; None for `cells` in `out`.
        jobs: processes; None for one a core. 1 where the model or the data were handed over as objects.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        bank: keeps a network's outputs; None keeps nothing.
        say: receives a line for each cell.
        **old: earlier names of these arguments: serve, questions, behind, unseen, also, called, card.

    Returns:
        The report in `out/report`: `text` for a terminal, `values`, and the `page`.

    Raises:
        UsageError: models, data or settings that do not fit, a control that is none, a folder that holds another audit.
        TypeError: an argument of another name.
    """
    from undistill.auditing.audit import prepare, run
    from undistill.auditing.config import Request
    from undistill.oracle.logit_cache import USUAL as USUAL_BANK

    if unknown := [key for key in old if key not in OLD]:
        raise TypeError(f"audit() got an unexpected keyword argument {unknown[0]!r}")
    wanted = {
        "threat_model": threat_model,
        "access": access,
        "queries": queries,
        "output_defense": output_defense,
        "assume_fresh": assume_fresh,
        "name": name,
        "extra_attack": extra_attack,
        **{OLD[key]: value for key, value in old.items()},
    }
    asked = Request(
        suite=suite,
        time=time,
        card=wanted["threat_model"],
        serve=wanted["access"],
        questions=wanted["queries"],
        behind=wanted["output_defense"],
        answers=answers,
        unseen=wanted["assume_fresh"],
        name=wanted["name"],
        students=students,
        also=wanted["extra_attack"],
        public=public,
        seeds=seeds,
        steps=steps,
        delta=delta,
        method=method,
        teachers=teachers,
    )
    kept = USUAL_BANK if bank is USUAL else bank
    given: dict[str, Any] = {"control": control, "recipe": recipe, "out": out, "cells": cells, "device": device}
    given["accept_accuracy"] = accept_accuracy
    run(prepare(model, data, asked, **given, bank=kept), jobs=jobs, say=say)
    return write_report([Path(out)], Path(out) / "report")
