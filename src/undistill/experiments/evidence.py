"""A study in one Parquet file: its plans, and all of its cells with their arrays. Never imports torch.

While a study runs it is loose JSON that survives a crash; when it is finished, `pack` makes one compressed file of it and `unpack`
the same folder again, cell by cell and array by array. `MANIFEST.csv` beside the files lists every cell with a hash, so that a
diff of it shows which number moved. Nothing in a file is code: JSON text, and arrays in NumPy's format without pickle.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from undistill.errors import RunError, UsageError
from undistill.experiments.cell import ARRAYS, Array, Cell, read, read_arrays, save
from undistill.experiments.store import Store
from undistill.files import read_json, write_bytes, write_text

SUFFIX = ".parquet"
MANIFEST = "MANIFEST.csv"
PLANS = ("audit.json", "reproduction.json", "demo.json")
"""The files of a folder, beside its cells, that a report is drawn from."""
COLUMNS = ("id", "study", "role", "seed", "accuracy", "sha256")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # plan, cell
        ("path", pa.string()),  # of the file in the study's folder
        ("id", pa.string()),
        ("places", pa.list_(pa.string())),  # FOLDER/KEY of each planned cell that this one fills
        ("role", pa.string()),
        ("seed", pa.int64()),
        ("accuracy", pa.float64()),
        ("values", pa.string()),
        ("arrays", pa.map_(pa.string(), pa.binary())),
    ],
    metadata={"undistill": "study 1"},
)


@dataclass(frozen=True)
class Row:
    """A file of a study: a plan, or a cell with its arrays and the places of plans that it fills."""

    kind: str
    path: str
    id: str
    values: str
    role: str = ""
    seed: int | None = None
    accuracy: float | None = None
    places: tuple[str, ...] = ()
    arrays: tuple[tuple[str, bytes], ...] = ()

    @property
    def sha256(self) -> str:
        """Of the values and the arrays, 16 hex digits."""
        found = hashlib.sha256(self.values.encode())
        for name, content in self.arrays:
            found.update(name.encode() + content)
        return found.hexdigest()[:16]

    def cell(self, file: Path) -> Cell:
        """The cell; RunError where the values are none."""
        try:
            return Cell.model_validate_json(self.values)
        except ValidationError as error:
            raise RunError(f"{file} is damaged: {self.path} is no cell: {error.errors()[0]['msg']}") from None

    def array(self, file: Path) -> dict[str, Array]:
        """The cell's arrays by name; RunError where one is damaged. Pickled ones are refused."""
        try:
            return {name: np.load(io.BytesIO(content), allow_pickle=False) for name, content in self.arrays}
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{file} is damaged: the arrays of {self.path}: {error}") from None


