"""`protect`: a protected version of a trained classifier, into a run folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from undistill.data import Splits
from undistill.defenses.base import Start, TrainedDefense
from undistill.errors import Diverged, UsageError
from undistill.models import Classifier
from undistill.models.base import FIXED
from undistill.oracle.logit_cache import LogitCache
from undistill.oracle.victim import Victim, finite_logits, resolve
from undistill.training.environment import begin_on, describe
from undistill.training.evaluate import accuracy, predict
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import Recipe, component, read
from undistill.training.run_folder import Run, Watch, drive
from undistill.training.train import conclude, fresh, of_data, with_seed


def protect(
    model: str | Path | Run | Victim,
    data: Splits,
    defense: str | dict[str, Any] | TrainedDefense | None = None,
    *,
    adversary: str | Path | Run | Victim | None = None,
    start_from: Start | None = None,
    recipe: str | Path | dict[str, Any] | Recipe | None = None,
    seed: int | None = None,
    out: str | Path,
    accept_accuracy: bool = False,
    resume: bool = False,
    device: str = "auto",
    bank: LogitCache | None = None,
    watch: Watch | None = None,
) -> Run:
    """Harden a network of `model`'s architecture.

    Args:
        model: the trained teacher: a run folder, a model folder, or what `train` returned.
        data: what it was trained on.
        defense: a name, `{name: …, …}` or a record; None for the recipe's.
        adversary: the frozen network to be pushed away from; None for `model` itself, as in the paper.
        start_from: `scratch` trains fresh weights on the full schedule, as in the paper; `teacher` starts from `model`'s; None for
            what the defense usually does.
        recipe: None for the recipe that `model` was trained by.
        seed: None for the recipe's. The hardened network never shares initial weights with its teacher.
        out: run folder.
        accept_accuracy: go on with a teacher whose accuracy cannot be that of a classifier of these data (`Victim.plausible`).
        resume: go on with an unfinished run there.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        bank: keeps the adversary's answers for the next hardening with the same seed; None keeps nothing.
        watch: told each epoch.

    Raises:
        UsageError: settings, data or networks that do not fit, a teacher near chance.
        RunError: answers of the teacher or the adversary that are not finite.
        Diverged: the loss was not finite; the last good epoch is kept in `out`.
    """
    teacher = resolve(model, data)
    teacher.check(data)
    pushed_from = teacher if adversary is None else resolve(adversary, data)
    pushed_from.check(data)
    chosen = _recipe(teacher, data, recipe, seed, defense)
    start_from = beginning(chosen.defense, start_from)
    if teacher.kind == "protect" and teacher.seed == chosen.seed and start_from == "scratch":
        raise UsageError(
            f"the model was itself hardened at seed {chosen.seed} and began with these weights; choose another --seed"
        )
    unseen = all(v.fresh_pool and v.data_fingerprint == data.fingerprint for v in (teacher, pushed_from))
    where = begin_on(device)
    for victim in (teacher, pushed_from)[: 1 if adversary is None else 2]:
        victim.network.to(where)
        victim.plausible(data, accept=accept_accuracy)
    network = _network(teacher, data, chosen, start_from)
    network.to(where).requires_grad_(True)
    frozen = copy.deepcopy(pushed_from.network).to(where)
    config = {
        "kind": "protect",
        "data_fingerprint": data.fingerprint,
        "defense": chosen.defense.model_dump(mode="json"),
        "start_from": start_from,
        "teacher_id": teacher.id,
        "adversary_id": pushed_from.id,
        "recipe": chosen.dump(),
    }

    def steps(state: State | None, _: dict[str, Any]) -> Iterator[EpochRecord]:
        try:
            yield from chosen.defense.harden(network, frozen, data.train, chosen, device=where, state=state, bank=bank)
        except Diverged:
            finite_logits(frozen, data.train, pushed_from.described)  # says so where that is why
            raise

    def finish(metrics: list[dict[str, Any]]) -> dict[str, Any]:
        before = predict(teacher.network.to(where), data.test)
        facts = {
            "seed": chosen.seed,
            "defense": config["defense"],
            "teacher_id": teacher.id,
            "adversary_id": pushed_from.id,
            "teacher_accuracy": round(accuracy(before, data.test.labels_N), 6),
        }
        return conclude(Path(out), network, data, metrics, facts, "protect", fresh_pool=unseen)

    return drive(
        Path(out),
        config,
        describe(where, chosen.training.precision),
        steps,
        finish,
        resume=resume,
        measure=chosen.defense.validator(network, data),
        watch=watch,
    )


def beginning(defense: TrainedDefense, start_from: str | None) -> Start:
    """What the hardening starts from: as asked, or the defense's own way; UsageError for one that it cannot."""
    if start_from not in ("scratch", "teacher", None):
        raise UsageError(f"hardening starts from scratch or from the teacher, not from {start_from!r}")
    if start_from is not None and start_from not in defense.starts:
        raise UsageError(f"{defense.name} starts from {' or '.join(defense.starts)} alone, not from {start_from}")
    return defense.starts[0] if start_from is None else start_from


def _recipe(
    teacher: Victim,
    data: Splits,
    recipe: str | Path | dict[str, Any] | Recipe | None,
    seed: int | None,
    defense: str | dict[str, Any] | TrainedDefense | None,
) -> Recipe:
    """How the network is hardened: as `recipe` or the teacher's has it, with the teacher's architecture."""
    source = teacher.recipe if recipe is None else recipe
    if source is None:
        raise UsageError("the model brings no recipe; name one with --config, such as finetune")
    network = {key: value for key, value in teacher.network.config.items() if key not in FIXED}
    if network["name"].startswith("("):
        raise UsageError(
            "a bare module could not be saved and built again: give a package.module:callable that makes it"
        )
    values = {**of_data(with_seed(read(source), seed), data).dump(), "model": network}
    return read(values if defense is None else component(values, "defense", defense))


def _network(teacher: Victim, data: Splits, chosen: Recipe, start_from: Start) -> Classifier:
    """The network before it is hardened: fresh, or a copy of the teacher."""
    if start_from != "scratch":
        return copy.deepcopy(teacher.network)
    network = fresh(chosen.model, data, seed=chosen.seed, role="nasty")
    if _same_weights(network, teacher.network):
        raise UsageError(
            f"{chosen.model.name} comes with the teacher's weights whenever it is made, so nothing starts from scratch: start "
            "from the teacher"
        )
    return network


def _same_weights(network: Classifier, teacher: Classifier) -> bool:
    ours, theirs = dict(network.named_parameters()), dict(teacher.named_parameters())
    return all(name in theirs and torch.equal(value, theirs[name]) for name, value in ours.items())
