"""A release gate: may a model be served, by what its audit says an attacker gets? Pass, fail, or investigate.

A threat model fails where the lower 95 % bound of any attack is above the limit. It passes where the upper bounds of
every attack and of the baseline are within it. All else is to be investigated: what lies between, or rests on one seed
or lost cells; and where a network without access to the model may be above the limit, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any, Literal
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from undistill.auditing.result import AuditResult, ThreatModelResult
from undistill.errors import UsageError
from undistill.reporting import render
from undistill.reporting.audit.words import best_of, heading, served_to, unfinished
from undistill.reporting.document import Document, Format, Items, Table, Text, Value, table
from undistill.reporting.naming import number, plural

State = Literal["pass", "investigate", "fail"]
EXIT: dict[State, int] = {"pass": 0, "investigate": 3, "fail": 1}
"""Exit codes, from the best state to the worst, which decides."""
RULE = "undistill/extraction"
IDS = ("MITRE ATLAS AML.T0024.002", "OWASP ML05:2023")
"""What the rule is about, by the ids of standards."""
LEVELS: dict[State, str] = {"investigate": "warning", "fail": "error"}
"""SARIF's level of what did not pass."""
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Finding:
    """One threat model of one audit against the limit.

    `relative`: relative accuracy of the best attack; `lower`, `upper`: its one-sided 95 % bounds; `baseline`: that of a network
    without access. Shares of the model's own accuracy.
    """

    audit: str
    what: str
    state: State
    why: str
    relative: float | None = None
    lower: float | None = None
    upper: float | None = None
    baseline: float | None = None


def gate(
    audits: Sequence[tuple[str, AuditResult]], limit: float, *, queries: int | None = None, access: str = ""
) -> list[Finding]:
    """A finding a threat model of each audit, of this query budget and output access where they are named.

    Args:
        audits: names and results.
        limit: the largest relative accuracy of an extracted model that is accepted, above 0.
        queries: the query budget; None for all. An attacker whose queries are not counted belongs to each.
        access: the output access, as in `top1`; "" for all.

    Raises:
        UsageError: a limit that is none, or an audit without such a threat model.
    """
    if not 0 < limit <= 2:
        raise UsageError(f"--max-relative-accuracy is a share of the model's own accuracy such as 0.9, not {limit:g}")
    found = []
    for name, audit in audits:
        cards = [c for c in audit.threat_models if queries is None or c.queries in (None, queries)]
        cards = [c for c in cards if access in ("", c.access)]
        if not cards:
            there = "; ".join(f"{c.access} at {c.queries or 'all'} queries" for c in audit.threat_models)
            raise UsageError(f"{name} was not audited with this --access and --at; it was with {there}")
        found += [_finding(name, audit, card, limit) for card in cards]
    return found


def worst(findings: Sequence[Finding]) -> State:
    """The state that decides."""
    return max((finding.state for finding in findings), key=list(EXIT).index)


def _finding(name: str, audit: AuditResult, card: ThreatModelResult, limit: float) -> Finding:
    name = UNSAFE.sub("?", name.encode("utf-8", "replace").decode())
    own, best = [victim.accuracy for victim in served_to(audit, "defended", card.access)], best_of(card, "defended")
    if not own or best is None or best.accuracy is None or min(own) <= 0:
        return Finding(name, heading(card), "investigate", "no attack has an accuracy")
    mine, top = fmean(own), best.accuracy
    state, why = _state(card, limit * mine, missing=bool(unfinished(audit)))

    def share(value: float | None) -> float | None:
        return None if value is None else value / mine

    baseline = share(card.A_ref.mean if card.A_ref else None)
    return Finding(name, heading(card), state, why, share(top.mean), share(top.lower), share(top.upper), baseline)


def _state(card: ThreatModelResult, most: float, *, missing: bool) -> tuple[State, str]:
    """(state, why): `most` is the accuracy that is accepted at most, percent."""
    attacks = [attack for attack in card.attacks if attack.side == "defended"]
    known = [attack.accuracy for attack in attacks if attack.accuracy is not None]
    if any(got.lower is not None and got.lower > most for got in known):
        return "fail", "the lower 95 % bound of an attack is above the limit"
    if missing or any(attack.lost for attack in attacks):
        return "investigate", "cells are missing or lost"
    if len(known) < len(attacks) or any(got.upper is None for got in known):
        return "investigate", "an attack has no bound: one seed gives none"
    if any(got.upper is not None and got.upper > most for got in known):
        return "investigate", "the bounds leave both open: more seeds, or a look at the page"
    if card.A_ref is not None and (card.A_ref.upper is None or card.A_ref.upper > most):
        return (
            "investigate",
            "the baseline, without access, may be above the limit: such a limit says nothing about the model",
        )
    return "pass", "the upper 95 % bounds of every attack and of the baseline are within the limit"


