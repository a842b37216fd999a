"""The table of claims in the docs is what the committed cells say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_docs_claims_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("claims", DOCS / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    claims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(claims)
    page = (DOCS / "reproduction.md").read_text()
    block = page.partition("<!-- claims:begin -->\n")[2].partition("\n<!-- claims:end -->")[0]
    assert block == claims.table()
    assert "✓ seen" in block
    assert "✗ opposite" in block
