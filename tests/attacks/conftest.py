"""A small victim that really knows its digits, for attacks that start from nothing but it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import pytest
import torch

from undistill.attacks.base import ATTACKS
from undistill.data import Splits, load
from undistill.experiments.extraction import hold
from undistill.models import Classifier, build
from undistill.oracle.oracle import Oracle
from undistill.threat_model import Access, ThreatModel
from undistill.training.evaluate import accuracy, predict
from undistill.training.loop import EpochRecord, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe, read
from undistill.training.train import fresh, image_batches

ADAM = {"name": "adam", "lr": 0.005}


@dataclass(frozen=True)
class Digits:
    """The data, a trained victim, and how to rob it."""

    data: Splits
    victim: Classifier
    recipe: Recipe

    def accuracy(self, network: Classifier) -> float:
        """On the test split, percent."""
        return accuracy(predict(network, self.data.test), self.data.test.labels_N)

    def student(self, width: float = 0.125, seed: int = 0) -> Classifier:
        """A fresh one: its accuracy is the control of what an attack learns."""
        config = self.victim.config
        return build("cnn", 10, 1, 8, width, mean=config["mean"], std=config["std"], seed=seed, role="thief")

    def rob(self, attack: dict[str, object], **training: object) -> tuple[Classifier, list[EpochRecord]]:
        """(the student, the records)."""
        attacker, student = ATTACKS.make(attack), self.student()
        recipe = read({**self.recipe.dump(), "training": {"optimizer": ADAM, **training}})
        none = hold(self.data, ThreatModel.parse("data-free"), attacker, seed=0)
        oracle = Oracle(self.victim, Access.WEIGHTS)
        return student, list(attacker.steal(oracle, student, none, recipe, device=torch.device("cpu")))


class Wide(Digits):
    """Its students are half as wide as the paper's."""

    def student(self, width: float = 0.5, seed: int = 0) -> Classifier:
        """A fresh one."""
        return super().student(width, seed)


def gain(ours: list[float], control: list[float]) -> float:
    """Mean difference, points, of accuracies that share their seeds."""
    return fmean(a - b for a, b in zip(ours, control, strict=True))


@pytest.fixture(scope="session")
def digits() -> Digits:
    """A cnn of a quarter of the width after 6 epochs."""
    data = load("digits")
    recipe = read({"data": {"name": "digits"}, "model": {"name": "cnn", "width": 0.25}})
    recipe = read({**recipe.dump(), "training": {"epochs": 6, "batch": 32, "optimizer": {**ADAM, "lr": 0.01}}})
    victim = fresh(recipe.model, data, seed=0, role="teacher")
    batches = image_batches(data.train, recipe, role="teacher", device="cpu")
    list(fit(victim, batches, CrossEntropy(), recipe.training, seed=0))
    return Digits(data, victim.eval(), recipe)


@pytest.fixture(scope="session")
def able(digits: Digits) -> Digits:
    """A better victim, as the recipe of digits trains it, in 10 epochs."""
    own = read("digits")
    own = read({**own.dump(), "data": digits.data.settings | {"views": own.dump()["data"]["views"]}})
    quick = read({**own.dump(), "training": own.dump()["training"] | {"epochs": 10}})
    victim = fresh(own.model, digits.data, seed=0, role="teacher")
    batches = image_batches(digits.data.train, quick, role="teacher", device="cpu")
    list(fit(victim, batches, CrossEntropy(), quick.training, seed=0))
    return Wide(digits.data, victim.eval(), own)
