"""What only some systems have is not needed: shown by taking it away. Nothing here was run on macOS or Windows themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

WITHOUT = """
import os, sys
for name in ("fcntl", "resource", "grp", "pwd", "termios"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "fork", "forkpty", "getloadavg", "sysconf", "O_DIRECTORY", "O_NOFOLLOW", "getuid", "fchmod"):
    if hasattr(os, name):
        delattr(os, name)
"""
TRY = """
import os, sys
assert sys.modules["fcntl"] is None and not hasattr(os, "fork")
import undistill
from undistill.experiments.executors import Job, run_jobs
from undistill.threads import usable

if __name__ == "__main__":
    assert usable() >= 1
    assert list(run_jobs([Job(name, str.upper, (name,)) for name in "ab"], 2)) in (["A", "B"], ["B", "A"])
    data = undistill.load("digits", limit=900, pool=100, val=0)
    recipe = undistill.recipe("digits", ["training.epochs=1", "model.width=0.125", "student.width=0.125"])
    teacher = undistill.train(None, data, recipe, out="teacher")
    for out in ("student", "again"):
        cell = undistill.attack(teacher, data, out=out, accept_accuracy=True)
    print(cell.status, cell.n_test)
"""


def test_nothing_is_needed_that_windows_or_macos_lack(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    (tmp_path / "script.py").write_text(TRY)
    paths = os.pathsep.join([str(tmp_path), *sys.path[1:]])
    environment = os.environ | {"PYTHONPATH": paths, "UNDISTILL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("ok ")


@pytest.mark.parametrize("left", ["import fcntl", "read_text()", 'open("a")', 'open("r")', 'open("w")'])
def test_no_module_needs_a_system_or_its_encoding(left: str) -> None:
    source = Path(__file__).parents[2] / "src"
    assert [path.name for path in source.rglob("*.py") if left in path.read_text(encoding="utf-8")] == []
