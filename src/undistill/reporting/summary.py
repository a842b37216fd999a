"""Cells → rows: what differs in nothing but seeds is one group. A lost cell stays in its group, without a value."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from undistill.auditing.text import settings_text
from undistill.experiments.cell import Cell
from undistill.reporting.naming import ALONE, NORMAL, arm_text, card_title, network_text

WEIGHTS = 6
"""Digits of an id that tell weights apart."""


@dataclass(frozen=True)
class Group:
    """Cells that differ in nothing but their seeds, ordered by them."""

    cells: tuple[Cell, ...]

    @cached_property
    def values(self) -> list[float]:
        """The accuracies that were measured, percent."""
        return [cell.accuracy for cell in self.cells if cell.accuracy is not None]

    @property
    def n(self) -> int:
        """How many accuracies there are."""
        return len(self.values)

    @cached_property
    def mean(self) -> float | None:
        """Of the values; None without one."""
        return statistics.fmean(self.values) if self.values else None

    @cached_property
    def sd(self) -> float | None:
        """Sample standard deviation; None below two values."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @cached_property
    def lost(self) -> dict[str, int]:
        """Cells without an accuracy, counted by status."""
        return dict(sorted(Counter(_fate(cell) for cell in self.cells if cell.accuracy is None).items()))

    @property
    def reported(self) -> float | None:
        """What the paper reports for this, if the cells say so."""
        found = [cell.reported for cell in self.cells if cell.reported is not None]
        return found[0] if found else None

    @property
    def lost_text(self) -> str:
        """`1 diverged`, or nothing."""
        return ", ".join(f"{count} {fate}" for fate, count in self.lost.items())


@dataclass(frozen=True)
class Arm:
    """What students of one row were taught by."""

    attack: str
    settings: dict[str, Any]
    control: bool
    name: str

    @property
    def order(self) -> tuple[Any, ...]:
        """Controls first, hot before cold, labels last."""
        rank = 0 if self.control else {"kd": 1, "label-only": 3}.get(self.attack, 2)
        hot = self.settings.get("temperature", 0)
        return rank, self.attack, -hot if isinstance(hot, int | float) else 0, self.name


@dataclass(frozen=True)
class Section:
    """All students of one kind on one card of one experiment: a table."""

    experiment: str
    card: str
    student: str
    data: str
    data_note: str
    about: str
    arms: tuple[Arm, ...]
    victims: tuple[str, ...]
    groups: dict[tuple[str, str], Group] = field(repr=False)
    among_others: bool = False
    """Whether other sections are of other data, so that the title must say of which this one is."""

    def group(self, arm: str, victim: str) -> Group | None:
        """The cells of an arm's name and a victim's name (`alone` for controls), if any."""
        return self.groups.get((arm, victim))

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row."""
        return [cell for arm in self.arms for v in self.victims if (g := self.group(arm.name, v)) for cell in g.cells]

    @property
    def title(self) -> str:
        """The card's title, with the data where sections differ in them."""
        title = card_title(self.card)
        return f"{title}, {self.data_note or self.data}" if self.among_others else title

    @property
    def n_test(self) -> int:
        """Test images, the fewest of any cell."""
        return min((cell.n_test for cell in self.cells), default=0)


@dataclass(frozen=True)
class Victim:
    """The victims of one name, one network and one data set, over seeds."""

    name: str
    network: str
    data: str
    data_note: str
    group: Group


@dataclass(frozen=True)
class Summary:
    """All there is to tell, in a stable order whatever the order of the cells."""

    sections: tuple[Section, ...]
    victims: tuple[Victim, ...]
    figures: tuple[Cell, ...]
    names: tuple[str, ...]
    name_of: dict[str, str] = field(repr=False)

    @property
    def cells(self) -> list[Cell]:
        """Every cell."""
        of_victims = [cell for victim in self.victims for cell in victim.group.cells]
        return [*of_victims, *(cell for section in self.sections for cell in section.cells), *self.figures]

    @property
    def lost(self) -> list[Cell]:
        """Cells that diverged or failed."""
        return [cell for cell in self.cells if cell.kind != "figure" and cell.accuracy is None]

    @property
    def fewest(self) -> int:
        """The smallest number of values in any group that holds attackers or controls."""
        return min((group.n for section in self.sections for group in section.groups.values()), default=0)


