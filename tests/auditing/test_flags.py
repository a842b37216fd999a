"""Every flag: raised where its reason is there, silent where it is not; and explained in docs/flags.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from auditing.made import LABELLED, VICTIM, MadeAudit, change, fail, keys
from undistill.auditing.case import cases
from undistill.auditing.evidence import read
from undistill.auditing.flags import TITLES, raised

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"


def names(folder: Path) -> set[str]:
    evidence = read(folder)
    return {flag.name for flag in raised(evidence, cases(evidence))}


RAISED: dict[str, dict[str, Any]] = {
    "diverged-or-chance": {"naive": 12.0},
    "below-alone": {"card": LABELLED, "alone": 92.0},
    "hard-beats-soft": {"naive": 60.0},
    "still-improving": {"effort": 84.0},
    "too-weak": {"soft0": {"kd": 79.0, "decoupled": 78.0}, "naive0": 78.0},
    "trained-pool": {"card": "probs/unlabelled(1.0)/trained/random/50"},
    "vouched": {"vouched": True},
    "temperature-masking": {"taus": {1.0: 85.0, 4.0: 80.0, 20.0: 70.0}},
    "edge-of-grid": {"taus": {1.0: 85.0, 4.0: 80.0, 20.0: 70.0}},
    "scale-masking": {"numbers": ({**VICTIM, "spread": 6.1}, dict(VICTIM))},
    "sanitising-helps": {"soft": {"decoupled": 83.0, "kd": 80.0}},
    "random-answers": {"numbers": ({**VICTIM, "repeat": 0.01}, dict(VICTIM))},
    "trained-fresh-differ": {
        "numbers": ({**VICTIM, "confidence_trained": 99.0, "confidence_fresh": 80.0}, dict(VICTIM))
    },
    "costs-users": {"served": (90.0, 95.0)},
    "top1-utility": {"nll": None, "numbers": ({"spread": 1.0}, dict(VICTIM))},
    "effort-not-tried": {"effort": None},
    "one-architecture": {},
    "no-public-start": {},
    "no-adaptive-attack": {"defense": {"name": "stingy"}},
    "few-seeds": {"seeds": (0, 1, 2, 3)},
    "small-suite": {"plan": {"verdicts": False}},
}
SILENT: dict[str, dict[str, Any]] = {
    "effort-not-tried": {"effort": 80.5},
    "one-architecture": {"other_student": "resnet18"},
    "no-public-start": {"card": "probs/unlabelled(1.0)/fresh/public/50"},
    "trained-fresh-differ": {
        "numbers": ({**VICTIM, "confidence_trained": 84.0, "confidence_fresh": 80.0}, dict(VICTIM))
    },
    "still-improving": {"effort": 80.5},
    "below-alone": {"card": LABELLED},
    "hard-beats-soft": {"naive": 79.5},
}


@pytest.mark.parametrize("name", sorted(RAISED))
def test_raised(name: str, tmp_path: Path) -> None:
    MadeAudit(**RAISED[name]).write(tmp_path)
    assert name in names(tmp_path)


@pytest.mark.parametrize("name", sorted(RAISED))
def test_not_raised(name: str, tmp_path: Path) -> None:
    MadeAudit(**SILENT.get(name, {})).write(tmp_path)
    assert name not in names(tmp_path)


def test_a_diverged_thief_is_flagged(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    fail(tmp_path, keys(plan, side="defended", label="soft, rank 2")[0], "diverged")
    evidence = read(tmp_path)
    about = [flag.about for flag in raised(evidence, cases(evidence)) if flag.name == "diverged-or-chance"]
    assert about == ["decoupled diverged in 1 of 5 cells."]


@pytest.mark.parametrize(("accuracy", "flagged"), [(90.5, True), (80.0, False)])
def test_a_refitted_head(accuracy: float, flagged: bool, tmp_path: Path) -> None:
    MadeAudit(soft={"kd": 80.0, "head-refit": accuracy}).write(tmp_path)
    assert ("head-refit" in names(tmp_path)) == flagged


def test_cells_of_two_versions(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    assert "mixed-environment" not in names(tmp_path)
    change(tmp_path, keys(plan, role="soft")[0], env={"torch": "2.14.0"})
    assert "mixed-environment" in names(tmp_path)


def test_what_users_get_is_of_no_precision(tmp_path: Path) -> None:
    env = {"torch": "2.13.0", "device": "cuda", "precision": "bf16"}
    plan = MadeAudit(env=env).write(tmp_path)
    for key in keys(plan, role="served"):
        change(tmp_path, key, env={**env, "precision": "fp32"})
    assert "mixed-environment" not in names(tmp_path)


@pytest.mark.parametrize(("seeds", "about"), [((0, 1, 2), "3 seeds."), ((0,), "1 seed.")])
def test_few_seeds_of_one_card_are_told_though_the_plan_has_more(
    seeds: tuple[int, ...], about: str, tmp_path: Path
) -> None:
    MadeAudit(seeds=seeds, plan={"seeds": (0, 1, 2, 3, 4)}).write(tmp_path)
    evidence = read(tmp_path)
    found = [flag for flag in raised(evidence, cases(evidence)) if flag.name == "few-seeds"]
    assert [(flag.about, flag.threat_model) for flag in found] == [(about, cases(evidence)[0].id)]


def test_teachers_are_counted_where_a_method_is_judged(tmp_path: Path) -> None:
    MadeAudit(plan={"question": "method"}).write(tmp_path)
    evidence = read(tmp_path)
    assert [f.about for f in raised(evidence, cases(evidence)) if f.name == "few-seeds"] == ["1 teacher."]


def test_each_has_a_test_that_raises_it() -> None:
    assert set(TITLES) == {*RAISED, "head-refit", "mixed-environment"}


def test_registry_and_page_agree() -> None:
    page = DOCS.read_text()
    entries = dict(re.findall(r"^### `([a-z0-9-]+)`\n+\*\*(.+)\.\*\*$", page, flags=re.MULTILINE))
    assert entries == TITLES
    for entry in page.split("### `")[1:]:
        assert [word for word in ("*Raised if*", "*Why*", "*What to do*") if word not in entry] == []


def test_what_a_search_shows_is_told_once(tmp_path: Path) -> None:
    made = MadeAudit(taus={1.0: 85.0, 4.0: 80.0, 20.0: 70.0})
    made.write(tmp_path)
    evidence = read(tmp_path)
    twice = (*cases(evidence), *cases(evidence))
    assert [flag.name for flag in raised(evidence, twice)].count("edge-of-grid") == 1


def test_pages_explain_flags_in_the_words_of_the_docs() -> None:
    from undistill.reporting.audit.explained import explained
    from undistill.reporting.shell import asset

    assert asset("audit/flags.md") == DOCS.read_text(encoding="utf-8")
    for name, title in TITLES.items():
        meaning = explained(name)
        assert meaning is not None, name
        assert meaning.title.rstrip(".") == title
        assert {"Raised if", "Why", "What to do"} <= meaning.facts.keys(), name
