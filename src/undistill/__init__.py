"""undistill: make a classifier hard to copy by knowledge distillation, and measure how hard.

The verbs mirror the shell and are imported on first use, so that `import undistill` costs nothing:

    data = undistill.load("digits")
    teacher = undistill.train(None, data, "digits", seed=0, out="runs/teacher")
    nasty = undistill.protect(teacher, data, "nasty", out="runs/nasty")
    cell = undistill.attack(nasty, data, "kd", threat_model="paper", out="runs/student")
    report = undistill.audit(nasty, data, control=teacher, suite="quick", out="runs/audit")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undistill import losses, models
    from undistill.data.load import load
    from undistill.defenses.protect import protect
    from undistill.experiments.extraction import attack
    from undistill.oracle.victim import load_model
    from undistill.paper.reproduce import reproduce
    from undistill.reporting.report import audit
    from undistill.reporting.report import write_report as report
    from undistill.training.recipe import read as recipe
    from undistill.training.train import train

__all__ = [
    "attack",
    "audit",
    "load",
    "load_model",
    "losses",
    "models",
    "protect",
    "recipe",
    "report",
    "reproduce",
    "train",
]

_VERBS = {
    "attack": ("undistill.experiments.extraction", "attack"),
    "audit": ("undistill.reporting.report", "audit"),
    "load": ("undistill.data.load", "load"),
    "load_model": ("undistill.oracle.victim", "load_model"),
    "protect": ("undistill.defenses.protect", "protect"),
    "recipe": ("undistill.training.recipe", "read"),
    "report": ("undistill.reporting.report", "write_report"),
    "reproduce": ("undistill.paper.reproduce", "reproduce"),
    "train": ("undistill.training.train", "train"),
}
_MODULES = {"losses", "models"}


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        module, function = _VERBS[name]
        value = getattr(importlib.import_module(module), function)
    elif name in _MODULES:
        value = importlib.import_module(f"undistill.{name}")
    else:
        raise AttributeError(f"module 'undistill' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
