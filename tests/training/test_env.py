"""What a number was computed with is written down and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from undistill.training.environment import chosen, commit, describe

CPU = torch.device("cpu")


def having(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], allowed: str = "AVX512") -> None:
    """A processor of these capabilities, of which torch uses as much as is `allowed`, whatever this one is."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: allowed)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16", "sve_bf16"])
def test_bf16_on_a_processor_that_has_it_is_bf16(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    having(monkeypatch, {"avx2": True, name: True})
    assert describe(CPU, "bf16")["precision"] == "bf16"
    assert "fp32 is faster" not in chosen(describe(CPU, "bf16"))


def test_bf16_is_emulated_where_torch_may_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, {"avx2": True, "avx512_bf16": True}, "AVX2")
    assert describe(CPU, "bf16")["precision"] == "bf16 (emulated)"


def test_emulated_bf16_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, {"avx2": True, "avx512_bf16": False})
    env = describe(CPU, "bf16")
    assert env["precision"] == "bf16 (emulated)"
    assert "bf16 (emulated)" in chosen(env)
    assert chosen(env).endswith("; this processor has no bf16 arithmetic, fp32 is faster here")
    assert describe(CPU)["precision"] == describe(CPU, "fp32")["precision"] == "fp32"
    assert "emulated" not in chosen(describe(CPU))


def test_a_processor_that_tells_nothing_is_taken_for_one_that_has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, {})
    assert describe(CPU, "bf16")["precision"] == "bf16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert describe(CPU, "bf16")["precision"] == "bf16"


def test_a_git_that_is_ended_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A scheduler ends the processes of a job one after another; a number keeps its commit where git was the first."""
    first = f"test -e {tmp_path}/asked || {{ touch {tmp_path}/asked; kill -9 $$; }}"
    (tmp_path / "git").write_text(f"#!/bin/sh\ncase $1 in describe) {first}; echo abc1234;; esac\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("UNDISTILL_COMMIT", raising=False)
    assert commit.__wrapped__() == "abc1234"
    assert (tmp_path / "asked").exists()
    (tmp_path / "git").write_text("#!/bin/sh\nexit 128\n")
    assert commit.__wrapped__() is None


CARD: dict[str, Any] = {
    "device": "a card",
    "processor": "a processor",
    "instructions": "AVX2",
    "threads": 1,
    "precision": "fp32",
    "layout": "channels-last where safe",
    "tf32": True,
}


def test_one_line_says_what_was_chosen() -> None:
    assert chosen(CARD) == "on a card, 1 thread, fp32, TF32 convolutions, channels-last where safe, fused steps"
    cpu = {**CARD, "device": "cpu", "tf32": False, "threads": 2}
    assert chosen(cpu) == "on a processor (AVX2), 2 threads, fp32, channels-last where safe, fused steps"


def test_what_is_described_can_be_said() -> None:
    env = describe(CPU)
    assert env["threads"] == torch.get_num_threads()
    assert env["tf32"] is False
    assert chosen(env).startswith(f"on {env['processor']} ({env['instructions']}), ")
