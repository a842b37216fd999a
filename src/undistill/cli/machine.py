"""`undistill doctor` and `undistill cache`: what this machine offers, and what is kept on it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from undistill.errors import UndistillError, UsageError
from undistill.threads import Moment, asked, choose, others, usable

PACKAGES = (
    "torch",
    "numpy",
    "datasets",
    "huggingface_hub",
    "scikit-learn",
    "pillow",
    "timm",
    "torchvision",
    "ray",
    "submitit",
)
SPEED_CHECK = 2.0
"""Seconds of the speed check."""
KINDS = {"images": "decoded images", "logits": "logit cache"}


def doctor(as_json: bool = False, verbose: bool = False) -> None:
    """Check this installation: versions, processor, GPU, speed; what is wanting, and how to mend it.

    Takes a few seconds and writes nothing.
    """
    since = Moment.now()
    found: dict[str, dict[str, Any]] = {
        "versions": _versions(),
        "machine": _machine(since),
        "caches": _caches(None),
        "speed": _speed(),
    }
    found["wanting"] = dict(_wanting())
    if as_json:
        return typer.echo(json.dumps(found, indent=1, default=asdict))
    for heading, values in found.items():
        typer.echo(heading)
        for name, value in values.items():
            typer.echo(f"  {name:<16} {_shown(value)}")
        if not values:
            typer.echo("  nothing")
    return None


def cache(
    kind: str | None = None,
    prune: bool = False,
    cache: Path | None = None,
    as_json: bool = False,
    verbose: bool = False,
) -> None:
    """Show or remove what is kept here: decoded images, logits.

    Only files that this tool wrote are ever removed. Downloads of Hugging Face have a cache of their own.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--kind is images or logits, not {kind!r}")
    wanted = [kind] if kind else list(KINDS)
    before = _caches(cache)
    for name in wanted if prune else ():
        _prune(name, cache)
    after = {name: kept for name, kept in _caches(cache).items() if name in wanted}
    freed = {name: before[name].bytes - after[name].bytes for name in wanted}
    if as_json:
        values: dict[str, Any] = {name: asdict(kept) for name, kept in after.items()}
        return typer.echo(json.dumps(values | ({"removed_bytes": freed} if prune else {}), indent=1))
    for name, kept in after.items():
        removed = f"; removed {size(freed[name])}" if prune else ""
        typer.echo(f"{KINDS[name]:<16} {_shown(kept)}{removed}")
    return None


@dataclass(frozen=True)
class Kept:
    """How much of one kind is kept, and where."""

    bytes: int
    entries: int
    folder: str


def _caches(bank: Path | None) -> dict[str, Kept]:
    from undistill.data import cache as images
    from undistill.files import cache_root
    from undistill.oracle.logit_cache import LogitCache

    decoded, logits = images.entries(), LogitCache.of(bank).entries()
    return {
        "images": Kept(sum(decoded.values()), len(decoded), str(cache_root() / "images")),
        "logits": Kept(sum(logits.values()), len(logits), str(LogitCache.of(bank).place)),
    }


def _prune(kind: str, bank: Path | None) -> None:
    """Remove all of one kind."""
    from undistill.data import cache as images
    from undistill.oracle.logit_cache import LogitCache

    if kind == "images":
        for key in images.entries():
            images.remove(key)
        return
    kept = LogitCache.of(bank)
    for entry in kept.entries():
        kept.remove(entry)


def _versions() -> dict[str, str]:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    return {"undistill": of("undistill"), "python": platform.python_version(), **{name: of(name) for name in PACKAGES}}


def _machine(since: Moment) -> dict[str, str]:
    import torch

    from undistill.training.environment import describe
    from undistill.training.precision import cpu_has_bf16

    env = describe(torch.device("cpu"))
    cores, busy = usable(), others(since)
    threads, why = choose(None, cores, busy)
    if (set_by_user := asked()) is not None:
        threads, why = set_by_user, "set by OMP_NUM_THREADS"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": env["processor"],
        "instructions": env["instructions"],
        "bf16 arithmetic": "yes" if cpu_has_bf16() else "no; fp32 is faster here",
        "cores": f"{cores} usable of {os.cpu_count()}, {busy:.1f} used by other processes",
        "threads": f"{threads} for a large network ({why})",
        "GPU": ", ".join(gpus) or "none",
    }


def _speed() -> dict[str, str]:
    """Training steps of a small network for `SPEED_CHECK` seconds, on one thread."""
    import torch

    from undistill.models import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = build("cnn", 10, 3, 32, seed=0).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        images_BCHW, labels_B = torch.rand(64, 3, 32, 32), torch.arange(64) % 10
        steps, start, used = -1, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < SPEED_CHECK or steps < 1:
            if steps == 0:  # the first step only warms up
                start, used = time.perf_counter(), time.process_time()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images_BCHW), labels_B).backward()
            optimizer.step()
            steps += 1
    finally:
        torch.set_num_threads(threads)
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    slow = f"; it got {cpu / wall:.0%} of a core, so this machine is busy" if cpu < 0.8 * wall else ""
    return {"cnn, 32 × 32": f"{64 * steps / wall:,.0f} images/s in training on one thread{slow}"}


ROOM = 2e9
"""Bytes below which a disk is nearly full: the decoded images and logits of one study of CIFAR-10."""


def _wanting() -> Iterator[tuple[str, str]]:
    """(what, how to mend it) of all that is in the way of fast and safe work here."""
    import torch

    from undistill.files import cache_root, locked, writing

    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        yield (
            "GPU",
            "NVIDIA's driver is here, but this PyTorch has no CUDA or does not reach it: install a CUDA wheel of torch",
        )
    if (threads := asked()) is not None and threads > usable():
        yield "OMP_NUM_THREADS", f"it is {threads} and only {usable()} cores are usable: set it to {usable()} or less"
    place = cache_root()
    try:
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place) as folder, locked(Path(folder)):
                free = shutil.disk_usage(place).free
        if free < ROOM:
            yield (
                "disk",
                f"{size(free)} are free at {place}: `undistill cache --prune`, or name another disk in UNDISTILL_CACHE",
            )
    except UndistillError as error:
        yield "cache folder", f"{error}; name another one in UNDISTILL_CACHE"


def _shown(value: Any) -> str:
    if isinstance(value, Kept):
        return f"{size(value.bytes)} in {value.entries} {'entry' if value.entries == 1 else 'entries'}, {value.folder}"
    return str(value)


def size(count: int) -> str:
    """`206.4 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
