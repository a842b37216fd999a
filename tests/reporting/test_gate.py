"""The release gate: what passes, what fails, what is to be investigated, and what a pipeline gets to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
import yaml

from reporting.audits import attacker, card, judgement
from undistill.auditing.result import AuditResult, Estimate
from undistill.errors import UsageError
from undistill.reporting.gate import EXIT, FORMATS, Finding, gate, junit, sarif, worst

ROOT = Path(__file__).parents[2]


def audit(mean: float = 90.0, **changes: Any) -> AuditResult:
    """One threat model whose best attack has this accuracy, ± 0.48 as one-sided bounds; the model itself has 97.4 %."""
    attacks = (attacker("kd", "defended", mean), attacker("label-only", "defended", mean - 2, reads="labels"))
    own = card("probs", 200).model_copy(update={"attacks": attacks, "best": "kd", "A_def": attacks[0].accuracy})
    return judgement(cards=(own,), **{"planned": 9, "done": 9, "failed": 0, **changes})


def own_accuracy(found: AuditResult) -> float:
    return next(victim.accuracy for victim in found.victims if victim.side == "defended")


@pytest.mark.parametrize(("off", "state"), [(-0.6, "pass"), (-0.2, "investigate"), (0.2, "investigate"), (0.6, "fail")])
def test_the_unfavorable_bound_decides(off: float, state: str) -> None:
    limit = 0.99  # above the baseline
    (finding,) = gate([("a", audit(limit * own_accuracy(audit()) + off))], limit)
    assert finding.state == state


def with_attack(found: AuditResult, place: int, **changes: Any) -> AuditResult:
    """The same with one of its attacks changed."""
    own = found.threat_models[0]
    attacks = tuple(a.model_copy(update=changes) if k == place else a for k, a in enumerate(own.attacks))
    return found.model_copy(update={"threat_models": (own.model_copy(update={"attacks": attacks}),)})


def state(found: AuditResult, limit: float = 0.99) -> str:
    return gate([("a", found)], limit)[0].state


def test_each_attack_counts_not_the_best_alone() -> None:
    found = audit(80.0)
    wide = Estimate(mean=79.0, n=5, low=60, high=99, lower=62, upper=98.9)
    sure = Estimate(mean=98.8, n=5, low=98.5, high=99, lower=98.6, upper=99)
    single = Estimate(mean=99.0, n=1)
    assert state(found) == "pass"
    assert state(with_attack(found, 1, accuracy=wide)) == "investigate"
    assert state(with_attack(with_attack(found, 0, accuracy=single), 1, accuracy=sure)) == "fail"


def test_what_is_not_known_is_investigated() -> None:
    found = audit(80.0)
    assert state(with_attack(found, 0, accuracy=Estimate(mean=80.0, n=1))) == "investigate"
    assert state(with_attack(found, 1, lost=1)) == "investigate"
    assert state(with_attack(found, 1, accuracy=None, lost=5)) == "investigate"
    assert state(audit(80.0, done=8)) == "investigate"
    assert state(audit(98.0, done=8), 0.9) == "fail"
    none = found.threat_models[0].model_copy(update={"attacks": (), "best": None, "A_def": None})
    assert state(judgement(cards=(none,))) == "investigate"


def test_a_limit_that_the_baseline_passes_says_nothing_of_the_model() -> None:
    baseline = Estimate(mean=90.0, n=5, low=89, high=91, lower=89.2, upper=90.8)
    known = audit(60.0).threat_models[0].model_copy(update={"A_ref": baseline})
    found = audit(60.0).model_copy(update={"threat_models": (known,)})
    assert state(found, 90.9 / own_accuracy(found)) == "pass"
    assert state(found, 90.7 / own_accuracy(found)) == "investigate"


def test_the_worst_threat_model_decides() -> None:
    pairs = {"a": "pass", "b": "investigate", "c": "fail"}
    findings = [Finding(name, "probs", state, "why") for name, state in pairs.items()]  # type: ignore[arg-type]
    assert [EXIT[worst(findings[:count])] for count in (1, 2, 3)] == [0, 3, 1]


def test_budget_and_access_choose_and_what_is_not_there_is_named() -> None:
    several = judgement(cards=(card("probs", 50), card("probs", 200), card("label", 200)))
    assert len(gate([("a", several)], 0.9)) == 3
    assert len(gate([("a", several)], 0.9, queries=200)) == 2
    assert len(gate([("a", several)], 0.9, queries=200, access="label")) == 1
    with pytest.raises(UsageError, match="probs at 50 queries; probs at 200 queries; label at 200"):
        gate([("a", several)], 0.9, queries=1000)
    for wrong in (0.0, -1.0, 90.0):
        with pytest.raises(UsageError, match="share of the model's own accuracy"):
            gate([("a", several)], wrong)


def test_attackers_whose_queries_are_not_counted_belong_to_every_budget() -> None:
    unlimited = card("probs", 50).model_copy(update={"queries": None})
    assert len(gate([("a", judgement(cards=(unlimited, card("probs", 200))))], 0.9, queries=200)) == 2


def test_every_format_says_the_same() -> None:
    name = "runs/<a> & [b](https://evil.example) \x1b\udcff"
    findings = gate([(name, audit(98.5)), ("c", audit(60.0))], 0.99)
    suite = fromstring(junit(findings, 0.99))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert [len(case) for case in suite] == [1, 0]
    assert suite[0].get("classname") == "runs/<a> & [b](https://evil.example) ??"
    (result,) = json.loads(sarif(findings, 0.99))["runs"][0]["results"]
    assert result["level"] == "error"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("runs/%3Ca%3E%20%26%20%5Bb")
    assert [f["state"] for f in json.loads(FORMATS["json"](findings, 0.99))["findings"]] == ["fail", "pass"]
    for form in ("text", "markdown"):
        assert "1 pass, 0 investigate, 1 fail" in FORMATS[form](findings, 0.99)
    assert "`runs/" in FORMATS["markdown"](findings, 0.99)  # as code, in which no link is one


@pytest.mark.e2e
@pytest.mark.parametrize(("limit", "code"), [("0.9", 0), ("0.68", 3), ("0.5", 1)])
def test_a_pipelines_gate_has_three_exits(tmp_path: Path, limit: str, code: int) -> None:
    """The gate's step of each template, with a committed audit in the place of `audit`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "undistill").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m undistill "$@"\n')
    (tools / "undistill").chmod(0o755)
    place = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LIMIT": limit,
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    unpack = [
        str(tools / "undistill"),
        "evidence",
        "unpack",
        str(ROOT / "evidence" / "audits-owner.parquet"),
        "-o",
        "all",
    ]
    subprocess.run(unpack, cwd=tmp_path, env=os.environ | place, check=True, capture_output=True)
    (tmp_path / "audit").symlink_to(tmp_path / "all" / "nasty")
    steps = yaml.safe_load((ROOT / "examples" / "ci" / "github.yml").read_text())["jobs"]["gate"]["steps"]
    gitlab = yaml.safe_load((ROOT / "examples" / "ci" / "gitlab.yml").read_text())["extraction-gate"]["script"]
    github = next(step["run"] for step in steps if step.get("name") == "gate")
    for script in (github, next(line for line in gitlab if " gate " in line)):
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=tmp_path,
            env=os.environ | place,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert (tmp_path / "gate.md").read_text() == (tmp_path / "summary.md").read_text()
    assert fromstring((tmp_path / "gate.xml").read_text()).get("tests") == "2"
