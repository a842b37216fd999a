"""The floor: what training a network would take if every layer ran at the machine's measured peak.

Σ over layers of max(FLOP / convolution peak, bytes / bandwidth), forward and backward, float32. A layer reads its input and
weights and writes its output once; backward reads the output's gradient, input and weights and writes their gradients. What is no
module (additions), normalisation of the pixels and the optimiser are left out, which makes the floor lower; what stays in a cache
is counted as if it went to memory, which makes it higher, for small networks above all.
`python -m benchmarks.floor '{"network": "resnet18", …}'` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.arm import network
from torch import Tensor, nn

SHAPES = ((64, 32, 3), (128, 16, 3), (256, 8, 3), (512, 4, 3), (256, 32, 1))
"""(channels, side, kernel) of convolutions whose fastest is taken for the peak."""


ARITHMETIC = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


def best(call: Callable[[], object], device: torch.device, seconds: float = 1.5) -> float:
    """The shortest time of a call, in seconds."""
    shortest, until = float("inf"), time.perf_counter() + seconds
    calls = 20 if device.type == "cuda" else 1
    call()
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        shortest = min(shortest, (time.perf_counter() - began) / calls)
    return shortest


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest convolution, forward."""
    rates = []
    with torch.no_grad():
        for channels, side, kernel in SHAPES:
            for batch in (16, 128):
                pixels = torch.rand(batch, channels, side, side, device=device, dtype=dtype)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                weights = torch.rand(channels, channels, kernel, kernel, device=device, dtype=dtype)
                weights = weights.contiguous(memory_format=torch.channels_last)
                flop = 2 * batch * side**2 * channels**2 * kernel**2
                rates.append(flop / best(lambda p=pixels, w=weights, k=kernel: F.conv2d(p, w, padding=k // 2), device))  # type: ignore[misc]
    return max(rates)


def bandwidth(device: torch.device) -> float:
    """Bytes/s of adding two arrays of 256 MiB into a third."""
    one, two, three = (torch.ones(2**26, device=device) for _ in range(3))
    return 3 * 2**28 / best(lambda: torch.add(one, two, out=three), device)


def work(model: nn.Module, images_BCHW: Tensor, width: int) -> list[tuple[float, float, float, float]]:
    """(FLOP, bytes) forward and (FLOP, bytes) backward of every layer of one step, at `width` bytes a number."""
    rows: list[tuple[float, float, float, float]] = []
    first = True

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal first
        weights = sum(p.numel() for p in layer.parameters())
        flop = 0.0
        if isinstance(layer, nn.Conv2d):
            flop = 2.0 * output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            flop = 2.0 * output.numel() * layer.in_features
        backward = flop * (1 if first else 2)  # nobody asks for the gradient of the pixels
        forward_bytes = width * (inputs[0].numel() + output.numel() + weights)
        backward_bytes = width * (output.numel() + inputs[0].numel() * (1 if first else 2) + 2 * weights)
        rows.append((flop, forward_bytes, backward, backward_bytes))
        first = first and not flop

    leaves = [layer for layer in model.modules() if isinstance(layer, ARITHMETIC)]
    handles = [layer.register_forward_hook(note) for layer in leaves]
    with torch.no_grad():
        model(images_BCHW)
    for handle in handles:
        handle.remove()
    return rows


def kernels(model: nn.Module, images_BCHW: Tensor, steps: int = 3) -> dict[str, float]:
    """Seconds of a step by what computes: forward convolutions, backward convolutions, all else."""
    from torch.profiler import ProfilerActivity, profile

    images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    labels_B = torch.arange(len(images_BCHW), device=images_BCHW.device) % 10

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(images_BCHW), labels_B).backward()

    step()
    with profile(activities=[ProfilerActivity.CPU]) as told:
        for _ in range(steps):
            step()
    spent = {"forward": 0.0, "backward": 0.0, "rest": 0.0}
    for event in told.key_averages():
        name = {"aten::mkldnn_convolution": "forward", "aten::convolution_backward": "backward"}.get(event.key, "rest")
        spent[name] += event.self_cpu_time_total / 1e6 / steps
    return spent


def main() -> None:
    """Measure and print."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    device = torch.device(spec.get("device", "cpu"))
    torch.set_num_threads(spec.get("threads") or torch.get_num_threads())
    bf16 = spec.get("precision") == "bf16"
    rate, speed = peak(device, torch.bfloat16 if bf16 else torch.float32), bandwidth(device)

    class Like:
        channels, image_size = 3, 32

    model = network(spec["network"], Like, 0).to(device).train()
    rows = work(model, torch.rand(spec["batch"], 3, 32, 32, device=device), 2 if bf16 else 4)
    step = sum(max(f / rate, b / speed) + max(g / rate, c / speed) for f, b, g, c in rows)
    flop = sum(f + g for f, _, g, _ in rows)
    bound = sum(f / rate >= b / speed for f, b, _, _ in rows) / len(rows)
    found: dict[str, Any] = {
        "gflops": rate / 1e9,
        "gbytes": speed / 1e9,
        "step": step,
        "flop": flop,
        "compute_bound": bound,
    }
    found |= {
        "forward_floor": sum(f for f, _, _, _ in rows) / rate,
        "backward_floor": sum(g for _, _, g, _ in rows) / rate,
    }
    if device.type == "cpu":
        found["kernels"] = kernels(model, torch.rand(spec["batch"], 3, 32, 32))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
