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
