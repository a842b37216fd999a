"""What users install: a source archive, the wheel that is built from it, and the console script in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = (sys.executable, "-m", "uv", "--quiet")
PLAIN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The command's stdout; its stderr is the message where it fails."""
    done = subprocess.run([*command], check=False, env=PLAIN, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and with the wheel that is built from that archive, not from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(*UV, "build", "--out-dir", out, ROOT)
    return out


def test_the_wheel_holds_the_package_and_its_data_and_no_tests(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "undistill").rglob("*.*")}
    missing = {name for name in wanted - {*names} if "__pycache__" not in name}
    assert missing == set()
    assert not [name for name in names if name.startswith("tests")]
    assert any(name.endswith("LICENSE") for name in names)


def test_the_source_archive_can_be_built_and_tested(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "tests/conftest.py"} <= names


def test_the_installed_console_script_runs(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    clean = tmp_path / "env"
    run(*UV, "venv", "--python", sys.executable, clean)
    run(*UV, "pip", "install", "--python", clean / "bin" / "python", "-c", ROOT / "constraints.txt", wheel)
    undistill = clean / "bin" / "undistill"
    assert run(undistill, "--version", cwd=tmp_path).startswith("undistill ")
    assert "train" in run(undistill, "--help", cwd=tmp_path)
    assert "torch" in run(undistill, "doctor", cwd=tmp_path)
    assert "kd" in run(undistill, "list", "attacks", cwd=tmp_path)
    small = ("-s", "training.epochs=1", "-s", "model.width=0.125")
    assert "accuracy" in run(undistill, "train", "--data", "digits", *small, "-q", "-o", "run", cwd=tmp_path)
    run(undistill, "attack", "run", "-q", "-o", "student", cwd=tmp_path)
    run(undistill, "report", "student", "-o", "page", cwd=tmp_path)
    assert (tmp_path / "page" / "index.html").exists()
