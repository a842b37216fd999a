"""What users get from a registry: the wheel, in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_installs_and_runs_the_demo(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    uv: list[str | Path] = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "build", "--wheel", "--out-dir", tmp_path, ROOT], check=True, env=env)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"undistill/py.typed", "undistill/recipes/digits.yaml", "undistill/reporting/page.html.j2"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]

    clean = tmp_path / "env"
    subprocess.run([*uv, "venv", "--python", sys.executable, clean], check=True, env=env)
    install: list[str | Path] = [
        "pip",
        "install",
        "--python",
        clean / "bin" / "python",
        "-c",
        ROOT / "constraints.txt",
        wheel,
    ]
    subprocess.run([*uv, *install], check=True, env=env)
    undistill = [clean / "bin" / "undistill"]
    done = subprocess.run(
        [*undistill, "demo", "--quick", "-o", tmp_path / "demo"],
        check=False,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "KD" in done.stdout
    assert (tmp_path / "demo" / "report" / "index.html").exists()
