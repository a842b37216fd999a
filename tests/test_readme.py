"""What the README points at is in the repository."""

from __future__ import annotations

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


def test_the_table_is_that_of_the_results() -> None:
    shown = (ROOT / "README.md").read_text().partition("<!-- demo:begin -->")[2].partition("<!-- demo:end -->")[0]
    values = re.findall(r"\d+\.\d ± \d+\.\d \(\d+\)", shown)
    kept = (ROOT / "results" / "demo" / "report.md").read_text()
    assert len(values) == 16
    assert [value for value in values if value not in kept] == []
