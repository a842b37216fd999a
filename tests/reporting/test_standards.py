"""What an auditor files: fidelity beside a baseline's, and the band that each falls into."""

from __future__ import annotations

import pytest

from undistill.reporting.audit.standards import FACTS, band


@pytest.mark.parametrize(
    ("fidelity", "word"),
    [(None, "–"), (74.99, "desired"), (75.0, "warning"), (90.0, "warning"), (90.01, "vulnerable")],
)
def test_bands_begin_where_the_guide_says(fidelity: float | None, word: str) -> None:
    assert band(fidelity) == word


def test_what_is_not_covered_is_said() -> None:
    text = " ".join(FACTS.values())
    for number in ("11.3.1", "11.3.3", "11.3.4"):
        assert number in text.partition("Not covered here")[2]
