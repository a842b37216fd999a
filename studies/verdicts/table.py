"""What `simulate` found, as Markdown; `python -m docs.make` puts it into docs/audit.md."""

from __future__ import annotations

from typing import Any

from undistill.reporting.audit.words import shown

OLD = {
    "took": "removes",
    "all thieves": "all attackers",
    "soft over labels": "soft over classes",
    "alone": "the baseline",
    "twin": "control",
}
"""What scenarios' names say, and what the page says."""


def table(found: dict[str, Any]) -> str:
    """The outcome as Markdown."""
    lines: list[str] = []
    verdicts = list(found["settings"][0]["rows"][0]["shares"])
    for setting in found["settings"]:
        paired = setting["sd"] * (2 * (1 - setting["correlation"])) ** 0.5
        lines += [
            f"**{setting['name']}** (a student varies by {setting['sd']:g} points over seeds, a paired difference by "
            f"{paired:.2g})",
            "",
            f"| truth | {' | '.join(map(shown, verdicts))} | false |",
            f"|---|{'---:|' * (len(verdicts) + 1)}",
        ]
        for row in setting["rows"]:
            wanted = row["scenario"]["wanted"]
            shares = [
                f"**{100 * share:.1f}**" if name == wanted else f"{100 * share:.1f}"
                for name, share in row["shares"].items()
            ]
            lines.append(f"| {truth(row['scenario']['name'])} | {' | '.join(shares)} | {100 * row['false']:.1f} |")
        lines.append("")
    for name in dict.fromkeys(item["setting"] for item in found["needed"]):
        lines += [
            f"**{name}: what it takes for the verdict to come in {found['enough']:.0%} of audits**",
            "",
            "| truth | verdict | seeds, at this δ | δ, at these seeds |",
            "|---|---|---:|---:|",
        ]
        for item in (item for item in found["needed"] if item["setting"] == name):
            seeds = item["seeds"] or f"more than {found['tried'][-1]}"
            delta = f"more than {found['wider'][-1]:g} times as much" if item["delta"] is None else f"{item['delta']:g}"
            lines.append(f"| {truth(item['scenario'])} | {shown(item['wanted'])} | {seeds} | {delta} |")
        lines.append("")
    command = found["command"].replace("results.judge", "studies.verdicts")  # where the script was
    lines += [
        f"{found['sets']:,} made-up audits a row, percent. Command: `{command}`; commit `{found['commit']}`,",
        f"numpy {found['versions']['numpy']}, scipy {found['versions']['scipy']}.",
    ]
    return "\n".join(lines)


def truth(name: str) -> str:
    """A scenario in the words of the page; stored names are older."""
    for old, new in OLD.items():
        name = name.replace(old, new)
    return name
