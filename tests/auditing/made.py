"""Audit folders made up for tests: a plan, its cells with predictions, and ways to damage them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from undistill.auditing.analyze import analyze
from undistill.auditing.result import ThreatModelResult
from undistill.experiments import plan as planned
from undistill.experiments.cell import Cell, read, save
from undistill.experiments.plan import Choice, Plan, Planned, Subject
from undistill.files import write_json

CARD = "probs/unlabelled(1.0)/fresh/random/50"
LABELLED = "probs/labelled(1.0)/fresh/random/50"
TRAINING: dict[str, Any] = {"epochs": 2, "clip": None, "optimizer": {"name": "sgd", "lr": 0.1}}
STUDENT = {"name": "cnn", "width": 0.5}
IMAGES, CLASSES = 400, 10
VICTIM = {"spread": 2.0, "repeat": 0.0, "top5": 99.0, "brier": 0.1, "second_1": 0.1, "second_4": 0.4}
FLOOR = {"kd": 79.0, "decoupled": 78.0, "standardised-kd": 77.0}
"""Soft attackers of a defended model that are no better than its attackers of labels."""
SIDES = (("defended", "victim"), ("undefended", "twin"))


@dataclass
class MadeAudit:
    """What the cells of one made-up audit say. Means in percent; every arm's seeds wobble by `noise` around them."""

    soft: dict[str, float] = field(default_factory=lambda: {"kd": 80.0, "decoupled": 79.0, "standardised-kd": 78.0})
    soft0: dict[str, float] = field(default_factory=lambda: {"kd": 90.0, "decoupled": 88.0, "standardised-kd": 87.0})
    labels: dict[str, float] = field(default_factory=lambda: {"label-only": 79.0, "label-smooth": 78.5})
    labels0: dict[str, float] = field(default_factory=lambda: {"label-only": 79.5})
    naive: float | None = 76.0
    naive0: float | None = 86.0
    alone: float = 78.0
    curve: dict[int, float] = field(default_factory=lambda: {25: 70.0, 100: 84.0})
    effort: float | None = None
    taus: dict[float, float] = field(default_factory=lambda: {1.0: 79.0, 4.0: 80.0, 20.0: 78.0})
    taus0: dict[float, float] = field(default_factory=lambda: {1.0: 88.0, 4.0: 90.0, 20.0: 86.0})
    served: tuple[float, float] = (95.0, 95.5)
    numbers: tuple[dict[str, float], dict[str, float]] = field(default_factory=lambda: (dict(VICTIM), dict(VICTIM)))
    nll: float | None = 0.2
    card: str = CARD
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    noise: float = 0.3
    control: bool = True
    vouched: bool = False
    shows: str = "weights"
    defense: dict[str, Any] = field(default_factory=lambda: {"name": "nasty", "temperature": 4.0, "omega": 0.04})
    student: str = "cnn"
    other_student: str | None = None
    env: dict[str, Any] = field(default_factory=lambda: {"torch": "2.13.0", "device": "cpu", "undistill": "0.1.0"})
    plan: dict[str, Any] = field(default_factory=dict)
    cells: list[Planned] = field(default_factory=list)
    made: dict[str, tuple[Cell, dict[str, Any] | None]] = field(default_factory=dict)

    def write(self, folder: Path) -> Plan:
        """The whole folder."""
        for side, victim in SIDES if self.control else SIDES[:1]:
            self._served(side, victim)
            self._side(side, victim)
        self._without()
        plan = self.planned()
        planned.write(folder, plan)
        for key, (cell, arrays) in self.made.items():
            save(folder / "cells", cell, arrays)
            write_json(folder / "done" / f"{key}.json", {"cell": cell.id})
        return plan

    def at(self, folder: Path) -> Path:
        """The folder, written."""
        self.write(folder)
        return folder

    def planned(self) -> Plan:
        """The plan of the cells so far."""
        values: dict[str, Any] = {
            "title": "made up",
            "suite": "standard@1",
            "verdicts": True,
            "delta": 2.0,
            "data": {"name": "digits"},
            "fingerprint": "f" * 16,
            "test_images": IMAGES,
            "classes": CLASSES,
            "subjects": [
                Subject(
                    name=victim,
                    side=side,
                    model=victim,
                    label=f"the {victim}",
                    defense=self.defense if side == "defended" else {},
                    shows=self.shows if side == "defended" else "weights",
                )
                for side, victim in (SIDES if self.control else SIDES[:1])
            ],
            "cells": self.cells,
            "known": {"kd": (), "decoupled": ("nasty",), "label-only": ()},
            "grid": {"temperature": tuple(self.taus)},
            "seeds": self.seeds,
        }
        return Plan(**{**values, **self.plan})

    def _served(self, side: str, victim: str) -> None:
        number = side != "defended"
        accuracy, numbers = self.served[number], self.numbers[number]
        arrays = {"predicted": predicted(accuracy, 999), "labels": labels()}
        self._put(
            side, "served", "served", victim, {}, self.card, 0,
            {"accuracy": accuracy_of(arrays["predicted"]), "nll": self.nll, "ece": None if self.nll is None else 1.0},
            arrays, kind="victim", numbers=numbers,
        )  # fmt: skip

    def _side(self, side: str, victim: str) -> None:
        ours = side == "defended"
        soft, naive = (self.soft, self.naive) if ours else (self.soft0, self.naive0)
        keys = []
        taus = self.taus if ours else self.taus0
        for tau, score in taus.items() if soft else ():
            shifted = score - max(taus.values()) + soft["kd"]
            keys += self._search(side, victim, {"name": "kd", "temperature": tau, "alpha": 1.0}, shifted)
        for name, mean in soft.items():
            if name != "kd":
                keys += self._search(side, victim, {"name": name}, mean)
        for rank, (name, mean) in enumerate(sorted(soft.items(), key=lambda pair: -pair[1]), start=1):
            settings = {"temperature": max(taus, key=lambda t: taus[t]), "alpha": 1.0} if name == "kd" else {}
            choice = Choice(among=tuple(keys), rank=rank)
            self._report(side, "soft", f"soft, rank {rank}", victim, {"name": name, **settings}, mean, choice)
        if naive is not None:
            attack = {"name": "kd", "temperature": 4.0, "alpha": 1.0}
            self._report(side, "naive", "naive kd", victim, attack, naive)
        for name, mean in (self.labels if ours else self.labels0).items():
            found = self._search(side, victim, {"name": name}, mean)
            self._report(side, "labels", name, victim, {"name": name}, mean, Choice(among=tuple(found)))
        if ours and self.effort is not None:
            best = next(cell for cell in self.cells if cell.role == "soft" and cell.side == side)
            attack = {"name": self.made[best.key][0].attack, **self.made[best.key][0].attack_settings}
            choice, label = Choice(among=tuple(keys)), "the best attacker, twice the steps"
            self._report(side, "effort", label, victim, attack, self.effort, choice)

    def _without(self) -> None:
        self._report("alone", "alone", "alone", "", {"name": "scratch"}, self.alone)
        for images, mean in self.curve.items():
            card = self.card.rpartition("/")[0] + f"/{images}"
            self._report("alone", "curve", "alone", "", {"name": "scratch"}, mean, card=card, images=images)

    def _search(self, side: str, victim: str, attack: dict[str, Any], score: float) -> list[str]:
        return [
            self._put(side, "search", attack["name"], victim, attack, self.card, seed, {"held_out": score})
            for seed in (10_000, 10_001)
        ]

    def _report(
        self,
        side: str,
        role: str,
        label: str,
        victim: str,
        attack: dict[str, Any],
        mean: float,
        choice: Choice | None = None,
        card: str = "",
        images: int = 50,
    ) -> None:
        rng = np.random.default_rng(len(self.cells))
        wobble = rng.normal(size=len(self.seeds)) * self.noise
        for seed, luck in zip(self.seeds, wobble - wobble.mean(), strict=True):
            arrays = {"predicted": predicted(mean + luck, seed)}
            student = self.other_student if self.other_student and role == "labels" else self.student
            self._put(
                side, role, label, victim, attack, card or self.card, seed,
                {"accuracy": accuracy_of(arrays["predicted"]), "held_out": mean}, arrays,
                choice=choice, images=images, student=student, vouched=self.vouched and side != "alone",
            )  # fmt: skip

    def _put(
        self,
        side: str,
        role: str,
        label: str,
        victim: str,
        attack: dict[str, Any],
        card: str,
        seed: int,
        numbers_of: dict[str, Any],
        arrays: dict[str, Any] | None = None,
        *,
        choice: Choice | None = None,
        **more: Any,
    ) -> str:
        key = f"{len(self.cells):016x}"
        given = {"attack": attack} if choice is None else {"choice": choice}
        self.cells.append(
            Planned(
                key=key, side=side, role=role, label=label, card=card, victim=victim, seed=seed,
                recipe={} if role == "served" else {"training": TRAINING}, student={} if role == "served" else STUDENT,
                **given,
            )
        )  # fmt: skip
        values: dict[str, Any] = {
            "kind": "control" if side == "alone" else "cell",
            "student": self.student,
            "images": 50,
            **more,
        }
        cell = Cell(
            id=name_of(key), key=key, victim=victim or "none", victim_id=victim, attack=attack.get("name", ""),
            attack_settings={name: value for name, value in attack.items() if name != "name"},
            student_settings={"width": 0.5}, card=card, queries=50, seeds={"student": seed},
            phase="selection" if role == "search" else "report", n_test=0 if role == "search" else IMAGES,
            data="f" * 16, recipe={"training": TRAINING}, env=self.env, seconds=1.0, **numbers_of, **values,
        )  # fmt: skip
        self.made[key] = (cell, arrays)
        return key


