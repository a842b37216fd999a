"""What each flag means: read from flags.md, which is docs/flags.md, so that a page says it itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from undistill.reporting.shell import asset

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
