"""Reasons to doubt an audit's result: one function each, which yields (what was seen, ids of cells). Never imports torch.

docs/flags.md gives the title of every flag and says why it is raised. A flag of a threat model is a function of its `Case`, one of
the whole audit of its `Evidence`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

from undistill.auditing.case import Case, of
from undistill.auditing.evidence import SOFT, STALE, Evidence
from undistill.auditing.result import Flag
from undistill.auditing.text import name_of, student_text
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Subject
from undistill.experiments.ranking import Ranked
from undistill.threat_model import ThreatModel

Seen = Iterator[tuple[str, tuple[str, ...]]]
Check = Callable[[Any], Seen]
CHANCE = 1.5
"""An extracted model is near chance below this many times the accuracy of guessing."""
REFIT = 1.0
"""Points within which a refitted head is as good as the best undefended attack."""
FEW_UNITS = 5
"""Seeds or teachers below which intervals are wide and their level is uncertain."""
CLEANERS = ("sanitise", "decoupled", "standardised-kd", "inverse")
"""Attacks that change an output before they learn from it."""
SPREAD = 3.0
"""How many times the control's spread of logits is suspicious."""
SAME_OUTPUT = 1e-6
"""The largest difference between two outputs for one query that rounding explains."""
IN_KIND = 5.0
"""Points between trained and fresh images, in confidence or accuracy, from which outputs differ in kind."""

CHECKS: dict[str, tuple[str, Check]] = {}
"""By flag, in the order in which they are raised: what it is about (`attacks`, `search` or `audit`), and its function."""


def flag(name: str, about: str = "attacks") -> Callable[[Check], Check]:
    """Register a flag."""

    def register(function: Check) -> Check:
        CHECKS[name] = (about, function)
        return function

    return register


def raised(evidence: Evidence, cases: Sequence[Case]) -> tuple[Flag, ...]:
    """All flags of an audit. What several threat models share, as they share a search, is raised once."""
    flags: list[Flag] = []
    once: set[tuple[str, str]] = set()
    for name, (about, check) in CHECKS.items():
        for case in cases if about != "audit" else (None,):
            for text, ids in check(evidence if case is None else case):
                if about != "search" or (name, text) not in once:
                    flags.append(Flag(name=name, about=text, threat_model=case.id if case else "", cells=ids))
                once.add((name, text))
    return tuple(flags)


# -- the reported attacks of a threat model --------------------------------------------------------------------------


@flag("diverged-or-chance")
def diverged_or_chance(case: Case) -> Seen:
    """An attack with cells that diverged, or whose accuracy is little above guessing."""
    guess = 100 / case.evidence.plan.classes
    for arm in case.arms:
        if arm.lost:
            yield f"{name_of(arm)} diverged in {arm.lost} of {len(arm.planned)} cells.", arm.ids
        elif arm.runs and arm.mean < CHANCE * guess:
            yield (
                f"{name_of(arm)} reaches {arm.mean:.1f} %, below {CHANCE} × guessing ({CHANCE * guess:.1f} %).",
                arm.ids,
            )


@flag("below-alone")
def below_baseline(case: Case) -> Seen:
    """The best attack on the defended model is below a baseline, though it has the same labels."""
    over = case.contrasts.over_baseline
    if case.labelled and over.finite and over.upper < 0:
        yield f"The best attack found is {-over.mean:.1f} points below the baseline.", ()


@flag("hard-beats-soft")
def hard_beats_soft(case: Case) -> Seen:
    """Naive distillation of the defended model is below the label-only attack that the search chose."""
    labels = case.comparison.labels.chosen
    for arm in of(case.arms, "defended", "naive"):
        if labels is not None and (gap := case.compare(arm, labels)).upper < 0:
            about = f"{name_of(arm)} is {-gap.mean:.1f} points below {name_of(labels)}: at least {-gap.upper:.1f}."
            yield about, (*arm.ids, *labels.ids)


@flag("head-refit")
def head_refit(case: Case) -> Seen:
    """An attacker who refits the last layer is within a point of the best attack on the undefended control."""
    best = case.best_undefended
    for arm in of(case.arms, "defended", *SOFT, "labels", "effort"):
        refit = arm.runs and arm.cells[0].attack == "head-refit"
        if refit and best is not None and arm.mean >= best.mean - REFIT:
            yield f"{name_of(arm)} reaches {arm.mean:.1f} %, the best attack of the control {best.mean:.1f}.", arm.ids


