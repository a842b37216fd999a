"""Where and how work is done; none of it changes a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undistill.oracle.logit_cache import Bank


@dataclass(frozen=True)
class Runtime:
    """What every verb takes beside its settings.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        cache: the logit cache, which keeps a network's outputs for later queries of the same views; None keeps nothing.
        jobs: processes at a time, of one thread each; None for one a core, or one on CUDA.
        log: receives a line for each thing that was done.
        watch: receives the record of each epoch of a training in this process, and its metrics.
    """

    device: str = "auto"
    cache: Bank | None = None
    jobs: int | None = None
    log: Callable[[str], None] | None = None
    watch: Callable[..., None] | None = None

    def in_worker(self) -> Runtime:
        """The same for another process, to which no function is sent."""
        return replace(self, jobs=1, log=None, watch=None)

    def say(self, line: str) -> None:
        """Log a line, where somebody listens."""
        if self.log is not None:
            self.log(line)


OLD = {"bank": "cache", "say": "log"}
"""Names that fields had; they are still read."""


def runtime_of(runtime: Runtime | None, settings: dict[str, Any]) -> tuple[Runtime, dict[str, Any]]:
    """(the runtime with those of these keywords that are fields of it, the other keywords)."""
    known = {field.name for field in fields(Runtime)}
    given = {OLD.get(name, name): value for name, value in settings.items() if OLD.get(name, name) in known}
    rest = {name: value for name, value in settings.items() if OLD.get(name, name) not in known}
    return replace(runtime or Runtime(), **given), rest
