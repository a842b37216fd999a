"""Truths that audits are made up from, and how well they are measured: what simulate.py judges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from undistill.auditing.verdict import INCONCLUSIVE, LABEL_LEVEL, NO_ADVANTAGE, NO_EFFECT, NO_GAIN, PARTIAL


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
    """A truth. Levels in δ, relative to the best label-only attack on the defended model: `soft`, the best soft one; `soft0`, that
    on the undefended control; `alone`, a baseline. Each of three soft ranks is `step` below the one before, and so is the second
    label-only attack. `crashed`: the first soft attack lost its cells. `wanted`: the verdict whose power is asked for.
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
            NO_ADVANTAGE: room <= 1,
            NO_EFFECT: room > 1 and took < 1,
            PARTIAL: room > 1 and took > 0,
            LABEL_LEVEL: room > 1 and took > 0 and self.soft - floor < 1,
            NO_GAIN: self.alone is not None
            and room > 1
            and self.soft - floor < 1
            and max(self.soft, 0.0) - self.alone < 1
            and self.soft0 - self.alone > 1,
        }
        return {name for name, holds in truths.items() if holds}


FAR = 4.0
"""A step so large that the best attacker alone decides: what is said of the best of several is then as often false as it can be."""
SCENARIOS = (
    Scenario("no effect: took 0, headroom 3 δ", soft=3, soft0=3, wanted=NO_EFFECT),
    Scenario("partial: took 2 δ of 4", soft=2, soft0=4, wanted=PARTIAL),
    Scenario("at the label floor, headroom 2 δ", soft=0, soft0=2, wanted=LABEL_LEVEL),
    Scenario("at the label floor, headroom 3 δ", soft=0, soft0=3, wanted=LABEL_LEVEL),
    Scenario("2 δ below the label floor, headroom 2 δ", soft=-2, soft0=2, wanted=LABEL_LEVEL),
    Scenario("no headroom", soft=0, soft0=0, wanted=NO_ADVANTAGE),
    Scenario("a crashed attack, the best by 2 δ", soft=2, soft0=4, step=2.0, crashed=True, wanted=INCONCLUSIVE),
    Scenario("boundary: soft over labels δ, headroom 4 δ", soft=1, soft0=4, step=FAR),
    Scenario("boundary: headroom δ, soft at the floor", soft=0, soft0=1, step=FAR),
    Scenario("boundary: took δ of 4", soft=3, soft0=4, step=FAR),
    Scenario("boundary: all attackers alike, soft over labels δ", soft=1, soft0=4, step=0.0),
    Scenario("undefended, headroom 1.5 δ", soft=1.5, soft0=1.5),
    Scenario("with labels: as good as alone, twin 2 δ above", soft=0, soft0=2, alone=0, wanted=NO_GAIN),
    Scenario("with labels: as good as alone, twin 3 δ above", soft=0, soft0=3, alone=0, wanted=NO_GAIN),
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
