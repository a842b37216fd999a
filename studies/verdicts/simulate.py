"""Calibration of the verdict rules: how often are verdicts false, and how often are true ones found? Nothing is trained.

    python -m studies.verdicts.simulate [-o evidence/verdicts.json] [--sets 10000] [--seed 0]
    python -m studies.verdicts.table                # the outcome into docs/audit.md, between its marks

Simulates audits whose truth is known, and applies to them the functions that audits use (`statistics.interval`,
`verdict.contrasts`, `verdict.decide`).

Legend: S made-up audits, U seeds. An arm's accuracy at a seed is its true one + luck of the test images (one draw an audit) + luck
of the seed that all arms share + luck of its own. Scores of the search are drawn anew: two seeds and as many images held out as
there are test images. Levels are in δ, relative to the best label-only attack.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from studies.verdicts.scenarios import SCENARIOS, SETTINGS, Scenario, Setting

from undistill.auditing.verdict import (
    INCONCLUSIVE,
    LABEL_LEVEL,
    NO_ADVANTAGE,
    NO_EFFECT,
    NO_GAIN,
    PARTIAL,
    STRENGTH,
    Candidates,
    Comparison,
    contrasts,
    decide,
)
from undistill.statistics import Difference, interval

Floats = NDArray[np.float64]
HOME = Path(__file__).parent
VERDICTS = (INCONCLUSIVE, NO_ADVANTAGE, NO_EFFECT, PARTIAL, LABEL_LEVEL, NO_GAIN)
NAIVE = -2.0
"""The naive attack's distance from the best soft one, in δ."""
SEARCH_SEEDS = 2
ENOUGH = 0.8
"""The power that is asked for."""
TRIED = (3, 5, 8, 10, 15, 20, 30)
"""Numbers of seeds that are tried for that power."""
WIDER = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""By how much δ is raised for that power."""


@dataclass(frozen=True)
class Draw:
    """S audits of one truth: each arm's accuracies, and its score in the search."""

    accuracy_SU: Floats
    score_S: Floats


@dataclass
class Maker:
    """Makes arms whose true levels are known, with one luck a seed that they share."""

    setting: Setting
    sets: int
    rng: np.random.Generator
    common_SU: Floats = field(init=False)

    def __post_init__(self) -> None:
        own = self.setting
        self.common_SU = self.rng.normal(size=(self.sets, own.seeds)) * own.sd * np.sqrt(own.correlation)

    def arm(self, level: float, *, lost: bool = False) -> Draw:
        """One arm of all audits; a lost one has no accuracy."""
        own = self.setting
        of_images_S1 = self.rng.normal(size=(self.sets, 1)) * own.image_error / np.sqrt(2)
        of_seeds_SU = self.rng.normal(size=(self.sets, own.seeds)) * own.sd * np.sqrt(1 - own.correlation)
        accuracy_SU = level * own.delta + of_images_S1 + self.common_SU + of_seeds_SU
        noise = np.sqrt(own.sd**2 / SEARCH_SEEDS + own.image_error**2 / 2)
        score_S = level * own.delta + self.rng.normal(size=self.sets) * noise
        return Draw(np.full_like(accuracy_SU, np.nan) if lost else accuracy_SU, score_S)

    def ranks(self, levels: list[float], crashed: bool = False) -> list[Draw]:
        """Arms of one kind."""
        return [self.arm(level, lost=crashed and number == 0) for number, level in enumerate(levels)]


def side(arms: list[Draw]) -> Candidates[Draw]:
    """All arms, and in each audit the one whose score is best."""
    if not arms:
        return Candidates()
    best_S = np.argmax([arm.score_S for arm in arms], axis=0)
    rows = np.arange(len(best_S))
    accuracy_SU = np.stack([arm.accuracy_SU for arm in arms])[best_S, rows]
    return Candidates(tuple(arms), Draw(accuracy_SU, np.stack([arm.score_S for arm in arms])[best_S, rows]))


def judged(setting: Setting, scenario: Scenario, sets: int, rng: np.random.Generator) -> Mapping[str, float]:
    """Share of audits that got each verdict."""
    maker, step = Maker(setting, sets, rng), scenario.step
    soft = maker.ranks([scenario.soft - i * step for i in range(3)] + [scenario.soft + NAIVE], scenario.crashed)
    labels = maker.ranks([0.0, -step])
    soft0 = maker.ranks([scenario.soft0 - i * step for i in range(3)] + [scenario.soft0 + NAIVE])
    alone = [] if scenario.alone is None else [maker.arm(scenario.alone)]
    arms = Comparison(
        side(soft),
        side(labels),
        side([*soft, *labels, *alone]),
        side(soft0),
        side([*labels, *alone]),
        side(alone),
        side([*soft, *labels]),
    )

    def compare(first: Draw, second: Draw) -> Difference:
        return interval(first.accuracy_SU - second.accuracy_SU, setting.image_error)

    verdicts_S = decide(contrasts(arms, compare), setting.delta)
    return {name: float(np.mean(verdicts_S == name)) for name in VERDICTS}


def outcome(setting: Setting, scenario: Scenario, sets: int, seed: int) -> dict[str, Any]:
    """One row: the shares, and how many of them are false."""
    shares = judged(setting, scenario, sets, np.random.default_rng([seed, len(scenario.name), setting.seeds]))
    wrong = {name: share for name, share in shares.items() if name not in scenario.true()}
    return {
        "scenario": asdict(scenario),
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "true": sorted(scenario.true()),
        "false": round(sum(wrong.values()), 4),
        "false_strong": round(sum(share for name, share in wrong.items() if STRENGTH[name] > 1), 4),
        "power": round(shares[scenario.wanted], 4) if scenario.wanted else None,
    }


def needed(setting: Setting, scenario: Scenario, sets: int, seed: int) -> dict[str, Any]:
    """The fewest seeds tried, at this δ, and the smallest δ tried, at these seeds, where the wanted verdict comes often enough."""

    def power(**changes: Any) -> float:
        return float(outcome(Setting(**{**asdict(setting), **changes}), scenario, sets, seed)["power"])

    return {
        "setting": setting.name,
        "scenario": scenario.name,
        "wanted": scenario.wanted,
        "seeds": next((seeds for seeds in TRIED if power(seeds=seeds) >= ENOUGH), None),
        "delta": next((setting.delta * by for by in WIDER if power(delta=setting.delta * by) >= ENOUGH), None),
    }


def run(sets: int, seed: int) -> dict[str, Any]:
    """Everything that is written."""
    settings = [
        {**asdict(setting), "rows": [outcome(setting, scenario, sets, seed) for scenario in SCENARIOS]}
        for setting in SETTINGS
    ]
    wanted = [scenario for scenario in SCENARIOS if scenario.wanted and not scenario.crashed]
    return {
        "command": f"python -m studies.verdicts.simulate --sets {sets} --seed {seed}",
        "seed": seed,
        "sets": sets,
        "enough": ENOUGH,
        "tried": TRIED,
        "wider": WIDER,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "settings": settings,
        "needed": [needed(setting, scenario, sets, seed) for setting in SETTINGS[:4] for scenario in wanted],
    }


def _commit() -> str:
    command = ["git", "-C", str(HOME), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=HOME / "judge.json")
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.write_text(json.dumps(run(options.sets, options.seed), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
