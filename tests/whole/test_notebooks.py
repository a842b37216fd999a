"""The notebooks run from top to bottom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORTER = {
    "owner": {'"digits", out': 'undistill.recipe("digits", ["training.epochs=2"]), out'}
    | {'time="4m"': 'suite="quick", seeds=2, steps=5, accept_accuracy=True'},
    "researcher": {"EPOCHS = 20": "EPOCHS = 2"},
}
"""What a test cannot wait for, and what it puts in the place."""


@pytest.mark.parametrize("name", sorted(SHORTER))
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for long, short in SHORTER[name].items():
        assert long in code
        code = code.replace(long, short)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "accuracy" in done.stdout
