"""The options that verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Recipe: a name (see `undistill list recipe`) or a YAML file.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="A.B=VALUE", help="Change one setting; repeatable.")
]
Data = Annotated[str | None, typer.Option("--data", help="Data set by name.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Local folder in the hub's format instead of a download.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and views.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; resumed runs are exact at the same number.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")]
