"""A packed study is the study, and what was changed in it is noticed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from undistill.errors import RunError, UsageError
from undistill.experiments import evidence
from undistill.experiments.cell import Cell, collect, read_arrays, save
from undistill.files import write_json

LABELS_N = np.arange(40) % 4


def a_cell(number: int, right: int) -> tuple[Cell, dict[str, Any]]:
    """A cell whose predictions are right on `right` of 40 test images."""
    predicted_N = np.where(np.arange(40) < right, LABELS_N, (LABELS_N + 1) % 4)
    cell = Cell(
        id=f"{number:016x}", victim="nasty", victim_id="0", attack="kd", seeds={"student": number}, accuracy=2.5 * right
    )
    return cell, {"predicted": predicted_N, "labels": LABELS_N, "odd": np.array([[1.5], [2.0]], dtype=np.float16)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two audits that share three cells."""
    home = tmp_path / "study"
    for number in range(3):
        save(home / "cells", *a_cell(number, 30 + number))
        for audit in ("one", "two"):
            write_json(home / audit / "done" / f"{number:016x}.json", {"cell": f"{number:016x}", "cells": "../cells"})
    for audit in ("one", "two"):
        write_json(home / audit / "audit.json", {"title": audit, "command": f"undistill audit {audit}"})
    return home


@pytest.fixture
def file(study: Path, tmp_path: Path) -> Path:
    evidence.pack(study, tmp_path / "evidence" / "study.parquet")
    return tmp_path / "evidence" / "study.parquet"


def contents(folder: Path) -> dict[str, Any]:
    """What lies in a study's folder, by path."""
    found = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}
    for home, cell in collect([folder]):
        found |= {f"{cell.id} {name}": array for name, array in read_arrays(home, cell).items()}
    return found


def test_what_is_unpacked_is_what_was_packed(study: Path, file: Path, tmp_path: Path) -> None:
    assert evidence.unpack(file, tmp_path / "again") == 3
    before, after = contents(study), contents(tmp_path / "again")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value)
        assert getattr(after[name], "dtype", None) == getattr(value, "dtype", None)
    assert evidence.verify(file) == 3


def test_a_study_whose_cells_lie_elsewhere_is_refused(study: Path, tmp_path: Path) -> None:
    save(study / "one" / "cells", *a_cell(9, 30))
    with pytest.raises(UsageError, match="holds both"):
        evidence.pack(study / "one", tmp_path / "one.parquet")
    (study / "cells" / f"{1:016x}.json").unlink()
    with pytest.raises(UsageError, match="holds both"):
        evidence.pack(study, tmp_path / "one.parquet")
    assert not (tmp_path / "one.parquet").exists()


def test_the_same_study_gives_the_same_bytes(study: Path, file: Path) -> None:
    before = file.read_bytes(), (file.parent / evidence.MANIFEST).read_bytes()
    evidence.pack(study, file)
    assert (file.read_bytes(), (file.parent / evidence.MANIFEST).read_bytes()) == before


def test_a_manifest_lists_every_study_beside_it(study: Path, file: Path) -> None:
    evidence.pack(study, file.with_name("other.parquet"))
    listed = [line["study"] for line in evidence.manifest(file.parent)]
    assert listed == ["other"] * 3 + ["study"] * 3
    assert evidence.verify(file) == 3


def test_a_number_that_moved_is_noticed(study: Path, file: Path) -> None:
    listed = (file.parent / evidence.MANIFEST).read_text()
    save(study / "cells", *a_cell(1, 5))
    evidence.pack(study, file)
    assert (file.parent / evidence.MANIFEST).read_text() != listed
    (file.parent / evidence.MANIFEST).write_text(listed)
    with pytest.raises(RunError, match="is not as"):
        evidence.verify(file)


def test_an_accuracy_that_its_predictions_contradict_is_noticed(study: Path, file: Path) -> None:
    cell, arrays = a_cell(1, 5)
    save(study / "cells", cell.model_copy(update={"accuracy": 99.0}), arrays)
    evidence.pack(study, file)
    with pytest.raises(RunError, match="its predictions"):
        evidence.verify(file)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path", "../../cells/0.json"),
        ("path", "/tmp/0.json"),
        ("places", ["../../x/00"]),
        ("id", "../x"),
        ("values", "{}"),
    ],
)
def test_a_hostile_file_writes_nothing_elsewhere(file: Path, tmp_path: Path, column: str, value: Any) -> None:
    rows = pq.read_table(file).to_pylist()
    rows[-1][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=evidence.SCHEMA), file)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")}
    with pytest.raises(RunError, match="damaged"):
        evidence.unpack(file, tmp_path / "out")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before


def test_nothing_is_unpickled(file: Path, tmp_path: Path) -> None:
    rows = pq.read_table(file).to_pylist()
    rows[-1]["arrays"] = [("predicted", pickle.dumps(print))]
    pq.write_table(pa.Table.from_pylist(rows, schema=evidence.SCHEMA), file)
    with pytest.raises(RunError, match="damaged"):
        evidence.unpack(file, tmp_path / "out")


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table.parquet")
    for name, error in (("text", RunError), ("table", UsageError), ("gone", UsageError)):
        with pytest.raises(error):
            evidence.unpack(tmp_path / f"{name}.parquet", tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        evidence.unpack(file, tmp_path / "study")
    with pytest.raises(UsageError, match="no cells"):
        evidence.pack(tmp_path / "evidence", file)


def test_a_cell_is_found_by_its_first_letters_with_its_commands(file: Path) -> None:
    found, row = evidence.find([file], f"{2:016x}")
    assert (found, row.accuracy) == (file, 80.0)
    assert evidence.commands(file, row) == ["undistill audit one", "undistill audit two"]
    with pytest.raises(UsageError, match="3 cells"):
        evidence.find([file], "0000")
