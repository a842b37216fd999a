"""The unit of evidence. Tables, charts and pages are pure functions of cells. Never imports torch."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from undistill.errors import RunError, UsageError
from undistill.files import checked, read_json, sha256, write_bytes

log = logging.getLogger(__name__)
SCHEMA = 1
ARRAYS = "arrays_check"
"""Where a cell's file keeps the checksum of its arrays."""
Array = NDArray[Any]
Kind = TypeVar("Kind", bound=BaseModel)


class Cell(BaseModel):
    """One measurement, as it is stored.

    `kind`: `victim` is the model itself, `cell` an extracted model, `control` a baseline, `figure` data for a picture. Accuracies,
    `agreement` (fidelity: how often it names the victim's top class on the test images) and ECE are percent; NLL is in nats.
    `queries` counts the attacker's, `forwards` what the victim computed beyond the logit cache. `vouched`: that the images are
    fresh was asserted by the user. `key` is the hash of the plan's settings that it was made for, `numbers` are those of a figure.
    `curve` holds one dict an epoch. `held_out` (percent) is what searches choose by: on images that nothing was trained on, never
    the test images, against true labels if the attacker holds labels and else against the victim's top class. A cell of phase
    `selection` has no accuracy. `accuracy` is null unless `status` is ok.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    schema_: int = Field(SCHEMA, alias="schema")
    id: str
    key: str = ""
    kind: Literal["victim", "cell", "control", "figure"] = "cell"
    experiment: str = "attack"
    victim: str
    victim_id: str
    defense: dict[str, Any] = {}
    attack: str = ""
    attack_settings: dict[str, Any] = {}
    student: str = ""
    student_settings: dict[str, Any] = {}
    card: str = ""
    queries: int = 0
    forwards: int = 0
    images: int = 0
    vouched: bool = False
    seeds: dict[str, int] = {}
    phase: Literal["selection", "report"] = "report"
    accuracy: float | None = None
    accuracy_val: float | None = None
    held_out: float | None = None
    n_test: int = 0
    agreement: float | None = None
    nll: float | None = None
    ece: float | None = None
    numbers: dict[str, float] = {}
    curve: list[dict[str, Any]] = []
    status: Literal["ok", "diverged", "failed"] = "ok"
    why: str = ""
    reported: float | None = None
    arrays: str | None = None
    data: str = ""
    data_note: str = ""
    recipe: dict[str, Any] = {}
    env: dict[str, Any] = {}
    seconds: float = 0.0

    def values(self) -> dict[str, Any]:
        """Plain JSON values, as they lie on disk."""
        return self.model_dump(mode="json", by_alias=True)


def identify(fixed: dict[str, Any]) -> str:
    """An id from all that fixes the numbers, 16 hex digits."""
    return hashlib.sha256(json.dumps([SCHEMA, fixed], sort_keys=True).encode()).hexdigest()[:16]


def save(folder: Path, cell: Cell, arrays: dict[str, Array] | None = None, *, lasting: bool = True) -> Cell:
    """Write `ID.npz` (if there are arrays), then `ID.json`; each is replaced whole. Returns the cell as it was written.

    `lasting` as in `write_bytes`.
    """
    sums = {}
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # plain numbers and text: nothing that would be pickled
        write_bytes(folder / f"{cell.id}.npz", buffer.getvalue(), lasting=lasting)
        cell = cell.model_copy(update={"arrays": f"{cell.id}.npz"})
        sums = {ARRAYS: sha256(buffer.getvalue())}
    text = json.dumps(checked({**cell.values(), **sums}), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / f"{cell.id}.json", (text + "\n").encode(), lasting=lasting)
    return cell


def read(path: Path) -> Cell:
    """One cell; RunError names a damaged file, its arrays too if they are there, UsageError one of a newer schema."""
    return read_record(path, Cell, SCHEMA, "is no cell")


def undamaged(path: Path) -> Cell | None:
    """One cell; None where there is none, and with a warning where it is damaged, for it can be computed again."""
    try:
        return read(path) if path.is_file() else None
    except RunError as error:
        log.warning("%s; it is computed again", error)
        return None


def read_record(path: Path, kind: type[Kind], schema: int, damaged: str) -> Kind:
    """A file of a versioned record; UsageError for a newer schema, RunError with the words `damaged` for what is none."""
    values = read_json(path)
    if isinstance(values, dict) and ARRAYS in values:
        _whole(path.with_suffix(".npz"), values.pop(ARRAYS))
    stated = (
        values.get("schema", values.get("schema_")) if isinstance(values, dict) else None
    )  # reproductions once said schema_
    if not isinstance(stated, int):
        raise RunError(f"{path} {damaged}: it states no schema")
    if stated > schema:
        raise UsageError(f"{path} has schema {stated}, this version reads up to {schema}; update undistill")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(f"{path} {damaged}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _whole(path: Path, stated: object) -> None:
    """RunError where a file is there and is not the one that was written with a cell."""
    if path.is_file() and sha256(path.read_bytes()) != stated:
        raise RunError(f"{path} is damaged: it does not fit the checksum in its cell")


def read_arrays(folder: Path, cell: Cell) -> dict[str, Array]:
    """The arrays beside a cell; RunError if they are gone or damaged. Pickled arrays are refused."""
    if cell.arrays is None:
        return {}
    path = folder / Path(cell.arrays).name
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} is damaged or missing: {error}") from error


def collect(folders: Iterable[Path]) -> Iterator[tuple[Path, Cell]]:
    """(folder, cell) of every `cells/*.json` below the folders, each id once, in a stable order."""
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("cells/*.json")):
            cell = read(path)
            if cell.id not in seen:
                seen.add(cell.id)
                yield path.parent, cell
