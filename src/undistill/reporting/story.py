"""What was done, its key numbers, and how to do it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from undistill.experiments.cell import Cell
from undistill.reporting import findings
from undistill.reporting.naming import ALONE, listed, plural
from undistill.reporting.rows import Group, Section, Summary


@dataclass(frozen=True)
class Line:
    """One key number: what it is, the victim it belongs to, its value."""

    label: str
    victim: str
    group: Group
    digits: int


@dataclass(frozen=True)
class Key:
    """Key numbers that are read together."""

    title: str
    lines: list[Line]


def lead(summary: Summary) -> str:
    """One plain paragraph of what was done."""
    sentences = []
    names = [name for name in summary.names if name != ALONE]
    if summary.victims:
        trained = list(dict.fromkeys(victim.name for victim in summary.victims))
        seeds = max(len(victim.group.cells) for victim in summary.victims)
        each = " each" if len(trained) > 1 else ""
        sentences.append(f"{_teachers(trained)} trained on {_data(summary)}, with {plural(seeds, 'seed')}{each}.")
    if any(cell.defense.get("name") == "nasty" for cell in summary.cells):
        sentences.append(
            "A nasty teacher (Ma et al., ICLR 2021) is trained to keep its accuracy, while its probabilities of wrong classes "
            "mislead students that are trained on them."
        )
    if summary.sections:
        cards = plural(len({section.card for section in summary.sections}), "threat model")
        whom = (
            f"the {names[0]} teacher"
            if len(names) == 1
            else "each of them"
            if summary.victims
            else f"teachers ({listed(names)})"
        )
        sentences.append(
            f"Students were then distilled from {whom} under {cards}: what an attacker holds, sees and may query."
        )
        if any(arm.control for section in summary.sections for arm in section.arms):
            sentences.append("Baselines are the same students trained without a teacher.")
    return " ".join(sentences) or "These cells hold neither victims nor attacks."


def keys(summary: Summary) -> list[Key]:
    """The teachers' accuracies, then for each threat model distillation at the highest τ, the best attack and the baseline."""
    lines = [Line(victim.name, victim.name, victim.group, _digits(victim.group)) for victim in summary.victims]
    found = [Key("Teachers", lines)] if lines else []
    return found + [Key(section.title, own) for section in summary.sections if (own := _of_card(section))]


def _of_card(section: Section) -> list[Line]:
    digits, control, hot = findings.decimals(section.n_test), findings.alone(section), findings.hottest(section)
    victims = [victim for victim in section.victims if victim != ALONE]
    lines = []
    if hot:
        groups = [(victim, section.group(hot.name, victim)) for victim in victims]
        lines += [Line(f"{hot.name} · {victim}", victim, group, digits) for victim, group in groups if group]
    for victim in victims:
        top = findings.best(section, victim)
        if top is not None and sum(1 for a in section.arms if not a.control and section.group(a.name, victim)) > 1:
            lines.append(Line(f"best found · {victim}", victim, top[1], digits))
        elif top is not None and top[0] is not hot:
            lines.append(Line(f"{top[0].name} · {victim}", victim, top[1], digits))
    return lines + ([Line("baseline", ALONE, control, digits)] if control else [])


def provenance(summary: Summary) -> dict[str, str]:
    """What fixes the numbers, and what computed them."""
    cells = summary.cells
    seeds: dict[str, set[int]] = {}
    for cell in cells:
        for who, seed in cell.seeds.items():
            seeds.setdefault(who, set()).add(seed)
    kinds = {"victim": "teacher", "cell": "attack", "control": "control", "figure": "figure"}
    counts = [(name, sum(cell.kind == kind for cell in cells)) for kind, name in kinds.items()]
    facts = {
        "data": listed(
            sorted({f"{cell.data_note or 'unnamed'} (fingerprint {cell.data or 'unknown'})" for cell in cells})
        ),
        "test images": listed([f"{count:,}" for count in sorted({cell.n_test for cell in cells})], "or"),
        "seeds": "; ".join(f"{who} {', '.join(map(str, sorted(found)))}" for who, found in sorted(seeds.items()))
        or "unknown",
        "cells": ", ".join(plural(count, name) for name, count in counts if count),
        "training time": f"{sum(cell.seconds for cell in cells):,.0f} seconds in all",
        "training": "; ".join(sorted({text for cell in cells if (text := _training(cell))})),
    }
    for key, title in ENVIRONMENT.items():
        facts[title] = listed(
            sorted({str(cell.env.get(key)) if cell.env.get(key) is not None else "unknown" for cell in cells}), "or"
        )
    return {key: value for key, value in facts.items() if value}


ENVIRONMENT = {
    "undistill": "undistill",
    "commit": "commit",
    "torch": "torch",
    "python": "Python",
    "device": "device",
    "processor": "processor",
    "threads": "threads a process",
    "system": "system",
}


def commands(summary: Summary) -> list[str]:
    """Command lines that compute these cells again."""
    attacked = [cell for section in summary.sections for cell in section.cells if cell.experiment == "attack"]
    return list(dict.fromkeys(_attack(cell) for cell in attacked))


def _attack(cell: Cell) -> str:
    parts = ["undistill", "attack", "MODEL", "--attack", cell.attack, "--student", cell.student]
    parts += ["--threat-model", cell.card]
    parts += ["--seed", str(cell.seeds.get("student", 0)), "--out", "FOLDER"]
    for prefix, settings in (("attack", cell.attack_settings), ("student", cell.student_settings)):
        for key, value in settings.items():
            parts += ["-s", f"{prefix}.{key}={value:g}" if isinstance(value, float) else f"{prefix}.{key}={value}"]
    return shlex.join(parts)


def _training(cell: Cell) -> str:
    training = cell.recipe.get("training", {})
    if not isinstance(training, dict) or "epochs" not in training:
        return ""
    who = "teachers" if cell.kind == "victim" else "students"
    passes = training.get("passes", 1)
    again = f" of {passes} passes" if passes != 1 else ""
    return f"{who} {training['epochs']} epochs{again}" + (f" ({cell.card})" if cell.card else "")


def _teachers(names: list[str]) -> str:
    text = listed([f"a {name}" for name in names])
    return f"{text[:1].upper()}{text[1:]} teacher {'was' if len(names) == 1 else 'were'}"


def _data(summary: Summary) -> str:
    notes = listed(sorted({victim.data_note or "unnamed data" for victim in summary.victims}))
    images = sorted({cell.images for victim in summary.victims for cell in victim.group.cells if cell.images})
    tests = sorted({cell.n_test for victim in summary.victims for cell in victim.group.cells if cell.n_test})
    used = f"{listed([f'{count:,}' for count in images], 'or')} of them" if images else ""
    tested = f"tested on {listed([f'{count:,}' for count in tests], 'or')} others" if tests else ""
    return f"{notes} ({', '.join(part for part in (used, tested) if part)})" if used or tested else notes


def _digits(group: Group) -> int:
    return findings.decimals(min(cell.n_test for cell in group.cells))
