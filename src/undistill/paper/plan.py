"""A reproduction as it lies on disk: which cell stands where. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from undistill.errors import UsageError
from undistill.experiments.cell import read_record
from undistill.files import write_text

SCHEMA = 1
FILE = "reproduction.json"


class Point(BaseModel):
    """One place in a table or figure, for one seed. `key` is that of the cell which fills it; several points may share one.

    `teacher` and `column` are roles of the paper; the column of a teacher's own accuracy is `itself`, that of a figure is empty.
    `x` is the varied setting's value, None where a point does not depend on it (a reference line).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    experiment: str
    teacher: str = ""
    arm: str = ""
    column: str = ""
    x: float | str | None = None
    seed: int = 0
    key: str
    reported: float | None = None

    @property
    def name(self) -> str:
        """`table1/ResNet18/nasty/CNN/s0`, with the setting where one is varied: what `--only` matches."""
        x = "" if self.x is None else self.x if isinstance(self.x, str) else f"{self.x:g}"
        parts = (self.experiment, self.teacher, self.arm, self.column, x, f"s{self.seed}")
        return "/".join(part for part in parts if part)


class Plan(BaseModel):
    """`title` tells it apart from others on a page, `networks` say what plays each role by data set, `notes` what was reduced.

    Files written before `schema` was called so say `schema_`, and are read too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    schema_: int = Field(SCHEMA, alias="schema")
    title: str
    scale: str
    recipe: str = ""
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    networks: dict[str, dict[str, str]] = {}
    notes: tuple[str, ...] = ()
    command: str = ""
    points: tuple[Point, ...] = Field(max_length=100_000)

    def of(self, experiment: str) -> tuple[Point, ...]:
        """The points of one experiment, in order."""
        return tuple(point for point in self.points if point.experiment == experiment)


def write(folder: Path, plan: Plan) -> None:
    """Keep a plan."""
    values: dict[str, Any] = plan.model_dump(mode="json", by_alias=True)
    write_text(folder / FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Plan:
    """The plan of a folder; UsageError where there is none or one of a newer schema, RunError for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no reproduction: it has no {FILE}")
    return read_record(path, Plan, SCHEMA, "is damaged")
