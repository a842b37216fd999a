"""The toy scale, known by its name while a test runs."""

from __future__ import annotations

import pytest

from paper.toy import TOY
from undistill.paper import scales


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.SCALES, "toy", TOY)
