"""Flags that the search and the served outputs of a threat model raise. Each gives (what was seen, cells) pairs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable

from undistill.auditing.case import Case
from undistill.auditing.flags_card import Doubt, Seen
from undistill.experiments.ranking import Ranked

DOUBTS: dict[str, tuple[str, Doubt]] = {}
SPREAD = 3.0
"""How many times the control's spread of logits is suspicious."""


def doubt(name: str, title: str) -> Callable[[Doubt], Doubt]:
    """Register a flag."""

    def register(function: Doubt) -> Doubt:
        DOUBTS[name] = (title, function)
        return function

    return register


def temperatures(groups: list[Ranked]) -> dict[float, float]:
    """Score of `kd` by temperature, all else equal: of the settings that were tried at the most temperatures."""
    families: dict[str, dict[float, float]] = defaultdict(dict)
    for group in groups:
        if group.attack == "kd" and "temperature" in group.settings and group.score > -math.inf:
            rest = {key: value for key, value in group.settings.items() if key != "temperature"}
            family = json.dumps([rest, group.training, group.student, group.student_settings], sort_keys=True)
            families[family][float(group.settings["temperature"])] = group.score
    widest = max(families.values(), key=len, default={})
    return dict(sorted(widest.items()))


@doubt("temperature-masking", "Distilling at τ 1 does well where the trained τ does badly")
def temperature_masking(case: Case) -> Seen:
    """False peaks are small at τ 1 and large at high τ: a defense may only have spoilt one setting."""
    response = temperatures(case.searched("defended"))
    trained = _trained_temperature(case)
    if 1.0 not in response or trained not in response or trained == 1.0:
        return
    if response[1.0] - response[trained] > case.evidence.plan.delta:
        yield (
            f"At τ 1 distillation got {response[1.0]:.1f} % of images held out, at τ {trained:g} {response[trained]:.1f}.",
            (),
        )


@doubt("edge-of-grid", "The best temperature is at an end of the grid")
def edge_of_grid(case: Case) -> Seen:
    """Beyond the grid there may be better ones."""
    tried = [float(value) for value in case.evidence.plan.grid.get("temperature", ())]
    response = temperatures(case.searched("defended"))
    if len(tried) < 2 or len(response) < 2:
        return
    best = max(response, key=lambda tau: response[tau])
    if best in (min(tried), max(tried)):
        yield f"Distillation is best at τ {best:g}, tried were {min(tried):g} to {max(tried):g}.", ()


@doubt("scale-masking", "The model's logits are far more spread out than its control's")
def scale_masking(case: Case) -> Seen:
    """Large logits change what a temperature does, without hiding anything."""
    spreads = {}
    for side in ("defended", "undefended"):
        subjects = [s for s in case.evidence.plan.subjects if s.side == side]
        cells = [case.evidence.served(s.name, case.card.serving) for s in subjects]
        found = [cell.numbers["spread"] for cell in cells if cell is not None and "spread" in cell.numbers]
        spreads[side] = sum(found) / len(found) if found else math.nan
    if spreads["defended"] > SPREAD * spreads["undefended"] > 0:
        yield f"Log-probabilities vary by {spreads['defended']:.1f}, the twin's by {spreads['undefended']:.1f}.", ()


def _trained_temperature(case: Case) -> float:
    """The temperature that a defense was trained against; else the naive student's; else 4."""
    for subject in case.evidence.plan.subjects:
        if subject.side == "defended" and "temperature" in subject.defense:
            return float(subject.defense["temperature"])
    for planned in case.evidence.plan.cells:
        if planned.role == "naive" and "temperature" in planned.attack:
            return float(planned.attack["temperature"])
    return 4.0
