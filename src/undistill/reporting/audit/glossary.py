"""The words that an audit's page uses, and what each flag means: read from flags.md, which is docs/flags.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from undistill.auditing.result import AuditResult
from undistill.reporting.audit.words import controlled, points_text
from undistill.reporting.shell import asset

TITLE = "Words used here"
ENTRY = re.compile(r"^### `([\w-]+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^- \*([^*]+)\*:?\s*(.*?)(?=^- \*|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Meaning:
    """A flag in one line, and when it is raised, why, and what to do."""

    title: str
    facts: Mapping[str, str]


def explained(name: str) -> Meaning | None:
    """The entry of a flag; None for one that has none."""
    return _entries().get(name)


@cache
def _entries() -> dict[str, Meaning]:
    found = {}
    for name, text in ENTRY.findall(asset("audit/flags.md")):
        title = re.search(r"\*\*(.+?)\*\*", text, re.DOTALL)
        facts = {what: " ".join(_unlinked(said).split()) for what, said in ITEM.findall(text)}
        found[name] = Meaning(" ".join(title[1].split()) if title else "", facts)
    return found


def _unlinked(text: str) -> str:
    """Without Markdown's links and emphasis; code stays."""
    return re.sub(r"\*(\w[^*]*)\*", r"\1", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text))


def glossary(judgement: AuditResult) -> dict[str, str]:
    """Word → what it means; those of an undefended control only where there is one."""
    found = {
        "attacker": "A person or program that queries the model and trains a model of its own on the outputs.",
        "extracted model": "The model that an attacker trains. Its accuracy is measured on test images.",
        "baseline": "The same network, trained on images with true labels, without access to the model.",
        "predicted class only": "The model returns its predicted class and nothing else. Attacks on it are called label-only.",
        "relative accuracy": "Accuracy of the best extracted model as a share of the model's own.",
    }
    found["cell"] = "One training of an attacker, or one measurement of the model, with its seed and settings."
    found["suite"] = "The attacks that an audit tries, and how it searches their settings."
    found["query pool"] = "Images that the model was not trained on, from which attackers draw their queries."
    if controlled(judgement):
        found["undefended control"] = "The same network trained without the defense, or without its output defense."
        found["headroom"] = (
            "The accuracy that soft outputs of the undefended control are worth over its predicted classes."
        )
        found["reduction"] = "The share of the headroom that the defense removes."
    found["teacher" if judgement.question == "method" else "seed"] = (
        "One more model of the same method, trained anew."
        if judgement.question == "method"
        else "One more run, with other random choices and other query images."
    )
    found["held-out score, search score"] = (
        "Accuracy on separate images, by which attacks are ranked before any test image is used."
    )
    found["δ"] = f"Differences up to this size are treated as none: here {points_text(judgement.delta)} of accuracy."
    return found
