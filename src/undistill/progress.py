"""Progress of long work: loops and jobs report steps to listeners; without a listener nothing is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undistill.types import Batch


@dataclass(frozen=True)
class Step:
    """`done` of `total` of what `kind` names.

    `share` is the part of the whole work that is done, where its parts are not equally long; `seconds` are expected for all of
    it; `images` went through a network in this step; `running` and `failed` are jobs.
    """

    kind: str
    done: float
    total: float
    share: float | None = None
    images: int = 0
    seconds: float | None = None
    running: int = 0
    failed: int = 0


Listener = Callable[[Step], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report every step to this listener, in the thread that takes it, while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(step: Step) -> None:
    """Report a step to all listeners."""
    for listener in _listeners:
        listener(step)


def batches(found: Iterable[Batch], *, epoch: int, epochs: int, steps: int) -> Iterator[Batch]:
    """The batches of one epoch (from 0, of `epochs` with `steps` each), reporting each when it is done."""
    step = 0
    for batch in found:
        yield batch
        step += batch.part is None or batch.part.last
        if _listeners:
            tell(Step("epoch", epoch + min(step / steps, 1.0), epochs, images=batch.counted))
