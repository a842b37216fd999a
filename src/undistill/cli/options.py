"""Every option of every verb, once: its group, flags and help; and the record of those that verbs share."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from undistill import ranks
from undistill.cli.help import ACCESS, DATA, JOB, MODELS, MORE, RUNNING, Verb, examples
from undistill.errors import UsageError
from undistill.paper.experiments import NAMES

if TYPE_CHECKING:
    from undistill.experiments.executors import Executor
    from undistill.oracle.logit_cache import LogitCache

Function = TypeVar("Function", bound=Callable[..., None])
BANK_GB = 10.0
"""What the logit cache holds at most, unless told otherwise; `LogitCache` has the same number, but comes with torch."""
TYPED = ("model.name=", "student.name=")
"""Settings that may name code: a user who types one trusts it."""
MODEL = "a run folder, a model folder, timm:NAME@weights, torchvision:NAME@weights, package.module:callable"
OPTIONS: dict[str, tuple[str, str, str | None, str]] = {
    # the job
    "out": (JOB, "--out -o", "DIR", "Folder to write to."),
    "fresh": (JOB, "--fresh", None, "Discard what is in the folder and start anew; else go on."),
    "resume": (JOB, "--resume", None, ""),
    "dry_run": (JOB, "--dry-run", None, "Print what would be done and stop; write nothing."),
    "config": (
        *(JOB, "--config -c", "RECIPE"),
        "Recipe: a YAML file or a name from `undistill list recipes`.  [default: that of the model or data]",
    ),
    "sets": (JOB, "--set -s", "A.B=VALUE", "Change a setting of the recipe; repeatable."),
    "seed": (JOB, "--seed", "N", "Seed of weights, order and augmentation.  [default: the recipe's, usually 0]"),
    "defense": (
        *(JOB, "--defense", "NAME"),
        "A name from `undistill list defenses`.  [default: the recipe's, usually nasty]",
    ),
    "start_from": (JOB, "--start-from", "WEIGHTS", "scratch or teacher.  [default: the defense's own way]"),
    "attack": (JOB, "--attack", "NAME", "A name from `undistill list attacks`.  [default: the recipe's, usually kd]"),
    "demo.seed": (JOB, "--seed", "N", "Another seed shares no teacher and no draw."),
    "demo.teachers": (JOB, "--teachers", "N", "Pairs of a normal and a nasty teacher."),
    "draws": (JOB, "--draws", "N", "Draws of query images against each pair."),
    "quick": (JOB, "--quick", None, "One pair, one draw, a few steps: does everything run?"),
    "scale": (
        *(JOB, "--scale", "NAME"),
        "smoke (minutes), small (hours), laptop (a night), laptop-resnet18, small-paper-card or paper (a GPU).",
    ),
    "reproduce.seeds": (JOB, "--seeds", "N", "How many seeds; directions are judged from 3 on."),
    "reproduce.seed": (JOB, "--seed", "N", "The first seed."),
    "only": (JOB, "--only", "CELL", "Only the cells that match, as in 'table1/*/CNN/*'; repeatable."),
    "on": (JOB, "--on", "GPU", "With --dry-run: the time there, h200.  [default: this machine]"),
    "recipe": (JOB, "--recipe", "NAME", "At paper scale: paper, or fast (a fifth of the epochs)."),
    "reproduce.out": (JOB, "--out -o", "DIR", "Folder to write to.  [default: runs/reproduction/SCALE]"),
    "report.out": (JOB, "--out -o", "DIR", "Folder to write to.  [default: report in the first one]"),
    "cache.kind": (JOB, "--kind", "KIND", "images or logits.  [default: both]"),
    "prune": (JOB, "--prune", None, "Remove it; what is needed is decoded or computed again."),
    "import.source": ("", "", "SOURCE", "A state dict (.safetensors, .pt, .pth, .tar) or a checkpoint's folder."),
    "report.folders": ("", "", "DIR…", "Folders that hold cells."),
    "compare.folders": ("", "", "DIR…", "Folders of audits."),
    "gate.folders": ("", "", "DIR…", "Folders of audits, or packed evidence."),
    "max_relative_accuracy": (
        *(JOB, "--max-relative-accuracy", "SHARE"),
        "Largest accuracy of an extracted model that is accepted, as a share of the model's own.",
    ),
    "at": (JOB, "--at", "N", "Query budget that counts.  [default: every one that was audited]"),
    "gate.access": (JOB, "--access", "NAME", "Output access that counts, as in top1.  [default: every one]"),
    "format": (JOB, "--format", "NAME", "text, markdown (a comment), junit, sarif or json."),
    "gate.out": (JOB, "--out -o", "FILE", "File to write to.  [default: print]"),
    "serve.model": ("", "", "MODEL", "A run or model folder."),
    "serve.access": (ACCESS, "--access", "NAME", "What responses show: probs, top5:2, top1, label or logits."),
    "serve.name": (JOB, "--name", "NAME", "Of the model, in its URL.  [default: the folder's]"),
    "host": (JOB, "--host", "NAME", "Address to listen at; 0.0.0.0 is every one of this machine."),
    "port": (JOB, "--port", "N", "Port; 0 for any that is free."),
    "batch": (RUNNING, "--batch", "N", "Images of a request, at most."),
    "rate": (RUNNING, "--rate", "N", "Images a second, all users together; more get 429.  [default: any]"),
    "list.kind": (
        *("", "", "KIND"),
        "attacks, defenses, output-defenses, models, data, views, optimizers, schedules, executors, recipes or "
        "threat-models.  "
        "[default: all]",
    ),
    "pack.folder": ("", "", "DIR", "Folder of a finished study: an audit, several that share cells, a reproduction."),
    "pack.out": (JOB, "--out -o", "FILE", "File to write.  [default: evidence/DIR.parquet]"),
    "file": ("", "", "FILE", "A file of `undistill evidence pack`."),
    "files": ("", "", "FILE…", "Packed studies, or folders of them.  [default: those in evidence]"),
    "cell": ("", "", "ID", "The cell's id, or its first letters."),
    "names": ("", "", "NAME…", f"Of {', '.join(NAMES)}, all."),
    # data
    "data": (DATA, "--data", "DATA", "digits, cifar10, …, a folder of class folders, or a hub id."),
    "data_dir": (
        *(DATA, "--data-dir", "DIR"),
        "Local copy to read instead of a download: the data set's folder, or the folder above it.",
    ),
    "pool": (
        *(DATA, "--pool", "N"),
        "Training images set aside as a fresh query pool: a number, or a share below 1.  [default: the data's]",
    ),
    "size": (DATA, "--size", "PIXELS", "Side of the images that networks see.  [default: the data's]"),
    "image_column": (DATA, "--image-column", "NAME", "Column of the images.  [default: found]"),
    "label_column": (DATA, "--label-column", "NAME", "Column of the classes.  [default: found]"),
    "memory_limit": (
        *(DATA, "--memory-limit", "SIZE"),
        "Above this decoded size, the data set stays encoded on disk, as in 200MB.  [default: 4GB]",
    ),
    "skip_corrupt": (DATA, "--skip-corrupt", None, "Leave unreadable images out."),
    "import.data": (
        *(DATA, "--data", "DATA"),
        "The model's data, a name, a folder or a hub id: accuracy is measured on its test images.",
    ),
    "classes": (DATA, "--classes", "FILE", "Text file of class names, one a line, in the order of the outputs."),
    "class_order": (
        *(DATA, "--class-order", "NUMBERS"),
        "For each output the class of the data that it stands for, from 0: 0,1,10,11,2.",
    ),
    # models
    "protect.model": ("", "", "MODEL", f"The trained teacher: {MODEL}."),
    "attack.model": ("", "", "MODEL", f"The victim: {MODEL}, answers.parquet."),
    "train.model": (
        *(MODELS, "--model", "NETWORK"),
        "A name from `undistill list models`, or package.module:callable.  [default: the recipe's]",
    ),
    "weights": (
        *(MODELS, "--weights", "PATH"),
        "Weights to fine-tune: a run or model folder, .safetensors, .pt or .pth.  [default: random]",
    ),
    "adversary": (
        *(MODELS, "--adversary", "MODEL"),
        "Network whose outputs the defense moves away from.  [default: MODEL itself]",
    ),
    "student": (
        *(MODELS, "--student", "NETWORK"),
        "The attacker's network, a name from `undistill list models`.  [default: the recipe's]",
    ),
    "name": (MODELS, "--name", "NAME", "What reports call MODEL."),
    "accept_accuracy": (
        *(MODELS, "--accept-accuracy", None),
        "Go on with a MODEL whose accuracy is near chance or below the recorded one.",
    ),
    "plugin": (MODELS, "--plugin", "FILE", "Python file with components of your own; repeatable."),
    "trust": (MODELS, "--trust", "MODULE:CALLABLE", "Code or endpoint that a file may use; repeatable."),
    "import.model": (MODELS, "--model", "NETWORK", "Network of a plain state dict."),
    "accuracy": (
        *(MODELS, "--accuracy", "PERCENT"),
        "Its accuracy as its author states it, to compare with.",
    ),
    "import.sets": (
        MODELS,
        "--set -s",
        "NAME=VALUE",
        "A setting of that network (stem=7x7) or of --data (data.val=0).",
    ),
    "import.size": (MODELS, "--size", "PIXELS", "Side of the images it takes."),
    "channels": (MODELS, "--channels", "N", "1 (grey) or 3."),
    "mean": (
        *(MODELS, "--mean", "NUMBERS"),
        "The normalization it was trained with: 0.49,0.48,0.45, or none (it takes pixels in [0, 1] as they are), data (the "
        "moments of --data), imagenet. timm's and torchvision's networks have a published one.",
    ),
    "std": (MODELS, "--std", "NUMBERS", "Beside a --mean of numbers: 0.25,0.24,0.26."),
    # output access and budget
    "threat_model": (
        *(ACCESS, "--threat-model", "NAME"),
        "paper, api, data-free, or written out: access/data/pool/start/queries, as in probs/unlabelled/fresh/random/50+1000.",
    ),
    "outputs": (
        *(ACCESS, "--outputs", "KIND"),
        "What a function or endpoint returns: logits, probs, topk or label.",
    ),
    "assume_fresh": (
        *(ACCESS, "--assume-fresh", None),
        "Assert, unverified, that MODEL was not trained on the query pool.",
    ),
    "query_test": (
        *(ACCESS, "--query-test", None),
        "Query a function or endpoint on the test images too, for its accuracy and the student's fidelity.",
    ),
    "query_log": (
        *(ACCESS, "--query-log", "FILE"),
        "Keeps the responses of a function or endpoint; attacks that share it pay once.  [default: answers.parquet in DIR]",
    ),
    # an audit
    "all.model": (
        *("", "", "MODEL"),
        "A run or model folder, timm:NAME@weights, FILE.py:callable, https://…; none with --method.",
    ),
    "control": (JOB, "--control", "MODEL", "The same network without the defense; whether a defense helps needs one."),
    "suite": (JOB, "--suite", "NAME", "timed (adds seeds), quick (minutes, fixed), standard (search, verdicts)."),
    "time": (JOB, "--time", "TIME", "Add seeds for this long: 90s, 10m, 2h.  [default: 10m]"),
    "all.out": (JOB, "--out -o", "DIR", "Folder to write to.  [default: runs/audit-NAME of MODEL]"),
    "all.name": (JOB, "--name", "NAME", "What reports call MODEL.  [default: MODEL's own name]"),
    "access": (
        *(ACCESS, "--access", "NAMES"),
        "Output accesses, by comma: probs, top5:2, top1, label, logits, weights.  [default: probs,top1,label,weights]",
    ),
    "queries": (
        *(ACCESS, "--queries", "NUMBERS"),
        "Query budgets, by comma.  [default: 1/8, 1/4 and 1/2 of the pool]",
    ),
    "unqueried": (
        *(ACCESS, "--unqueried", "N"),
        "Images that attackers hold beyond those they query; baselines get them, too.",
    ),
    "output_defense": (
        *(ACCESS, "--output-defense", "NAME"),
        "Changes MODEL's outputs: stingy, 'rounding digits=1'; repeatable.",
    ),
    "all.threat_model": (
        *(ACCESS, "--threat-model", "NAME"),
        "The attacker's images: unlabelled/fresh, labelled/fresh, paper.",
    ),
    "all.outputs": (ACCESS, "--outputs", "KIND", "What a function or endpoint returns: logits, probs, topk, label."),
    "students": (
        *(MORE, "--students", "NETWORKS"),
        "Attackers' networks: cnn:0.5,resnetc20.  [default: MODEL's own architecture]",
    ),
    "extra_attack": (MORE, "--extra-attack", "NAME", "Try this attack too; repeatable."),
    "public": (MORE, "--public", "WEIGHTS", "Weights that attackers start from."),
    "seeds": (MORE, "--seeds", "N", "Fix the number of seeds.  [default: as many as --time allows]"),
    "steps": (MORE, "--steps", "N", "Training steps of an attacker.  [default: 400, or 1500 above 16 pixels]"),
    "delta": (MORE, "--delta", "POINTS", "Smallest difference that matters.  [default: 0.5 to 2, by test images]"),
    "method": (MORE, "--method", "DEFENSE", "Audit a defense on teachers that are trained for it."),
    "teachers": (MORE, "--teachers", "N", "How many, with --method."),
    "cell.threads": (RUNNING, "--threads", "N", "CPU threads."),
    "cells": (RUNNING, "--cells", "DIR", "Cells that audits share.  [default: DIR/cells]"),
    "folder": ("", "", "DIR", "Folder of an audit."),
    "run.folder": ("", "", "DIR", "Folder with a plan: an audit, a reproduction or a demo."),
    "run.threads": (RUNNING, "--threads", "N", "CPU threads of a single cell."),
    "plan_only": (JOB, "--plan", None, "Write the plan and stop; `undistill run DIR` computes it."),
    "key": ("", "", "KEY", "The cell's key, or its first letters."),
    "index": (JOB, "--index", "N", "The cell's place in the plan, from 0."),
    # running
    "jobs": (RUNNING, "--jobs", "N", "Cells at a time.  [default: 1 a core, 1 on CUDA; ray: what fits; slurm: 500]"),
    "executor": (
        *(RUNNING, "--executor", "NAME"),
        "Where cells run: local, ray or slurm, with settings: 'slurm partition=gpu gpus=1'.",
    ),
    "progress": (RUNNING, "--progress", "FORM", "line, or json: a line of JSON for each cell that ended."),
    "device": (RUNNING, "--device", "NAME", "auto, cpu, cuda or cuda:N."),
    "threads": (
        *(RUNNING, "--threads", "N"),
        "CPU threads; the same number gives the same bits.  [default: OMP_NUM_THREADS, or chosen]",
    ),
    "precision": (RUNNING, "--precision", "NAME", "fp32, bf16 or auto.  [default: the recipe's]"),
    "cache": (RUNNING, "--cache", "DIR", "Folder of the logit cache.  [default: in the user's cache folder]"),
    "cache_limit": (RUNNING, "--cache-limit", "GB", "Its largest size; 0 turns it off."),
    "open_page": (RUNNING, "--open", None, "Open the page in a browser."),
    "as_json": (RUNNING, "--json", None, "Print the result as JSON."),
    "quiet": (RUNNING, "--quiet -q", None, "Print warnings and the result only."),
    "verbose": (RUNNING, "--verbose -v", None, "Print tracebacks with errors."),
}
"""(group, flags, what its value is called, help) by the name of the parameter, or VERB.NAME where a verb has its own;
without flags it is an argument."""
DIVIDED = ("train", "protect", "attack")
"""Verbs whose training several processes share."""
SAME = {"plan": "all"}
"""Verbs whose options are those of another."""
RANGES: dict[str, dict[str, Any]] = {
    "jobs": {"min": 1},
    "threads": {"min": 1},
    "resume": {"hidden": True},
    "steps": {"min": 1},
    "port": {"min": 0, "max": 65535},
    "batch": {"min": 1, "max": 65536},
    "rate": {"min": 1e-6},
    "teachers": {"min": 1},
    "index": {"min": 0},
}


@dataclass(frozen=True)
class Options:
    """What `train`, `protect` and `attack` take alike."""

    config: str | None = None
    sets: list[str] | None = None
    seed: int | None = None
    dry_run: bool = False
    data: str | None = None
    data_dir: Path | None = None
    pool: float | None = None
    size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    memory_limit: str | None = None
    skip_corrupt: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int | None = None
    precision: str | None = None
    cache: Path | None = None
    cache_limit: float = BANK_GB
    plugin: list[Path] | None = None
    trust: list[str] | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def changes(self) -> list[str]:
        """What the options change in a recipe, as settings; `--set`, said last, wins."""
        folder = self.data is not None and Path(self.data).expanduser().is_dir()
        where = self.data if folder else local_copy(self.data, self.data_dir)
        given: dict[str, Any] = {
            "data.name": "folder" if folder else self.data,
            "data.dir": None if where is None else str(Path(where).expanduser().resolve()),
            "data.image_column": self.image_column,
            "data.label_column": self.label_column,
            "data.size": self.size,
            "data.pool": int(self.pool) if self.pool is not None and self.pool.is_integer() else self.pool,
            "data.skip_corrupt": self.skip_corrupt or None,
            "training.precision": self.precision,
            "seed": self.seed,
        }
        return [
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items() if value is not None
        ] + (self.sets or [])

    def begin(self, *typed: str | None) -> None:
        """Import plugins, trust the code that was named in the command itself, and check what needs no recipe.

        Raises:
            UsageError: a device that is not there, a limit of the logit cache below 0.
        """
        from undistill import plugins
        from undistill.data.encoded import VARIABLE, limit
        from undistill.training.environment import begin_on

        if self.memory_limit is not None:
            limit(self.memory_limit)
            os.environ[VARIABLE] = self.memory_limit  # for the processes that it starts, too
        use_plugins(self.plugin)
        named = [change.partition("=")[2] for change in self.sets or [] if change.startswith(TYPED)]
        named += [name for name in typed if name is not None]
        for name in [*(self.trust or []), *(name for name in named if ":" in name)]:
            plugins.trust(name.strip("\"'"))
        begin_on(self.device)
        self.open_bank()

    def open_bank(self) -> LogitCache:
        """The logit cache, checked."""
        from undistill.oracle.logit_cache import LogitCache

        return LogitCache.of(self.cache, self.cache_limit)

    def use_threads(self) -> None:
        """Use as many CPU threads as were asked for, if a number was."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


