"""Claims and their cases as tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

from undistill.reporting.naming import number, plural, signed
from undistill.reporting.paper.entries import short
from undistill.reporting.paper.judge import VERDICTS, Case, Claim
from undistill.reporting.paper.sheet import Sheet, Value
from undistill.reporting.paper.source import Source
from undistill.reporting.paper.story import case_text, unit


def overview(claims: list[Claim], sources: list[Source]) -> list[dict[str, Any]]:
    """A row a claim: its text, and for each reproduction the verdict and how many cases stand behind it."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for claim in claims:
        key = (claim.experiment.name, claim.direction.text)
        row = rows.setdefault(
            key,
            {
                "experiment": claim.experiment.name,
                "title": claim.experiment.title,
                "text": claim.direction.text,
                "found": [None] * len(sources),
                "cases": [],
            },
        )
        row["found"][sources.index(claim.source)] = {"verdict": claim.verdict, "about": _about(claim)}
        row["cases"] += [_case(case, claim) for case in claim.cases]
    return list(rows.values())


def sheet(claims: list[Claim]) -> Sheet:
    """Every case."""
    rows, records = [], []
    for claim in claims:
        for case in claim.cases:
            told = _case(case, claim)
            rows.append(
                (
                    claim.experiment.title,
                    claim.direction.text,
                    told["name"],
                    told["plan"],
                    *(told[key] for key in ("mean", "low", "high", "n")),
                    case.verdict,
                )
            )
            records.append(_record(case, claim))
    heads = ("experiment", "claim", "case", "from", "mean", "lower bound", "upper bound", "seeds", "verdict")
    caption = "Every case of every claim: a quantity that the claim says is above 0, and its one-sided 95 % t bounds."
    return Sheet("claims", caption, heads, tuple(rows), tuple(records), words=4)


def _about(claim: Claim) -> str:
    if len(claim.cases) == 1:
        case = claim.cases[0]
        mean = "–" if case.mean is None else signed(case.mean, _digits(claim))
        return f"{mean} {unit(claim)} over {plural(case.n, 'seed')}"
    counts = Counter(case.verdict for case in claim.cases)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    means = [case.mean for case in claim.cases if case.mean is not None]
    digits = _digits(claim)
    span = f"; means {signed(min(means), digits)} to {signed(max(means), digits)} {unit(claim)}" if means else ""
    return f"{plural(len(claim.cases), 'case')}: {', '.join(parts)}{span}"


def _case(case: Case, claim: Claim) -> dict[str, Any]:
    digits, bounds = _digits(claim), case.bounds
    return {
        "name": case_text(case, claim),
        "plan": claim.source.title,
        "mean": "–" if case.mean is None else signed(case.mean, digits),
        "low": "–" if bounds is None else signed(bounds[0], digits),
        "high": "–" if bounds is None else signed(bounds[1], digits),
        "unit": unit(claim),
        "n": f"{case.n}" + (f" ({case.left_out} without a value)" if case.left_out else ""),
        "verdict": case.verdict,
        "each": ", ".join(f"seed {seed}: {number(value, digits)}" for seed, value in case.values.items()),
    }


def _record(case: Case, claim: Claim) -> dict[str, Value]:
    bounds = case.bounds or (None, None)
    return {
        "experiment": claim.experiment.name,
        "claim": claim.direction.text,
        "claim verdict": claim.verdict,
        "plan": claim.source.title,
        **{name: case.where.get(name) for name in ("teacher", "column", "x")},
        "mean": short(case.mean),
        "lower bound": short(bounds[0]),
        "upper bound": short(bounds[1]),
        "unit": unit(claim),
        "n": case.n,
        "left out": case.left_out,
        "verdict": case.verdict,
        "values": " ".join(f"{seed}:{value:.6g}" for seed, value in case.values.items()),
    }


def _digits(claim: Claim) -> int:
    return 3 if claim.direction.kind == "numbers" else claim.source.digits(claim.experiment.name)
