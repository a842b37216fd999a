"""What an audit is evidence for, by the ids of standards. It claims compliance with none."""

from __future__ import annotations

from undistill.auditing.result import AttackResult, AuditResult, ThreatModelResult
from undistill.reporting.audit.words import accuracy_of, best_of, questions_text, serving_text
from undistill.reporting.document import Entry, Format, Table, Value, filled

TITLE = "For an auditor: findings by the ids of standards"
FACTS = {
    "MITRE ATLAS, attacks": "AML.T0024.002 Extract AI Model, AML.T0005.001 Train Proxy via Replication: each row above. They lead "
    "to AML.T0048.004 AI Intellectual Property Theft.",
    "MITRE ATLAS, mitigations": "AML.M0002 output obfuscation: output defenses and accesses, by what they change above. AML.M0003 "
    "hardening: nasty training. AML.M0004 restrict queries: the rows by budget. AML.M0024 telemetry: not covered here.",
    "OWASP AISVS 1.0": "11.2.2 rate limits sized to the extraction threat model: the rows by budget are the evidence. 11.3.2 "
    "responses calibrated to the extraction risk: those by output access. Not covered here: 11.3.1 detection, 11.3.3 watermarks, "
    "11.3.4 response.",
    "OWASP AI Testing Guide, AITG-APP-09": "A surrogate with a fidelity above 90 % counts as vulnerable, from 75 to 90 % as a "
    "warning. Where the baseline, which never saw the model, is in the same band, the band says how easy the task is, and nothing "
    "about what the model gives away.",
    "Others": "OWASP ML05:2023 Model Theft, LLM10:2025 Unbounded Consumption; NIST AI 100-2 E2025, model extraction; EU AI Act, "
    "Article 15(5) and Annex IV, as a record of what was tested.",
    "Compliance": "Nothing here states it. These are the ids under which an auditor files what was measured.",
}
VULNERABLE, WARNING = 90.0, 75.0
"""Fidelity in percent above which AITG-APP-09 counts a model as vulnerable, and from which it warns."""


def findings(judgement: AuditResult) -> Table:
    """A row a threat model: how far the best extracted model agrees with the audited one, and how far a network without access."""
    rows: list[list[Value | Entry]] = []
    for card in judgement.threat_models:
        best, baseline = best_of(card, "defended"), _baseline(card)
        own, other = (None if each is None else each.fidelity for each in (best, baseline))
        got = accuracy_of(card)
        row: list[Value | Entry] = [serving_text(card.access), questions_text(card), None if got is None else got.mean]
        rows.append([*row, card.relative_accuracy, own, other, band(own), band(other)])
    share = Format(digits=1)
    columns = {
        "output access": Format(),
        "queries": Format(),
        "best extracted model, %": share,
        "relative accuracy, %": share,
    }
    columns |= {
        "fidelity, %": share,
        "baseline's fidelity, %": share,
        "AITG-APP-09": Format(),
        "the baseline's": Format(),
    }
    caption = (
        "Fidelity: the percentage of test images on which a network names the audited model's class. The baseline never saw the "
        "model. AITG-APP-09: the band of the OWASP AI Testing Guide that the fidelity falls into."
    )
    return filled("standards", caption, columns, rows)


def band(fidelity: float | None) -> str:
    """AITG-APP-09's word for a fidelity in percent."""
    if fidelity is None:
        return "–"
    return "vulnerable" if fidelity > VULNERABLE else "warning" if fidelity >= WARNING else "desired"


def _baseline(card: ThreatModelResult) -> AttackResult | None:
    """The baseline that the audit compares with, else the most accurate."""
    known = [each for each in card.attacks if each.side == "alone" and each.accuracy is not None]
    return max(known, key=lambda each: (each.chosen, each.accuracy.mean if each.accuracy else 0.0), default=None)
