"""What arithmetic a device has, and what a recipe's `precision` comes to on it."""

from __future__ import annotations

from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16"]
Wanted = Literal["fp32", "bf16", "auto"]


def arithmetic(wanted: Wanted, device: torch.device) -> Precision:
    """`wanted`, with `auto` resolved: bf16 where the device computes in it itself, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether the processor computes in bf16 itself, and torch lets it; unknown is taken for yes."""
    if (
        torch.backends.cpu.get_cpu_capability() == "AVX2"
    ):  # the processor's, or the most that ATEN_CPU_CAPABILITY allows
        return False
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, not known) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
