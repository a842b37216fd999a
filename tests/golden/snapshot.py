"""What every committed audit and study says, in a form small enough to commit: `python tests/golden/snapshot.py` writes it anew.

A report's numbers are taken table by table, in order, rounded to nine digits, without names of columns and without words; so a
report may be reworded, and its columns renamed, while no number of it moves unseen.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import undistill

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("snapshot.json")
AUDITS = sorted(path.parent for path in (ROOT / "results" / "audits").glob("*/*/audit.json"))
STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/reproduction.json"))


def numbers(value: Any) -> Iterator[str]:
    """Every number in a JSON value, in order of position in lists and of nothing else: sorted within a row."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, dict):
        yield from sorted(found for inner in value.values() for found in numbers(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    else:
        yield f"{value:.9g}"


def digest(found: list[str]) -> str:
    """`48:1f0c…`: how many numbers, and a hash of them."""
    return f"{len(found)}:{hashlib.sha256(' '.join(found).encode()).hexdigest()[:12]}"


def said(folder: Path) -> dict[str, str]:
    """The digest of each table of the report of one folder."""
    with tempfile.TemporaryDirectory() as out:
        values = undistill.report([folder], out=Path(out)).values
    parts = {**values.pop("tables"), **values}
    return {name: digest(found) for name, part in parts.items() if (found := list(numbers(part)))}


def cells(folder: Path) -> str:
    """The ids of all cells below a folder."""
    return digest(sorted(path.stem for path in folder.rglob("cells/*.json")))


def name(folder: Path) -> str:
    return folder.relative_to(ROOT / "results").as_posix()


def study_cells() -> dict[str, str]:
    """The digest of the ids of each study's cells."""
    return {
        name(folder): cells(folder) for folder in sorted((ROOT / "results").iterdir()) if any(folder.rglob("cells"))
    }


if __name__ == "__main__":
    whole = {"reports": {name(folder): said(folder) for folder in [*AUDITS, *STUDIES]}, "cells": study_cells()}
    FILE.write_text(json.dumps(whole, indent=1) + "\n")
    sys.stdout.write(f"{FILE}\n")
