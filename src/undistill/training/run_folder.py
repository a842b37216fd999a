"""Run folders: one training each, resumable, never half-written.

`config.yaml` is written first and `result.json` last: a folder that has it is finished. Between them `checkpoint/` holds the last
whole epoch. The folder is locked while a process works in it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from undistill import ranks
from undistill.errors import RunError, UsageError
from undistill.files import QUERY_LOG, checked, locked, read_json, sweep, unchecked, write_json, write_text, writing
from undistill.models import Classifier
from undistill.models import model_folder as models
from undistill.training import checkpoint
from undistill.training.environment import chosen as told
from undistill.training.loop import EpochRecord, State
from undistill.training.recipe import SCHEMA, Recipe
from undistill.training.recipe import read as read_recipe

log = logging.getLogger(__name__)
Watch = Callable[[EpochRecord, dict[str, Any]], None]
"""Told each epoch's record and its line in `metrics.jsonl`."""
MOVING = ("threads", "processes", "instructions", "processor", "device", "precision", "torch")
"""What moves the last bits of a run that goes on with other ones."""


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a finished run; UsageError for one that is missing, unfinished or of a newer schema."""
        folder = Path(folder)
        config = read_config(folder)
        if not (folder / "result.json").exists():
            raise UsageError(f"{folder} is not finished; the command that began it goes on")
        return cls(folder, config, read_json(folder / "result.json"))

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe; UsageError for one that is damaged, or that names what is not there."""
        try:
            return read_recipe(self.config["recipe"])
        except UsageError as error:
            raise UsageError(f"{self.folder / 'config.yaml'}: {error}") from error

    @property
    def accuracy(self) -> float:
        """Top-1 on the test split, percent."""
        return self.result["accuracy"]

    def model(self) -> Classifier:
        """The trained network, in evaluation mode, on the CPU."""
        return models.read(self.folder / "model")[0]

    def metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch."""
        return read_metrics(self.folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings a run folder was begun with; UsageError where there are none."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{folder} is no run folder: it has no config.yaml")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    config = unchecked(config, path)
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), dict):
        raise RunError(f"{path} is damaged: it holds no recipe")
    models.check_schema(config.get("schema"), SCHEMA, path)
    return config


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of `metrics.jsonl`; a line cut short by a kill is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return records


def begun(folder: Path) -> bool:
    """Whether a run was begun in this folder; UsageError for a file, and for a folder that holds something else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder with -o")
    if (folder / "config.yaml").exists():
        return True
    others = [
        path.name for path in folder.iterdir() if not path.name.startswith(".") and not QUERY_LOG.fullmatch(path.name)
    ]
    if others:
        raise UsageError(f"{folder} is no run folder and holds {others[0]!r}; choose another one with -o")
    return False


def existing(folder: Path, config: dict[str, Any], *, resume: bool) -> Run | None:
    """The finished run of these very settings, or None where there is work to do.

    Raises:
        UsageError: something is there and `resume` was not asked for, or it was begun with other settings (named).
    """
    if not begun(folder):
        return None
    if not resume:
        raise UsageError(f"{folder} holds a run already: go on with it (resume=True) or choose another folder")
    _same(folder, read_config(folder), {**config, "schema": SCHEMA})
    return Run.open(folder) if (folder / "result.json").exists() else None


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """UsageError where the run in this folder was begun with another recipe, before its data are read.

    The data and the network are left out: what they really are is known once they are read.
    """
    late = ("data", "model")
    old, new = (
        {"recipe": {name: value for name, value in values.items() if name not in late}}
        for values in (read_config(folder)["recipe"], recipe.dump())
    )
    _same(folder, old, new)


def _same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """UsageError that names the settings which differ, if any do."""
    changed = list(_differences(old, new))
    if changed:
        raise UsageError(
            f"{folder} was begun with other settings: {'; '.join(changed[:3])}; use those, choose another folder, or discard "
            "what is there with --fresh"
        )


