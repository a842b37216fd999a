"""What an audit's records mean in words: names of attacks and threat models, reasons, sentences, plans. Never imports torch."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from undistill.auditing import verdict as rules
from undistill.auditing.case import Case, Problem
from undistill.auditing.evidence import STALE, Arm
from undistill.auditing.result import Estimate, ThreatModelResult
from undistill.experiments.plan import Plan, Planned, Subject
from undistill.statistics import Difference
from undistill.threat_model import Access, ThreatModel

PLAIN = ("model", "", ".")
"""Last parts of a path that name no model."""
SYMBOLS = {"temperature": "τ", "alpha": "α", "beta": "β", "gamma": "γ", "omega": "ω"}
LABELS = {"labelled": "labeled", "unlabelled": "unlabeled"}
CONTRASTS = {
    "headroom": ("A_soft0 − floor", "what soft outputs of the undefended control are worth over its predicted classes"),
    "gap": ("A_soft − floor", "what soft outputs of the audited model are worth over its predicted classes"),
    "reduction": ("A_soft0 − max(A_def, floor)", "what the defense took from the best attack found"),
    "over_baseline": ("A_def − A_ref", "what the defended model is worth to an attacker that holds labels"),
    "control_over_baseline": (
        "A_soft0 − A_ref",
        "what the undefended control is worth to an attacker that holds labels",
    ),
}
"""The contrasts of a verdict: formula, and what it is about."""
ABSENT = {
    "labels": "An attack of labels",
    "soft": "An attacker that reads more than labels",
    "soft0": "Such an attack of the undefended control",
}
NOT_IMPLEMENTED = (
    "Attacks that are not implemented: every number is of the best attack found, and a better one may exist."
)


# -- names -----------------------------------------------------------------------------------------------------------


def settings_text(settings: Mapping[str, Any]) -> str:
    """`τ 4, α 0.9, variant clip`: settings in their own order, without the name and what is not set."""
    known = {key: value for key, value in settings.items() if key != "name" and value not in (None, [], ())}
    return ", ".join(f"{SYMBOLS.get(key, key)} {_short(value)}" for key, value in known.items())


def student_text(name: str, settings: Mapping[str, Any]) -> str:
    """`cnn, width 0.5`."""
    return ", ".join(part for part in (name, settings_text(settings)) if part)


def name_of(arm: Arm) -> str:
    """An arm by its attack and settings: `kd (τ 4, α 1)`, `naive kd (…)`, `a baseline`; its label where more effort was spent."""
    if not arm.cells:
        return arm.label
    if arm.side == "alone":
        return "a baseline"
    if arm.role == "effort":
        return arm.label
    settings = settings_text(arm.cells[0].attack_settings)
    name = f"{arm.cells[0].attack} ({settings})" if settings else arm.cells[0].attack
    return ("naive " if arm.role == "naive" else "") + name


def unique_names(arms: Sequence[Arm]) -> dict[Arm, str]:
    """A name for each, no two of a side alike: what tells them apart is added, such as the access, the network, or their place."""

    def access(arm: Arm) -> str:
        return f", from {arm.cells[0].card.split('/')[0]}" if arm.cells else ""

    def network(arm: Arm) -> str:
        return f", {student_text(arm.cells[0].student, arm.cells[0].student_settings)}" if arm.cells else ""

    def rank(arm: Arm) -> str:
        return f", {arm.label}"

    names = {arm: name_of(arm) for arm in arms}
    for suffix in (access, network, rank):
        for group in _alike(names):
            if len({suffix(arm) for arm in group}) > 1:
                names |= {arm: names[arm] + suffix(arm) for arm in group if not names[arm].endswith(suffix(arm))}
    for group in _alike(names):
        names |= {arm: f"{names[arm]}, no. {place}" for place, arm in enumerate(group, start=1)}
    return names


def title(threat_model: ThreatModel, images: int) -> str:
    """A threat model in a few words: `1,000 unlabeled images, probabilities`."""
    access = {"weights": "released weights", "label": "predicted class only"}.get(
        threat_model.serving, shown(threat_model)
    )
    if threat_model.data == "none":
        return f"no images, {access}"
    pool = "" if threat_model.pool == "fresh" else " that the model was trained on"
    more = f" and {threat_model.unqueried:,} beyond the budget" if threat_model.unqueried else ""
    start = ", starting from public weights" if threat_model.start == "public" else ""
    return f"{images:,} {LABELS.get(threat_model.data, threat_model.data)} images{pool}{more}, {access}{start}"


def shown(threat_model: ThreatModel) -> str:
    """What the attacker sees of an output: `probabilities`, `the top 5 probabilities with 2 digits`."""
    access, count = threat_model.access, threat_model.digits
    if access is Access.LABEL:
        return "labels"
    if access in (Access.LOGITS, Access.WEIGHTS):
        return threat_model.serving
    digits = "" if count is None else " with 1 digit" if count == 1 else f" with {count} digits"
    if threat_model.top == 1:
        return f"the top class with its probability{digits}"
    return (f"the top {threat_model.top or 5} probabilities" if access is Access.TOPK else "probabilities") + digits


def name_of_model(subject: Subject, plan: Plan) -> str:
    """The model's own name: the last telling part of its path, `predict` of `my_api.py:predict`, else its label."""
    label = (subject.label or subject.name).removesuffix(", the twin").removesuffix(", the control")
    if plan.question == "method" or subject.model.startswith("("):
        return label
    if subject.answers:
        return label
    if ":" in subject.model:
        return subject.model.partition("@")[0].rpartition(":")[2]
    name = next((part for part in reversed(PurePath(subject.model).parts) if part not in PLAIN), label)
    name = re.sub(r"-[0-9a-f]{8,}$", "", name)  # a hash is of no use to a reader
    behind = ", ".join(str(item.get("name", "")) for item in subject.behind)
    return f"{name} with {behind}" if behind else name


