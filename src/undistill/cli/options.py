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

if TYPE_CHECKING:
    from undistill.oracle.bank import Bank

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
AcceptAccuracy = Annotated[
    bool,
    typer.Option(
        "--accept-accuracy", help="Go on with a MODEL whose accuracy is near chance or below the recorded one."
    ),
]
Plugin = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file with components of your own; repeatable.")
]
BANK_GB = 10.0
"""What the bank holds at most, unless told otherwise; `Bank` has the same number, but comes with torch."""
BankFolder = Annotated[
    Path | None, typer.Option("--bank", help="Folder that keeps networks' answers; default in the user's cache.")
]
BankLimit = Annotated[float, typer.Option("--bank-limit", metavar="GB", help="Its size at most; 0 keeps no answers.")]
TYPED = ("model.name=", "student.name=")
"""Settings that may name code; whoever types one trusts it."""


@dataclass(frozen=True)
class Options:
    """What `train`, `protect` and `attack` take alike."""

    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Recipe: a name (see `undistill list recipe`) or a YAML file.")
    ] = None
    sets: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="A.B=VALUE", help="Change one setting; repeatable.")
    ] = None
    data: Annotated[str | None, typer.Option("--data", help="Data set: a name, a folder or a hub id.")] = None
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Local folder in the hub's format instead of a download.")
    ] = None
    image_column: Annotated[str | None, typer.Option("--image-column", help="Column of the images.")] = None
    label_column: Annotated[str | None, typer.Option("--label-column", help="Column of the classes.")] = None
    size: Annotated[int | None, typer.Option("--size", help="Side in pixels that networks see.")] = None
    pool: Annotated[
        float | None, typer.Option("--pool", help="Fresh images that no victim sees: a number, or a share below 1.")
    ] = None
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.")] = False
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and views.")] = None
    resume: Resume = False
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto"
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")] = None
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; resumed runs are exact at the same number.")
    ] = None
    bank: BankFolder = None
    bank_limit: BankLimit = BANK_GB
    plugin: Plugin = None
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust", metavar="MODULE:CALLABLE", help="Code that a model or recipe file may call; repeatable."
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False
    as_json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    def changes(self) -> list[str]:
        """What the options change in a recipe, as settings; `--set`, said last, wins."""
        folder = self.data is not None and Path(self.data).expanduser().is_dir()
        where = self.data if folder else self.data_dir
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
        """Import plugins, and trust the code that was named in the command itself."""
        from undistill import plugins

        use_plugins(self.plugin)
        named = [change.partition("=")[2] for change in self.sets or [] if change.startswith(TYPED)]
        for name in [*(self.trust or []), *named, *(name for name in typed if name is not None)]:
            if ":" in name:
                plugins.trust(name.strip("\"'"))

    def open_bank(self) -> Bank:
        """The bank of answers, checked."""
        from undistill.oracle.bank import Bank

        return Bank.of(self.bank, self.bank_limit)

    def use_threads(self) -> None:
        """Limit CPU threads, if asked to."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


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
