"""One training over several processes, as `torchrun` starts them: which one this is, and what they tell each other.

Every process runs the same command and trains on its part of each batch. The first one alone writes, evaluates, and asks what
is asked once. In a process that was started alone, all of this is nothing.

Legend: M rows.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: `torchrun` ends all of them when one fails, so nobody waits for the dead."""
LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket")
"""What is said of a process that is not there any more."""
SMALLEST = 2
"""Images of the smallest part of a batch: batch normalization cannot train on one."""
_alone = False


def started() -> int:
    """How many processes `torchrun` started with this one; 1 without it."""
    named = {"MASTER_ADDR", "RANK", "WORLD_SIZE"} <= set(os.environ)
    return int(os.environ["WORLD_SIZE"]) if named else 1


def first() -> bool:
    """Whether this is the one of them that speaks."""
    return started() == 1 or os.environ["RANK"] == "0"


def place() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if started() > 1 else 0


def beside() -> int:
    """How many of them run on this machine, this one included."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if started() > 1 else 1


def join(device: torch.device) -> None:
    """Meet the other processes, where `torchrun` started some: by NCCL on GPUs, by gloo on CPUs."""
    import torch.distributed as dist

    if started() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        if device.type != "cuda":
            atexit.register(
                leave
            )  # gloo's threads abort a process that ends with them; NCCL's would wait for the others


def leave() -> None:
    """Part, once all is done. Not where one failed: the others would be waited for."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def lost(error: RuntimeError) -> bool:
    """Whether an error only says that another process is gone."""
    return started() > 1 and any(word in str(error).lower() for word in LOST)


def count() -> int:
    """The processes that train together; 1 in a block that is done `alone`."""
    import torch.distributed as dist

    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """This one's number among them, from 0."""
    import torch.distributed as dist

    return dist.get_rank() if count() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """What one process does while the others wait, or go on without it."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def meet() -> None:
    """Wait until every process is here."""
    import torch.distributed as dist

    if count() > 1:
        dist.barrier()


def total(value: Tensor) -> Tensor:
    """The sum of what each process has."""
    import torch.distributed as dist

    if count() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def smallest(value: Tensor) -> Tensor:
    """The smallest of what each process has."""
    import torch.distributed as dist

    if count() > 1:
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.MIN)
    return value


def once(make: Callable[[], Tensor], *, source: int = 0) -> Tensor:
    """What `make` returns in the process `source`, in all of them; the others do not call it."""
    import torch
    import torch.distributed as dist

    if count() == 1:
        return make()
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    made = make().contiguous() if number() == source else None
    head = torch.zeros(10, dtype=torch.int64, device=device)  # type, on the CPU or not, dimensions, sizes
    if made is not None:
        told = [_types().index(made.dtype), int(made.device.type == "cpu"), made.ndim, *made.shape]
        head[: len(told)] = torch.tensor(told)
    dist.broadcast(head, source)
    kind, on_cpu, ndim, *sizes = head.tolist()
    if made is None:
        made = torch.empty(sizes[:ndim], dtype=_types()[kind], device=device)
    sent = made.to(device)
    dist.broadcast(sent, source)
    return sent.cpu() if on_cpu else sent


def _types() -> list[torch.dtype]:
    import torch

    return [torch.float32, torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.int32, torch.uint8]


def shared(rows_M: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute(rows_M)`, of which each process computes a part; all of it in each of them."""
    import torch

    parts = rows_M.tensor_split(count())
    own = compute(parts[number()])
    return torch.cat([once(lambda: own, source=source) for source in range(len(parts))]) if len(parts) > 1 else own
