"""Cells on disk: one that is damaged is named by reports and computed again by the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from undistill.errors import RunError
from undistill.experiments.cell import Cell, read
from undistill.experiments.store import Store

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Cell(id=KEY, key=KEY, victim="a", victim_id="b", accuracy=87.5, n_test=8)
    Store(tmp_path).put(KEY, made, {"predicted": np.arange(8, dtype=np.int16)})
    return Store(tmp_path)


def digit(content: bytes) -> bytes:
    return content.replace(b"87.5", b"97.5")


def bit(content: bytes) -> bytes:
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 4
    return bytes(flipped)


@pytest.mark.parametrize(
    ("suffix", "damage", "says"),
    [
        ("json", digit, "checksum"),
        ("json", bit, "damaged"),
        ("npz", bit, "checksum in its cell"),
        ("npz", len, "checksum"),
    ],
)
def test_a_damaged_cell_is_named_and_computed_again(
    store: Store, suffix: str, damage: Callable[[bytes], bytes], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.cells / f"{KEY}.{suffix}"
    assert store.done(KEY) is not None
    path.write_bytes(b"" if damage is len else damage(path.read_bytes()))  # type: ignore[comparison-overlap]
    with pytest.raises(RunError, match=rf"{KEY}\.{suffix} is damaged.*{says}" if says != "damaged" else says):
        read(store.cells / f"{KEY}.json")
    assert store.done(KEY) is None
    assert "it is computed again" in caplog.text


def test_a_cell_without_checksums_is_read_as_before(store: Store) -> None:
    path = store.cells / f"{KEY}.json"
    lines = [line for line in path.read_text().splitlines() if "check" not in line]
    path.write_text("\n".join(lines).replace('"seconds": 0.0,', '"seconds": 0.0'))
    found = store.done(KEY)
    assert found is not None
    assert found.accuracy == 87.5
