"""Randomness has an address."""

from __future__ import annotations

import hashlib
from itertools import product

import torch

from undistill.seeds import derive, generator


def test_a_seed_is_the_first_63_bits_of_sha256() -> None:
    assert derive(0, "teacher", "init") == int(hashlib.sha256(b"0/teacher/init").hexdigest()[:16], 16) // 2


def test_seeds_never_change_between_versions() -> None:
    assert derive(0, "thief", "order") == 7633247197185947194


def test_no_two_addresses_share_a_seed() -> None:
    addresses = list(product(range(20), ("teacher", "nasty", "thief", "data"), ("init", "order", "views")))
    assert len({derive(*address) for address in addresses}) == len(addresses)


def test_a_seed_fits_torch() -> None:
    assert all(0 <= derive(seed, "a", "b") < 2**63 for seed in range(100))


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, second = (torch.rand(5, generator=generator(3, "thief", "views")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_two_addresses_differ() -> None:
    first, second = (torch.rand(5, generator=generator(3, role, "init")) for role in ("thief", "teacher"))
    assert not torch.equal(first, second)
