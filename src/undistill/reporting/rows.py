"""What a summary of cells is made of: groups that differ in nothing but seeds, tables of them, victims."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from undistill.experiments.cell import Cell
from undistill.reporting.naming import card_title


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
        """The smallest number of values in any group that holds thieves or controls."""
        return min((group.n for section in self.sections for group in section.groups.values()), default=0)


def _fate(cell: Cell) -> str:
    return "without a value" if cell.status == "ok" else cell.status
