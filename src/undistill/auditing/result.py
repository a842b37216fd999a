"""What the judge says: numbers, intervals, verdicts and flags, as records that pages are drawn from. Never imports torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
Verdict = Literal[
    "inconclusive", "nothing to defend", "worthless to this thief", "reduced to labels", "no effect", "partial"
]


class Record(BaseModel):
    """Frozen, and closed to what nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(Record):
    """A mean over units (seeds, or teachers), percent or points.

    `low`, `high`: two-sided 95 % interval; None where one unit gives none. `lower`, `upper`: the one-sided 95 % bounds that
    verdicts
    use. `n` counts units.
    """

    mean: float
    n: int
    low: float | None = None
    high: float | None = None
    lower: float | None = None
    upper: float | None = None


class Thief(Record):
    """One way to steal under one card: all its report cells.

    `reads`: `soft`, `labels` or `nothing` (a control). `held_out`: its score in the search (percent; None: not searched).
    `chosen`:
    the one of its side and kind that the search ranked first, on which one-sided statements rest. `lost` counts cells without an
    accuracy.
    """

    name: str
    attack: str
    settings: dict[str, Any] = {}
    side: Literal["defended", "undefended", "alone"]
    role: str
    reads: Literal["soft", "labels", "nothing"]
    accuracy: Estimate | None
    each: tuple[float, ...] = ()
    held_out: float | None = None
    chosen: bool = False
    lost: int = 0
    queries: int = 0
    cells: tuple[str, ...] = ()


class Contrast(Record):
    """A difference that the verdict rests on: `A_soft − A_label`, in points."""

    name: str
    about: str
    estimate: Estimate


class Point(Record):
    """One point of a curve: `x` queries or temperature, accuracy (or score) in percent."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""


class CardResult(Record):
    """Everything about one card: who got what, what that means.

    `exposure` is the best attack found as a share of the victim's accuracy, percent. `label_equivalents`: how many labelled
    images give
    a baseline the same; `label_equivalents_beyond`: more than the largest number that was tried (which is then given).
    `headroom`, `took` in points, `removed` a share (percent), only where the headroom's lower bound is above δ.
    `verdict` None: no control, or the suite gives no verdicts; `indication` is then what the rules would say of the same numbers.
    """

    id: str
    card: str
    serving: str
    questions: int | None
    images: int
    labelled: bool
    title: str
    sentence: str
    thieves: tuple[Thief, ...]
    best: str | None = None
    best_undefended: str | None = None
    A_def: Estimate | None = None
    A_soft: Estimate | None = None
    A_label: Estimate | None = None
    A_ref: Estimate | None = None
    A_soft0: Estimate | None = None
    A_label0: Estimate | None = None
    exposure: float | None = None
    exposure_undefended: float | None = None
    label_equivalents: float | None = None
    label_equivalents_beyond: bool = False
    headroom: Estimate | None = None
    took: Estimate | None = None
    removed: float | None = None
    contrasts: tuple[Contrast, ...] = ()
    verdict: Verdict | None = None
    indication: Verdict | None = None
    why: str = ""
    search: dict[str, tuple[Point, ...]] = {}
    """Scores on held-out images of the search, by side: the temperature response of `kd` (x τ)."""
    tried: int = 0
    """How many different attacks of the defended model were tried, search included."""


class VictimResult(Record):
    """What users get, and how the outputs look. Percent, but for NLL (nats, None where a true class got no probability at all).

    `brier` is 100 Σ (p − y)², the sum over classes, mean over images: 0 to 200. `spread` is the mean standard deviation of an
    answer's log-probabilities over the classes shown; `second` maps τ to the mean ratio of the runner-up's probability
    over the top one's at that temperature, 0 to 1.
    """

    name: str
    side: Literal["defended", "undefended"]
    label: str
    network: str = ""
    defense: dict[str, Any] = {}
    behind: tuple[dict[str, Any], ...] = ()
    serving: str = "probs"
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
    """A reason to doubt. `name` has an entry in docs/flags.md; `about` says what was seen here, with numbers; `card` its id,
    or "".
    """

    name: str
    about: str
    card: str = ""
    cells: tuple[str, ...] = ()


class Line(Record):
    """One planned cell, for the table of all cells: what it is, what it gave, the command that computes it again."""

    key: str
    cell: str
    side: str
    role: str
    victim: str
    attack: str
    settings: str
    student: str
    card: str
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

    `model`, `control`: the names that their owner gave them. `place`: where the model is. `width`: half-width of the differences
    that the answer rests on, points; None where there are no intervals. `seeds_needed`: report seeds that are expected to bring it
    to δ, None where `images_needed` test images would be needed first; `command` computes what is missing in about `minutes` on
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


class Judgement(Record):
    """The whole judgement. The page, the tables and `undistill compare` are pure functions of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)

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
    cards: tuple[CardResult, ...]
    learning: tuple[Point, ...] = ()
    """A baseline on x labeled images."""
    flags: tuple[Flag, ...]
    not_tried: tuple[str, ...]
    """Sentences: what the plan skipped and what no audit can try."""
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
