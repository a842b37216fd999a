"""The tables that README and docs begin with are what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("page", "name", "made"),
    [("docs/reproduction.md", "claims", "table"), ("README.md", "table1", "brief"), ("README.md", "owner", "owner")],
)
def test_a_table_is_that_of_the_results(page: str, name: str, made: str) -> None:
    spec = importlib.util.spec_from_file_location("claims", DOCS / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    claims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(claims)
    shown = (ROOT / page).read_text().partition(f"<!-- {name}:begin -->\n")[2].partition(f"\n<!-- {name}:end -->")[0]
    assert shown == getattr(claims, made)()
    assert len(shown.splitlines()) > 4