def pack(folder: Path, file: Path) -> int:
    """Make `file` of all plans and cells below `folder`, and list them in the manifest beside it; returns the number of cells.

    Reports, models and logs are left out: the first are drawn from cells, the others are no evidence. A cell whose arrays are
    gone is packed without them.

    Raises:
        UsageError: `folder` holds no cell, or not all that its plans have computed.
        RunError: a damaged plan, marker or cell, or `file` cannot be written.
    """
    places = _places(folder)
    rows = [
        Row("plan", _relative(path, folder), "", json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":")))
        for name in PLANS
        for path in sorted(folder.rglob(name))
    ]
    cells = [
        _packed(path, folder, tuple(places.get(path.resolve(), ()))) for path in sorted(folder.rglob("cells/*.json"))
    ]
    if not cells:
        raise UsageError(f"{folder} holds no cells, so there is no evidence to pack")
    columns = {name: [getattr(row, name) for row in (*rows, *cells)] for name in SCHEMA.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd", compression_level=19)
    write_bytes(file, buffer.getvalue())
    listed = [line for line in manifest(file.parent) if line["study"] != file.stem]
    _write_manifest(file.parent, [*listed, *(_line(file, row) for row in cells)])
    return len(cells)


def unpack(file: Path, folder: Path) -> int:
    """Write the study of `file` into `folder`, which must be new or empty; returns the number of cells.

    Raises:
        UsageError: the folder holds something, or the file is no study.
        RunError: a damaged file, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty; choose a new folder")
    count = 0
    for row in rows_of(file):
        path = folder / row.path
        if row.kind == "plan":
            write_text(path, json.dumps(json.loads(row.values), indent=1, ensure_ascii=False) + "\n")
            continue
        save(path.parent, row.cell(file), row.array(file), lasting=False)
        count += 1
        for place in row.places:
            home, _, key = place.rpartition("/")
            told = {"cell": row.id, "cells": os.path.relpath(path.parent, folder / home).replace(os.sep, "/")}
            write_bytes(folder / home / "done" / f"{key}.json", json.dumps(told).encode(), lasting=False)
    return count


def rows_of(file: Path) -> Iterator[Row]:
    """The plans and cells of a file, in its order; UsageError for a file that is no study, RunError for a damaged one."""
    try:
        table = pq.read_table(file, memory_map=True)
    except FileNotFoundError:
        raise UsageError(f"there is no file at {file}") from None
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{file} is damaged, or no Parquet file: {error}") from None
    if not table.schema.equals(SCHEMA):
        raise UsageError(f"{file} is no study of `undistill evidence pack`: it has other columns")
    for values in table.to_pylist():
        parts = Path(values["path"]).parts
        if Path(values["path"]).is_absolute() or ".." in parts or not re.fullmatch(r"[0-9a-f]{16}|", values["id"]):
            raise RunError(f"{file} is damaged: {values['path']!r} is no file of a study")
        if any(not re.fullmatch(r"([\w.-]+/)*[0-9a-f]+", place) or ".." in place for place in values["places"]):
            raise RunError(f"{file} is damaged: the places of {values['path']} are none of a study")
        yield Row(**values | {"places": tuple(values["places"]), "arrays": tuple(values["arrays"])})


def verify(file: Path) -> int:
    """Hold a file against its manifest, and the accuracies of its cells against their predictions; returns the number of cells.

    Raises:
        UsageError: the manifest lists nothing of this file.
        RunError: a cell that is not as it is listed, is not listed, or is missing; an accuracy that its predictions contradict.
    """
    listed = {(line["id"], line["sha256"]): line for line in manifest(file.parent) if line["study"] == file.stem}
    if not listed:
        raise UsageError(f"{file.parent / MANIFEST} lists nothing of {file.name}")
    rows = [row for row in rows_of(file) if row.kind == "cell"]
    for row in rows:
        cell, arrays = row.cell(file), row.array(file)
        if (row.id, row.sha256) not in listed:
            raise RunError(f"{file}: cell {row.id} is not as {MANIFEST} lists it")
        if (cell.id, cell.accuracy) != (row.id, row.accuracy):
            raise RunError(f"{file}: cell {row.id} says another id or accuracy in its columns than in its values")
        if cell.accuracy is not None and {"predicted", "labels"} <= arrays.keys():
            found = 100 * float(np.mean(arrays["predicted"] == arrays["labels"]))
            if abs(found - cell.accuracy) > 1e-3:
                raise RunError(f"{file}: cell {row.id} says {cell.accuracy} %, its predictions {found:.4f} %")
    if len(rows) != len(listed):
        raise RunError(f"{file} has {len(rows)} cells, {MANIFEST} lists {len(listed)}")
    return len(rows)


def find(files: Iterable[Path], start: str) -> tuple[Path, Row]:
    """The file and the row of a cell by its id or the first letters of it; UsageError for none or several."""
    found = {
        row.id: (file, row)
        for file in files
        for row in rows_of(file)
        if row.kind == "cell" and row.id.startswith(start)
    }
    if len(found) != 1:
        raise UsageError(f"{len(found) or 'no'} cells have an id that begins with {start!r}")
    return next(iter(found.values()))


def commands(file: Path, row: Row) -> list[str]:
    """The commands of the plans that a cell belongs to: of those with a place for it, else of all."""
    plans = {row.path.rpartition("/")[0]: json.loads(row.values) for row in rows_of(file) if row.kind == "plan"}
    homes = {place.rpartition("/")[0] for place in row.places} or set(plans)
    return sorted({command for home in homes if (command := plans.get(home, {}).get("command"))})


def manifest(folder: Path) -> list[dict[str, str]]:
    """The lines of a folder's manifest; none where there is no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_manifest(folder: Path, lines: Iterable[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(lines, key=lambda line: (line["study"], line["id"], line["sha256"])))
    write_text(folder / MANIFEST, text.getvalue())


def _line(file: Path, row: Row) -> dict[str, str]:
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.4f}"
    seed = "" if row.seed is None else str(row.seed)
    return dict(zip(COLUMNS, (row.id, file.stem, row.role, seed, accuracy, row.sha256), strict=True))


def _packed(path: Path, folder: Path, places: tuple[str, ...]) -> Row:
    cell = read(path)
    arrays = []
    kept = cell.arrays is not None and (path.parent / Path(cell.arrays).name).is_file()
    for name, array in (read_arrays(path.parent, cell) if kept else {}).items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        arrays.append((name, buffer.getvalue()))
    values = {name: value for name, value in read_json(path).items() if name != ARRAYS}
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    seed = cell.seeds.get("student", cell.seeds.get("victim"))
    role = "/".join(part for part in (cell.kind, cell.victim, cell.attack) if part)
    return Row("cell", _relative(path, folder), cell.id, text, role, seed, cell.accuracy, places, tuple(arrays))


def _places(folder: Path) -> dict[Path, list[str]]:
    """FOLDER/KEY of every marker below `folder`, by the file of the cell that it names; UsageError where that lies elsewhere."""
    found: dict[Path, list[str]] = {}
    for home in sorted(done.parent for done in folder.rglob("done") if done.is_dir()):
        store = Store(home)
        for key in store.marked():
            cell = store.place(key)
            if cell is None or not cell.resolve().is_relative_to(folder.resolve()):
                raise UsageError(f"{home} names cells that are not in {folder}: pack the folder that holds both")
            found.setdefault(cell.resolve(), []).append(f"{_relative(home, folder)}/{key}".removeprefix("./"))
    return found


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