def local_copy(data: str | None, folder: Path | None) -> Path | None:
    """Where a data set is in `--data-dir`: in the folder of its name below that, or else in that folder itself.

    Raises:
        UsageError: there is no such folder, or it is empty.
    """
    if folder is None:
        return None
    home = folder.expanduser()
    if data is not None and home.joinpath(data).is_dir():
        home = home / data
    if not home.is_dir():
        raise UsageError(f"--data-dir: there is no folder at {folder}")
    if not any(home.iterdir()):
        raise UsageError(f"--data-dir: {home} is empty")
    return home


def executor_that_works(text: str) -> Executor:
    """An executor by its shell text; UsageError where there is none, or what it needs is not installed."""
    from undistill.experiments.executors import executor_of

    executor = executor_of(text)
    executor.check()
    return executor


def use_plugins(files: list[Path] | None) -> None:
    """Import these files."""
    from undistill import plugins

    for file in files or []:
        plugins.load_plugin(file)


def verb(
    app: typer.Typer, group: str, *lines: str, name: str | None = None, cls: type[Verb] = Verb, after: str = ""
) -> Callable[[Function], Function]:
    """Make a function a command: its parameters, and the fields of its records, are options as `OPTIONS` has them.

    Args:
        app: the tool, or a group of commands.
        group: of the list of commands.
        lines: examples at the end of its help.
        name: of the command, where the function's own is taken by Python.
        cls: how it lists its options.
        after: what follows the examples.
    """

    def made(function: Function) -> Function:
        called = name or function.__name__
        types = get_type_hints(function)
        own = list(inspect.signature(function).parameters.values())
        records: dict[str, Any] = {p.name: types[p.name] for p in own if is_dataclass(types[p.name])}
        parts = {key: [field.name for field in fields(record)] for key, record in records.items()}

        @wraps(function)
        def run(**given: Any) -> None:
            if ranks.started() > 1 and called not in DIVIDED:
                raise UsageError(
                    "torchrun divides one training (train, protect, attack); --executor and --jobs divide a study's cells"
                )
            made = {key: records[key](**{part: given.pop(part) for part in parts[key]}) for key in records}
            function(**given, **made)

        shown = [(p.name, types[p.name], p.default) for p in own if p.name not in records]
        for record in records.values():
            hints = get_type_hints(record)
            shown += [(field.name, hints[field.name], field.default) for field in fields(record)]
        parameters = [_parameter(called, *each) for each in shown]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        epilog = examples(*lines) + after if lines else None
        app.command(called, cls=cls, rich_help_panel=group, epilog=epilog)(run)
        return function

    return made


def _parameter(command: str, name: str, kind: Any, default: Any) -> inspect.Parameter:
    """One parameter as Typer reads it."""
    own = f"{SAME.get(command, command)}.{name}"
    group, flags, metavar, text = OPTIONS[own if own in OPTIONS else name]
    more = RANGES.get(name, {})
    made = (
        typer.Option(*flags.split(), help=text, metavar=metavar, rich_help_panel=group, **more)
        if flags
        else typer.Argument(help=text, metavar=metavar, **more)
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])
