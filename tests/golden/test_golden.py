"""What committed audits and studies say does not move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden import snapshot

KNOWN = json.loads(snapshot.FILE.read_text())


QUICK = {"audits/cifar10/nasty", "audits/digits/answer-top1", "audits/planted/crash", "laptop"}
FOLDERS = [
    pytest.param(folder, id=snapshot.name(folder), marks=() if snapshot.name(folder) in QUICK else pytest.mark.e2e)
    for folder in [*snapshot.AUDITS, *snapshot.STUDIES]
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_committed_report_keeps_its_numbers(folder: Path) -> None:
    assert snapshot.said(folder) == KNOWN["reports"][snapshot.name(folder)]


def test_committed_cells_keep_their_ids() -> None:
    assert snapshot.study_cells() == KNOWN["cells"]