def table_of(findings: Sequence[Finding], limit: float) -> Table:
    """A row a finding."""
    rows: list[dict[str, Value]] = [
        {
            "audit": f"`{finding.audit.replace('`', chr(39))}`",
            "threat model": finding.what,
            "state": finding.state,
            "relative accuracy": finding.relative,
            "lower": finding.lower,
            "upper": finding.upper,
            "baseline": finding.baseline,
            "why": finding.why,
        }
        for finding in findings
    ]
    columns = dict.fromkeys(("audit", "threat model", "state"), Format())
    columns |= {
        "relative accuracy": Format(digits=3, interval=("lower", "upper")),
        "baseline": Format(digits=3),
        "why": Format(),
    }
    caption = (
        f"Relative accuracy of the best extracted model, with its one-sided 95 % bounds; the limit is {limit:g}. Baseline: the "
        "same network without access to the model."
    )
    return table("gate", caption, rows, columns)


def document(findings: Sequence[Finding], limit: float, *, short: bool = False) -> Document:
    """The comment on a pull request; `short` for a terminal."""
    counts = [f"{sum(f.state == state for f in findings)} {state}" for state in EXIT]
    told = f"{plural(len(findings), 'threat model')}: {', '.join(counts)}. A better attack than those tried may exist."
    shown = Items(tuple(f"{f.audit}, {_sentence(f, limit)}" for f in findings)) if short else table_of(findings, limit)
    return Document(f"Extraction gate: {worst(findings)}", (Text(told), shown), eyebrow="undistill gate")


def values(findings: Sequence[Finding], limit: float) -> dict[str, Any]:
    """For programs."""
    return {"state": worst(findings), "limit": limit, "findings": [vars(finding) for finding in findings]}


def junit(findings: Sequence[Finding], limit: float) -> str:
    """JUnit's XML: a test case a finding; one to investigate is an error, so that no pipeline takes it for a pass."""
    counts = {
        word: str(sum(f.state == state for f in findings))
        for word, state in (("failures", "fail"), ("errors", "investigate"))
    }
    suite = Element("testsuite", {"name": "undistill gate", "tests": str(len(findings)), **counts})
    for finding in findings:
        case = SubElement(suite, "testcase", classname=finding.audit, name=finding.what)
        if finding.state != "pass":
            SubElement(case, "failure" if finding.state == "fail" else "error", message=_sentence(finding, limit))
    indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def sarif(findings: Sequence[Finding], limit: float) -> str:
    """SARIF 2.1.0, for code scanning: an error or a warning for what did not pass, at the audit it is of."""
    rule = {
        "id": RULE,
        "shortDescription": {"text": "Accuracy of a model extracted by an attacker"},
        "properties": {"tags": list(IDS)},
    }
    results = [
        {
            "ruleId": RULE,
            "level": LEVELS[finding.state],
            "message": {"text": _sentence(finding, limit)},
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": _uri(finding.audit)}, "region": {"startLine": 1}}}
            ],
        }
        for finding in findings
        if finding.state in LEVELS
    ]
    tool = {"driver": {"name": "undistill", "rules": [rule]}}
    whole = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": tool, "results": results}],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _uri(place: str) -> str:
    path = PurePath(place)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _sentence(finding: Finding, limit: float) -> str:
    """`1,000 unlabeled images, probabilities: pass. Relative accuracy 0.697 (0.658 to 0.736; baseline 0.657), limit 0.9: …`."""
    if finding.relative is None:
        return f"{finding.what}: {finding.state}, {finding.why}."
    known = None not in (finding.lower, finding.upper)
    sure = [f"95 % bounds {number(finding.lower, 3)} and {number(finding.upper, 3)}"] if known else []
    sure += [] if finding.baseline is None else [f"baseline {number(finding.baseline, 3)}"]
    told = f"relative accuracy {number(finding.relative, 3)}" + (f" ({'; '.join(sure)})" if sure else "")
    return f"{finding.what}: {finding.state}, {told}, limit {limit:g}; {finding.why}."


FORMATS: dict[str, Callable[[Sequence[Finding], float], str]] = {
    "text": lambda findings, limit: render.text(document(findings, limit, short=True)),
    "markdown": lambda findings, limit: render.markdown(document(findings, limit), {}),
    "json": lambda findings, limit: json.dumps(values(findings, limit), indent=1),
    "junit": junit,
    "sarif": sarif,
}
"""What a gate's findings can be written as."""