def _alike(names: Mapping[Arm, str]) -> list[list[Arm]]:
    """Groups of one side that share a name."""
    alike: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for arm, name in names.items():
        alike[arm.side, name].append(arm)
    return [group for group in alike.values() if len(group) > 1]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) and "name" in item for item in value):
        inner = ((item["name"], settings_text(item)) for item in value)
        return " + ".join(f"{name} ({text})" if text else name for name, text in inner)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


# -- why a verdict ---------------------------------------------------------------------------------------------------


def why(case: Case) -> str:
    """Why a threat model has its verdict, or none."""
    if not case.evidence.plan.controlled:
        return "Without an undefended control there is no telling what a defense took."
    if case.label_only:
        return "Served as labels, there are no soft outputs to defend."
    if case.problems:
        return " ".join(_problem(problem, case) for problem in case.problems)
    return explain(str(case.verdict), case.contrasts, case.delta, labels_only=case.comparison.labels_only)


def explain(verdict: str, found: rules.Contrasts, delta: float, *, labels_only: bool = False) -> str:
    """The numbers behind a verdict, in one sentence; `labels_only` as in `Comparison`."""
    room, reduction, gap = found.headroom, found.reduction, found.gap
    worth = f"undefended, soft outputs are worth at least {room.lower:.1f} points"
    if verdict == rules.NO_ADVANTAGE:
        most = f"The undefended control's soft outputs are worth at most {room.upper:.1f} points over what works without them"
        return f"{most}; less than {delta:g} counts as none."
    if verdict == rules.NO_GAIN:
        most = f"The best attack found is at most {max(found.over_baseline.upper, 0):.1f} points above the baseline"
        return (
            f"{most}; from the undefended control it would be at least {found.control_over_baseline.lower:.1f} above."
        )
    if verdict == rules.LABEL_LEVEL and labels_only:
        return f"It returns the predicted class only, so label-only attacks are all that remain; {worth}."
    if verdict == rules.LABEL_LEVEL:
        most = f"The best attack found that reads more than labels is at most {max(gap.upper, 0):.1f} points above the best on"
        return f"{most} predicted classes only; {worth}."
    if verdict == rules.NO_EFFECT:
        most = f"The defense removed at most {max(reduction.upper, 0):.1f} of at least {room.lower:.1f} points"
        return f"{most}; less than {delta:g} counts as none."
    if verdict == rules.PARTIAL:
        unsure = f"; an uncertainty of ±{gap.half:.1f} points leaves open whether all is removed"
        removed = f"The defense removed {span(reduction)} of {span(room)} points that soft outputs are worth"
        return f"{removed}{unsure if gap.half > delta else ''}."
    return _unresolved(found, delta)


def span(difference: Difference) -> str:
    """`0.9 (0.4 to 1.3)`: mean and one-sided bounds."""
    bounds = f" ({difference.lower:.1f} to {difference.upper:.1f})" if difference.finite else ""
    return f"{difference.mean:.1f}{bounds}"


def _unresolved(found: rules.Contrasts, delta: float) -> str:
    half = found.half_width
    if half == float("inf"):
        return "There are no intervals: an attacker that is compared has lost cells, or there is one unit alone."
    if half > delta:
        return f"These cells resolve {half:.1f} points, δ is {delta:g}: more seeds are needed."
    return (
        f"Headroom is {span(found.headroom)} points, of which {span(found.reduction)} were removed: with δ = {delta:g} that is too "
        "close to the boundary between two verdicts."
    )