def drive(
    folder: Path,
    config: dict[str, Any],
    env: dict[str, Any],
    steps: Callable[[State | None, dict[str, Any]], Iterator[EpochRecord]],
    finish: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    resume: bool = False,
    extra: Callable[[], dict[str, Any]] = dict,
    measure: Callable[[], dict[str, float]] = dict,
    watch: Watch | None = None,
) -> Run:
    """Work in a run folder until it is finished: train, log and checkpoint each epoch, then write the result.

    Args:
        folder: where; locked meanwhile.
        config: all that fixes the numbers, `recipe` among it.
        env: what they are computed with.
        steps: given the state to resume from (or None) and what `extra` returned with it, yields epoch records.
        finish: given all metrics, writes what belongs to the result and returns `result.json`.
        resume: go on with what is there.
        extra: small JSON values to keep with each checkpoint, such as questions asked.
        measure: numbers to log behind each epoch, such as validation accuracy.
        watch: told each epoch.

    Returns:
        The finished run; at once where it was finished before. Of several processes that train together the first does all this;
        the others take their part of the steps, read the same folder, and wait for its result.
    """
    if ranks.number():
        return _follow(folder, steps)
    with locked(folder):
        done = existing(folder, config, resume=resume)
        sweep(folder)
        if done is not None:
            ranks.once(lambda: torch.tensor(FINISHED))
            return done
        write_text(folder / "config.yaml", yaml.safe_dump(checked({"schema": SCHEMA, **config}), sort_keys=False))
        kept = checkpoint.load(folder / "checkpoint")
        state, before = (None, {}) if kept is None else kept
        epoch = 0 if state is None else state["epoch"]
        if state is not None and (folder / "env.json").exists():
            earlier = read_json(folder / "env.json")
            if {**earlier, "before": None} != {**env, "before": None}:  # other threads or versions move the last bits
                old, new = {"processes": 1, **earlier}, {"processes": 1, **env}
                moved = [f"{n} {old[n]} → {new[n]}" for n in MOVING if n in old and old[n] != new.get(n)]
                if moved:
                    log.info(
                        "goes on behind epoch %d with other %s: the last digits may differ from an uninterrupted run's",
                        epoch,
                        ", ".join(moved),
                    )
                env = {**env, "before": [*earlier.pop("before", []), {**earlier, "epochs": epoch}]}
        write_json(folder / "env.json", env)
        log.info(told(env))
        ranks.once(lambda: torch.tensor(epoch))
        metrics = [line for line in read_metrics(folder) if line["epoch"] <= epoch]
        write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))
        for record in steps(state, before):
            line = {
                "epoch": record.epoch,
                "lr": record.lr,
                "images": record.images,
                "seconds": round(record.seconds, 4),
            }
            with ranks.alone():
                measured = measure()
            line |= {name: round(value, 6) for name, value in (record.terms | measured).items()}
            metrics.append(line)
            with writing(folder / "metrics.jsonl"), (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            checkpoint.save(folder / "checkpoint", record.state, extra())
            if watch is not None:
                watch(record, line)
        with ranks.alone():
            result = {"schema": SCHEMA, **finish(metrics)}
        write_json(folder / "result.json", checked(result))
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        ranks.meet()
        return Run(folder, {"schema": SCHEMA, **config}, result)


FINISHED = -1
"""What the first process tells the others instead of an epoch, where there is nothing left to do."""


def _follow(folder: Path, steps: Callable[[State | None, dict[str, Any]], Iterator[EpochRecord]]) -> Run:
    """What `drive` is in the other processes. RunError where the folder that they see is not the first one's."""
    epoch = int(ranks.once(lambda: torch.tensor(FINISHED)))
    if epoch != FINISHED:
        kept = checkpoint.load(folder / "checkpoint")
        found = 0 if kept is None else kept[0]["epoch"]
        if found != epoch:
            raise RunError(
                f"{folder} is not the folder of the first process: {found} epochs instead of {epoch}; share it"
            )
        for _ in steps(*((None, {}) if kept is None else kept)):
            pass
        ranks.meet()
    return Run.open(folder)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Settings that differ, as `training.epochs was 2, now 3`. Where the data lie does not count: their fingerprint does."""
    if path in ("recipe.data.dir", "recipe.training.channels_last"):  # the layout was a setting once
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif json.dumps(old) != json.dumps(new):
        yield f"{path.removeprefix('recipe.')} was {old}, now {new}"
