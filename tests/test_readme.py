"""What the README points at is in the repository."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())))


@pytest.mark.parametrize("link", LINKS)
def test_a_relative_link_is_tracked(link: str) -> None:
    assert (ROOT / link).exists()
    if (ROOT / ".git").exists():
        found = subprocess.run(["git", "ls-files", link], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip()


@pytest.mark.parametrize("table", ["demo-avx512.json", "demo-avx2.json"])
def test_the_headline_of_at_least_nine_seeds_of_ten_excludes_nothing(table: str) -> None:
    rows = json.loads((ROOT / "evidence" / table).read_text())["seeds"]
    assert [row["seed"] for row in rows] == list(range(10))
    assert sum(row["taken"]["kd-4"][1] > 0 for row in rows) >= 9
    for row in rows:
        assert len(row["draws"]["kd-4"]) >= 12
        assert len({pair for pair, *_ in row["draws"]["kd-4"]}) >= 3
