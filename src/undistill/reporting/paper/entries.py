"""What one entry of a table shows, and what a record of it holds."""

from __future__ import annotations

from dataclasses import dataclass

from undistill.paper.published import ITSELF, SELF
from undistill.reporting.naming import number
from undistill.reporting.paper.sheet import Value
from undistill.reporting.paper.source import Measured

HEADS = {ITSELF: "the teacher itself", SELF: "the teacher's own network"}
"""What columns are called that name no network."""


@dataclass(frozen=True)
class Seed:
    """One measurement behind an entry."""

    seed: int
    text: str
    href: str
    place: float | None = None
    """Where its dot stands, percent of the column's range."""


@dataclass(frozen=True)
class Item:
    """One entry: a mean, what is below it, and each seed."""

    text: str = "–"
    spread: str = ""
    lost: str = ""
    missing: str = ""
    seeds: tuple[Seed, ...] = ()


def value_item(measured: Measured | None, digits: int, links: dict[str, str], span: tuple[float, float]) -> Item:
    """Mean, spread, what is lost or missing, and a link a seed."""
    if measured is None:
        return Item()
    low, high = span
    seeds = []
    for seed, cell in measured.cells.items():
        text = number(cell.accuracy, digits) if cell.accuracy is not None else cell.status
        place = None if cell.accuracy is None else 100 * (cell.accuracy - low) / (high - low)
        seeds.append(Seed(seed, text, links.get(cell.id, ""), None if place is None else round(place, 1)))
    spread = f"± {number(measured.sd, digits)} ({measured.n})" if measured.sd is not None else f"({measured.n})"
    return Item(
        number(measured.mean, digits),
        spread if measured.n else "",
        lost_text(measured),
        missing_text(measured),
        tuple(seeds),
    )


def missing_text(measured: Measured) -> str:
    """`not measured` for all seeds, `2 not measured` for some, or nothing."""
    if not measured.missing:
        return ""
    return "not measured" if measured.missing == len(measured.points) else f"{measured.missing} not measured"


def lost_text(measured: Measured) -> str:
    """`1 diverged`, or nothing."""
    return ", ".join(f"{count} {fate}" for fate, count in measured.lost.items())


def numbers(measured: Measured) -> dict[str, Value]:
    """For programs: all numbers of an entry."""
    return {
        "mean": short(measured.mean),
        "sd": short(measured.sd),
        "n": measured.n,
        "seeds": " ".join(f"{seed}:{value:.6g}" for seed, value in measured.values.items()),
        "missing": measured.missing,
        "lost": " ".join(f"{count} {fate}" for fate, count in measured.lost.items()),
        "cells": " ".join(cell.id for cell in measured.cells.values()),
    }


def short(value: float | None) -> float | None:
    """To six digits behind the point."""
    return None if value is None else round(value, 6)
