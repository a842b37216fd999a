"""The trained pair that comes with the project loads, is small, and is what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from undistill.models import model_folder as models

PAIR = Path(__file__).parents[2] / "examples" / "cifar10"


@pytest.mark.parametrize("kind", ["normal", "nasty"])
def test_a_committed_teacher_loads(kind: str) -> None:
    folder = PAIR / kind
    assert (folder / "model.safetensors").stat().st_size <= 4_000_000
    network, names = models.read(folder)
    assert names is not None
    assert len(names) == 10
    assert all(value.dtype != torch.float16 for value in network.state_dict().values())
    with torch.no_grad():
        logits_BC = network(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert bool(logits_BC.isfinite().all())
    assert models.read_origin(folder)["kind"] == {"normal": "train", "nasty": "protect"}[kind]


def test_the_two_share_no_weights_but_the_whitening() -> None:
    normal, nasty = (models.read(PAIR / kind)[0].state_dict() for kind in ("normal", "nasty"))
    same = [name for name, value in normal.items() if value.is_floating_point() and torch.equal(value, nasty[name])]
    scales = [name for name in normal if name.endswith(".weight") and normal[name].ndim == 1]
    assert set(same) == {"body.0.0.weight", *scales}
