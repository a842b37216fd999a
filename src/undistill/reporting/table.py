"""Rows as plain text, Markdown and JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undistill.reporting import findings
from undistill.reporting.naming import ALONE, card_sentence, number
from undistill.reporting.rows import Group, Section, Summary, Victim

LEGEND = "accuracy in percent, mean ± sample standard deviation (number of seeds)"


def value_text(group: Group | None, digits: int) -> str:
    """`97.2 ± 0.4 (3)`, `97.2 (1)`, `– (2 diverged)`, or `–` where nothing was measured."""
    if group is None:
        return "–"
    spread = f" ± {number(group.sd, digits)}" if group.sd is not None else ""
    counts = ", ".join(part for part in (str(group.n) if group.n else "", group.lost_text) if part)
    reported = f" [reported {number(group.reported, digits)}]" if group.reported is not None else ""
    return f"{number(group.mean, digits)}{spread} ({counts}){reported}"


def column_names(section: Section) -> list[str]:
    """`alone`, `from normal`, `from nasty`."""
    return [victim if victim == ALONE else f"from {victim}" for victim in section.victims]


def matrix(section: Section) -> list[list[str]]:
    """Heads, then a line an arm: its name and a value a column."""
    digits = findings.decimals(section.n_test)
    lines = [
        [arm.name, *(value_text(section.group(arm.name, v), digits) for v in section.victims)] for arm in section.arms
    ]
    return [["student", *column_names(section)], *lines]


def heading(section: Section) -> str:
    """`The paper's card: student cnn, width 0.125`, with what sets it apart from a section of the same name."""
    about = f" ({section.about})" if section.about else ""
    return f"{section.title}: student {section.student}{about}"


def victim_text(victim: Victim) -> str:
    """`normal 99.6 ± 0.1 (3)`."""
    return f"{victim.name} {value_text(victim.group, findings.decimals(_fewest_tests(victim.group)))}"


def as_text(summary: Summary) -> str:
    """For a terminal."""
    blocks = []
    if summary.victims:
        blocks.append(f"teachers: {'; '.join(victim_text(victim) for victim in summary.victims)}")
    blocks += [f"{heading(section)}\n{section.card}\n{aligned(matrix(section))}" for section in summary.sections]
    blocks.append(LEGEND)
    blocks += [f"Note: {doubt}" for doubt in findings.doubts(summary)]
    return "\n\n".join(blocks)


def as_markdown(summary: Summary, shows: Sequence[str], does_not: Sequence[str], provenance: dict[str, str]) -> str:
    """`report.md`: the page without pictures."""
    lines = ["# How hard is this classifier to copy?", ""]
    lines += [f"> {inert(doubt)}\n" for doubt in findings.doubts(summary)]
    if summary.victims:
        lines += ["## Teachers", "", *markdown([["teacher", "network", "accuracy, %"], *_victim_lines(summary)]), ""]
    for section in summary.sections:
        lines += [f"## {inert(heading(section))}", "", inert(card_sentence(section.card, section.cells)), ""]
        lines += [*markdown(matrix(section)), "", *(f"- {inert(text)}" for text in findings.of_section(section)), ""]
    lines += [f"Tables: {LEGEND}.", "", "## What this shows", "", *(f"- {inert(text)}" for text in shows), ""]
    lines += ["## What it does not show", "", *(f"- {inert(text)}" for text in does_not), ""]
    lines += ["## Provenance", "", *(f"- {inert(key)}: {inert(value)}" for key, value in provenance.items()), ""]
    return "\n".join(lines)


def as_values(summary: Summary) -> dict[str, Any]:
    """For `report.json`: JSON values only."""
    return {
        "schema": 1,
        "doubts": findings.doubts(summary),
        "victims": [
            {"victim": v.name, "network": v.network, "data": v.data, "data_note": v.data_note, **_group_values(v.group)}
            for v in summary.victims
        ],
        "sections": [_section_values(section) for section in summary.sections],
    }


def _section_values(section: Section) -> dict[str, Any]:
    rows = []
    for arm in section.arms:
        for victim in section.victims:
            group = section.group(arm.name, victim)
            if group is not None:
                named = {"arm": arm.name, "attack": arm.attack, "settings": arm.settings, "victim": victim}
                rows.append({**named, **_group_values(group)})
    return {
        "experiment": section.experiment,
        "card": section.card,
        "title": section.title,
        "student": section.student,
        "about": section.about,
        "data": section.data,
        "n_test": section.n_test,
        "rows": rows,
        "findings": findings.of_section(section),
    }


def _group_values(group: Group) -> dict[str, Any]:
    values = [
        {"cell": c.id, "seeds": c.seeds, "accuracy": c.accuracy, "status": c.status, "why": c.why} for c in group.cells
    ]
    return {
        "mean": group.mean,
        "sd": group.sd,
        "n": group.n,
        "lost": group.lost,
        "reported": group.reported,
        "values": values,
    }


def _victim_lines(summary: Summary) -> list[list[str]]:
    return [
        [v.name, v.network, value_text(v.group, findings.decimals(_fewest_tests(v.group)))] for v in summary.victims
    ]


def _fewest_tests(group: Group) -> int:
    return min(cell.n_test for cell in group.cells)


def aligned(lines: list[list[str]]) -> str:
    """Columns of a width, for a terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines; the first are its heads."""
    rows = [markdown_row(line) for line in lines]
    return [rows[0], f"|{'---|' * len(lines[0])}", *rows[1:]]


def markdown_row(line: Sequence[str]) -> str:
    """One line of a table."""
    cells = [inert(text).replace("|", "\\|") for text in line]
    return f"| {' | '.join(cells)} |"


def inert(text: str) -> str:
    """Text that Markdown renders as itself: no HTML, no line breaks."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