@flag("still-improving")
def still_improving(case: Case) -> Seen:
    """The best attack with more steps or a wider student beats all at the usual effort, on the same seeds."""
    usual = [arm.by_unit() for arm in of(case.arms, "defended", *SOFT, "labels") if arm.runs]
    for arm in of(case.arms, "defended", "effort"):
        got = arm.by_unit()
        rivals = [fmean(units[unit] for unit in got) for units in usual if got and got.keys() <= units.keys()]
        if rivals and arm.mean - max(rivals) > case.delta / 2:
            about = f"{name_of(arm)} reaches {arm.mean:.1f} %, the best at usual effort {max(rivals):.1f} on the same seeds."
            yield about, arm.ids


@flag("sanitising-helps")
def sanitising_helps(case: Case) -> Seen:
    """An attack that changes outputs before it learns from them beats plain distillation, in the search or in the report."""
    scored = [group for group in case.searched("defended") if group.score > -math.inf]
    clean = next((group for group in scored if group.attack in CLEANERS), None)
    plain = next((group for group in scored if group.attack == "kd"), None)
    if clean is not None and plain is not None and clean.score - plain.score > case.delta:
        yield f"In the search {clean.attack} got {clean.score:.1f} % of images held out, kd {plain.score:.1f}.", ()
        return
    soft = [arm for arm in of(case.arms, "defended", *SOFT) if arm.cells]
    others = [arm for arm in soft if arm.cells[0].attack == "kd"]
    for arm in [arm for arm in soft if arm.cells[0].attack in CLEANERS]:
        gaps = [case.compare(arm, other) for other in others]
        if gaps and min(gap.lower for gap in gaps) > 0:
            least = min(gap.mean for gap in gaps)
            yield f"{name_of(arm)} is {least:.1f} points above the best plain distillation.", arm.ids
            return


@flag("too-weak")
def too_weak(case: Case) -> Seen:
    """Headroom that is not shown to exist: nothing can be removed, or be seen to be removed."""
    room = case.contrasts.headroom
    if case.evidence.plan.controlled and room.finite and room.lower <= 0:
        yield f"Headroom is {room.mean:.1f} points, and may be none: its lower bound is {room.lower:.1f}.", ()


@flag("trained-pool")
def trained_pool(case: Case) -> Seen:
    """On images that it was trained on, a model's top class is nearly always the label."""
    if case.threat_model.data == "unlabelled" and case.threat_model.pool == "trained":
        yield "On the images that it learnt, a model's labels are nearly the true ones.", ()


@flag("vouched")
def vouched(case: Case) -> Seen:
    """Cells whose images cannot be shown to be unseen by the victim."""
    ids = tuple(cell.id for arm in case.arms for cell in arm.cells if cell.vouched)
    if ids:
        what = "1 cell" if len(ids) == 1 else f"{len(ids)} cells"
        yield f"In {what}, only `--assume-fresh` says that the model never saw the attacker's images.", ids


@flag("few-seeds")
def few_seeds(case: Case) -> Seen:
    """Intervals from so few are wide, and only as good as the assumption of normal errors."""
    evidence = case.evidence
    compared = [arm for side in ("defended", "undefended") for arm in of(case.arms, side, *SOFT, "labels")]
    units = min((len({evidence.unit(p) for p in arm.planned}) for arm in compared), default=FEW_UNITS)
    if units < FEW_UNITS:
        what = "teacher" if evidence.plan.question == "method" else "seed"
        yield f"{units} {what}{'' if units == 1 else 's'}.", ()


# -- the search and the outputs of a threat model --------------------------------------------------------------------


def temperatures(groups: Sequence[Ranked]) -> dict[float, float]:
    """Score of `kd` by temperature, all else equal: of the settings that were tried at the most temperatures."""
    families: dict[str, dict[float, float]] = defaultdict(dict)
    for group in groups:
        if group.attack == "kd" and "temperature" in group.settings and group.score > -math.inf:
            rest = {key: value for key, value in group.settings.items() if key != "temperature"}
            family = json.dumps([rest, group.training, group.student, group.student_settings], sort_keys=True)
            families[family][float(group.settings["temperature"])] = group.score
    return dict(sorted(max(families.values(), key=len, default={}).items()))


