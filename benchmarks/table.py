"""Measured rows as lines and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"


def line(row: dict[str, Any]) -> str:
    """For a terminal."""
    memory = f"  memory {row['memory']:.2f} ×" if row.get("memory") else ""
    return f"{row['ratio']:6.2f} ×  {row['what']}  ({row['reference']:.3g} against {row['ours']:.3g} {row['unit']}){memory}"


def section(found: dict[str, Any]) -> str:
    """One machine's rows in Markdown."""
    groups = list(found.values())
    env = groups[0]["env"]
    place = (
        env["device"] if env["device"] != "cpu" else f"{env['processor']}, {env['instructions']}, {env['cores']} cores"
    )
    said = {name: sorted({str(group["env"][name]) for group in groups}) for name in ("torch", "commit", "repeats")}
    told = {name: " and ".join(values) for name, values in said.items()}
    head = f"### {place}\n\ntorch {told['torch']}, commit {told['commit']}, medians of {told['repeats']} repeats.\n\n"
    lines = ["| what | reference | ours | ratio | memory |", "|---|---|---|---|---|"]
    for row in (row for group in groups for row in group["rows"]):
        memory = f"{row['memory']:.2f} ×" if row.get("memory") else ""
        note = f" ({row['note']})" if row.get("note") else ""
        numbers = f"{row['reference']:.3g} {row['unit']} | {row['ours']:.3g} | **{row['ratio']:.2f} ×**"
        lines.append(f"| {row['what']}{note} | {numbers} | {memory} |")
    return head + "\n".join(lines) + "\n"


def effect() -> str:
    """What bf16 does, in Markdown."""
    found = json.loads((EVIDENCE / "precision-digits.json").read_text())
    env = found["env"]
    head = f"`{found['command']}`, commit `{env['commit']}`, torch {env['torch']}, {env['processor']}, {env['precision']}. Test "
    head += f"accuracy on digits, percent, {len(found['seeds'])} seeds; the difference is bf16 − fp32, seed by seed, with a 95 % "
    head += "interval.\n\n"
    lines = ["| | fp32 | bf16 | difference |", "|---|---|---|---|"]
    for name, arm in found["arms"].items():
        lines.append(
            f"| {name} | {arm['fp32']:.2f} | {arm['bf16']:.2f} | {arm['difference']:+.2f} ± {arm['half']:.2f} |"
        )
    return head + "\n".join(lines) + "\n"


def measured() -> str:
    """The rows of all machines."""
    return "\n".join(section(json.loads(file.read_text())) for file in sorted(EVIDENCE.glob("bench-*.json")))
