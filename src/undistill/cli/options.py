"""The options that verbs share, and how one argument of a verb stands for them all."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from undistill.cli.help import DATA, JOB, MODELS, RUNNING
from undistill.errors import UsageError

if TYPE_CHECKING:
    from undistill.oracle.logit_cache import Bank

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.", rich_help_panel=JOB, show_default=True)
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Discard what is in the folder and start anew; else go on.", rich_help_panel=JOB),
]
Resume = Annotated[bool, typer.Option("--resume", hidden=True)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be done and stop; write nothing.", rich_help_panel=JOB),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=RUNNING)]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser.", rich_help_panel=RUNNING)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and the result only.", rich_help_panel=RUNNING)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print tracebacks with errors.", rich_help_panel=RUNNING)
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUNNING)
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Processes of one thread each.  [default: one per core, one on CUDA]",
        rich_help_panel=RUNNING,
    ),
]
AcceptAccuracy = Annotated[
    bool,
    typer.Option(
        "--accept-accuracy",
        help="Go on with a MODEL whose accuracy is near chance or below the recorded one.",
        rich_help_panel=MODELS,
    ),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file with components of your own; repeatable.",
        rich_help_panel=MODELS,
    ),
]
BANK_GB = 10.0
"""What the logit cache holds at most, unless told otherwise; `Bank` has the same number, but comes with torch."""
BankFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Folder of the logit cache.  [default: in the user's cache folder]",
        rich_help_panel=RUNNING,
    ),
]
BankLimit = Annotated[
    float,
    typer.Option("--cache-limit", metavar="GB", help="Its largest size; 0 turns it off.", rich_help_panel=RUNNING),
]
TYPED = ("model.name=", "student.name=")
"""Settings that may name code; whoever types one trusts it."""


@dataclass(frozen=True)
class Options:
    """What `train`, `protect` and `attack` take alike."""

    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="RECIPE",
            help="Recipe: a YAML file or a name from `undistill list recipes`.  [default: that of the model or data]",
            rich_help_panel=JOB,
        ),
    ] = None
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="A.B=VALUE",
            help="Change a setting of the recipe; repeatable.",
            rich_help_panel=JOB,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            help="Seed of weights, order and augmentation.  [default: the recipe's, usually 0]",
            rich_help_panel=JOB,
        ),
    ] = None
    dry_run: DryRun = False
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="digits, cifar10, …, a folder of class folders, or a hub id.",
            rich_help_panel=DATA,
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Local copy to read instead of a download: the data set's folder, or the folder above it.",
            rich_help_panel=DATA,
        ),
    ] = None
    pool: Annotated[
        float | None,
        typer.Option(
            "--pool",
            metavar="N",
            help="Training images set aside as a fresh query pool: a number, or a share below 1.  [default: the data's]",
            rich_help_panel=DATA,
        ),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="PIXELS",
            help="Side of the images that networks see.  [default: the data's]",
            rich_help_panel=DATA,
        ),
    ] = None
    image_column: Annotated[
        str | None,
        typer.Option(
            "--image-column", metavar="NAME", help="Column of the images.  [default: found]", rich_help_panel=DATA
        ),
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column", metavar="NAME", help="Column of the classes.  [default: found]", rich_help_panel=DATA
        ),
    ] = None
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.", rich_help_panel=DATA)
    ] = False
    resume: Resume = False
    device: Device = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            help="CPU threads; the same number gives the same bits.  [default: OMP_NUM_THREADS, or chosen]",
            rich_help_panel=RUNNING,
        ),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="NAME", help="fp32, bf16 or auto.  [default: the recipe's]", rich_help_panel=RUNNING
        ),
    ] = None
    bank: BankFolder = None
    bank_limit: BankLimit = BANK_GB
    plugin: Plugin = None
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust",
            metavar="MODULE:CALLABLE",
            help="Code that a model or recipe file may call; repeatable.",
            rich_help_panel=MODELS,
        ),
    ] = None
    as_json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

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
        from undistill.training.environment import choose_device

        use_plugins(self.plugin)
        named = [change.partition("=")[2] for change in self.sets or [] if change.startswith(TYPED)]
        for name in [*(self.trust or []), *named, *(name for name in typed if name is not None)]:
            if ":" in name:
                plugins.trust(name.strip("\"'"))
        choose_device(self.device)
        self.open_bank()

    def open_bank(self) -> Bank:
        """The logit cache, checked."""
        from undistill.oracle.logit_cache import Bank

        return Bank.of(self.bank, self.bank_limit)

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


def use_plugins(files: list[Path] | None) -> None:
    """Import these files."""
    from undistill import plugins

    for file in files or []:
        plugins.load_plugin(file)


def shared(verb: Callable[..., None]) -> Callable[..., None]:
    """Spread a verb's arguments that are records of options (`options: Options`) out into the shell's options."""
    types = get_type_hints(verb, include_extras=True)
    own = list(inspect.signature(verb).parameters.values())
    records: dict[str, Any] = {p.name: types[p.name] for p in own if is_dataclass(types[p.name])}
    names = {name: [field.name for field in fields(record)] for name, record in records.items()}

    @wraps(verb)
    def run(**given: Any) -> None:
        made = {name: records[name](**{part: given.pop(part) for part in names[name]}) for name in records}
        verb(**given, **made)

    parameters = [p.replace(annotation=types[p.name], kind=p.KEYWORD_ONLY) for p in own if p.name not in records]
    for record in records.values():
        hints = get_type_hints(record, include_extras=True)
        parameters += [
            inspect.Parameter(
                part.name, inspect.Parameter.KEYWORD_ONLY, default=part.default, annotation=hints[part.name]
            )
            for part in fields(record)
        ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
