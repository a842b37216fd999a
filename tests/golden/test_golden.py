"""What committed audits and studies say does not move."""

from __future__ import annotations

import json

import pytest

from golden import snapshot

KNOWN = json.loads(snapshot.FILE.read_text())


QUICK = {"audits-cifar10/nasty", "audits-digits/answer-top1"}
REPORTS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.e2e) for name in KNOWN["reports"]]


@pytest.mark.parametrize("name", REPORTS)
def test_a_committed_report_keeps_its_numbers(name: str) -> None:
    assert snapshot.said(name) == KNOWN["reports"][name]


def test_every_report_is_known() -> None:
    assert snapshot.reports() == sorted(KNOWN["reports"])


def test_committed_cells_keep_their_ids() -> None:
    assert snapshot.study_cells() == KNOWN["cells"]