def name_of(key: str) -> str:
    """What the cell of a key is called."""
    return f"c{key[1:]}"


def labels() -> Any:
    """The true classes of the test images."""
    return (np.arange(IMAGES) % CLASSES).astype(np.int16)


def predicted(percent: float, seed: int) -> Any:
    """Classes of a student that gets about so many right: mostly the same hard images are missed, whatever the seed."""
    hardness = np.random.default_rng(0).random(IMAGES) + 0.2 * np.random.default_rng(seed + 1).random(IMAGES)
    right = np.zeros(IMAGES, dtype=bool)
    right[np.argsort(hardness)[: round(np.clip(percent, 0, 100) * IMAGES / 100)]] = True
    return np.where(right, labels(), (labels() + 1) % CLASSES).astype(np.int16)


def accuracy_of(predicted_N: Any) -> float:
    """Percent."""
    return round(100 * float((predicted_N == labels()).mean()), 6)


def change(folder: Path, key: str, **values: Any) -> None:
    """Replace fields of a key's cell; `remove` takes the cell away."""
    path = folder / "cells" / f"{name_of(key)}.json"
    save(folder / "cells", read(path).model_copy(update=values))


def fail(folder: Path, key: str, status: str = "failed") -> None:
    """Make a key's cell one that crashed, or diverged."""
    change(folder, key, status=status, why="it broke", accuracy=None, held_out=None, arrays=None)


def remove(folder: Path, key: str) -> None:
    """Make a key's cell one that was never computed."""
    (folder / "done" / f"{key}.json").unlink()


def keys(plan: Plan, **wanted: Any) -> list[str]:
    """Keys of the planned cells with these fields."""
    return [cell.key for cell in plan.cells if all(getattr(cell, name) == value for name, value in wanted.items())]


def only_card(folder: Path) -> ThreatModelResult:
    """The judgement of an audit that has one card."""
    cards = analyze(folder).threat_models
    assert len(cards) == 1
    return cards[0]
