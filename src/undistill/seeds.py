"""Randomness has an address: every random choice is drawn from a seed derived from (seed, role, purpose)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, role: str, purpose: str) -> int:
    """A 63-bit seed from SHA-256 of "seed/role/purpose".

    Roles: teacher, nasty, attacker, data, …; purposes: init, order, views, …. Two addresses never share a stream, so a
    student cannot start from its victim's weights, and attackers of one seed share initial weights, order and views.
    """
    digest = hashlib.sha256(f"{seed}/{role}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, role: str, purpose: str) -> torch.Generator:
    """A CPU generator at this address; CPU on every device, so that a GPU run sees the same order and views."""
    import torch

    return torch.Generator().manual_seed(derive(seed, role, purpose))
