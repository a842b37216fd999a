"""One extraction: an attack on a victim under a threat model, as a run folder that can be resumed, and its cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from undistill import plugins, ranks
from undistill.attacks.base import Attack
from undistill.data import ImageBatches, ImageSet, Splits
from undistill.errors import Diverged, NotFinite, RunError, UsageError
from undistill.experiments.cell import Cell, identify, save, undamaged
from undistill.experiments.foreign import Broken, code_of, its_own
from undistill.experiments.runtime import Config, Runtime, runtime_of
from undistill.experiments.victim_metrics import top_class_cell
from undistill.models import Classifier, build
from undistill.models import model_folder as models
from undistill.oracle.black_box import BlackBox, to_bytes
from undistill.oracle.inference import Frozen
from undistill.oracle.logit_cache import LogitCache, recalled
from undistill.oracle.oracle import Oracle, cut
from undistill.oracle.output_defense import AnswerDefense
from undistill.oracle.query_log import Answers, Ledger, same_victim
from undistill.oracle.victim import Model, Victim, finite_logits, resolve
from undistill.seeds import generator
from undistill.threat_model import Access, ThreatModel
from undistill.training.environment import begin_on, describe
from undistill.training.evaluate import accuracy, batch_for, predict, score
from undistill.training.init_weights import begin
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe, Student, component, for_student, read
from undistill.training.run_folder import drive
from undistill.training.train import of_data, validation, with_seed

Phase = Literal["selection", "report"]
TOP = 5
"""Classes that a top-k response shows where the threat model does not say."""
SPARE = 2_000
"""Images that a search is scored on, at most, of each split."""


class AttackConfig(Config):
    """The settings of `attack`.

    Args:
        student: a name, `{name: …, width: …, recipe: …}`; None for the recipe's.
        threat_model: `paper`, `api`, or written out as `probs/unlabelled/fresh/random/50`.
        recipe: None for the recipe that the victim was trained by. The student's own recipe, if it names one, trains it.
        seed: the attacker's: its images, initial weights, order and views. None for the recipe's.
        cells: folder of the cell; None for `cells` in `out`.
        experiment: what the cell belongs to.
        outputs: `logits`, `probs`, `topk` or `label`: what a callable or a file of outputs returns, where it does not say.
        name: what reports call the victim; two functions of one name need it to be told apart.
        assume_fresh: asserts, unverified, that a victim of unknown origin was not trained on `data.pool`.
        ask_test: query a function about the test images too, for its own accuracy and the student's fidelity; these queries are
            not the attacker's and are not counted.
        query_log: file that keeps a function's responses; None for `answers.parquet` in `out`. Attacks that share one pay once.
        accept_accuracy: go on with a victim whose accuracy cannot be that of a classifier of these data (`Victim.plausible`).
        resume: go on with an unfinished run there.
        output_defense: output defenses of the victim, the first one first: names, `rounding digits=1`, `{name: …}`.
        phase: `selection` measures no test image: a search may choose by `held_out` alone.
        key: of the plan that the cell is made for.
        reuse: a finished cell of these very settings in `cells` is returned as it is, and nothing is trained.
    """

    student: Any = None
    threat_model: Any = "paper"
    recipe: Any = None
    seed: int | None = None
    cells: Path | None = None
    experiment: str = "attack"
    outputs: str | None = None
    name: str | None = None
    assume_fresh: bool = False
    ask_test: bool = False
    query_log: Path | None = None
    accept_accuracy: bool = False
    resume: bool = False
    output_defense: tuple[Any, ...] = ()
    phase: Phase = "report"
    key: str = ""
    reuse: bool = False
    verb: ClassVar[str] = "attack"
    old: ClassVar[dict[str, str]] = {
        "card": "threat_model",
        "answers": "outputs",
        "called": "name",
        "unseen": "assume_fresh",
        "ledger": "query_log",
        "behind": "output_defense",
    }


def attack(
    model: Model,
    data: Splits,
    attack: str | dict[str, Any] | Attack | None = None,
    *,
    out: str | Path,
    runtime: Runtime | None = None,
    **settings: Any,
) -> Cell:
    """Train a student on a victim's responses, and measure what it got. For models that you own or may test.

    Args:
        model: the victim: a run folder, a model folder, `timm:NAME@weights`, `package.module:callable`, a file of outputs, what a
            verb returned, a module, a `BlackBox`.
        data: the victim's data; the threat model says which part of it the attacker holds.
        attack: a name, `{name: …, …}` or a record; None for the recipe's.
        out: run folder of the student.
        runtime: device, logit cache, log.
        settings: fields of `AttackConfig` (threat_model, student, recipe, seed, …), and of `Runtime` (device, cache).

    Returns:
        The cell. A student whose loss was not finite gives one of status `diverged`, without an accuracy.

    Raises:
        UsageError: a threat model that the attack cannot work under, settings that do not fit, a victim near chance.
        RunError: the victim's outputs are not finite, or not what was declared.
    """
    runtime, settings = runtime_of(runtime, settings)
    config, out = AttackConfig.of(**settings), Path(out)
    victim = resolve(model, data, answers=config.outputs, called=config.name, behind=config.output_defense)
    victim.check(data)
    box = victim.model if isinstance(victim.model, BlackBox) else None
    if config.query_log is not None and (box is None or isinstance(box.predict, Ledger)):
        raise UsageError(f"--query-log keeps what a function answers; {victim.label} is none")
    source = victim.recipe if config.recipe is None else config.recipe
    if source is None:
        raise UsageError("the model brings no recipe for its attacker; name one with --config")
    planned = of_data(plan_recipe(read(source), attack, config.student, config.seed), data)
    victim = remembering(victim, config.query_log or out / "answers.parquet")
    where = begin_on(runtime.device)
    if ranks.count() > 1:
        _divisible(victim, planned.attack)
    extraction = Extraction(victim, data, planned, config, where, runtime.cache)
    cells = config.cells or out / "cells"
    if config.reuse and box is None and (known := undamaged(cells / f"{extraction.id}.json")) is not None:
        return known
    if not planned.attack.control:
        victim.plausible(data, accept=config.accept_accuracy)

    def steps(state: State | None, before: dict[str, Any]) -> Iterator[EpochRecord]:
        """The attacker's epochs; after the first, the responses of a function are there to be looked at."""
        for number, record in enumerate(extraction.steps(state, before)):
            if number == 0 and box is not None and not planned.attack.control:
                victim.plausible(data, accept=config.accept_accuracy)
            yield record

    run = drive(
        out,
        extraction.fixed,
        extraction.env,
        steps,
        lambda metrics: extraction.finish(metrics, out, cells),
        resume=config.resume,
        extra=extraction.counts,
        measure=lambda: validation(extraction.student, data),
        watch=runtime.watch,
    )
    cell = Cell.model_validate(run.result["cell"])
    lost = not (cells / f"{cell.id}.json").exists()  # or wanted elsewhere
    if lost and ranks.number() == 0:
        measured = cell.status == "ok" and config.phase == "report"
        cell = save(cells, cell, _named(predict(run.model(), data.test)) if measured else {})
    return cell


