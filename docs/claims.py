"""Tables that README and docs begin with, made of committed results: the paper claim by claim, and what an owner gives away.

python docs/claims.py            # writes them between their marks; a test compares them with `results/`
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from undistill.auditing.analyze import judge
from undistill.paper.published import SELF
from undistill.paper.published import reported as published

ROOT = Path(__file__).parents[1]
SCALES = ("laptop", "small")
MARKS = {"seen": "✓ seen", "opposite": "✗ opposite", "not shown": "? not shown", "not judged": "– too few seeds"}
STUDENTS = ("CNN", "ResNetC-20", "ResNetC-32", SELF)
SHORT = {
    "A student of the nasty teacher ends below the same student of the normal one.": (
        "The nasty teacher's student ends below the normal one's",
        ("normal", "nasty"),
    ),
    "A student of the nasty teacher ends below the same student trained without a teacher.": (
        "… and below the same student without a teacher",
        ("none", "nasty"),
    ),
    "A student of the normal teacher ends above the same student trained without a teacher.": (
        "The normal teacher's student ends above one without a teacher",
        ("normal", "none"),
    ),
}


def cases(scale: str) -> list[dict[str, Any]]:
    """What was judged at a scale."""
    found: list[dict[str, Any]] = json.loads((ROOT / "results" / scale / "report.json").read_text())["cases"]
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def shown(case: dict[str, Any] | None) -> str:
    """A case in a table: verdict, mean, bounds and seeds; differences in points."""
    if case is None or case["mean"] is None:
        return "not run"
    bounds = (
        f" ({_number(case['lower bound'])} to {_number(case['upper bound'])})"
        if case["lower bound"] is not None
        else ""
    )
    return f"{MARKS[case['verdict']]}: {_number(case['mean'])}{bounds}, {case['n']} seed{'s' if case['n'] > 1 else ''}"


def article(column: str, arms: tuple[str, str]) -> str:
    """The article's difference of two arms."""
    first, second = (published("table1", "" if arm == "none" else "ResNet18", arm, column) for arm in arms)
    return "" if first is None or second is None else _number(first - second)


def table() -> str:
    """Claims of table 1 by student, then the other experiments."""
    judged = {scale: cases(scale) for scale in SCALES}
    lines = [
        "| claim | student | article | `laptop`: all of CIFAR-10 | `small`: 4,000 images |",
        "|---|---|---:|---|---|",
    ]

    def row(claim: str, student: str, reported: str, experiment: str, text: str, column: str | None) -> str:
        found = [
            shown(
                next(
                    (
                        c
                        for c in judged[s]
                        if (c["experiment"], c["claim"]) == (experiment, text) and column in (None, c["column"])
                    ),
                    None,
                )
            )
            for s in SCALES
        ]
        return f"| {claim} | {student} | {reported} | {' | '.join(found)} |"

    for text, (claim, arms) in SHORT.items():
        for column in STUDENTS:
            name = "the teacher's own network ¹" if column == SELF else column
            lines.append(row(claim, name, article(column, arms), "table1", text, column))
            claim = ""
    seen = {(c["experiment"], c["claim"]) for scale in SCALES for c in judged[scale]} - {("table1", t) for t in SHORT}
    for experiment, text in sorted(seen):
        lines.append(row(f"`{experiment}`: {text}", "", "", experiment, text, None))
    return "\n".join(lines)


def brief() -> str:
    """Table 1 in the README: the article's difference and ours at `laptop`, by claim and student."""
    judged, students = cases("laptop"), STUDENTS[:-1]
    lines = [f"| points, article → here (95 % bounds; seeds) | {' | '.join(students)} |", "|---|---|---|---|"]
    for text, (claim, arms) in SHORT.items():
        cells = []
        for column in students:
            case = next(
                (c for c in judged if (c["experiment"], c["claim"], c["column"]) == ("table1", text, column)), None
            )
            cells.append(f"{article(column, arms)} → {short(case)}")
        lines.append(f"| {claim.removeprefix('… and ').capitalize()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(case: dict[str, Any] | None) -> str:
    """`1.62 ✓ (1.04 to 2.21; 3)`: a case where there is little room."""
    if case is None or case["mean"] is None:
        return "not run"
    mark = MARKS[case["verdict"]][0]
    bounds = (
        "" if case["lower bound"] is None else f"{_number(case['lower bound'])} to {_number(case['upper bound'])}; "
    )
    return f"**{_number(case['mean'])}**{' ' + mark if bounds else ''} ({bounds}{case['n']})"


def owner() -> str:
    """What three ways of serving give an attacker, in the README, from audits of digits."""
    folder = ROOT / "results" / "audits" / "digits"
    nasty, top1 = (judge(folder / name) for name in ("nasty", "top1"))
    normal = next(v for v in nasty.victims if v.side == "undefended")
    hardened = next(v for v in nasty.victims if v.side == "defended")
    rows = [
        ("all probabilities", nasty.cards[0].A_soft0, "–"),
        (
            "all probabilities of a nasty teacher",
            nasty.cards[0].A_def,
            f"accuracy {normal.accuracy:.1f} → {hardened.accuracy:.1f} %",
        ),
        ("the predicted class alone", top1.cards[0].A_label0, "every probability"),
    ]
    lines = ["| you serve | best extracted model, % (95 %) | your users lose |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {span(found)} | {lost} |" for what, found, lost in rows)])


def span(found: Any) -> str:
    """A mean with its interval."""
    return f"{found.mean:.1f} ({found.low:.1f} to {found.high:.1f})"


def write(page: Path, name: str, text: str) -> None:
    """Put a table between a page's marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    write(ROOT / "docs" / "reproduction.md", "claims", table())
    write(ROOT / "README.md", "table1", brief())
    write(ROOT / "README.md", "owner", owner())
