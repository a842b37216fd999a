"""What a number was computed with."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from undistill import ranks
from undistill.data import Splits
from undistill.errors import UsageError
from undistill.models import Network, build
from undistill.models.external import External
from undistill.training.precision import Wanted, arithmetic, cpu_has_bf16


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, of several processes each its own; UsageError for a device that is not there."""
    if name in ("auto", "cuda") and ranks.started() > 1 and torch.cuda.is_available():
        if ranks.beside() > torch.cuda.device_count():
            raise UsageError(
                f"torchrun started {ranks.beside()} processes on a machine of {torch.cuda.device_count()} GPUs: start one for "
                "each, or add --device cpu"
            )
        name = f"cuda:{ranks.place()}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device called {name!r}; there are auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; there are auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def begin_on(name: str) -> torch.device:
    """`choose_device`, where this process meets those that train together with it, if `torchrun` started some."""
    device = choose_device(name)
    if device.type == "cuda" and ranks.started() > 1:
        torch.cuda.set_device(device)
    ranks.join(device)
    return device


def describe(device: torch.device, precision: Wanted = "fp32") -> dict[str, Any]:
    """Versions, processor, threads, device and how it computes, for `env.json` and cells."""
    precision = arithmetic(precision, device)
    emulated = precision == "bf16" and device.type == "cpu" and not cpu_has_bf16()
    return {
        "undistill": _version("undistill"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **({"processes": ranks.count()} if ranks.count() > 1 else {}),
        "precision": f"{precision} (emulated)" if emulated else precision,
        "layout": "channels-last where safe",
        "tf32": torch.backends.cudnn.allow_tf32 if device.type == "cuda" else False,
        "system": platform.system(),
    }


def chosen(env: dict[str, Any]) -> str:
    """One line of what was chosen for this machine."""
    place = env["device"] if env["device"] != "cpu" else f"{env['processor']} ({env['instructions']})"
    threads = f"{env['threads']} thread{'s' if env['threads'] > 1 else ''}"
    parts = [
        *([f"{env['processes']} processes"] if "processes" in env else []),
        place,
        threads,
        env["precision"],
        *(["TF32 convolutions"] if env["tf32"] else []),
        env["layout"],
        "fused steps",
    ]
    slow = "; this processor has no bf16 arithmetic, fp32 is faster here" if "emulated" in env["precision"] else ""
    return f"on {', '.join(parts)}{slow}"


def forward_flop(network: Network, data: Splits, batch: int) -> float | None:
    """Floating-point operations of one forward pass over a batch of these data; None for a network of code from elsewhere.

    Counted without weights or arithmetic, on torch's meta device.
    """
    if not type(network).__module__.startswith("undistill.models.") or isinstance(network, External):
        return None
    with torch.device("meta"):
        made = build(network, data.num_classes, data.train.channels, data.train.image_size)
        images_BCHW = torch.empty(batch, data.train.channels, data.train.image_size, data.train.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            made(images_BCHW)
    return float(counter.get_total_flops())


@cache
def commit() -> str | None:
    """The commit of the checkout this package runs from, with `+` where tracked files differ from it; None outside of one.

    A copy without its history, such as a container's, is told by UNDISTILL_COMMIT.
    """
    if told := os.environ.get("UNDISTILL_COMMIT"):
        return told
    if _git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return _git("describe", "--always", "--dirty=+", "--exclude=*") or None


def _git(*arguments: str, tries: int = 3) -> str | None:
    """What git prints of this package's folder; None where it refuses or is not there.

    A scheduler that ends a job ends its git first; one ended by a signal is asked again.
    """
    here = Path(__file__).resolve().parent
    for _ in range(tries):
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)  # noqa: S603, S607
        except OSError:
            return None
        if done.returncode >= 0:
            return None if done.returncode else done.stdout.strip()
    return None


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
