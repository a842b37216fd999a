"""What docs/data.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.made import class_folders
from undistill.data import SOURCES, VIEWS

GUIDE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_its_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", each=20, size=(30, 40))
    exec(compile(block, "docs/data.md", "exec"), {})


def test_it_names_every_data_set_and_view() -> None:
    for name in (*SOURCES.classes(), *VIEWS.classes()):
        assert re.search(rf"[`/ ]{re.escape(name)}\b", GUIDE), name
