"""An audit's result: numbers, intervals, verdicts and flags, as records that pages are drawn from. Never imports torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
Verdict = Literal[
    "inconclusive", "nothing to defend", "worthless to this thief", "reduced to labels", "no effect", "partial"
]


class Record(BaseModel):
    """Immutable; unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


class Estimate(Record):
    """A mean over units (seeds, or teachers), percent or points.

    `low`, `high`: two-sided 95 % interval; `lower`, `upper`: one-sided 95 % bounds, which verdicts use; all None for a single unit.
    `n` counts units.
    """

    mean: float
    n: int
    low: float | None = None
    high: float | None = None
    lower: float | None = None
    upper: float | None = None


class AttackResult(Record):
    """One attack, or baseline, of a threat model: all its report cells.

    `reads`: `soft`, `labels` or `nothing` (a baseline). `each`: accuracy by unit. `gain`: points above the label-only attack on
    the audited model that the search ranked first, paired by unit; None for that attack itself and where the two cannot be
    compared. `held_out`: its score in the search, percent; None where it was not searched. `fidelity`: on how many test images it
    names the audited model's class, percent, mean over cells; None where a method is audited. `chosen`: the search ranked it first
    of its side and kind, so one-sided statements rest on it. `lost` counts cells without an accuracy.
    """

    name: str
    attack: str
    settings: dict[str, Any] = {}
    side: Literal["defended", "undefended", "alone"]
    role: str
    reads: Literal["soft", "labels", "nothing"]
    accuracy: Estimate | None
    gain: Estimate | None = None
    each: tuple[float, ...] = ()
    held_out: float | None = None
    chosen: bool = False
    fidelity: float | None = None
    lost: int = 0
    queries: int = 0
    cells: tuple[str, ...] = ()


class Contrast(Record):
    """A difference that the verdict rests on, in points: `A_soft − A_label`."""

    name: str
    about: str
    estimate: Estimate


class Decides(Record):
    """The best reported attack on the audited model, and what the result would be without it.

    `runner_up`: the best that is another attack (not the same with other settings); `ahead`: points above it, paired by unit.
    `without`: the verdict (or indication) of the same cells without all of that attack's; None without a control.
    """

    attack: str
    best: str
    runner_up: str
    ahead: Estimate | None = None
    without: Verdict | None = None


class Point(Record):
    """One point of a curve: `x` queries or temperature, accuracy (or score) in percent."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""


class ThreatModelResult(Record):
    """The results of one threat model.

    `relative_accuracy`: that of the best extracted model, percent of the victim's. `label_equivalents`: the
    label-equivalent sample size, how many labeled images give a baseline the same accuracy; with `label_equivalents_beyond` it
    is more than the largest number tried, which is then given. `headroom`, `reduction` in points; `reduction_share`: the share
    of the headroom, percent, only where its lower bound is above δ. `verdict` None: no control, or the suite gives no verdicts;
    `indication` is then what the rules say of the same numbers. `tried`: different attacks on the defended model, search
    included. `search`: scores on held-out images by side, the temperature response of `kd` (x: τ).
    """

    id: str
    threat_model: str = Field(alias="card")
    access: str = Field(alias="serving")
    queries: int | None = Field(alias="questions")
    images: int
    labelled: bool
    title: str
    sentence: str
    attacks: tuple[AttackResult, ...] = Field(alias="thieves")
    best: str | None = None
    best_undefended: str | None = None
    A_def: Estimate | None = None
    A_soft: Estimate | None = None
    A_label: Estimate | None = None
    A_ref: Estimate | None = None
    A_soft0: Estimate | None = None
    A_label0: Estimate | None = None
    relative_accuracy: float | None = Field(None, alias="exposure")
    relative_accuracy_undefended: float | None = Field(None, alias="exposure_undefended")
    label_equivalents: float | None = None
    label_equivalents_beyond: bool = False
    headroom: Estimate | None = None
    reduction: Estimate | None = Field(None, alias="took")
    reduction_share: float | None = Field(None, alias="removed")
    contrasts: tuple[Contrast, ...] = ()
    verdict: Verdict | None = None
    indication: Verdict | None = None
    why: str = ""
    search: dict[str, tuple[Point, ...]] = {}
    tried: int = 0
    decides: Decides | None = None


class VictimResult(Record):
    """What users get, and how the outputs look. Percent, except NLL (nats; None where a true class got probability 0).

    `brier`: 100 Σ (p − y)², sum over classes, mean over images, 0 to 200. `spread`: mean standard deviation of an output's
    log-probabilities over the classes shown. `second`: mean ratio of the runner-up's probability to the top one's, 0 to 1, by τ.
    """

    name: str
    side: Literal["defended", "undefended"]
    label: str
    network: str = ""
    defense: dict[str, Any] = {}
    output_defenses: tuple[dict[str, Any], ...] = Field((), alias="behind")
    access: str = Field("probs", alias="serving")
    accuracy: float
    top5: float | None = None
    nll: float | None = None
    ece: float | None = None
    brier: float | None = None
    spread: float | None = None
    second: dict[str, float] = {}
    n_test: int = 0
    cell: str = ""


class Flag(Record):
    """A reason to doubt. `name` has an entry in docs/flags.md; `about` says what was seen; `threat_model` is its id or ""."""

    name: str
    about: str
    threat_model: str = Field("", alias="card")
    cells: tuple[str, ...] = ()


class Line(Record):
    """One planned cell, for the table of all cells: what it is, what it gave, and the command that computes it again."""

    key: str
    cell: str
    side: str
    role: str
    victim: str
    attack: str
    settings: str
    student: str
    threat_model: str = Field(alias="card")
    seed: int
    phase: str
    accuracy: float | None
    held_out: float | None
    queries: int
    seconds: float
    status: str
    why: str
    command: str


class Outlook(Record):
    """What the first screen needs beside the numbers.

    `model`, `control`: the names that their owner gave them; `place`: the model's path or address. `width`: half-width of the
    differences that the answer rests on, points; None without intervals. `seeds_needed`: report seeds expected to bring it to
    δ, None where `images_needed` test images would be needed first; `command` computes what is missing in about `minutes` on
    two cores. `chance`: accuracy of guessing, percent. `few`: why the data are too few, "" where they are enough.
    """

    model: str
    control: str = ""
    defended: bool = False
    folder: str = ""
    place: str = ""
    width: float | None = None
    seeds_needed: int | None = None
    images_needed: int | None = None
    minutes: float | None = None
    command: str = ""
    chance: float | None = None
    few: str = ""


class AuditResult(Record):
    """A whole audit's result. The page, the tables and `undistill compare` are pure functions of it.

    `learning`: accuracy of a baseline by its number of labeled images. `not_tried`: sentences on what the plan skipped and what no
    audit can try.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    title: str
    suite: str
    question: Literal["model", "method"]
    verdicts: bool
    delta: float
    resolves: float | None
    measured_half_width: float | None = None
    units: int = 0
    victims: tuple[VictimResult, ...]
    threat_models: tuple[ThreatModelResult, ...] = Field(alias="cards")
    learning: tuple[Point, ...] = ()
    flags: tuple[Flag, ...]
    not_tried: tuple[str, ...]
    lines: tuple[Line, ...]
    provenance: dict[str, str] = {}
    commands: tuple[str, ...] = ()
    planned: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    outlook: Outlook | None = None

    def dump(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)
