"""A judgement → a page, Markdown, JSON, LaTeX and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undistill.auditing.result import AuditResult
from undistill.files import write_text
from undistill.reporting import export, render
from undistill.reporting.audit import first
from undistill.reporting.audit.page import Drawn, document, draw, title
from undistill.reporting.document import Table, charts
from undistill.reporting.written import Report


def write_audit(judgement: AuditResult, out: Path) -> Report:
    """Write `out/index.html`, `report.md`, `report.json`, `report.tex` and `figures/*.svg`.

    A pure function of the judgement: the same one gives the same bytes.

    Raises:
        RunError: `out` cannot be written.
    """
    drawn = draw(judgement)
    page, values = out / "index.html", as_values(judgement, drawn)
    whole = document(judgement, drawn)
    figures = {
        chart.name: f"figures/{export.write_svg(out / 'figures' / f'{chart.name}.svg', chart).name}"
        for chart in charts(whole)
    }
    write_text(page, render.html(whole))
    write_text(out / "report.md", render.markdown(whole, figures))
    write_text(out / "report.json", as_json(values))
    write_text(out / "report.tex", as_tex(title(judgement), [drawn.exposure, *drawn.attackers, drawn.users]))
    return Report(f"{render.text(first.terminal(judgement))}\n\nPage: {page}", values, page)


def as_json(values: dict[str, Any]) -> str:
    """As it lies on disk."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_values(judgement: AuditResult, drawn: Drawn) -> dict[str, Any]:
    """For `report.json`: the judgement as it came, and the tables that the page shows."""
    attackers = [dict(record) for grid in drawn.attackers for record in grid.long]
    return {
        "schema": 1,
        "title": title(judgement),
        "answers": {statement.head: statement.text for statement in first.statements(judgement)},
        "notes": first.warnings(judgement),
        "tables": {
            "exposure": [dict(record) for record in drawn.exposure.long],
            "thieves": attackers,
            "contrasts": [dict(record) for grid in drawn.behind for record in grid.long],
            "users": [dict(record) for record in drawn.users.long],
        },
        "judgement": judgement.dump(),
    }


def as_tex(title: str, grids: Sequence[Table]) -> str:
    r"""Tables one below the other; needs `\usepackage{booktabs}`."""
    parts = [f"% {export.latex(title)}", ""]
    for grid in grids:
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{export.latex(grid.caption)}}}",
            export.tex(grid).rstrip(),
        ]
        parts += [r"\end{table}", ""]
    return "\n".join(parts)
