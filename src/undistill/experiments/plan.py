"""What an audit will compute: its cells, each found by the hash of all that fixes it. Never imports torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from undistill.errors import UsageError
from undistill.experiments.cell import read_record
from undistill.files import checked, write_json
from undistill.threat_model import ThreatModel

FILE = "audit.json"
SCHEMA = 1
Side = Literal["defended", "undefended", "alone"]
"""Whose outputs an attacker learns from: the audited model's, its undefended control's, no victim's."""
Role = Literal["served", "search", "soft", "labels", "naive", "alone", "curve", "effort"]
"""What a cell is for.

`served`: what users get from a victim. `search`: a setting tried on selection seeds, never measured on test images. `soft`: an
attack that reads more than labels; `labels`: one that reads labels alone; `naive`: the paper's student with its usual settings.
`alone`: a baseline, trained without the victim on as many true labels as the attacker has images. `curve`: baselines on other
numbers of images. `effort`: the best attack with twice the steps or a wider student.
"""

TWICE = 32
"""Test images that a victim is asked about a second time."""


class Record(BaseModel):
    """Immutable; unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Choice(Record):
    """An attack's settings that are only known when cells of the search are done: the best of some attacks, by rank.

    Attacks are ranked by their best settings' mean score on images held out; `rank` 1 is the best.
    """

    among: tuple[str, ...] = Field(min_length=1)
    rank: int = Field(1, ge=1)


class Planned(Record):
    """One cell to compute.

    It is computed on `card` and counts for every threat model in `cards`: who sees probabilities can do all that can be done with
    labels, so a label-only attack is computed once and counts for each output access. `Plan.of(card)` finds what counts for one.
    `victim` names one of the plan's victims, "" for a baseline. Either `attack` is given whole, or `choice` says how it is
    found; `changes` go on top of what is found (`attack.alpha`, `training.clip`), `times` multiply (`training.optimizer.lr`,
    `training.passes`, `student.width`). `after` are cells to wait for besides those of the choice. `key` is the hash of all that
    fixes the numbers, choices among them.
    """

    key: str
    side: Side
    role: Role
    label: str
    card: str
    cards: tuple[str, ...] = ()
    victim: str = ""
    attack: dict[str, Any] = {}
    choice: Choice | None = None
    changes: dict[str, Any] = {}
    times: dict[str, float] = {}
    recipe: dict[str, Any] = {}
    student: dict[str, Any] = {}
    after: tuple[str, ...] = ()
    seed: int = 0
    stage: int = 0
    seconds: float | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of cells that must be done first."""
        return (*self.after, *(() if self.choice is None else self.choice.among))


class Subject(Record):
    """A victim of the plan: its path, the id of its weights, its output defenses (`behind`).

    `teacher` numbers the victims of one side where a method is audited on several. `recipe` and `defense` say how the audit
    trains it, if it does; `model` is then a folder below the audit's own. `shows` is the most access that its defenses leave.
    """

    name: str
    side: Literal["defended", "undefended"]
    model: str
    id: str = ""
    label: str = ""
    network: str = ""
    defense: dict[str, Any] = {}
    behind: tuple[dict[str, Any], ...] = ()
    shows: str = "weights"
    answers: str | None = None
    unseen: bool = False
    teacher: int = 0
    recipe: dict[str, Any] | None = None
    adversary: str | None = None


class Skipped(Record):
    """What the plan leaves out, and why."""

    what: str
    why: str


class Plan(Record):
    """A whole audit: victims, cells and how they will be judged.

    `delta` is the smallest difference that matters, in points of accuracy, fixed before the run; `resolves` the smallest one that
    the plan is expected to tell from nothing. `known` lists, by attack, the defenses that it was written against. `verdicts`: the
    suite is large enough for verdicts; a smaller one gives an indication.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    title: str
    suite: str
    question: Literal["model", "method"] = "model"
    verdicts: bool
    delta: float = Field(gt=0)
    resolves: float | None = None
    data: dict[str, Any]
    fingerprint: str
    data_note: str = ""
    test_images: int
    classes: int
    subjects: tuple[Subject, ...]
    cells: tuple[Planned, ...]
    skipped: tuple[Skipped, ...] = ()
    known: dict[str, tuple[str, ...]] = {}
    grid: dict[str, tuple[Any, ...]] = {}
    seeds: tuple[int, ...] = ()
    command: str = ""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)

    @model_validator(mode="after")
    def _controls_are_in(self) -> Plan:
        missing = missing_control(self)
        if missing:
            raise ValueError(f"a plan without its controls says nothing: {missing}")
        return self

    @property
    def controlled(self) -> bool:
        """Whether an undefended control is there to compare with."""
        return any(subject.side == "undefended" for subject in self.subjects)

    def of(self, card: str) -> tuple[Planned, ...]:
        """The cells that count for a threat model."""
        return tuple(cell for cell in self.cells if card in (cell.cards or (cell.card,)))

    @property
    def cards(self) -> tuple[str, ...]:
        """The threat models that are reported, those of attacks of the defended model: by queries, the strongest access first."""
        roles = ("soft", "labels", "naive")
        found = [cell for cell in self.cells if cell.side == "defended" and cell.role in roles]
        names = dict.fromkeys(card for cell in found for card in (cell.cards or (cell.card,)))
        return tuple(sorted(names, key=_strength))

    def subject(self, name: str) -> Subject:
        """A victim by its name."""
        return next(subject for subject in self.subjects if subject.name == name)

    def cell(self, key: str) -> Planned:
        """A cell by its key or the key's first letters; UsageError for none or several."""
        found = [cell for cell in self.cells if cell.key.startswith(key)]
        if len(found) != 1:
            raise UsageError(f"{'no' if not found else len(found)} cells of the plan begin with {key!r}")
        return found[0]

    def dump(self) -> dict[str, Any]:
        """Plain JSON values, as they lie on disk."""
        return self.model_dump(mode="json", by_alias=True)


