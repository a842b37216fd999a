"""Measured rows as lines and as a table; `python -m benchmarks.table` writes those of `results/bench` into docs/performance.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def line(row: dict[str, Any]) -> str:
    """For a terminal."""
    memory = f"  memory {row['memory']:.2f} ×" if row.get("memory") else ""
    return f"{row['ratio']:6.2f} ×  {row['what']}  ({row['reference']:.3g} against {row['ours']:.3g} {row['unit']}){memory}"


def section(found: dict[str, Any]) -> str:
    """One machine's rows in Markdown."""
    env = found["env"]
    place = (
        env["device"] if env["device"] != "cpu" else f"{env['processor']}, {env['instructions']}, {env['cores']} cores"
    )
    rows = [row for rows in found["rows"].values() for row in rows]
    head = f"### {place}\n\ntorch {env['torch']}, commit `{env['commit']}`, medians of {env['repeats']} repeats\n\n"
    lines = ["| what | reference | ours | ratio | memory |", "|---|---|---|---|---|"]
    for row in rows:
        memory = f"{row['memory']:.2f} ×" if row.get("memory") else ""
        note = f" ({row['note']})" if row.get("note") else ""
        numbers = f"{row['reference']:.3g} {row['unit']} | {row['ours']:.3g} | **{row['ratio']:.2f} ×**"
        lines.append(f"| {row['what']}{note} | {numbers} | {memory} |")
    return head + "\n".join(lines) + "\n"


def page(text: str) -> str:
    """docs/performance.md with the tables of what is kept."""
    files = sorted((ROOT / "results" / "bench").glob("*.json"))
    tables = "\n".join(section(json.loads(file.read_text())) for file in files)
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
