"""The words that an audit's page uses, in a line each."""

from __future__ import annotations

from undistill.auditing.result import AuditResult
from undistill.reporting.audit.words import controlled, points_text

TITLE = "Words used here"


def glossary(judgement: AuditResult) -> dict[str, str]:
    """Word → what it means; those of an undefended control only where there is one."""
    found = {
        "attacker": "A person or program that queries the model and trains a model of its own on the outputs.",
        "extracted model": "The model that an attacker trains. Its accuracy is measured on test images.",
        "baseline": "The same network, trained on images with true labels, without access to the model.",
        "labels alone": "The model returns its top class and nothing else (also: top class alone).",
        "relative accuracy": "Accuracy of the best extracted model as a share of the model's own.",
    }
    if controlled(judgement):
        found["undefended control"] = "The same network trained without the defense, or without its output defense."
        found["headroom"] = "The accuracy that soft outputs of the undefended control are worth over its labels alone."
        found["reduction"] = "The share of the headroom that the defense removes."
    found["teacher" if judgement.question == "method" else "seed"] = (
        "One more model of the same method, trained anew."
        if judgement.question == "method"
        else "One more run, with other random choices and other query images."
    )
    found["held-out score, search score"] = (
        "Accuracy on images that attacks are ranked by, before they meet the test images."
    )
    found["δ"] = f"The difference that counts as none: here {points_text(judgement.delta)} of accuracy."
    return found
