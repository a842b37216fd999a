"""`fit`: the only training loop. Teachers, nasty teachers and students differ in the objective alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undistill import progress, ranks
from undistill.errors import Diverged
from undistill.seeds import derive
from undistill.training import parallel
from undistill.training.averaging import Average
from undistill.training.precision import arithmetic
from undistill.training.recipe import Training
from undistill.types import Batches, Objective

State = dict[str, Any]
"""All that a loop holds: `epoch` (done), `model`, `modules`, `optimizer` state dicts, and `average` where weights are averaged.

Live tensors: save them before going on.
"""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did. `epoch` counts from 1; `terms` are means over its samples; `state` resumes behind it."""

    epoch: int
    epochs: int
    terms: dict[str, float]
    images: int
    seconds: float
    lr: float
    state: State
    phase: str = "fit"


def fit(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    training: Training,
    *,
    seed: int,
    state: State | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` in place, an epoch at a time; the caller logs, saves and stops.

    Nothing of the global random state survives between epochs: each starts from a derived seed, so a run that is
    resumed from `state` takes the same steps as one that was never interrupted. Where several processes train
    together each works on its parts of the batches, and all take the same steps: those of one process, to rounding, if
    batch normalization is synced.

    Args:
        model: trained in place, put in training mode at each epoch, on the device of its parameters.
        batches: on that device.
        objective: terms of a batch; its `modules` are trained along.
        training: epochs, optimiser, schedule, clipping, precision.
        seed: of whatever is random inside the network (dropout).
        state: of an `EpochRecord`, to go on behind it.

    Yields:
        One record an epoch.

    Raises:
        Diverged: the loss was not finite somewhere in the epoch; nothing of that epoch was yielded.
    """
    modules: Mapping[str, nn.Module] = objective.modules
    trained = nn.ModuleDict({"model": model, **modules})
    device = next(trained.parameters()).device
    layout = _layout(trained, device)
    if layout is torch.channels_last and (device.type == "cuda" or _grey(trained)):
        trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel.agree(trained)
    optimizer = training.optimizer.build(trained, training.batch)
    rates = [group["lr"] for group in optimizer.param_groups]
    total = training.epochs * len(batches)
    average = None if training.average is None else Average(trained, training.average, total)
    if state is not None:
        _restore(state, model, modules, optimizer)
        if average is not None:
            average.restore(state["average"])
    mine = f"/{rank}" if (rank := ranks.number()) else ""
    for epoch in range(0 if state is None else state["epoch"], training.epochs):
        started = time.perf_counter()
        trained.train()
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            parallel.together(trained, synced=training.sync_batch_norm) as spread,
        ):
            torch.manual_seed(derive(seed, "fit", f"{epoch}{mine}"))
            totals, images = _epoch(
                model, batches, objective, training, optimizer, rates, average, epoch, layout, spread
            )
        parallel.agree(trained)  # running statistics may have been each process's own
        yield EpochRecord(
            epoch=epoch + 1,
            epochs=training.epochs,
            terms=totals,
            images=images,
            seconds=time.perf_counter() - started,
            lr=optimizer.param_groups[-1]["lr"],
            state={
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "modules": {name: module.state_dict() for name, module in modules.items()},
                "optimizer": optimizer.state_dict(),
                **({} if average is None else {"average": average.state}),
            },
        )


def _restore(
    state: State, model: nn.Module, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Load a state. Momenta get their weights' memory layout back, which files do not keep and fused steps rely on."""
    model.load_state_dict(state["model"])
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    optimizer.load_state_dict(state["optimizer"])
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


def _layout(trained: nn.Module, device: torch.device) -> torch.memory_format:
    """Of the images: channels-last, but on a CPU not for 1 × 1 convolutions that stride over few channels.

    There oneDNN's gradient of their weights writes past its memory where a pixel has fewer channels than a register holds
    numbers, and the process dies (torch 2.13; uxlfoundation/oneDNN#6035).
    """
    narrow = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels // layer.groups < 16
        for layer in trained.modules()
    )
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


def _grey(trained: nn.Module) -> bool:
    """Whether pixels have one channel: they look the same in either layout, so the weights must say which one is meant."""
    return any(isinstance(layer, nn.Conv2d) and layer.in_channels == 1 for layer in trained.modules())


def _epoch(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    training: Training,
    optimizer: torch.optim.Optimizer,
    rates: list[float],
    average: Average | None,
    epoch: int,
    layout: torch.memory_format,
    spread: parallel.Spread,
) -> tuple[dict[str, float], int]:
    """One pass: (means of the terms, images seen in all processes). The device is asked for numbers once, at the end."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    totals: dict[str, Tensor] = {}
    images, step, steps, together = 0, 0, len(batches), ranks.count()
    first_bad = torch.full((), steps, device=device)
    optimizer.zero_grad(set_to_none=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=arithmetic(training.precision, device) == "bf16")
    told = progress.batches(batches.epoch(epoch), epoch=epoch, epochs=training.epochs, steps=steps)
    for batch in told:
        share, last = (1 / together, True) if batch.part is None else (batch.part.share, batch.part.last)
        spread.batch = batch.part is not None and len(batch.index_B) < batch.part.whole
        if batch.images_BCHW.ndim == 4:
            batch = batch._replace(images_BCHW=batch.images_BCHW.contiguous(memory_format=layout))
        with autocast:
            terms = objective(model, batch)
        (terms["loss"] if share == 1 else terms["loss"] * share).backward()
        count = len(batch.index_B) if batch.part is None else batch.part.whole
        bad = ~torch.isfinite(terms["loss"].detach()) & (first_bad == steps)
        first_bad = torch.where(bad, step, first_bad)
        for name, value in terms.items():
            weighted = value.detach().double() * (share * count)
            totals[name] = totals[name] + weighted if name in totals else weighted
        if not last:
            continue
        factor = training.schedule.factor(epoch + step / steps, training.epochs)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        parallel.add_up(parameters)
        if training.clip is not None:
            nn.utils.clip_grad_norm_(parameters, training.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        images, step = images + count, step + 1
        if average is not None:
            average.step(epoch * steps + step)
    if (bad_step := int(ranks.smallest(first_bad))) < steps:
        raise Diverged(epoch, bad_step + 1)
    if not bool(torch.stack([p.detach().isfinite().all() for p in parameters]).all()):
        raise Diverged(epoch, steps)  # a finite loss with a gradient that was not
    sums = ranks.total(torch.stack([total.to(device).reshape(()) for total in totals.values()])).tolist()
    return {name: total / images for name, total in zip(totals, sums, strict=True)}, images
