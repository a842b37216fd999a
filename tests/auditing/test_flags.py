"""Every flag: raised where its reason is there, silent where it is not; and explained in docs/flags.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from auditing.made import LABELLED, VICTIM, MadeAudit, change, fail, keys
from undistill.auditing.case import cases
from undistill.auditing.evidence import read
from undistill.auditing.flags import CHECKS, no_adaptive_attack, raised
from undistill.auditing.result import Flag
from undistill.reporting.audit.glossary import explained

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"
TAUS = {1.0: 85.0, 4.0: 80.0, 20.0: 70.0}


def flags(folder: Path) -> list[Flag]:
    evidence = read(folder)
    return list(raised(evidence, cases(evidence)))


def names(folder: Path) -> set[str]:
    return {flag.name for flag in flags(folder)}


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], set[str]]:
    """Names of the flags of a made-up audit; each is made once."""

    known: dict[str, set[str]] = {}

    def made(values: dict[str, Any]) -> set[str]:
        if (key := repr(values)) not in known:
            folder = tmp_path_factory.mktemp("made")
            MadeAudit(**values).write(folder)
            known[key] = names(folder)
        return known[key]

    return made


def served(**numbers: float) -> dict[str, Any]:
    """What users of the defended model get beside the usual."""
    return {"numbers": ({**VICTIM, **numbers}, dict(VICTIM))}


RAISED: dict[str, dict[str, Any]] = {
    "diverged-or-chance": {"naive": 12.0},
    "below-alone": {"card": LABELLED, "alone": 92.0},
    "hard-beats-soft": {"naive": 60.0},
    "head-refit": {"soft": {"kd": 80.0, "head-refit": 90.5}},
    "still-improving": {"effort": 84.0},
    "too-weak": {"soft0": {"kd": 79.0, "decoupled": 78.0}, "naive0": 78.0},
    "trained-pool": {"card": "probs/unlabelled(1.0)/trained/random/50"},
    "vouched": {"vouched": True},
    "temperature-masking": {"taus": TAUS},
    "edge-of-grid": {"taus": TAUS},
    "scale-masking": served(spread=6.1),
    "sanitising-helps": {"soft": {"decoupled": 83.0, "kd": 80.0}},
    "random-answers": served(repeat=0.01),
    "trained-fresh-differ": served(confidence_trained=99.0, confidence_fresh=80.0),
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
    "trained-fresh-differ": served(confidence_trained=84.0, confidence_fresh=80.0),
    "still-improving": {"effort": 80.5},
    "below-alone": {"card": LABELLED},
    "hard-beats-soft": {"naive": 79.5},
    "head-refit": {"soft": {"kd": 80.0, "head-refit": 80.0}},
}


@pytest.mark.parametrize("name", sorted(RAISED))
def test_raised_or_not(name: str, of: Callable[[dict[str, Any]], set[str]]) -> None:
    assert name in of(RAISED[name])
    assert name not in of(SILENT.get(name, {}))


def test_a_diverged_attack_is_flagged_with_its_cells(tmp_path: Path) -> None:
    plan = MadeAudit().write(tmp_path)
    fail(tmp_path, keys(plan, side="defended", label="soft, rank 2")[0], "diverged")
    [found] = [flag for flag in flags(tmp_path) if flag.name == "diverged-or-chance"]
    assert len(found.cells) == 4


def test_precision_of_attacks_counts_as_environment_and_that_of_what_users_get_does_not(tmp_path: Path) -> None:
    env = {"torch": "2.13.0", "device": "cuda", "precision": "bf16"}
    plan = MadeAudit(env=env).write(tmp_path)
    for key in keys(plan, role="served"):
        change(tmp_path, key, env={**env, "precision": "fp32"})
    assert "mixed-environment" not in names(tmp_path)
    change(tmp_path, keys(plan, role="soft")[0], env={"torch": "2.14.0"})
    assert "mixed-environment" in names(tmp_path)


@pytest.mark.parametrize("question", ["model", "method"])
def test_seeds_of_one_threat_model_count_and_teachers_where_a_method_is_audited(question: str, tmp_path: Path) -> None:
    MadeAudit(seeds=(0, 1, 2), plan={"seeds": (0, 1, 2, 3, 4), "question": question}).write(tmp_path)
    [found] = [flag for flag in flags(tmp_path) if flag.name == "few-seeds"]
    assert found.about == ("3 seeds." if question == "model" else "1 teacher.")
    assert found.threat_model == cases(read(tmp_path))[0].id


def test_what_a_shared_search_shows_is_raised_once(tmp_path: Path) -> None:
    MadeAudit(taus=TAUS).write(tmp_path)
    evidence = read(tmp_path)
    twice = (*cases(evidence), *cases(evidence))
    assert [flag.name for flag in raised(evidence, twice)].count("edge-of-grid") == 1


def test_every_flag_is_tested_and_explained() -> None:
    assert set(CHECKS) == {*RAISED, "mixed-environment"}
    assert set(re.findall(r"^### `([a-z0-9-]+)`", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)) == set(CHECKS)
    for name in CHECKS:
        meaning = explained(name)
        assert meaning is not None
        assert meaning.title
        assert {"Raised if", "Why", "What to do"} <= meaning.facts.keys(), name


@pytest.mark.parametrize(("side", "raised"), [("defended", False), ("undefended", True)])
def test_an_attack_that_is_given_a_defense_knows_it(side: str, raised: bool) -> None:
    """Also one of somebody else, which no attack can name in advance."""
    subject = SimpleNamespace(side="defended", defense={}, behind=({"name": "mine"},))
    cell = SimpleNamespace(side=side, attack={"name": "inverse", "against": [{"name": "mine", "strength": 1}]})
    plan = SimpleNamespace(subjects=[subject], cells=[cell], known={"inverse": ()})
    assert bool(list(no_adaptive_attack(cast("Any", SimpleNamespace(plan=plan))))) is raised