def summarize(cells: Iterable[Cell]) -> Summary:
    """Group cells by experiment, data, card, student and its training; within, by attack and victim."""
    found = sorted(cells, key=_seed_order)
    victims = [cell for cell in found if cell.kind == "victim"]
    attackers = [cell for cell in found if cell.kind in ("cell", "control")]
    figures = [cell for cell in found if cell.kind == "figure"]
    name_of = _victim_names([*victims, *attackers, *figures])
    by_section: dict[str, list[Cell]] = defaultdict(list)
    for cell in attackers:
        by_section[_stable(_section_key(cell))].append(cell)
    notes = _training_notes(list(by_section.values()))
    sections = [_section(group, name_of, note) for group, note in zip(by_section.values(), notes, strict=True)]
    sections.sort(key=lambda s: (s.experiment, s.data, not s.title.startswith("The paper"), s.card, s.student, s.about))
    if len({section.data for section in sections}) > 1:
        sections = [replace(section, among_others=True) for section in sections]
    used = (
        {name for section in sections for name in section.victims}
        | set(name_of.values())
        | ({NORMAL} if figures else set())
    )
    return Summary(
        sections=tuple(sections),
        victims=_victims(victims, name_of),
        figures=tuple(figures),
        names=tuple(sorted(used, key=_name_order)),
        name_of={cell.id: ALONE if cell.kind == "control" else name_of[_victim_key(cell)] for cell in found},
    )


def _section(cells: list[Cell], name_of: dict[str, str], about: str) -> Section:
    arms: dict[str, Arm] = {}
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        control = cell.kind == "control"
        name = arm_text(cell.attack, cell.attack_settings, control=control)
        arms[name] = Arm(cell.attack, cell.attack_settings, control, name)
        groups[name, ALONE if control else name_of[_victim_key(cell)]].append(cell)
    first = cells[0]
    return Section(
        experiment=first.experiment,
        card=first.card,
        student=network_text(first.student, first.student_settings),
        data=first.data,
        data_note=first.data_note,
        about=about,
        arms=tuple(sorted(arms.values(), key=lambda arm: arm.order)),
        victims=tuple(sorted({victim for _, victim in groups}, key=_name_order)),
        groups={key: Group(tuple(group)) for key, group in groups.items()},
    )


def _victims(cells: list[Cell], name_of: dict[str, str]) -> tuple[Victim, ...]:
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        network = network_text(cell.student, cell.student_settings)
        groups[name_of[_victim_key(cell)], network, cell.data, cell.data_note, _stable(cell.recipe)].append(cell)
    ordered = sorted(groups.items(), key=lambda item: (item[0][2], _name_order(item[0][0]), item[0]))
    return tuple(Victim(key[0], key[1], key[2], key[3], Group(tuple(group))) for key, group in ordered)


def _victim_names(cells: list[Cell]) -> dict[str, str]:
    """Victims by label; where one label stands for several settings or several weights, those join the name."""
    rows: dict[str, dict[str, dict[str, str]]] = defaultdict(
        lambda: defaultdict(dict)
    )  # label, settings, victim key: row
    for (label, settings, _), found in _alike(cells).items():
        rows[label][settings] |= _rows_of(found)
    names: dict[str, str] = {}
    for label, variants in rows.items():
        for settings, row_of in variants.items():
            known = [settings_text(json.loads(settings)) or "no settings"] if len(variants) > 1 else []
            for key, row in row_of.items():
                parts = [*known, row] if row else known
                names[key] = f"{label} ({', '.join(parts)})" if parts else label
    return names