@flag("temperature-masking", "search")
def temperature_masking(case: Case) -> Seen:
    """False peaks are small at τ 1 and large at high τ: a defense may only have spoilt one setting."""
    response, trained = temperatures(case.searched("defended")), _trained_temperature(case)
    if {1.0, trained} <= response.keys() and response[1.0] - response[trained] > case.delta:
        about = f"At τ 1 distillation got {response[1.0]:.1f} % of images held out, at τ {trained:g} {response[trained]:.1f}."
        yield about, ()


@flag("edge-of-grid", "search")
def edge_of_grid(case: Case) -> Seen:
    """Beyond the grid there may be better ones."""
    tried = [float(value) for value in case.evidence.plan.grid.get("temperature", ())]
    response = temperatures(case.searched("defended"))
    if (
        len(tried) > 1
        and len(response) > 1
        and (best := max(response, key=response.__getitem__))
        in (
            min(tried),
            max(tried),
        )
    ):
        yield f"Distillation is best at τ {best:g}, tried were {min(tried):g} to {max(tried):g}.", ()


@flag("scale-masking", "search")
def scale_masking(case: Case) -> Seen:
    """Large logits change what a temperature does, without hiding anything."""
    spreads = {}
    for side in ("defended", "undefended"):
        subjects = [s for s in case.evidence.plan.subjects if s.side == side]
        cells = [case.evidence.served(s.name, case.threat_model.serving) for s in subjects]
        found = [cell.numbers["spread"] for cell in cells if cell is not None and "spread" in cell.numbers]
        spreads[side] = fmean(found) if found else math.nan
    if spreads["defended"] > SPREAD * spreads["undefended"] > 0:
        yield f"Log-probabilities vary by {spreads['defended']:.1f}, the control's by {spreads['undefended']:.1f}.", ()


def _trained_temperature(case: Case) -> float:
    """The temperature that a defense was trained against; else the naive student's; else 4."""
    plan = case.evidence.plan
    trained = [s.defense for s in plan.subjects if s.side == "defended"]
    naive = [p.attack for p in plan.cells if p.role == "naive"]
    return next((float(each["temperature"]) for each in (*trained, *naive) if "temperature" in each), 4.0)


# -- the whole audit: its victims, its plan, its machines ------------------------------------------------------------


@flag("random-answers", "audit")
def random_outputs(evidence: Evidence) -> Seen:
    """Averaging over repeated queries may give more than single outputs do."""
    for subject, served in _by_victim(evidence):
        worst = max(served, key=lambda cell: cell.numbers.get("repeat", 0.0))
        if (repeat := worst.numbers.get("repeat", 0.0)) > SAME_OUTPUT:
            about = f"{subject.label or subject.name}: queried twice, a probability differs by up to {repeat:.2g}."
            yield about, (worst.id,)


@flag("trained-fresh-differ", "audit")
def trained_fresh_differ(evidence: Evidence) -> Seen:
    """Outputs reveal which images the model was trained on, and what holds for one kind may not hold for the other."""
    for subject, (cell, *_) in _by_victim(evidence):
        for what in ("confidence", "accuracy"):
            trained, fresh = cell.numbers.get(f"{what}_trained"), cell.numbers.get(f"{what}_fresh")
            if trained is not None and fresh is not None and abs(trained - fresh) > IN_KIND:
                about = f"{subject.label or subject.name}: {what} {trained:.1f} % on trained images, {fresh:.1f} on fresh ones."
                yield about, (cell.id,)


@flag("costs-users", "audit")
def costs_users(evidence: Evidence) -> Seen:
    """Part of the reduction may be what attacks on a less accurate model learn less."""
    for access in dict.fromkeys(ThreatModel.parse(text).serving for text in evidence.plan.cards):
        ours, control = evidence.accuracy("defended", access), evidence.accuracy("undefended", access)
        if ours is not None and control is not None and control - ours > evidence.plan.delta:
            yield f"Users get {ours:.1f} % right, from the control {control:.1f}.", ()
            return


