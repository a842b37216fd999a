"""The cells of one folder and the markers `done/KEY.json` that say which cell fills which task. Never imports torch."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from undistill.errors import Busy, RunError
from undistill.experiments.cell import Array, Cell, save, undamaged
from undistill.files import locked, read_json, write_json

ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Store:
    """An audit, a reproduction or a demo on disk. `shared` is a folder of cells that several audits use; None for `cells`."""

    folder: Path
    shared: Path | None = None

    @property
    def cells(self) -> Path:
        """The folder of the cells."""
        return self.shared or self.folder / "cells"

    def marker(self, key: str) -> Path:
        """The file that names the cell of a task."""
        return self.folder / "done" / f"{key}.json"

    def marked(self) -> list[str]:
        """The tasks that have a marker."""
        return sorted(path.stem for path in (self.folder / "done").glob("*.json"))

    def place(self, key: str) -> Path | None:
        """The file of a task's cell, or None if it is not computed; RunError for a damaged marker."""
        marker = self.marker(key)
        if not marker.is_file():
            return None
        found = read_json(marker)
        if not isinstance(found, dict) or not isinstance(found.get("cell"), str):
            raise RunError(f"{marker} is damaged: it names no cell")
        name, home = found["cell"], found.get("cells", "cells")
        if ID.fullmatch(name) is None:
            raise RunError(f"{marker} is damaged: {name!r} is no name of a cell")
        if not isinstance(home, str) or Path(home).is_absolute():
            raise RunError(f"{marker} is damaged: {home!r} is no folder below or beside the audit's")
        path = self.folder / home / f"{name}.json"
        return path if path.is_file() else None

    def done(self, key: str) -> Cell | None:
        """The cell that was computed last for a task, failed ones too; None where there is none or it or its marker is damaged."""
        try:
            path = self.place(key)
        except RunError:  # the task is done again, which writes the marker anew
            return None
        return None if path is None else undamaged(path)

    def put(self, key: str, cell: Cell, arrays: dict[str, Array] | None = None, *, label: str = "") -> Cell:
        """Write a cell, unless `arrays` is None and it lies there already, then the marker that it fills the task `key`."""
        if arrays is not None:
            cell = save(self.cells, cell, arrays)
        values = {"cell": cell.id} | ({"label": label} if label else {})
        if self.shared is not None:
            values["cells"] = Path(os.path.relpath(self.shared, self.folder)).as_posix()
        write_json(self.marker(key), values)
        return cell

    def work(self, key: str) -> Path:
        """The folder in which a task's model is trained."""
        return self.folder / "work" / key

    def clear(self, key: str) -> None:
        """Remove what an unfinished training left, unless another process is working on it."""
        work = self.work(key)
        if work.is_dir():
            with suppress(Busy), locked(work):
                shutil.rmtree(work, ignore_errors=True)
