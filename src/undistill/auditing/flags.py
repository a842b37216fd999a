"""Reasons to doubt a judgement: one small function each, looked up by name. docs/flags.md explains them. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from undistill.auditing.case import Case
from undistill.auditing.evidence import Evidence
from undistill.auditing.flags_audit import DOUBTS as OF_AUDITS
from undistill.auditing.flags_card import DOUBTS as OF_CARDS
from undistill.auditing.flags_search import DOUBTS as OF_SEARCHES
from undistill.auditing.result import Flag

TITLES: dict[str, str] = {name: doubt[0] for name, doubt in (OF_CARDS | OF_SEARCHES | OF_AUDITS).items()}
"""Every flag with its one-line title, in the order in which they are raised."""


def raised(evidence: Evidence, cases: Sequence[Case]) -> tuple[Flag, ...]:
    """All flags of an audit: card by card those of attacks and searches, then those of the whole."""
    flags: list[Flag] = []
    for name, (_, seen) in (OF_CARDS | OF_SEARCHES).items():
        for case in cases:
            flags += [Flag(name=name, about=about, threat_model=case.id, cells=ids) for about, ids in seen(case)]
    for name, (_, noticed) in OF_AUDITS.items():
        flags += [Flag(name=name, about=about, cells=ids) for about, ids in noticed(evidence)]
    return tuple(_once(flags))


def _once(flags: Iterable[Flag]) -> Iterable[Flag]:
    """What the search of one card shows is told once, not again for each threat model that shares it."""
    seen: set[tuple[str, str]] = set()
    for flag in flags:
        if flag.name not in OF_SEARCHES or (flag.name, flag.about) not in seen:
            seen.add((flag.name, flag.about))
            yield flag