def _strength(text: str) -> tuple[int, int, int]:
    card = ThreatModel.parse(text)
    return card.questions or 0, -card.access, -(card.top or 5)


def missing_control(plan: Plan) -> str:
    """What a plan lacks to be judged, in words; "" for nothing.

    For every threat model that is reported: a baseline and a label-only attack with the seeds of each attack; what users get from
    each victim; and where there is a control, for each attack on the defended model the same on the control, soft and of labels.
    """
    served = {cell.victim for cell in plan.cells if cell.role == "served"}
    for subject in plan.subjects:
        if subject.name not in served:
            return f"nothing measures what users get from {subject.name}"
    for card in plan.cards:
        here = [cell for cell in plan.of(card) if cell.role in ("soft", "labels", "naive", "alone")]
        seeds = {cell.seed for cell in here if cell.side == "defended"}
        wanted: list[tuple[Side, Role]] = [("defended", "labels")]
        if not without_images(card):
            wanted.append(("alone", "alone"))
        if plan.controlled:
            wanted.append(("undefended", "labels"))
            if any(cell.role == "soft" for cell in here):
                wanted.append(("undefended", "soft"))
        for side, role in wanted:
            there = {cell.seed for cell in here if cell.side == side and cell.role == role}
            if not seeds <= there:
                return f"{card} has no {role} control ({side}) for seeds {sorted(seeds - there)}"
    return ""


def without_images(card: str) -> bool:
    """Whether a threat model's attack holds no images."""
    return card.split("/")[1] == "none"


def key_of(fixed: dict[str, Any]) -> str:
    """The hash of all that fixes a cell, 16 hex digits."""
    return hashlib.sha256(json.dumps([SCHEMA, fixed], sort_keys=True).encode()).hexdigest()[:16]


def write(folder: Path, plan: Plan, *, grown: bool = False) -> None:
    """Put the plan into the folder; UsageError where it holds another one, whose cells would be mixed with this one's.

    A `grown` plan may have more seeds and their cells than the one that is there.
    """
    path = folder / FILE
    if path.exists():
        old = read(folder)
        if _fixed(old) != _fixed(plan) and not (grown and grows(old, plan)):
            raise UsageError(
                f"{folder} holds another audit ({old.title}): {_difference(old, plan)}; choose another folder, or "
                "discard what is there with --fresh"
            )
    write_json(path, checked(plan.dump()))


def grows(old: Plan, new: Plan) -> bool:
    """Whether a plan is another one with more seeds: the same in all else, and with every cell that the other has."""
    before, after = _fixed(old), _fixed(new)
    cells = {cell["key"]: cell for cell in after.pop("cells")}
    held = all(cells.get(cell["key"]) == cell for cell in before.pop("cells"))
    return held and set(before.pop("seeds")) <= set(after.pop("seeds")) and before == after


def read(folder: Path) -> Plan:
    """The plan of a folder; UsageError where there is none or of a newer schema, RunError for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no audit: it has no {FILE}; `undistill audit plan` writes it")
    return read_record(path, Plan, SCHEMA, "is damaged")


def _fixed(plan: Plan) -> dict[str, Any]:
    """All of a plan that numbers rest on: not where models lie, what it is called, or who knows which defense."""
    values = plan.dump()
    cells = [{key: value for key, value in cell.items() if key not in ("seconds", "label")} for cell in values["cells"]]
    subjects = [{**subject, "model": subject["model"] if subject["recipe"] else ""} for subject in values["subjects"]]
    data = {**values["data"], "dir": None}
    free: dict[str, Any] = {"command": "", "resolves": None, "known": {}, "skipped": (), "title": ""}
    return {**values, **free, "cells": cells, "subjects": subjects, "data": data}


def _difference(old: Plan, new: Plan) -> str:
    before, after = _fixed(old), _fixed(new)
    name = next(key for key in after if before.get(key) != after[key])
    if name in ("cells", "subjects"):
        return f"its {name} are others"
    return f"{name} was {before.get(name)}, now {after[name]}"
