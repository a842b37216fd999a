"""The oracle enforces access and budget and counts questions; below WEIGHTS it is all that an attacker has.

What the victim computes goes through the answer-side defenses in front of it, then is cut to the access, then rounded.

Legend: B batch, C classes, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undistill import ranks
from undistill.data.batches import ImageBatches
from undistill.errors import Refused, RunError
from undistill.oracle.black_box import BlackBox
from undistill.oracle.inference import Frozen, not_finite, sound
from undistill.oracle.logit_cache import LogitCache, recalled
from undistill.oracle.output_defense import AnswerDefense, keep_top, rounded, serve, shown, suits
from undistill.seeds import generator
from undistill.threat_model import Access
from undistill.training.evaluate import batch_for
from undistill.training.precision import Wanted
from undistill.training.recipe import Training
from undistill.types import Batch


@dataclass(frozen=True)
class Answer:
    """What the victim said: B × C logits or probabilities, or B labels, as `access` says."""

    access: Access
    values: Tensor

    @property
    def scores_BC(self) -> Tensor:
        """Logits up to a shift of each row: log-probabilities where probabilities were given, −∞ for a class without any."""
        if self.access is Access.LABEL:
            raise Refused("a label is no score: this attack reads more than the labels that it is given")
        return self.values if self.access >= Access.LOGITS else self.values.log()

    @property
    def labels_B(self) -> Tensor:
        """The victim's top class; never the true label."""
        return self.values if self.access is Access.LABEL else self.values.argmax(dim=1)

    def take(self, rows_B: Tensor) -> Answer:
        """The answers to some of the questions."""
        return Answer(self.access, self.values[rows_B])


class Oracle:
    """A victim behind its door, always in evaluation mode and frozen.

    `access` is what answers show: never more than probabilities behind answer-side defenses. `queries` counts the questions this
    attacker asked, `forwards` the images the victim computed an answer for.
    """

    def __init__(
        self,
        victim: nn.Module | BlackBox,
        access: Access,
        *,
        budget: int | None = None,
        queries: int = 0,
        forwards: int = 0,
        top_k: int = 5,
        bank: LogitCache | None = None,
        precision: Wanted = "fp32",
        behind: Sequence[AnswerDefense] = (),
        digits: int | None = None,
        seed: int = 0,
    ) -> None:
        """Open a door.

        Args:
            victim: a network or a black box.
            access: what the card gives.
            budget: at most so many questions.
            queries: questions asked before, by a run that goes on.
            forwards: answers computed before.
            top_k: classes that `TOPK` shows.
            bank: keeps a network's raw answers, those from before any defense.
            precision: what a network computes them in.
            behind: answer-side defenses, the first acts first. At WEIGHTS none acts, for the attacker holds the network.
            digits: behind the point of shown probabilities; None for all.
            seed: of random defenses, which draw anew for each batch of questions: at (seed, "victim", "answers/N")
                after N of them, and for part P of a batch at "answers/N/P".
        """
        if isinstance(victim, BlackBox):
            if access > victim.kind:
                raise Refused(f"{victim.name} answers with {victim.kind.label}, which is less than {access.label}")
            suits(behind, victim.kind, victim.name)
        self._victim = (
            victim if isinstance(victim, BlackBox) else Frozen(victim, precision, whole=access is Access.WEIGHTS)
        )
        self._name = f"the victim {_name_of(victim)}"
        self._broken: Tensor | None = None
        self._bank = bank
        self._behind = () if access is Access.WEIGHTS else tuple(behind)
        self.access, self.budget, self.top_k = shown(access, behind), budget, top_k
        self.digits, self.seed = digits, seed
        self.queries, self.forwards = queries, forwards

    def ask(self, images_BCHW: Tensor) -> Answer:
        """The victim's answers to float images in [0, 1]. Each image is a question. Refused (a PermissionError) over budget.

        Processes that train together ask the same here, and the victim is asked once.
        """
        self._ask(len(images_BCHW))
        self.forwards += len(images_BCHW)
        if isinstance(self._victim, BlackBox):
            return self._show(self._victim.answer(images_BCHW), self._victim.kind)
        network = self._victim
        return self._show(self._look(ranks.once(lambda: network(images_BCHW))))

    def ask_batch(self, batch: Batch) -> Answer:
        """`ask` about a batch of a training, or a part of one."""
        if batch.part is None or isinstance(self._victim, BlackBox):
            return self.ask(batch.images_BCHW)
        self._ask(batch.counted)
        self.forwards += batch.counted
        return self._show(self._look(self._victim(batch.images_BCHW)), batch=batch)

    def recall(self, batches: ImageBatches, passes: int) -> Callable[[Batch], Answer] | None:
        """What answers batches of `batches` as `ask` would, from the bank; None where nothing is kept.

        Each image of a batch is a question all the same; `forwards` counts only what was computed.
        """
        if isinstance(self._victim, BlackBox):
            return None
        recall = recalled(self._victim, batches, passes, self._bank, self._computed)
        if recall is None:
            return None

        def answer(batch: Batch) -> Answer:
            self._ask(batch.counted)
            return self._show(self._look(recall(batch)), batch=batch)

        return answer

    def _ask(self, count: int) -> None:
        if self.budget is not None and self.queries + count > self.budget:
            raise Refused(f"{count} more questions exceed the budget of {self.budget}; {self.queries} were asked")
        self.queries += count

    def check(self) -> None:
        """RunError where an answer was not finite. On a GPU an answer is not waited for; a training loop calls this.

        −∞ is finite here, for some classes: their probability is 0.
        """
        if self._broken is not None and int(self._broken):
            raise RunError(not_finite(self._name, int(self._broken), self.queries))

    def _look(self, logits_BC: Tensor) -> Tensor:
        """The answers of a network, looked at before a defense or an argmax can hide what is wrong with them."""
        broken = (~sound(logits_BC)).sum()
        self._broken = broken if self._broken is None else self._broken.to(broken.device) + broken
        if not logits_BC.is_cuda:
            self.check()
        return logits_BC

    def _computed(self, count: int) -> None:
        self.forwards += count

    def _show(self, values: Tensor, kind: Access = Access.LOGITS, batch: Batch | None = None) -> Answer:
        """As much of the answer to the last questions as the defenses and the access leave."""
        if self._behind and kind is not Access.LABEL:
            part = None if batch is None else batch.part
            asked = self.queries - len(values) if part is None else self.queries - part.whole * part.last
            rng = generator(self.seed, "victim", f"answers/{asked}{'' if part is None else f'/{part.number}'}")
            values, kind = serve(values, kind, self._behind, rng), Access.PROBS
        values = cut(values, self.access, self.top_k, given=kind)
        if self.digits is not None and self.access in (Access.TOPK, Access.PROBS):
            values = rounded(values, self.digits)
        return Answer(self.access, values)

    def weights(self) -> nn.Module:
        """A frozen copy of the victim; Refused below WEIGHTS."""
        if self.access < Access.WEIGHTS or isinstance(self._victim, BlackBox):
            raise Refused(f"weights are beyond the access {self.access.label}")
        return self._victim.copy()