def _problem(problem: Problem, case: Case) -> str:
    cells, planned = problem.cells, len(case.needed)
    if problem.kind == "no attack":
        return f"{ABSENT[problem.what]} is missing here."
    if problem.kind == "unmeasured":
        return "What users get from the model or its control was not measured."
    if problem.kind == "refused":
        return f"The control is refused: {problem.what}."
    share, first = f"{len(cells)} of {planned} planned cells", f"{_cell(cells[0])} among them"
    if problem.kind == "failed":
        reason = case.evidence.done[cells[0].key].why or "no reason is known"
        return f"{share} failed, {first}: {reason}."
    are = "is" if len(cells) == 1 else "are"
    return (
        f"{share} {are} not computed, {first}."
        if problem.kind == "missing"
        else f"{share} {are} out of date, {first}: {STALE}."
    )


def _cell(planned: Planned) -> str:
    whose = f" of {planned.victim}" if planned.victim else ""
    return f"{planned.role} {planned.label}{whose}, seed {planned.seed}"


# -- what a threat model amounts to ----------------------------------------------------------------------------------


def sentence(case: Case, found: ThreatModelResult, *, best: Estimate | None, undefended: Estimate | None) -> str:
    """The best attack found beside the model, its control and labels; what the defense removed."""
    if best is None:
        return "No attack on your model has been computed yet."
    served = case.evidence.accuracy("defended", found.access)
    parts = [
        _reached(case.threat_model, found, best) + (f"; your model has {served:.1f}" if served is not None else "")
    ]
    beside = [f"Undefended: {undefended.mean:.1f}"] if undefended is not None else []
    if found.A_label is not None and not case.label_only:
        beside.append(f"{'labels' if beside else 'Labels'} alone: {found.A_label.mean:.1f}")
    parts += ["; ".join(beside)] if beside else []
    if found.label_equivalents is not None:
        more = "more than " if found.label_equivalents_beyond else "about "
        needed = f"{more}{found.label_equivalents:,.0f} labeled images"
        needed += f", beside {extra:,} unlabeled ones," if (extra := case.threat_model.unqueried) else ""
        parts.append(f"Without your model, an attacker would need {needed} for that")
    return " ".join(f"{part}." for part in (*parts, *_removed(case)))


def _reached(threat_model: ThreatModel, found: ThreatModelResult, best: Estimate) -> str:
    outputs = "weights" if threat_model.access is Access.WEIGHTS else shown(threat_model).removeprefix("the ")
    held = (
        f"{found.images:,} {LABELS.get(threat_model.data, '')} images"
        if threat_model.data != "none"
        else "no images of its own"
    )
    if threat_model.pool == "trained":
        held += " that your model was trained on"
    who = f"the best of {found.tried} attacks found" if found.tried != 1 else "the one attack tried"
    interval = "" if best.low is None or best.high is None else f" (95 %: {best.low:.1f}–{best.high:.1f})"
    return f"With {held} and your {outputs}, {who} reached {best.mean:.1f} %{interval}"


def _removed(case: Case) -> Iterator[str]:
    room, reduction = max(case.contrasts.headroom.mean, 0.0), max(case.contrasts.reduction.mean, 0.0)
    if case.verdict == rules.NO_ADVANTAGE:
        worth = f"Soft outputs of the undefended control are worth {room:.1f} points here"
        yield f"{worth}, so there is no soft-label advantage to defend"
    elif case.verdict not in (None, rules.INCONCLUSIVE):
        yield f"The defense removed {reduction:.1f} of the {room:.1f} points that a defense keeping the class can remove"


def not_tried(plan: Plan) -> tuple[str, ...]:
    """What the plan left out and why, and what no plan can try."""
    skipped = (f"{one.what[:1].upper()}{one.what[1:]}: {one.why}." for one in plan.skipped)
    return (*skipped, NOT_IMPLEMENTED)


# -- amounts -------------------------------------------------------------------------------------------------------


def seeds_text(seeds: Sequence[int]) -> str:
    """`0–4`, or each of them."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def period(low: float, high: float) -> str:
    """`2 to 4 min`, `48 s to 2 min`."""
    one, other = clock(low), clock(high)
    if one == other:
        return f"about {one}"
    number, unit = one.split()
    return f"{number if other.endswith(f' {unit}') else one} to {other}"


def clock(seconds: float) -> str:
    """`48 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def without(command: str, *options: str) -> list[str]:
    """The words of a command, without these options and their values."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word in options:
            next(words, None)
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept
