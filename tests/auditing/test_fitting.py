"""What an audit gives up to fit into its time, and what it never does."""

from __future__ import annotations

from undistill.auditing.config import Request
from undistill.auditing.precision import ACCESS, STEPS, smaller
from undistill.data.image_set import Splits


def test_an_audit_becomes_smaller_step_by_step(splits: Splits) -> None:
    assert splits.pool is not None
    found = [request for request, _ in smaller(Request(), splits)]
    assert [request.steps for request in found] == list(STEPS)
    assert [len(request.questions) for request in found] == [0, 1, 1, 1]
    assert found[1].questions == (len(splits.pool) // 2,)
    assert [tuple(request.serve) for request in found] == [(), (), (), ACCESS]


def test_what_was_asked_for_by_name_stays(splits: Splits) -> None:
    asked = Request(steps=900, questions=(3, 5), serve=("weights",))
    assert list(smaller(asked, splits)) == []
    for request, told in smaller(Request(steps=900), splits):
        assert request.steps == 900
        assert "--steps" not in told
