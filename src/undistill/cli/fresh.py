"""`--fresh`: discard what an earlier command wrote into a folder, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from undistill.errors import UsageError
from undistill.files import QUERY_LOG, locked, writing

WRITTEN = {
    "config.yaml": ("env.json", "metrics.jsonl", "result.json", "checkpoint", "model", "cells", "report"),
    "demo.json": ("teachers", "students", "cells", "report"),
    "reproduction.json": ("teachers", "students", "runs", "done", "cells", "report"),
    "audit.json": ("teachers", "work", "done", "cells", "report"),
}
"""What lies in a folder of each kind, by the file that marks it. Query logs are kept: their responses were paid for."""


def start_anew(folder: Path, needed: Iterable[Path] = ()) -> bool:
    """Remove what a run, a demo, a reproduction or an audit left in this folder; whether there was one.

    Args:
        folder: where.
        needed: files and folders that the command is about to read.

    Raises:
        UsageError: the folder holds something else, beside it or alone; what is needed is in it; another process is at work in it.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder with -o")
    with locked(folder), writing(folder):
        marks = [mark for mark in WRITTEN if (folder / mark).is_file() and _is_ours(folder / mark)]
        known = {name for mark in marks for name in (*WRITTEN[mark], mark)}
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        others = [name for name in names if name not in known and not QUERY_LOG.fullmatch(name)]
        if others and marks != ["audit.json"]:  # an audit begins beside other files, a run does not
            raise UsageError(
                f"--fresh: {folder} holds {others[0]!r}, which no command here wrote; move it away, or choose another "
                "folder with -o"
            )
        _refuse_needed(folder, known, needed)
        for mark in marks:
            for name in (*WRITTEN[mark], mark):  # the mark goes last, so that an interrupted removal can be repeated
                path = folder / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return bool(marks)


def _is_ours(mark: Path) -> bool:
    """Whether a command here wrote this file: others have a config.yaml too."""
    import yaml

    try:
        values: Any = (
            json.loads(mark.read_text(encoding="utf-8"))
            if mark.suffix == ".json"
            else yaml.safe_load(mark.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    if not isinstance(values, dict) or (mark.suffix != ".json" and not isinstance(values.get("recipe"), dict)):
        return False
    return isinstance(values.get("schema", values.get("schema_")), int)


def _refuse_needed(folder: Path, known: Iterable[str], needed: Iterable[Path]) -> None:
    """UsageError where one of the names to be removed is, holds or belongs to what is needed."""
    home = folder.resolve()
    removed = {home / name for name in known}
    for path in needed:
        place = path.resolve()
        if removed and (place == home or removed & {place, *place.parents}):
            raise UsageError(f"--fresh would remove {path}, which this command reads; choose another folder with -o")