@flag("top1-utility", "audit")
def top1_utility(evidence: Evidence) -> Seen:
    """A defense that keeps the top class may have ruined the rest of the output."""
    for subject, served in _by_victim(evidence):
        if all(c.nll is None and c.ece is None and not {"top5", "brier"} & c.numbers.keys() for c in served):
            about = f"{subject.label or subject.name}: neither top-5 accuracy nor NLL, ECE or Brier score."
            yield about, (served[0].id,)


@flag("effort-not-tried", "audit")
def effort_not_tried(evidence: Evidence) -> Seen:
    """No attack with twice the steps or a wider student, or cells of them that are lost."""
    planned = [p for p in evidence.plan.cells if p.role == "effort" and not evidence.empty(p)]
    if not planned:
        yield "No attack was given twice the steps or a wider student.", ()
    found = [(p, evidence.done.get(p.key)) for p in planned]
    lost = [(p, cell) for p, cell in found if cell is None or cell.accuracy is None]
    if lost:
        p, cell = lost[0]
        why = (cell.why or cell.status) if cell is not None else STALE if p.key in evidence.stale else "not computed"
        are = f"{len(lost)} of {len(planned)} cells with more effort {'is' if len(lost) == 1 else 'are'} lost"
        yield f"{are}, {p.label} at seed {p.seed} first: {why}.", tuple(cell.id for _, cell in lost if cell is not None)


@flag("one-architecture", "audit")
def one_architecture(evidence: Evidence) -> Seen:
    """Another network may learn more from the same outputs."""
    attacks = [p for p in evidence.plan.cells if p.side == "defended" and p.role in (*SOFT, "labels")]
    found = [evidence.done[p.key] for p in attacks if p.key in evidence.done]
    if len({cell.student for cell in found if cell.student}) == 1:
        wider = any("student.width" in p.times for p in evidence.plan.cells if p.key in evidence.done)
        more = ", but for one that is twice as wide" if wider else ""
        yield f"Every extracted model is {student_text(found[0].student, found[0].student_settings)}{more}.", ()


@flag("no-public-start", "audit")
def no_public_start(evidence: Evidence) -> Seen:
    """An attacker who starts from published weights needs fewer queries."""
    if evidence.plan.cards and all(ThreatModel.parse(text).start == "random" for text in evidence.plan.cards):
        yield "Every attacker starts from random weights.", ()


@flag("no-adaptive-attack", "audit")
def no_adaptive_attack(evidence: Evidence) -> Seen:
    """Only attacks of general use were tried; one written against the defense may do better."""
    ours = [subject for subject in evidence.plan.subjects if subject.side == "defended"]
    names = {str(d["name"]) for s in ours for d in (s.defense, *s.behind) if d.get("name")}
    tried = {p.attack["name"] for p in evidence.plan.cells if "name" in p.attack and p.side == "defended"}
    known = {name for attack in tried for name in evidence.plan.known.get(attack, ())}
    for attack in (p.attack for p in evidence.plan.cells if p.side == "defended"):
        known |= {str(defense["name"]) for defense in attack.get("against", ())}
    if unknown := sorted(names - known):
        yield f"None of the attacks was written against {', '.join(unknown)}.", ()


@flag("small-suite", "audit")
def small_suite(evidence: Evidence) -> Seen:
    """What it finds is an indication."""
    if not evidence.plan.verdicts:
        yield f"Suite {evidence.plan.suite} tries too little for a verdict; what it finds is an indication.", ()


@flag("mixed-environment", "audit")
def mixed_environment(evidence: Evidence) -> Seen:
    """Differences between arms could be differences between machines. What users get is no arm, and has no precision."""
    arms = [cell for cell in evidence.done.values() if cell.kind != "victim"]
    for name in ("undistill", "torch", "device", "precision"):
        found = {str(cell.env[name]) for cell in arms if name in cell.env}
        if len(found) > 1:
            yield f"{name}: {', '.join(sorted(found))}.", ()


def _by_victim(evidence: Evidence) -> Iterator[tuple[Subject, list[Cell]]]:
    """Each victim with what users get from it, by output access; those of which something was measured."""
    for subject in evidence.plan.subjects:
        planned = [p for p in evidence.plan.cells if p.role == "served" and p.victim == subject.name]
        served = [evidence.done[p.key] for p in planned if p.key in evidence.done]
        if measured := [cell for cell in served if cell.status == "ok"]:
            yield subject, measured
