"""Flags that a whole audit raises: its victims, its plan, its machines. Each gives (what was seen, cells) pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from undistill.auditing.evidence import STALE, Evidence
from undistill.auditing.naming import student_text
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Subject
from undistill.threat_model import Card

Seen = Iterator[tuple[str, tuple[str, ...]]]
Doubt = Callable[[Evidence], Seen]
DOUBTS: dict[str, tuple[str, Doubt]] = {}
SAME_ANSWER = 1e-6
"""The largest difference between two answers to one query that rounding explains."""
IN_KIND = 5.0
"""Points between trained and fresh images, in confidence or accuracy, from which answers are called different in kind."""


def doubt(name: str, title: str) -> Callable[[Doubt], Doubt]:
    """Register a flag."""

    def register(function: Doubt) -> Doubt:
        DOUBTS[name] = (title, function)
        return function

    return register


@doubt("random-answers", "The model returns different outputs for the same query")
def random_answers(evidence: Evidence) -> Seen:
    """Averaging over repeated queries may give more than single outputs do."""
    for subject, served in _by_victim(evidence):
        worst = max(served, key=lambda cell: cell.numbers.get("repeat", 0.0))
        if (repeat := worst.numbers.get("repeat", 0.0)) > SAME_ANSWER:
            about = f"{subject.label or subject.name}: queried twice, a probability differs by up to {repeat:.2g}."
            yield about, (worst.id,)


@doubt("trained-fresh-differ", "Outputs on trained and fresh images differ in kind")
def trained_fresh_differ(evidence: Evidence) -> Seen:
    """Answers tell which images the model was trained on, and what holds for one kind may not hold for the other."""
    for subject, served in _by_victim(evidence):
        for what in ("confidence", "accuracy"):
            cell = served[0]
            trained, fresh = cell.numbers.get(f"{what}_trained"), cell.numbers.get(f"{what}_fresh")
            if trained is not None and fresh is not None and abs(trained - fresh) > IN_KIND:
                about = f"{subject.label or subject.name}: {what} {trained:.1f} % on trained images, {fresh:.1f} on fresh ones."
                yield about, (cell.id,)


@doubt("costs-users", "The defended model is worse than its control")
def costs_users(evidence: Evidence) -> Seen:
    """Part of what the defense took may be what a less accurate model teaches less of."""
    for serving in dict.fromkeys(Card.parse(card).serving for card in evidence.plan.cards):
        ours, twin = evidence.accuracy("defended", serving), evidence.accuracy("undefended", serving)
        if ours is not None and twin is not None and twin - ours > evidence.plan.delta:
            yield f"Users get {ours:.1f} % right, from the control {twin:.1f}.", ()
            return


@doubt("top1-utility", "Nothing but accuracy is known of what users lose")
def top1_utility(evidence: Evidence) -> Seen:
    """A defense that keeps the top class may have ruined the rest of the answer."""
    for subject, served in _by_victim(evidence):
        known = [c for c in served if c.nll is not None or c.ece is not None or {"top5", "brier"} & c.numbers.keys()]
        if not known:
            yield (
                f"{subject.label or subject.name}: neither top-5 accuracy nor NLL, ECE or Brier score.",
                (served[0].id,),
            )


@doubt("effort-not-tried", "It is not known whether more effort helps the attacker")
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


@doubt("one-architecture", "All attacks use one network")
def one_architecture(evidence: Evidence) -> Seen:
    """Another network may learn more from the same outputs."""
    thieves = [p for p in evidence.plan.cells if p.side == "defended" and p.role in ("soft", "labels", "naive")]
    found = [evidence.done[p.key] for p in thieves if p.key in evidence.done]
    networks = {cell.student for cell in found if cell.student}
    if len(networks) == 1:
        cell = found[0]
        wider = any("student.width" in p.times for p in evidence.plan.cells if p.key in evidence.done)
        more = ", but for one that is twice as wide" if wider else ""
        yield f"Every extracted model is {student_text(cell.student, cell.student_settings)}{more}.", ()


@doubt("no-public-start", "No attacker starts from public weights")
def no_public_start(evidence: Evidence) -> Seen:
    """An attacker who starts from a network that somebody published needs fewer queries."""
    if evidence.plan.cards and all(Card.parse(card).start == "random" for card in evidence.plan.cards):
        yield "Every attacker starts from random weights.", ()


@doubt("no-adaptive-attack", "No attack was written knowing this defense")
def no_adaptive_attack(evidence: Evidence) -> Seen:
    """Attacks of general use were tried alone; who knows the defense may do better."""
    ours = [subject for subject in evidence.plan.subjects if subject.side == "defended"]
    names = {str(d["name"]) for s in ours for d in (s.defense, *s.behind) if d.get("name")}
    tried = {p.attack["name"] for p in evidence.plan.cells if "name" in p.attack and p.side == "defended"}
    known = {name for attack in tried for name in evidence.plan.known.get(attack, ())}
    if unknown := sorted(names - known):
        yield f"None of the attacks was written against {', '.join(unknown)}.", ()


@doubt("small-suite", "This suite gives no verdicts")
def small_suite(evidence: Evidence) -> Seen:
    """What it says is an indication."""
    if not evidence.plan.verdicts:
        yield f"Suite {evidence.plan.suite} tries too little for a verdict; what it finds is an indication.", ()


@doubt("mixed-environment", "Cells were computed by different versions or machines")
def mixed_environment(evidence: Evidence) -> Seen:
    """Differences between arms could be differences between machines. What users get is no arm, and has no precision."""
    arms = [cell for cell in evidence.done.values() if cell.kind != "victim"]
    for name in ("undistill", "torch", "device", "precision"):
        found = {str(cell.env[name]) for cell in arms if name in cell.env}
        if len(found) > 1:
            yield f"{name}: {', '.join(sorted(found))}.", ()


def _by_victim(evidence: Evidence) -> Iterator[tuple[Subject, list[Cell]]]:
    """Each victim with what users get from it, by output access; those alone of whom something was measured."""
    for subject in evidence.plan.subjects:
        planned = [p for p in evidence.plan.cells if p.role == "served" and p.victim == subject.name]
        served = [evidence.done[p.key] for p in planned if p.key in evidence.done]
        if ok := [cell for cell in served if cell.status == "ok"]:
            yield subject, ok