def _divisible(victim: Victim, attack: Attack) -> None:
    """UsageError for an attack that several processes cannot share."""
    if isinstance(victim.model, BlackBox):
        raise UsageError(f"{victim.label} answers one process: attack it without torchrun")
    if not attack.holds_images:
        raise UsageError(f"{attack.name} makes its own images: run it without torchrun")
    if attack.uses_unqueried:
        raise UsageError(f"{attack.name} takes more images than its batches have: run it without torchrun")


class Extraction:
    """One attack at work on one victim: what `attack` drives."""

    def __init__(
        self,
        victim: Victim,
        data: Splits,
        recipe: Recipe,
        config: AttackConfig,
        device: torch.device,
        cache: LogitCache | None = None,
    ) -> None:
        self.victim, self.data, self.recipe, self.asked = victim, data, recipe, config
        self.device, self.cache, self.phase = device, cache, config.phase
        self.env = describe(device, recipe.training.precision)
        self.card = card = ThreatModel.parse(config.threat_model)
        self.attack: Attack = recipe.attack
        self.access = permit(self.attack, card)
        if isinstance(victim.model, BlackBox):
            self.access = min(self.access, victim.model.kind)  # a control asks nothing, whatever the threat model gives
        holds = card.access is Access.WEIGHTS  # an attacker who holds the network goes around its output defenses
        self.behind: tuple[AnswerDefense, ...] = () if holds else victim.behind
        in_front = () if self.attack.control else victim.behind
        self.code = code_of([self.attack, recipe.student.network, *in_front])
        self.predicted_N: Tensor | None = None
        fresh = card.pool == "fresh" and not victim.fresh_pool and not self.attack.control
        self.vouched = fresh and config.assume_fresh
        answerable(victim, card, self.attack)
        if victim.kind == "attack" and victim.seed == recipe.seed:
            raise UsageError(
                f"the model is itself a student of seed {recipe.seed}: an attacker of that seed starts from its weights; "
                "take another --seed"
            )
        if fresh and not config.assume_fresh:
            raise UsageError(
                "nothing says which images the model and what it came from were trained on, so none are known to be fresh; if you "
                "know that it never saw those of data.pool, say so (--assume-fresh, assume_fresh=True)"
            )
        self.images = hold(data, card, self.attack, recipe.seed, victim)
        self.held = with_unqueried(data, card, self.attack, recipe.seed, self.images, victim)
        self.begun: dict[str, Any] = {}
        self.student = self._student().to(device)
        self.model = victim.model if isinstance(victim.model, BlackBox) else victim.model.to(device)
        self.oracle: Oracle | None = None
        self.diverged = ""

    def _student(self) -> Classifier:
        """The student as the attack begins: fresh weights, or public ones where the threat model starts from them."""
        student, seed = self.recipe.student, self.recipe.seed
        mean, std = self.images.moments() if len(self.images) else _moments_in(self.victim)  # not of the victim's data
        if self.card.start == "public":
            if student.weights is None:
                raise UsageError(
                    f"the threat model {self.card} starts from public weights: name them with student.weights"
                )
            known = replace(self.data, mean=tuple(mean), std=tuple(std))
            found, self.begun = begin(student.network, known, Path(student.weights), seed=seed, role="thief")
            return found
        if student.weights is not None:
            raise UsageError(
                f"the student has weights to start from, and the threat model {self.card} starts from random ones"
            )
        shape = (self.data.num_classes, self.images.channels, self.images.image_size)
        found = build(student.network, *shape, mean=mean, std=std, seed=seed, role="thief")
        if len(self.images):
            found.initialize(lambda count: self.images.seen(slice(count)))
        return found

    @property
    def fixed(self) -> dict[str, Any]:
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
        """Whether this attacker goes around output defenses because it holds the weights, though its attack only reads outputs."""
        return self.behind != self.victim.behind and self.access < Access.WEIGHTS and not self.attack.control

    def counts(self) -> dict[str, int]:
        """Queries made and outputs computed so far."""
        return {"queries": self.oracle.queries, "forwards": self.oracle.forwards} if self.oracle else {}

    def steps(self, state: State | None, before: dict[str, Any]) -> Iterator[EpochRecord]:
        """Train the student; numbers that are not finite end it without an error, for that too is a result.

        Raises:
            Broken: the attack failed with a RunError of its own; others' go through.
            RunError: the victim's answers are not finite.
        """
        budget = self.card.questions
        asked = before if budget is None else {}  # with a budget, a resumed attack repeats its few queries
        self.oracle = Oracle(
            self.model,
            self.access,
            budget=budget,
            bank=self.cache,
            precision=self.recipe.training.precision,
            behind=self.behind,
            top_k=self.card.top or TOP,
            digits=self.card.digits,
            seed=self.recipe.seed,
            **asked,
        )
        if self.access is Access.WEIGHTS and len(self.images):  # who holds the network queries it past the oracle
            finite_logits(self.victim.network, self.images, self.victim.described)
        more = {"held": self.held} if self.attack.uses_unqueried else {}
        try:
            for record in self.attack.steal(
                self.oracle, self.student, self.images, self.recipe, device=self.device, state=state, **more
            ):
                self.oracle.check()
                yield record
        except (Diverged, NotFinite) as error:
            self.oracle.check()  # outputs that are not finite are the victim's fault
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
            facts = {"victim": self.victim.id, "attack": self.attack.model_dump(mode="json"), "card": str(self.card)}
            origin = {"kind": "attack", "data": self.data.fingerprint, "seed": self.recipe.seed, "fresh_pool": False}
            title = f"{self.recipe.student.name}, a student of {self.victim.id}"
            if self.attack.control:
                title = f"{self.recipe.student.name}, trained alone"
            models.save(
                out / "model", self.student, self.data.train.class_names, models.model_card(title, facts), origin
            )
        cell = save(cells, cell, arrays)
        result = {"status": cell.status, "accuracy": cell.accuracy, "cell": cell.values()}
        if self.predicted_N is not None:
            served, predicted = top_class_cell(
                self.victim, self.data, self.asked.experiment, self.env, self.predicted_N
            )
            result["victim_accuracy"] = served.accuracy
            if (
                self.victim.recipe is None and not (cells / f"{served.id}.json").exists()
            ):  # no run folder has it as a cell
                save(cells, served, predicted)
        return result

    @property
    def id(self) -> str:
        """The cell's, from all that fixes its numbers."""
        dump, control = self.recipe.dump(), self.attack.control
        fixed = self.fixed | {
            "victim_id": "" if control else self.victim.id,
            "recipe": {key: dump[key] for key in ("training", "attack", "student", "seed")}
            | {"views": dump["data"]["views"]},
        }
        if isinstance(self.model, BlackBox) and isinstance(self.model.predict, Ledger) and not control:
            known = self.model.predict
            asked = self.held if self.attack.uses_unqueried else self.images
            chunks = [to_bytes(asked.seen(rows)).numpy() for rows in asked.chunks(batch_for(asked))]
            fixed["answers"] = known.digest(np.concatenate([pixels[known.holds(pixels)] for pixels in chunks]))
        return identify(fixed)

    def cell(self, metrics: list[dict[str, Any]]) -> Cell:
        """The cell, before anything was measured."""
        victim, recipe, control = self.victim, self.recipe, self.attack.control
        dump = recipe.dump()
        return Cell(
            id=self.id,
            kind="control" if control else "cell",
            experiment=self.asked.experiment,
            victim="none" if control else victim.label,
            victim_id="" if control else victim.id,
            defense={} if control else victim.defense,
            attack=self.attack.name,
            attack_settings=self.attack.settings,
            student=recipe.student.name,
            student_settings=recipe.student.network.settings | ({"weights": self.begun["id"]} if self.begun else {}),
            card=str(self.card),
            images=len(self.images),
            vouched=self.vouched,
            seeds={"student": recipe.seed} | ({} if control or victim.seed is None else {"victim": victim.seed}),
            n_test=len(self.data.test) if self.phase == "report" else 0,
            key=self.asked.key,
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
        if not self.attack.control:
            self.predicted_N = (
                self._served(test, self.victim.behind)
                if self.victim.behind and not isinstance(self.model, BlackBox)
                else top_class(self.model, test, ask=self.asked.ask_test, bank=self.cache)
            )
        if self.predicted_N is not None:
            numbers["agreement"] = accuracy(logits_NC, self.predicted_N)
        return {name: round(value, 6) for name, value in numbers.items()}

    def held_out(self) -> float | None:
        """The student's score on images that were neither trained on nor measured on; None without any."""
        found = [images for images in spare(self.data, self.held) if len(images)]
        right = count = 0
        for images in found:
            labels_N = self._truth(images)
            if labels_N is not None:
                right += int((predict(self.student, images).argmax(dim=1) == labels_N).sum())
                count += len(images)
        return round(100 * right / count, 6) if count else None

    def _truth(self, images: ImageSet) -> Tensor | None:
        """What a search may compare with: true labels if the attacker holds labels, else the victim's responses to it."""
        if self.attack.control or self.card.data == "labelled":
            return images.labels_N
        return (
            None if isinstance(self.model, BlackBox) else self._served(images, self.behind)
        )  # a function's answers may cost something

    def _served(self, images: ImageSet, behind: Sequence[AnswerDefense]) -> Tensor:
        """The victim's predicted classes behind these defenses; not counted as the attacker's queries."""
        oracle = Oracle(self.model, Access.LABEL, behind=behind, seed=self.recipe.seed)
        parts = [oracle.ask(images.seen(rows, self.device)).labels_B.cpu() for rows in images.chunks(batch_for(images))]
        return torch.cat(parts)


def _moments_in(victim: Victim) -> tuple[Sequence[float], Sequence[float]]:
    """What the network itself normalizes by: all that an attacker without images knows of pixels."""
    return victim.network.config["mean"], victim.network.config["std"]


def _named(logits_NC: Tensor) -> dict[str, Any]:
    return {"predicted": logits_NC.argmax(dim=1).numpy().astype(np.int16)}


def plan_recipe(
    recipe: Recipe,
    attack: str | dict[str, Any] | Attack | None = None,
    student: str | dict[str, Any] | Student | None = None,
    seed: int | None = None,
) -> Recipe:
    """The attacker's recipe: the victim's with the attack and the student in place, `training` the student's own.

    A recipe that the student names is resolved into `training` and named no more, so planning twice changes nothing.
    """
    if isinstance(student, str) and ":" in student:
        plugins.trust(student)
    values = with_seed(recipe, seed).dump()
    if attack is not None:
        values = component(values, "attack", attack)
    if student is not None:
        values = component(values, "student", student)
    return read(for_student(values))


def permit(attack: Attack, card: ThreatModel) -> Access:
    """The access that the oracle is opened with: what the attack reads, cut to what the threat model gives."""
    if attack.holds_images and card.data == "none":
        raise UsageError(f"{attack.name} learns from images, and the threat model {card} leaves the attacker none")
    if not attack.holds_images and card.data != "none":
        raise UsageError(
            f"{attack.name} makes its own images: take a threat model that holds none, such as data-free, not {card}"
        )
    if attack.uses_unqueried and not card.unqueried:
        raise UsageError(
            f"{attack.name} learns from images that are not queried, and the threat model {card} has none: write how many behind "
            "its budget, as in /50+1000"
        )
    if attack.needs is not None and attack.needs > card.access:
        raise UsageError(f"{attack.name} needs {attack.needs.label}; the threat model gives {card.access.label}")
    return min(attack.reads, card.access)


def answerable(victim: Victim, card: ThreatModel, attack: Attack) -> None:
    """UsageError where a black box cannot serve the threat model: it returns too little, or each view would be a query."""
    if not isinstance(victim.model, BlackBox) or attack.control:
        return
    if card.data == "none":
        raise UsageError(f"{victim.label} only answers: an attack without images needs the network itself")
    if card.access > victim.model.kind:
        raise UsageError(
            f"{victim.label} answers with {victim.model.kind.label}, the threat model gives {card.access.label}: take a lesser one"
        )
    if card.questions is None:
        raise UsageError(
            f"{victim.label} would be queried about every view of every image; take a threat model with a query budget, such as "
            f"{card.access.label}/{card.data}/{card.pool}/random/1000"
        )


def remembering(victim: Victim, path: Path) -> Victim:
    """The victim; where each answer may cost something, with a ledger at `path`, so that none is asked for twice."""
    box = victim.model
    if not isinstance(box, BlackBox) or isinstance(box.predict, Ledger):
        return victim
    answers = Answers(box.kind, box.num_classes, victim=victim.network_id)
    if path.suffix != ".parquet":
        raise UsageError(f"a query log is a Parquet file: call it {path.stem}.parquet")
    if path.is_file():
        kept = Answers.read(path, kind=box.kind, num_classes=box.num_classes)
        same_victim(kept, victim.network_id, path)
        if kept.num_classes != box.num_classes:
            raise UsageError(
                f"{path} holds answers for {kept.num_classes} classes, {victim.label} tells {box.num_classes} apart"
            )
        answers = replace(kept, victim=victim.network_id)
    return replace(victim, model=replace(box, predict=Ledger(answers, box, path)))


def top_class(
    victim: Classifier | BlackBox, images: ImageSet, *, ask: bool = False, bank: LogitCache | None = None
) -> Tensor | None:
    """N classes, what the victim says about each image; None for a black box that has not said it, unless it is to be asked.

    A `bank` spares a network from answering about the same images for each of its attacks.
    """
    if not isinstance(victim, BlackBox):
        name = f"the victim {victim.config['name']}"
        if bank is None or len(images) < 2:
            return finite_logits(victim, images, name).argmax(dim=1)
        device = next(victim.parameters(), torch.empty(0)).device
        recall = recalled(Frozen(victim), ImageBatches(images, 2, seed=0, role="test", device=device), 1, bank)
        return (finite_logits(victim, images, name) if recall is None else recall.of(0)).argmax(dim=1)
    parts = []
    for chunk in images.chunks(batch_for(images)):
        seen_BCHW = images.seen(chunk)
        ledger = victim.predict
        if (
            isinstance(ledger, Ledger)
            and not (ask and ledger.ask)
            and not ledger.holds(to_bytes(seen_BCHW).numpy()).all()
        ):
            return None
        parts.append(cut(victim.answer(seen_BCHW), Access.LABEL, given=victim.kind))
    return torch.cat(parts)


def hold(data: Splits, card: ThreatModel, attack: Attack, seed: int, victim: Victim | None = None) -> ImageSet:
    """The images an attacker holds under this threat model, drawn at (seed, "attack", "pick"); without labels where that has none.

    Of a closed victim only images that it has answered about can be held. Without data it is a set of 0 images, which
    still tells their classes, channels and size.
    """
    if card.data == "none":
        return data.train.take(torch.empty(0, dtype=torch.int64)).unlabelled()
    pool = data.train if card.pool == "trained" else data.pool
    if pool is None:
        raise UsageError(
            "the threat model wants fresh images that no victim has seen, none were set aside: train it anew with -s data.pool=…"
        )
    answered = _answered(pool, victim)
    if answered is not None:
        pool = pool.take(answered)
    count = round(card.share * len(pool)) if card.questions is None else card.questions
    if count + card.unqueried > len(pool):
        found = f"the {card.pool} pool has {len(pool)}" + (" with an answer" if answered is not None else "")
        more = f" and holds {card.unqueried} more" if card.unqueried else ""
        raise UsageError(f"the threat model queries {count} images{more}; {found}")
    if count < 2:
        raise UsageError(
            f"the threat model leaves the attacker {count} of {len(pool)} images; training needs at least 2"
        )
    if count < len(pool):
        picked = torch.randperm(len(pool), generator=generator(seed, "thief", "pick"))[:count]
        pool = pool.take(picked.sort().values)
    return pool if card.data == "labelled" or attack.control else pool.unlabelled()


def with_unqueried(
    data: Splits, card: ThreatModel, attack: Attack, seed: int, images: ImageSet, victim: Victim | None = None
) -> ImageSet:
    """All that an attacker holds: these images and those beyond its budget, drawn at (seed, "thief", "unqueried").

    Labels are for controls alone: one that chooses images to be labeled.
    """
    pool = data.pool if card.pool == "fresh" else data.train
    if not card.unqueried or pool is None:
        return images
    answered = _answered(pool, victim)
    pool = pool if answered is None else pool.take(answered)
    queried_N = torch.isin(pool.index_N, images.index_N)
    others = (~queried_N).nonzero().squeeze(1)
    picked = torch.randperm(len(others), generator=generator(seed, "thief", "unqueried"))[: card.unqueried]
    rows = torch.cat([queried_N.nonzero().squeeze(1), others[picked]])
    found = pool.take(rows.sort().values)
    return found if attack.control else found.unlabelled()


def spare(data: Splits, held: ImageSet) -> tuple[ImageSet, ...]:
    """Images to score a search on: the validation split, and the fresh images that the attacker does not hold. No test images."""
    found = [] if data.val is None else [data.val.take(torch.arange(min(SPARE, len(data.val))))]
    if data.pool is not None:
        unheld = (~torch.isin(data.pool.index_N, held.index_N)).nonzero().squeeze(1)
        found.append(data.pool.take(unheld[:SPARE]))
    return tuple(found)


def _answered(pool: ImageSet, victim: Victim | None) -> Tensor | None:
    """Rows of the pool that a closed victim has answered about; None for a victim that can be asked."""
    box = None if victim is None else victim.model
    if not isinstance(box, BlackBox) or not isinstance(box.predict, Ledger) or box.predict.ask is not None:
        return None
    known = [box.predict.knows(to_bytes(pool.seen(chunk)).numpy()) for chunk in pool.chunks(batch_for(pool))]
    return torch.from_numpy(np.concatenate(known)).nonzero().squeeze(1)
