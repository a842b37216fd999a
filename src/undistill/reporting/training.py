"""The page's training curves, and the same numbers as tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from undistill.reporting import charts
from undistill.reporting.blocks import Chart, Entry, Head, Table, chart
from undistill.reporting.naming import ALONE, number
from undistill.reporting.rows import Summary

CURVE_ROWS = 20
"""Epochs that a table of a curve shows at most."""


@dataclass(frozen=True)
class Block:
    """Curves that belong together."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    losses: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def curve_blocks(summary: Summary) -> list[Block]:
    """Teachers first, then each card's students, an arm a chart."""
    blocks = []
    lines = charts.series((cell for victim in summary.victims for cell in victim.group.cells), summary.name_of)
    if lines:
        blocks.append(_block("Teachers", [("Teachers", lines)], summary, "teachers"))
    for place, section in enumerate(summary.sections):
        controls = [cell for cell in section.cells if cell.kind == "control"]
        panels = []
        for arm in section.arms:
            own = [cell for v in section.victims if (g := section.group(arm.name, v)) for cell in g.cells]
            if not arm.control or len(controls) == len(section.cells):
                panels.append((arm.name, charts.series(own if arm.control else [*controls, *own], summary.name_of)))
        block = _block(f"{section.title}: student {section.student}", panels, summary, f"students-{place}")
        if block.charts or block.losses:
            blocks.append(block)
    return blocks


def _block(title: str, panels: list[tuple[str, charts.Series]], summary: Summary, name: str) -> Block:
    drawn: dict[charts.Measure, list[Chart]] = {"accuracy_val": [], "loss": []}
    tables = []
    for measure, found in drawn.items():
        for place, (panel, lines) in enumerate(panels):
            kept = {who: cells for who, cells in lines.items() if charts.measured({who: cells}, measure)}
            if kept:
                spec = charts.curves(kept, summary.names, measure, panel)
                found.append(
                    chart(f"{name}-{measure}-{place}", spec, title=panel if len(panels) > 1 else charts.NAMES[measure])
                )
        entries = [(panel, lines) for panel, lines in panels if charts.measured(lines, measure)]
        if entries:
            tables.append(_curve_table(title, entries, measure))
    if len(panels) == 1:  # both measures side by side
        return Block(title, drawn["accuracy_val"] + drawn["loss"], [], tables)
    return Block(title, drawn["accuracy_val"], drawn["loss"], tables)


def _curve_table(title: str, panels: list[tuple[str, charts.Series]], measure: charts.Measure) -> Table:
    columns: dict[str, dict[int, float]] = {}
    for panel, lines in panels:
        for who, cells in lines.items():
            head = ALONE if who == ALONE else f"from {who}" if len(panels) > 1 else who
            columns[head if who == ALONE or len(panels) == 1 else f"{panel}, {head}"] = dict(
                charts.mean_curve(cells, measure)
            )
    epochs = sorted({epoch for column in columns.values() for epoch in column})
    step = max(1, -(-len(epochs) // CURVE_ROWS))
    kept = [epoch for place, epoch in enumerate(epochs, start=1) if place % step == 0 or place in (1, len(epochs))]
    digits = 1 if measure == "accuracy_val" else 3
    rows = [
        [Entry(str(epoch)), *(Entry(number(column.get(epoch), digits)) for column in columns.values())]
        for epoch in kept
    ]
    thinned = f", every {step} epochs" if step > 1 else ""
    return Table(
        f"{charts.NAMES[measure]}, mean of the seeds{thinned}: {title}", [Head("epoch"), *map(Head, columns)], rows
    )
