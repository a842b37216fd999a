"""Batches in parts: one after another in one process, or each process its own. What two processes do together: `test_torchrun`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from undistill import ranks
from undistill.data.augment import Crop, Flip
from undistill.data.batches import ImageBatches, parts
from undistill.data.image_set import ImageSet
from undistill.training import parallel
from undistill.training.loop import fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Training
from undistill.types import Batch, Part


def among(monkeypatch: pytest.MonkeyPatch, processes: int, number: int) -> None:
    """As if this were one of several processes."""
    monkeypatch.setattr(ranks, "count", lambda: processes)
    monkeypatch.setattr(ranks, "number", lambda: number)


@pytest.fixture
def images() -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (19, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(19) % 3, ("a", "b", "c"))


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 23, 64])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_parts_of_a_batch_are_all_of_it_once(
    size: int, accumulate: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(100, 100 + size)
    found = []
    for number in range(processes):
        among(monkeypatch, processes, number)
        own = parts(rows, accumulate)
        assert [part is None or part.last for _, part in own] == [False] * (len(own) - 1) + [True]
        assert all(len(some) >= 2 for some, _ in own)
        found += own
    if processes * accumulate == 1:
        assert [(some.tolist(), part) for some, part in found] == [(rows.tolist(), None)]
        return
    told: list[tuple[torch.Tensor, Part]] = [(some, part) for some, part in found if part is not None]
    assert len(told) == len(found)
    assert sum(part.share for _, part in told) == pytest.approx(1, abs=1e-12)
    assert {part.whole for _, part in told} == {size}
    assert sorted(part.number for _, part in told) == list(range(len(told)))
    if size < 2 * processes:  # too small to be divided: each has it whole
        assert [some.tolist() for some, _ in told] == [rows.tolist()] * processes
    else:
        assert sorted(torch.cat([some for some, _ in told]).tolist()) == rows.tolist()
        assert all(part.share == pytest.approx(len(some) / size) for some, part in told)


def test_processes_see_the_views_of_one(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(accumulate: int = 1) -> ImageBatches:
        views = [Crop(padding=2), Flip()]
        return ImageBatches(images, 8, views, seed=3, role="teacher", passes=2, accumulate=accumulate)

    def seen(found: list[Batch]) -> dict[tuple[int, int], torch.Tensor]:
        return {(b.epoch, int(i)): x for b in found for i, x in zip(b.index_B, b.images_BCHW, strict=True)}

    whole = seen(list(batches().epoch(1)))
    divided: dict[tuple[int, int], torch.Tensor] = {}
    counted = []
    for number in range(2):
        among(monkeypatch, 2, number)
        own = list(batches(2).epoch(1))
        divided |= seen(own)
        counted.append(sum(batch.counted for batch in own))
    assert counted == [38, 38]  # all images of the epoch, in every process
    assert whole.keys() == divided.keys()
    assert all(torch.equal(whole[key], divided[key]) for key in whole)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_gradients_of_parts_are_those_of_the_whole_batch(images: ImageSet, clip: float | None) -> None:
    """19 images in batches of 8: the last one has 3, of which two parts cannot be made."""
    reached = []
    for accumulate in (1, 3):
        sgd = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
        training = Training(epochs=3, batch=8, optimizer=sgd, clip=clip, accumulate=accumulate)
        model = network()
        batches = ImageBatches(images, 8, [Flip()], seed=0, role="teacher", accumulate=accumulate)
        records = list(fit(model, batches, CrossEntropy(), training, seed=0))
        assert [record.images for record in records] == [19] * 3
        reached.append((torch.cat([p.flatten() for p in model.parameters()]), [r.terms for r in records]))
    (one, terms), (other, told) = reached
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for a, b in zip(terms, told, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert not torch.equal(one, torch.cat([p.flatten() for p in network().parameters()]))


def test_a_sum_of_unweighted_parts_would_be_found_out(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of 8 images are of 3, 3 and 2: were each a third, the steps would be others."""
    real = parts

    def thirds(rows_B: torch.Tensor, accumulate: int = 1) -> list[tuple[torch.Tensor, Part | None]]:
        made = real(rows_B, accumulate)
        return [(rows, None if part is None else part._replace(share=1 / len(made))) for rows, part in made]

    reached = []
    for divide in (real, thirds):
        monkeypatch.setattr("undistill.data.batches.parts", divide)
        model = network()
        training = Training(epochs=1, batch=8, optimizer={"name": "sgd", "lr": 0.1}, accumulate=3)
        batches = ImageBatches(images, 8, seed=0, role="teacher", accumulate=3)
        list(fit(model, batches, CrossEntropy(), training, seed=0))
        reached.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert not torch.allclose(reached[0], reached[1], rtol=1e-5, atol=1e-6)


def test_a_process_alone_has_nobody_to_talk_to() -> None:
    value = torch.tensor([1.0, 2.0])
    assert (ranks.started(), ranks.count(), ranks.number(), ranks.first(), ranks.place()) == (1, 1, 0, True, 0)
    assert ranks.total(value) is value
    assert ranks.smallest(value) is value
    assert ranks.once(lambda: value) is value
    assert ranks.shared(torch.arange(3), lambda rows: rows * 2).tolist() == [0, 2, 4]
    norm = nn.BatchNorm2d(4)
    with parallel.together(norm, synced=True):
        assert "forward" not in vars(norm)


def test_settings_that_change_nothing_leave_no_trace() -> None:
    """Cells of recipes that were written before these settings keep their ids."""
    assert not {"accumulate", "sync_batch_norm"} & set(Training().model_dump())
    changed = Training(accumulate=2, sync_batch_norm=False)
    assert Training.model_validate(changed.model_dump()) == changed
    assert (changed.model_dump()["accumulate"], changed.model_dump()["sync_batch_norm"]) == (2, False)
