"""The judge judged: how often do its verdicts say what is not so, and how often what is? Nothing is trained.

    python results/judge/simulate.py [-o results/judge/judge.json] [--sets 10000] [--seed 0]
    python results/judge/table.py                # the outcome into docs/audit.md, between its marks

Makes up audits whose truth is known, and judges them by the very functions that judge real ones (`statistics.interval`,
`verdict.contrasts`, `verdict.decide`).

Legend: S made-up audits, U seeds. An arm's accuracy at a seed is its true one + luck of the test images (one draw an audit) + luck
of the seed that all arms share + luck of its own. Scores of the search are drawn anew: two seeds and as many images held out as
there are test images. Levels are in δ, relative to the best thief of labels.
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

from undistill.auditing.statistics import Difference, interval
from undistill.auditing.verdict import (
    INCONCLUSIVE,
    NO_EFFECT,
    NOTHING,
    PARTIAL,
    REDUCED,
    STRENGTH,
    WORTHLESS,
    Arms,
    Side,
    contrasts,
    decide,
)

Floats = NDArray[np.float64]
HOME = Path(__file__).parent
VERDICTS = (INCONCLUSIVE, NOTHING, NO_EFFECT, PARTIAL, REDUCED, WORTHLESS)
NAIVE = -2.0
"""The naive thief's distance from the best soft one, in δ."""
SEARCH_SEEDS = 2
ENOUGH = 0.8
"""The power that is asked for."""
TRIED = (3, 5, 8, 10, 15, 20, 30)
"""Numbers of seeds that are tried for that power."""
WIDER = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""By how much δ is raised for that power."""


@dataclass(frozen=True)
class Setting:
    """What is measured, and how well: accuracies of one arm vary by `sd` points over seeds, a share `correlation` of that variance
    is common to all arms of a seed. `disagree`: variance of the mean difference of two arms on an image.
    """

    name: str
    images: int
    delta: float
    sd: float
    seeds: int
    correlation: float = 0.5
    disagree: float = 0.02

    @property
    def image_error(self) -> float:
        """se_images of a difference of two arms, in points."""
        return 100 * float(np.sqrt(self.disagree / self.images))


@dataclass(frozen=True)
class Scenario:
    """A truth. Levels in δ: the best soft thief of the defended model, its best thief of labels (0), the twin's best soft thief,
    a student alone. Each of three soft ranks is `step` below the one before, the second thief of labels below the first too.
    `crashed`: the defended model's first soft thief lost its cells. `wanted`: the verdict whose power is asked for.
    """

    name: str
    soft: float
    soft0: float
    alone: float | None = None
    step: float = 0.5
    crashed: bool = False
    wanted: str = ""

    def true(self) -> set[str]:
        """The verdicts that are not false of it. What lies exactly at δ counts as beyond it."""
        levels = [self.soft, 0.0] + ([] if self.alone is None else [self.alone])
        floor = max(levels[1:])
        room, took = self.soft0 - floor, self.soft0 - max(levels)
        truths = {
            INCONCLUSIVE: True,
            NOTHING: room <= 1,
            NO_EFFECT: room > 1 and took < 1,
            PARTIAL: room > 1 and took > 0,
            REDUCED: room > 1 and took > 0 and self.soft - floor < 1,
            WORTHLESS: self.alone is not None
            and room > 1
            and self.soft - floor < 1
            and max(self.soft, 0.0) - self.alone < 1
            and self.soft0 - self.alone > 1,
        }
        return {name for name, holds in truths.items() if holds}


FAR = 4.0
"""A step so large that the best thief alone decides: what is said of the best of several is then as often false as it can be."""
SCENARIOS = (
    Scenario("no effect: took 0, headroom 3 δ", soft=3, soft0=3, wanted=NO_EFFECT),
    Scenario("partial: took 2 δ of 4", soft=2, soft0=4, wanted=PARTIAL),
    Scenario("at the label floor, headroom 2 δ", soft=0, soft0=2, wanted=REDUCED),
    Scenario("at the label floor, headroom 3 δ", soft=0, soft0=3, wanted=REDUCED),
    Scenario("2 δ below the label floor, headroom 2 δ", soft=-2, soft0=2, wanted=REDUCED),
    Scenario("no headroom", soft=0, soft0=0, wanted=NOTHING),
    Scenario("a crashed attack, the best by 2 δ", soft=2, soft0=4, step=2.0, crashed=True, wanted=INCONCLUSIVE),
    Scenario("boundary: soft over labels δ, headroom 4 δ", soft=1, soft0=4, step=FAR),
    Scenario("boundary: headroom δ, soft at the floor", soft=0, soft0=1, step=FAR),
    Scenario("boundary: took δ of 4", soft=3, soft0=4, step=FAR),
    Scenario("boundary: all thieves alike, soft over labels δ", soft=1, soft0=4, step=0.0),
    Scenario("undefended, headroom 1.5 δ", soft=1.5, soft0=1.5),
    Scenario("with labels: as good as alone, twin 2 δ above", soft=0, soft0=2, alone=0, wanted=WORTHLESS),
    Scenario("with labels: as good as alone, twin 3 δ above", soft=0, soft0=3, alone=0, wanted=WORTHLESS),
    Scenario("with labels, boundary: δ above alone", soft=1, soft0=4, alone=0, step=FAR),
    Scenario("with labels, boundary: twin δ above alone", soft=0, soft0=1, alone=0, step=FAR),
)
SETTINGS = (
    Setting("10,000 images, δ 0.5, 10 seeds", 10_000, 0.5, 0.4, 10),
    Setting("10,000 images, δ 0.5, 5 seeds", 10_000, 0.5, 0.4, 5),
    Setting("497 images, δ 2, 5 seeds", 497, 2.0, 1.2, 5),
    Setting("497 images, δ 2, 10 seeds", 497, 2.0, 1.2, 10),
    Setting("497 images, δ 2, 5 seeds, unpaired", 497, 2.0, 1.2, 5, correlation=0.0),
)


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


def side(arms: list[Draw]) -> Side[Draw]:
    """All arms, and in each audit the one whose score is best."""
    if not arms:
        return Side()
    best_S = np.argmax([arm.score_S for arm in arms], axis=0)
    rows = np.arange(len(best_S))
    accuracy_SU = np.stack([arm.accuracy_SU for arm in arms])[best_S, rows]
    return Side(tuple(arms), Draw(accuracy_SU, np.stack([arm.score_S for arm in arms])[best_S, rows]))


def judged(setting: Setting, scenario: Scenario, sets: int, rng: np.random.Generator) -> Mapping[str, float]:
    """Share of audits that got each verdict."""
    maker, step = Maker(setting, sets, rng), scenario.step
    soft = maker.ranks([scenario.soft - i * step for i in range(3)] + [scenario.soft + NAIVE], scenario.crashed)
    labels = maker.ranks([0.0, -step])
    soft0 = maker.ranks([scenario.soft0 - i * step for i in range(3)] + [scenario.soft0 + NAIVE])
    alone = [] if scenario.alone is None else [maker.arm(scenario.alone)]
    arms = Arms(
        side(soft), side(labels), side([*soft, *labels, *alone]), side(soft0), side([*labels, *alone]), side(alone)
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
        "command": f"python results/judge/simulate.py --sets {sets} --seed {seed}",
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
