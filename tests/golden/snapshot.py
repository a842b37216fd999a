"""What every committed audit and study says, in a form small enough to commit: `python tests/golden/snapshot.py` writes it anew.

A report's numbers are taken table by table, in order, rounded to nine digits, without names of columns and without words; so a
report may be reworded, and its columns renamed, while no number of it moves unseen.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import undistill
from undistill.experiments.evidence import rows_of, unpack

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("snapshot.json")
EVIDENCE = ROOT / "evidence"
HOME = Path(tempfile.mkdtemp(prefix="undistill-golden-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
STUDIES = sorted(path.stem for path in EVIDENCE.glob("*.parquet"))


@cache
def folder(study: str) -> Path:
    """A packed study as a folder."""
    unpack(EVIDENCE / f"{study}.parquet", HOME / study)
    return HOME / study


def reports() -> list[str]:
    """`STUDY` or `STUDY/AUDIT` of all that a report is drawn of."""
    found = []
    for study in STUDIES:
        plans = [row.path for row in rows_of(EVIDENCE / f"{study}.parquet") if row.kind == "plan"]
        found += [f"{study}/{Path(path).parent}".removesuffix("/.") for path in plans if not path.endswith("demo.json")]
    return sorted(found)


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


def said(name: str) -> dict[str, str]:
    """The digest of each table of the report of `STUDY` or `STUDY/AUDIT`."""
    study, _, audit = name.partition("/")
    with tempfile.TemporaryDirectory() as out:
        values = undistill.report([folder(study) / audit], out=Path(out)).values
    parts = {**values.pop("tables"), **values}
    return {part: digest(found) for part, value in parts.items() if (found := list(numbers(value)))}


def study_cells() -> dict[str, str]:
    """The digest of the ids of each study's cells."""
    return {
        study: digest(sorted(row.id for row in rows_of(EVIDENCE / f"{study}.parquet") if row.kind == "cell"))
        for study in STUDIES
    }


if __name__ == "__main__":
    whole = {"reports": {name: said(name) for name in reports()}, "cells": study_cells()}
    FILE.write_text(json.dumps(whole, indent=1) + "\n")
    sys.stdout.write(f"{FILE}\n")
