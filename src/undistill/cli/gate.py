"""`undistill gate`: a release gate on audits, by exit code."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from undistill.errors import UsageError
from undistill.files import write_text


def gate(
    folders: list[Path],
    max_relative_accuracy: float = 0.9,
    at: int | None = None,
    access: str | None = None,
    format: str = "text",
    out: Path | None = None,
    verbose: bool = False,
) -> None:
    """Pass, fail or investigate: is what an attacker gets within a limit?

    Exit code 0: upper 95 % bounds of every attack and of the baseline are within it. 1: the lower bound of an
    attack is above it. 3: neither.
    """
    from undistill.auditing.analyze import analyze
    from undistill.experiments.evidence import SUFFIX, unpack
    from undistill.experiments.plan import FILE
    from undistill.reporting.gate import EXIT, FORMATS, gate, worst

    if format not in FORMATS:
        raise UsageError(f"--format is one of {', '.join(FORMATS)}, not {format!r}")
    audits = []
    with tempfile.TemporaryDirectory(prefix="undistill-gate-") as home:
        for number, given in enumerate(folders):
            place, prefix = given, ""
            if given.suffix == SUFFIX:
                place, prefix = Path(home) / str(number), f"{given.stem}/"
                unpack(given, place)
            there = [path.parent for path in sorted(place.rglob(FILE)) if path.is_file()]
            if not there:
                raise UsageError(f"{given} holds no audit: it has no {FILE}")
            audits += [(f"{prefix}{path.name}" if prefix else str(path), analyze(path)) for path in there]
    findings = gate(audits, max_relative_accuracy, queries=at, access=access or "")
    text = FORMATS[format](findings, max_relative_accuracy)
    if out is None:
        typer.echo(text.rstrip("\n"))
    else:
        write_text(out, text)
        typer.echo(f"{worst(findings)}; {out}")
    raise typer.Exit(EXIT[worst(findings)])
