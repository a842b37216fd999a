"""What a report is once it lies on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Report:
    """What was written: `text` for a terminal, `values` for programs, `page` for people."""

    text: str
    values: dict[str, Any]
    page: Path


def link(path: Path, out: Path) -> str:
    """The relative address of a file, quoted."""
    return quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