def _alike(cells: list[Cell]) -> dict[tuple[str, str, str], dict[str, list[Cell]]]:
    """(label, settings, data) → weights → their cells: what could be taken for one victim."""
    found: dict[tuple[str, str, str], dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.kind != "control":
            place = cell.victim or "unnamed victim", _stable(cell.defense), cell.data
            found[place][cell.victim_id].append(cell)
    return found


def _rows_of(weights: dict[str, list[Cell]]) -> dict[str, str]:
    """The row of each victim: "" for the seeds of one recipe, which share it; what tells others apart for theirs."""
    made = {number: _made_by(cells) for number, cells in weights.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for number in weights:
        groups[_group(number, made)].append(number)
    networks = {
        group: {cell.student for number in numbers for cell in weights[number] if cell.kind == "victim"}
        for group, numbers in groups.items()
    }
    shared = [group for group in groups if group not in weights]
    plain = shared if len(shared) == 1 else list(groups) if len(groups) == 1 else []
    return {
        _victim_key(cell): "" if group in plain else _row(group, numbers, networks)
        for group, numbers in groups.items()
        for number in numbers
        for cell in weights[number]
    }


def _group(number: str, made: dict[str, tuple[str, int | None]]) -> str:
    """What victims of one row share: their recipe. A victim of unknown seed, or whose seed another has, is a row of its own.

    Cells of attackers alone do not say by which recipe their victim was trained: it is taken for the only one known.
    """
    recipe, seed = made[number]
    if seed is None:
        return number
    known = {how for how, _ in made.values() if how}
    alike = [n for n, (how, s) in made.items() if s == seed and (how == recipe or not recipe)]
    return number if len(alike) > 1 or (not recipe and len(known) > 1) else recipe or next(iter(known), "recipe")


def _row(group: str, numbers: list[str], networks: dict[str, set[str]]) -> str:
    """What a row is called beside its label: its network where that is its own, else its weights."""
    own = networks[group]
    if len(own) == 1 and all(own.isdisjoint(other) for name, other in networks.items() if name != group):
        return next(iter(own))
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f"weights {sorted(numbers)[0][:WEIGHTS] or 'unknown'}{more}"


def _made_by(cells: list[Cell]) -> tuple[str, int | None]:
    """(recipe, seed) of a victim by its cells: ours says both, one from elsewhere neither."""
    own = next((cell for cell in cells if cell.kind == "victim" and cell.recipe), None)
    if own is not None:
        return _stable([own.student, own.student_settings, own.recipe]), own.seeds.get("victim")
    seeds = [cell.seeds["victim"] for cell in cells if cell.kind != "victim" and "victim" in cell.seeds]
    return "", seeds[0] if seeds else None


def _training_notes(sections: list[list[Cell]]) -> list[str]:
    """What sets apart sections that share all but their training: its differing settings."""
    flat = [{"phase": cells[0].phase, **_flatten(cells[0].recipe)} for cells in sections]
    names = [_stable(_section_key(cells[0])[:-2]) for cells in sections]
    notes = []
    for name, own in zip(names, flat, strict=True):
        alike = [other for other_name, other in zip(names, flat, strict=True) if other_name == name]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        notes.append(", ".join(f"{key} {own[key]}" for key in differing))
    return notes


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {
            k: v
            for key, value in values.items()
            for k, v in _flatten(value, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: values}


def _section_key(cell: Cell) -> list[Any]:
    return [cell.experiment, cell.data, cell.card, cell.student, cell.student_settings, cell.recipe, cell.phase]


def _victim_key(cell: Cell) -> str:
    return _stable([cell.victim, cell.defense, cell.data, cell.victim_id])


def _seed_order(cell: Cell) -> tuple[Any, ...]:
    return cell.seeds.get("victim", -1), cell.seeds.get("student", -1), cell.id


def _name_order(name: str) -> tuple[int, str]:
    return 0 if name == ALONE else 1 if name.startswith(NORMAL) else 2, name


def _stable(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _fate(cell: Cell) -> str:
    return "without a value" if cell.status == "ok" else cell.status
