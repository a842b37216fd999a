"""Answers to batches, each computed once: a pass at a time ahead of training, and from the bank where it has them.

Legend: B batch, C classes, M images held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from undistill.data.batches import ImageBatches
from undistill.oracle.entry import Entry, Held
from undistill.oracle.inference import PROBE, Frozen
from undistill.oracle.logit_cache import Bank
from undistill.training.evaluate import batch_for
from undistill.types import Batch

AHEAD = 8
"""How many passes ahead a process fills while another one fills the pass that it waits for."""
log = logging.getLogger(__name__)
Count = Callable[[int], None]


def answers(
    network: Frozen, batches: ImageBatches, passes: int, bank: Bank | None, computed: Count = lambda _: None
) -> Callable[[Batch], Tensor]:
    """What gives the B × C float32 logits of a batch of `batches`: recalled where the bank has room, else computed each time.

    Args:
        network: whose answers.
        batches: about whose images and views.
        passes: how many passes over the images there will be.
        bank: None for none.
        computed: told how many answers were computed.
    """

    def plainly(batch: Batch) -> Tensor:
        computed(len(batch.images_BCHW))
        return network(batch.images_BCHW)

    recall = recalled(network, batches, passes, bank, computed)
    return plainly if recall is None else recall


def recalled(
    network: Frozen, batches: ImageBatches, passes: int, bank: Bank | None, computed: Count = lambda _: None
) -> Recall | None:
    """`answers` out of the bank; None without one, without room in it, and for a network that answers at random."""
    if bank is None or not bank.limit or not network.known:
        return None
    probe_BCHW = batches.views_of(0)(batches.images_NCHW[:2], batches.index_N[:2])
    once, again = network.plainly(probe_BCHW), network.plainly(probe_BCHW)
    if not network.alike(once, again, batches.device):
        log.info("logit cache: the model answers the same image differently, so nothing is kept")
        return None
    passes = passes if batches.views else 1
    entry = bank.open(
        network.id,
        once.shape[1],
        batches.images,
        views=batches.views,
        views_seed=batches.views_seed,
        precision=network.arithmetic(batches.device),
        passes=passes,
    )
    return None if entry is None else Recall(network, batches, passes, entry, computed)


class Recall:
    """Answers from an entry of the bank, which is filled on the way, a pass at a time.

    Where several processes read one entry, each pass is filled by one of them: who finds a pass being filled fills a later one.
    """

    def __init__(self, network: Frozen, batches: ImageBatches, passes: int, entry: Entry, computed: Count) -> None:
        self._network, self._batches, self._passes = network, batches, passes
        self._entry, self._computed = entry, computed
        self._index_M = batches.index_N.cpu()
        self._row = _rows(self._index_M, batches.source_size).to(batches.device)
        self._number = -1
        self._logits_MC = torch.empty(0)
        self._trusted = False

    def __call__(self, batch: Batch) -> Tensor:
        """B × C logits of a batch."""
        number = batch.epoch if self._batches.views else 0
        if number != self._number:
            self._number, self._logits_MC = number, self.of(number).to(self._batches.device)
        return self._logits_MC[self._row[batch.index_B]]

    def of(self, number: int) -> Tensor:
        """M × C logits of pass `number` in the order of the images, on the CPU."""
        while True:
            kept = self._kept(number)
            if kept is not None:
                return kept
            with self._entry.claim(number) as mine:
                if mine:
                    kept = self._kept(number)  # it may just have been filled
                    return self._fill(number) if kept is None else kept
            if not self._work_ahead(number + 1):
                time.sleep(0.1)

    def _work_ahead(self, start: int) -> bool:
        """Fill the next pass that nobody fills; False if there is none."""
        for number in range(start, min(start + AHEAD, self._passes) if self._entry.writable else start):
            if self._entry.file(number).exists():
                continue
            with self._entry.claim(number) as mine:
                if mine and not self._entry.file(number).exists():
                    self._fill(number)
                    return True
        return False

    def _kept(self, number: int) -> Tensor | None:
        """A pass as it is kept, if that is all of it."""
        held, row_M = self._held(number)
        return None if bool((row_M < 0).any()) else held.logits_MC[row_M]

    def _held(self, number: int) -> tuple[Held, Tensor]:
        """What is kept of a pass, and where each of the images stands in it; −1 for those that do not."""
        size = self._batches.source_size
        nothing = Held(torch.empty(0, dtype=torch.int64), torch.empty(0, self._entry.classes))
        held = self._entry.read(number) or nothing
        row_M = _rows(held.index_M, size)[self._index_M]
        if self._trusted or bool((row_M < 0).all()) or self._trust(number, held, row_M):
            return held, row_M
        return nothing, torch.full_like(row_M, -1)

    def _trust(self, number: int, held: Held, row_M: Tensor) -> bool:
        """Whether some answers of an entry are still this network's; if not, the entry is emptied."""
        known = (row_M >= 0).nonzero().squeeze(1)
        picked = known[:: max(1, len(known) // PROBE)][:PROBE]
        said = self._compute(number, picked, self._network.plainly)
        self._trusted = self._network.alike(held.logits_MC[row_M[picked]], said, self._batches.device)
        if not self._trusted:
            log.warning(
                "logit cache: %s holds outputs that the network does not give; they are computed anew",
                self._entry.folder,
            )
            self._entry.forget()
        return self._trusted

    def _fill(self, number: int) -> Tensor:
        """Compute what is missing of a pass, keep it, and return all of it."""
        held, row_M = self._held(number)
        missing = (row_M < 0).nonzero().squeeze(1)
        if len(missing):
            fresh_MC = self._compute(number, missing, self._network)
            held = Held(torch.cat([held.index_M, self._index_M[missing]]), torch.cat([held.logits_MC, fresh_MC]))
            self._entry.write(number, held)
        return held.logits_MC[_rows(held.index_M, self._batches.source_size)[self._index_M]]

    def _compute(self, number: int, rows: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of some of the images in pass `number`, on the CPU."""
        batches = self._batches
        views = batches.views_of(number)
        chunks = rows.to(batches.device).split(batch_for(batches.images, batches.device))
        self._computed(len(rows))
        return torch.cat([ask(views(batches.images_NCHW[c], batches.index_N[c])) for c in chunks]).cpu()


def _rows(index_M: Tensor, size: int) -> Tensor:
    """Where each image of the source stands among these; −1 for those that do not."""
    row_N = torch.full((size,), -1)
    row_N[index_M] = torch.arange(len(index_M))
    return row_N
