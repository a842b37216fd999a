"""One thief at work on one victim: what `attack` drives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from undistill.attacks.base import Attack
from undistill.data import ImageSet, Splits
from undistill.errors import Diverged, NotFinite, RunError, UsageError
from undistill.experiments.cell import Cell, identify, save
from undistill.experiments.describe import served_cell
from undistill.experiments.foreign import Broken, code_of, its_own
from undistill.experiments.holdings import answerable, hold, permit, spare, top_class
from undistill.models import Classifier, build
from undistill.models import model_folder as models
from undistill.oracle.black_box import BlackBox, to_bytes
from undistill.oracle.logit_cache import Bank
from undistill.oracle.oracle import Oracle
from undistill.oracle.output_defense import AnswerDefense
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Victim, finite_logits
from undistill.threat_model import Access, Card
from undistill.training.evaluate import accuracy, batch_for, predict, score
from undistill.training.init_weights import begin
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe

Phase = Literal["selection", "report"]
TOP = 5
"""Classes that a top-k answer shows where the card does not say."""


class Heist:
    """One thief at work on one victim: what `attack` drives."""

    def __init__(
        self,
        victim: Victim,
        data: Splits,
        card: Card,
        recipe: Recipe,
        device: torch.device,
        env: dict[str, Any],
        experiment: str,
        *,
        unseen: bool = False,
        ask_test: bool = False,
        bank: Bank | None = None,
        phase: Phase = "report",
        key: str = "",
    ) -> None:
        self.phase, self.key = phase, key
        self.victim, self.data, self.card, self.recipe = victim, data, card, recipe
        self.device, self.env, self.experiment = device, env, experiment
        self.thief: Attack = recipe.attack
        self.access = permit(self.thief, card)
        if isinstance(victim.model, BlackBox):
            self.access = min(self.access, victim.model.kind)  # a control asks nothing, whatever the card would give
        holds = card.access is Access.WEIGHTS  # who holds the network asks it, and nothing that stands in front of it
        self.behind: tuple[AnswerDefense, ...] = () if holds else victim.behind
        in_front = () if self.thief.control else victim.behind
        self.code = code_of([self.thief, recipe.student.network, *in_front])
        self.ask_test, self.bank = ask_test, bank
        self.said_N: torch.Tensor | None = None
        self.vouched = card.pool == "fresh" and not victim.fresh_pool and unseen and not self.thief.control
        answerable(victim, card, self.thief)
        if victim.kind == "attack" and victim.seed == recipe.seed:
            raise UsageError(
                f"the model is itself a student of seed {recipe.seed}: a thief of that seed starts from its weights; "
                "take another --seed"
            )
        if card.pool == "fresh" and not (victim.fresh_pool or unseen or self.thief.control):
            raise UsageError(
                "nothing says which images the model and what it came from were trained on, so none are known to be fresh; if you "
                "know that it never saw those of data.pool, say so (--assume-fresh, unseen=True)"
            )
        self.images = hold(data, card, self.thief, recipe.seed, victim)
        mean, std = self.images.moments() if len(self.images) else _moments_in(victim)  # not of the victim's data
        shape = (data.num_classes, self.images.channels, self.images.image_size)
        self.begun: dict[str, Any] = {}
        if card.start == "public":
            self.student = self._public(mean, std).to(device)
        elif recipe.student.weights is not None:
            raise UsageError(f"the student has weights to start from, and the card {card} starts from random ones")
        else:
            network = recipe.student.network
            self.student = build(network, *shape, mean=mean, std=std, seed=recipe.seed, role="thief")
            if len(self.images):
                self.student.initialize(lambda count: self.images.seen(slice(count)))
            self.student.to(device)
        self.model = victim.model if isinstance(victim.model, BlackBox) else victim.model.to(device)
        self.oracle: Oracle | None = None
        self.diverged = ""

    def _public(self, mean: Sequence[float], std: Sequence[float]) -> Classifier:
        """The student with the public weights that its recipe names."""
        weights = self.recipe.student.weights
        if weights is None:
            raise UsageError(f"the card {self.card} starts from public weights: name them with student.weights")
        known = replace(self.data, mean=tuple(mean), std=tuple(std))  # not the moments of the victim's data
        seed = self.recipe.seed
        student, self.begun = begin(self.recipe.student.network, known, Path(weights), seed=seed, role="thief")
        return student

    @property
    def config(self) -> dict[str, Any]:
        """All that fixes the numbers."""
        return {
            "kind": "attack",
            "data_fingerprint": self.data.fingerprint,
            "victim_id": self.victim.id,
            "card": str(self.card),
            "recipe": self.recipe.dump(),
            **({"public": self.begun["id"]} if self.begun else {}),
            **({"phase": self.phase} if self.phase != "report" else {}),
            **({"code": self.code} if self.code else {}),
            **({"behind": "nothing"} if self._past else {}),
        }

    @property
    def _past(self) -> bool:
        """Whether this thief asks past defenses because it holds the weights, though its attack only reads answers."""
        return self.behind != self.victim.behind and self.access < Access.WEIGHTS and not self.thief.control

    def counts(self) -> dict[str, int]:
        """Questions asked and answers computed so far."""
        return {"queries": self.oracle.queries, "forwards": self.oracle.forwards} if self.oracle else {}

    def steps(self, state: State | None, before: dict[str, Any]) -> Iterator[EpochRecord]:
        """Train the student; numbers that are not finite end it without an error, for that too is a result.

        Raises:
            Broken: the attack failed with a RunError of its own; others' go through.
            RunError: the victim's answers are not finite.
        """
        budget = self.card.questions
        asked = before if budget is None else {}  # with a budget, a resumed thief asks its few questions again
        self.oracle = Oracle(
            self.model,
            self.access,
            budget=budget,
            bank=self.bank,
            precision=self.recipe.training.precision,
            behind=self.behind,
            top_k=self.card.top or TOP,
            digits=self.card.digits,
            seed=self.recipe.seed,
            **asked,
        )
        if self.access is Access.WEIGHTS and len(self.images):  # who holds the network asks it past the oracle
            finite_logits(self.victim.network, self.images, self.victim.described)
        try:
            for record in self.thief.steal(
                self.oracle, self.student, self.images, self.recipe, device=self.device, state=state
            ):
                self.oracle.check()
                yield record
        except (Diverged, NotFinite) as error:
            self.oracle.check()  # a student of answers that are not finite is none of its own doing
            self.diverged = str(error)
        except RunError as error:
            if not its_own(error):
                raise
            raise Broken(str(error)) from error

    def finish(self, metrics: list[dict[str, Any]], out: Path, cells: Path) -> dict[str, Any]:
        """Measure the student, write its model and the cell, and return the result."""
        shown = self.data.test if self.phase == "report" else self.images  # a search never looks at test images
        logits_NC = predict(self.student, shown) if len(shown) else torch.empty(0)
        if not self.diverged and not bool(logits_NC.isfinite().all()):
            self.diverged = "the trained student answers with numbers that are not finite"
        cell = self.cell(metrics)
        arrays: dict[str, Any] = {}
        if not self.diverged:
            update: dict[str, Any] = {"held_out": self.held_out()}
            if self.phase == "report":
                arrays = _named(logits_NC)
                update |= self.measure(logits_NC) | {"accuracy_val": metrics[-1].get("accuracy_val")}
            cell = cell.model_copy(update=update)
            facts = {"victim": self.victim.id, "attack": self.thief.model_dump(mode="json"), "card": str(self.card)}
            origin = {"kind": "attack", "data": self.data.fingerprint, "seed": self.recipe.seed, "fresh_pool": False}
            title = f"{self.recipe.student.name}, a student of {self.victim.id}"
            if self.thief.control:
                title = f"{self.recipe.student.name}, trained alone"
            models.save(
                out / "model", self.student, self.data.train.class_names, models.model_card(title, facts), origin
            )
        cell = save(cells, cell, arrays)
        result = {"status": cell.status, "accuracy": cell.accuracy, "cell": cell.values()}
        if self.said_N is not None:
            served, predicted = served_cell(self.victim, self.data, self.experiment, self.env, self.said_N)
            result["victim_accuracy"] = served.accuracy
            if (
                self.victim.recipe is None and not (cells / f"{served.id}.json").exists()
            ):  # no run folder has it as a cell
                save(cells, served, predicted)
        return result

    @property
    def id(self) -> str:
        """The cell's, from all that fixes its numbers."""
        dump, control = self.recipe.dump(), self.thief.control
        fixed = self.config | {
            "victim_id": "" if control else self.victim.id,
            "recipe": {key: dump[key] for key in ("training", "attack", "student", "seed")}
            | {"views": dump["data"]["views"]},
        }
        if isinstance(self.model, BlackBox) and isinstance(self.model.predict, Ledger) and not control:
            pixels = to_bytes(self.images.seen()).numpy()
            fixed["answers"] = self.model.predict.digest(pixels[self.model.predict.holds(pixels)])
        return identify(fixed)

    def cell(self, metrics: list[dict[str, Any]]) -> Cell:
        """The cell, before anything was measured."""
        victim, recipe, control = self.victim, self.recipe, self.thief.control
        dump = recipe.dump()
        return Cell(
            id=self.id,
            kind="control" if control else "cell",
            experiment=self.experiment,
            victim="none" if control else victim.label,
            victim_id="" if control else victim.id,
            defense={} if control else victim.defense,
            attack=self.thief.name,
            attack_settings=self.thief.settings,
            student=recipe.student.name,
            student_settings=recipe.student.network.settings | ({"weights": self.begun["id"]} if self.begun else {}),
            card=str(self.card),
            images=len(self.images),
            vouched=self.vouched,
            seeds={"student": recipe.seed} | ({} if control or victim.seed is None else {"victim": victim.seed}),
            n_test=len(self.data.test) if self.phase == "report" else 0,
            key=self.key,
            phase=self.phase,
            curve=metrics,
            status="diverged" if self.diverged else "ok",
            why=self.diverged,
            data=self.data.fingerprint,
            data_note=self.data.note,
            recipe={"training": dump["training"], "views": dump["data"]["views"]},
            env=self.env,
            seconds=round(sum(line["seconds"] for line in metrics), 3),
            **self.counts(),
        )

    def measure(self, logits_NC: Tensor) -> dict[str, float]:
        """Numbers on the test split, from the student's logits there."""
        test = self.data.test
        numbers = asdict(score(logits_NC, test.labels_N))
        if not self.thief.control:
            self.said_N = (
                self._served(test, self.victim.behind)
                if self.victim.behind and not isinstance(self.model, BlackBox)
                else top_class(self.model, test, ask=self.ask_test, bank=self.bank)
            )
        if self.said_N is not None:
            numbers["agreement"] = accuracy(logits_NC, self.said_N)
        return {name: round(value, 6) for name, value in numbers.items()}

    def held_out(self) -> float | None:
        """The student's score on images that nobody trained on and it was not measured on; None without any."""
        found = [images for images in spare(self.data, self.images) if len(images)]
        right = count = 0
        for images in found:
            labels_N = self._truth(images)
            if labels_N is not None:
                right += int((predict(self.student, images).argmax(dim=1) == labels_N).sum())
                count += len(images)
        return round(100 * right / count, 6) if count else None

    def _truth(self, images: ImageSet) -> Tensor | None:
        """What a search may compare with: true labels for who holds labels, else what the victim says to this thief."""
        if self.thief.control or self.card.data == "labelled":
            return images.labels_N
        return (
            None if isinstance(self.model, BlackBox) else self._served(images, self.behind)
        )  # a function's answers may cost something

    def _served(self, images: ImageSet, behind: Sequence[AnswerDefense]) -> Tensor:
        """The classes that the victim says behind these defenses; no question of the thief's."""
        oracle = Oracle(self.model, Access.LABEL, behind=behind, seed=self.recipe.seed)
        parts = [oracle.ask(images.seen(rows, self.device)).labels_B.cpu() for rows in images.chunks(batch_for(images))]
        return torch.cat(parts)

    def predictions(self, student: torch.nn.Module) -> dict[str, Any]:
        """The class that a student names for each test image."""
        return _named(predict(student, self.data.test))


def _moments_in(victim: Victim) -> tuple[Sequence[float], Sequence[float]]:
    """What the network itself normalises by: all that a thief without images knows of pixels."""
    return victim.network.config["mean"], victim.network.config["std"]


def _named(logits_NC: Tensor) -> dict[str, Any]:
    return {"predicted": logits_NC.argmax(dim=1).numpy().astype(np.int16)}
