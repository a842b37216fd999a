"""`undistill serve`: a model behind HTTP."""

from __future__ import annotations

import secrets
from pathlib import Path

import typer

from undistill.errors import UsageError


def serve(
    model: str,
    access: str = "probs",
    output_defense: list[str] | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch: int = 256,
    rate: float | None = None,
    device: str = "auto",
) -> None:
    """Serve MODEL over HTTP, by the Open Inference Protocol v2.

    With an output defense in front of it, limits and metrics. To audit what it serves: undistill audit URL --outputs probs
    """
    from undistill.oracle.victim import resolve
    from undistill.training.environment import begin_on, choose_device

    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401

        from undistill.oracle.serving import Served, application, run
    except ImportError as error:
        raise UsageError(f"serve needs {error.name}: pip install 'undistill[serve]'") from error
    if not Path(model).expanduser().is_dir():
        raise UsageError(f"{model} is no folder of a model; `undistill import` makes one of weights")
    begin_on(device)
    victim = resolve(model, behind=output_defense or ())
    victim.network.to(choose_device(device))
    served = Served(victim, access, name or Path(model).resolve().name, batch=batch, seed=secrets.randbits(31))
    behind = "".join(f", behind {defense.name}" for defense in victim.behind)

    def ready(at: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"{served.output}{behind}: http://{shown}:{at}/v2/models/{served.name}")

    run(application(served, rate=rate), host, port, ready)