def _name_of(victim: nn.Module | BlackBox) -> str:
    if isinstance(victim, BlackBox):
        return victim.name
    return str(getattr(victim, "config", {}).get("name", type(victim).__name__))


def cut(values: Tensor, access: Access, top_k: int = 5, *, given: Access = Access.LOGITS) -> Tensor:
    """What an access level shows of B × C scores of a kind (or of B labels); probabilities outside the top k are 0."""
    if given is Access.LABEL or access > given or (access is given and access is not Access.TOPK):
        return values
    if access is Access.LABEL:
        return values.argmax(dim=1)
    probs_BC = values.softmax(dim=1) if given >= Access.LOGITS else values
    return probs_BC if access is Access.PROBS else keep_top(probs_BC, top_k)


class Questions:
    """How an attacker's batches meet the oracle.

    Without a budget each view is a question, and an oracle with a bank computes no answer twice. With one, each image is asked
    once, as it is, and training on its views reads the stored answer.
    """

    def __init__(self, oracle: Oracle, batches: ImageBatches, training: Training) -> None:
        """`training` says how many passes over `batches` there will be."""
        self._oracle = oracle
        self._kept: Answer | None = None
        images, device = batches.images, batches.device
        if oracle.budget is None:
            self._recall = oracle.recall(batches, training.epochs * training.passes)
            return
        chunks = images.chunks(batch_for(images, device))
        self._kept = Answer(oracle.access, torch.cat([oracle.ask(images.seen(rows, device)).values for rows in chunks]))
        oracle.check()
        self._row = torch.full((images.source_size,), -1)
        self._row[images.index_N] = torch.arange(len(images))
        self._row = self._row.to(device)

    def __call__(self, batch: Batch) -> Answer:
        """The answers that belong to a batch."""
        if self._kept is not None:
            return self._kept.take(self._row[batch.index_B])
        return self._oracle.ask_batch(batch) if self._recall is None else self._recall(batch)
