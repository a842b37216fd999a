"""`--fresh`: discard what an earlier command wrote into a folder, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from undistill.errors import UsageError
from undistill.files import locked, writing

WRITTEN = {
    "config.yaml": ("env.json", "metrics.jsonl", "result.json", "checkpoint", "model", "cells", "report"),
    "demo.json": ("teachers", "students", "cells", "report"),
    "reproduction.json": ("teachers", "students", "runs", "done", "cells", "report"),
    "audit.json": ("work", "done", "cells", "report"),
}
"""What lies in a folder of each kind, by the file that marks it. Query logs are kept: their responses were paid for."""


def start_anew(folder: Path) -> bool:
    """Remove what a run, a demo, a reproduction or an audit left in this folder; whether there was one.

    Raises:
        UsageError: the folder holds something else, or another process is at work in it.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder with -o")
    with locked(folder), writing(folder):
        marks = [mark for mark in WRITTEN if (folder / mark).is_file()]
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if not marks and others:
            raise UsageError(
                f"--fresh: {folder} holds {others[0]!r}, which no command here wrote; choose another with -o"
            )
        for mark in marks:
            for name in (*WRITTEN[mark], mark):  # the mark goes last, so that an interrupted removal can be repeated
                path = folder / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return bool(marks)
