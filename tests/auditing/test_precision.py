"""What an audit resolves, how many seeds or images it would take, and how it is made smaller."""

from __future__ import annotations

from pathlib import Path

from auditing.made import MadeAudit
from undistill.auditing.analyze import analyze
from undistill.auditing.config import AuditConfig
from undistill.auditing.evidence import read
from undistill.auditing.precision import ACCESS, STEPS, fewer_pixels, precision, smaller, too_few
from undistill.auditing.suite import expected_resolution, resolution_range, seeds_for
from undistill.auditing.text import without
from undistill.data.image_set import Splits
from undistill.experiments import plan as planned


def test_a_range_of_precision_holds_what_audits_measured() -> None:
    low, high = resolution_range(8, 497) or (0.0, 0.0)
    assert low <= 1.77 <= 3.48 <= high
    assert resolution_range(1, 497) is None
    seeds = seeds_for(2.0, 497)
    assert seeds is not None
    assert (expected_resolution(seeds, 497) or 9.0) < 2.0
    assert seeds_for(0.5, 41) is None


def test_seeds_that_are_needed_follow_from_the_widths(tmp_path: Path) -> None:
    MadeAudit(noise=3.0).write(tmp_path / "loud")
    MadeAudit(noise=0.1).write(tmp_path / "quiet")
    loud, quiet = precision(read(tmp_path / "loud")), precision(read(tmp_path / "quiet"))
    assert loud.width > quiet.width
    assert (loud.seeds or 10_000) > (quiet.seeds or 0)


def test_too_few_data_are_refused_an_answer() -> None:
    told = too_few(16, [7], 3, 82)
    assert told is not None
    assert "1,1" in told  # about 82 · 200 / 16 images, to two digits
    assert too_few(497, [50, 100], 10, 1797) is None
    assert too_few(497, [7], 10) is not None
    assert too_few(99, [], 10) is not None
    assert too_few(2000, [50], 100) is not None  # half an image a class


def test_only_what_is_lacking_is_wanted() -> None:
    """60 test images and 45 queries of 3 classes lack test images alone."""
    told = too_few(60, [45], 3, 300)
    assert told is not None
    assert "About 1,000 images" in told
    assert "45 queries" in told.partition("would do")[0]
    assert "query" not in told.partition("would do")[2]


def test_a_function_is_offered_smaller_images_and_a_network_is_not(tmp_path: Path) -> None:
    MadeAudit().write(tmp_path)
    plan = planned.read(tmp_path)
    boxes = plan.model_copy(
        update={"subjects": tuple(one.model_copy(update={"answers": "probs"}) for one in plan.subjects)}
    )
    assert fewer_pixels(plan, 160) == ""
    assert fewer_pixels(boxes, 64) == ""
    assert "--size 64" in fewer_pixels(boxes, 160)
    assert "6 times" in fewer_pixels(boxes, 160)  # 160² / 64² = 6.25


def test_options_are_taken_from_a_command_with_their_values() -> None:
    typed = "undistill audit 'a -o b' -o 'c d' --time=5m --seeds 3 --output-defense top1 --outputs probs"
    kept = ["undistill", "audit", "a -o b", "--output-defense", "top1", "--outputs", "probs"]
    assert without(typed, "-o", "--out", "--time", "--seeds") == kept


def test_more_seeds_come_with_command_and_minutes(tmp_path: Path) -> None:
    begun = "undistill audit 'my runs/nasty' --control=runs/normal --time 5m -o 'a b'"
    MadeAudit(noise=4.0, plan={"command": begun}).write(tmp_path)
    own = analyze(tmp_path).outlook
    assert own is not None
    assert own.minutes is not None
    more = f"--seeds {own.seeds_needed} -o {tmp_path}-{own.seeds_needed}-seeds"
    assert own.command == f"undistill audit 'my runs/nasty' --control=runs/normal {more}"
    again = analyze(MadeAudit(noise=4.0, plan={"command": begun, "suite": "timed@1"}).at(tmp_path / "grows")).outlook
    assert again is not None
    assert again.command.endswith(f"m -o {tmp_path / 'grows'}")


def test_an_audit_becomes_smaller_step_by_step(splits: Splits) -> None:
    assert splits.pool is not None
    found = [request for request, _ in smaller(AuditConfig(), splits)]
    assert [request.steps for request in found] == list(STEPS)
    assert [len(request.queries) for request in found] == [0, 1, 1, 1]
    assert found[1].queries == (len(splits.pool) // 2,)
    assert [tuple(request.access) for request in found] == [(), (), (), ACCESS]


def test_what_was_asked_for_by_name_stays(splits: Splits) -> None:
    asked = AuditConfig(steps=900, queries=(3, 5), access=("weights",))
    assert list(smaller(asked, splits)) == []
    for request, lost in smaller(AuditConfig(steps=900), splits):
        assert request.steps == 900
        assert "--steps" not in lost
