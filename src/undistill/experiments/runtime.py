"""How verbs take their settings: a `Config` for what fixes the numbers, a `Runtime` for where and how the work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from undistill.errors import UsageError
from undistill.experiments.executors import Executor, executor_of
from undistill.experiments.executors.local import Local
from undistill.registry import problem

if TYPE_CHECKING:
    from undistill.oracle.logit_cache import LogitCache


@dataclass(frozen=True)
class Runtime:
    """What every verb takes beside its settings; none of it changes a number.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        cache: the logit cache, which keeps a network's outputs for later queries of the same views; None keeps nothing.
        jobs: cells at a time, on one thread each; None for one a core, one on CUDA, or as many as a cluster has room for.
        executor: who computes cells: `local`, `ray`, `slurm`, with settings as in `ray address=auto gpus=.25`.
        log: receives a line for each thing that was done.
        watch: receives the record of each epoch of a training in this process, and its metrics.
    """

    device: str = "auto"
    cache: LogitCache | None = None
    jobs: int | None = None
    executor: Executor = field(default_factory=Local)
    log: Callable[[str], None] | None = None
    watch: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "executor", executor_of(self.executor))

    @property
    def at_once(self) -> int | None:
        """How many cells are computed at once; None for as many as a cluster has room for."""
        return self.executor.at_once(self.jobs, self.device)

    def in_worker(self) -> Runtime:
        """The same for another process, to which no function is sent."""
        return replace(self, jobs=1, executor=Local(), log=None, watch=None)

    def say(self, line: str) -> None:
        """Log a line, where there is a listener."""
        if self.log is not None:
            self.log(line)


OLD = {"bank": "cache", "say": "log"}
"""Names that fields of `Runtime` had; they are still read."""


def runtime_of(runtime: Runtime | None, settings: Mapping[str, Any]) -> tuple[Runtime, dict[str, Any]]:
    """(the runtime with those of these keywords that are fields of it, the other keywords)."""
    known = {field.name for field in fields(Runtime)}
    given = {OLD.get(name, name): value for name, value in settings.items() if OLD.get(name, name) in known}
    rest = {name: value for name, value in settings.items() if OLD.get(name, name) not in known}
    return replace(runtime or Runtime(), **given), rest


class Config(BaseModel):
    """The settings of a verb: its fields are the keywords of the Python call. `old` are names that fields had, still read."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    verb: ClassVar[str] = ""
    old: ClassVar[dict[str, str]] = {}

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """From keywords of a call; TypeError for one that there is not, UsageError for a value that does not fit."""
        for name in settings:
            if cls.old.get(name, name) not in cls.model_fields:
                raise TypeError(f"{cls.verb}() got an unexpected keyword argument {name!r}")
        try:
            return cls(**{cls.old.get(name, name): value for name, value in settings.items()})
        except ValidationError as error:
            raise UsageError(f"{cls.verb}: {problem(error, cls)}") from None

    def but(self, **changes: Any) -> Self:
        """The same with other values, checked; errors as `of`."""
        return type(self).of(**{**dict(self), **{self.old.get(name, name): value for name, value in changes.items()}})
