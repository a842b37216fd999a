"""What users get from a victim under an output access, and cells that hold no attack: victims and the data of figures.

Legend: B batch, C classes, N test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undistill.data import ImageBatches, ImageSet, Splits
from undistill.data.augment import centre
from undistill.experiments.cell import Array, Cell, identify
from undistill.experiments.plan import TWICE
from undistill.files import read_json
from undistill.oracle.black_box import BlackBox
from undistill.oracle.logit_cache import LogitCache
from undistill.oracle.oracle import Answer, Oracle
from undistill.oracle.query_log import Ledger
from undistill.oracle.victim import Victim, resolve
from undistill.threat_model import Access, ThreatModel
from undistill.training.evaluate import batch_for, predict
from undistill.training.run_folder import Run
from undistill.types import Batch

Numbers = dict[str, float | None]
TEMPERATURES = (1, 2, 4, 8, 20)
KNOWN = 500
"""Training images, and fresh ones, whose confidences are compared."""
BINS = 15
TOP = 5
NOTHING = 1e-6
"""A missing mass that is float32's rounding."""


def served(
    victim: Victim, data: Splits, card: ThreatModel, *, seed: int = 0, bank: LogitCache | None = None
) -> tuple[Numbers, Tensor]:
    """(numbers, N predicted classes): what the victim's answers to the test images are worth, served as the threat model says.

    A user completes an answer: what a row lacks to 1 is spread evenly over the classes that were not shown, and a row is divided
    by its sum. Means are over test images. Percent: `accuracy` (the top class, of equals the first), `top5` (the true class is
    shown and among the five largest; None for labels or up to five classes), `lost` (the true class has probability 0 in the
    completed answer), `ece` (of the top class's shown confidence; None for labels), `confidence_*` (the top class's, None for
    labels) and `accuracy_*` on the first 500 images that the victim trained on and on fresh ones (None without any, and for a black
    box). `nll` in nats and `brier` (0 to 2) are of the completed answer; `nll` is None where a true class has probability 0.
    `spread`: the standard deviation of log-probabilities over the classes shown, None where no answer shows two. `second_τ`:
    runner-up over top at temperature τ, None for labels. `repeat`: the largest difference between two answers to one of 32 images,
    None for a file of answers, which cannot say. `classes`: C.

    Args:
        victim: with what stands in front of it. A black box is asked about the test images, and about 32 of them again.
        data: the victim's; the network is on the device that it is on.
        card: its access, `top` and `digits` count.
        seed: of random defenses.
        bank: keeps a network's raw answers.

    Raises:
        Refused: the threat model gives more than a black box says.
        UsageError: a file of answers that does not hold the test images.
    """
    return _Counter(victim, data, card, seed, bank).measure()


@dataclass(frozen=True)
class _Counter:
    victim: Victim
    data: Splits
    card: ThreatModel
    seed: int
    bank: LogitCache | None

    def measure(self) -> tuple[Numbers, Tensor]:
        """`served`."""
        test, oracle = self.data.test, self.door(self.victim.model)
        parts = list(self.answers(oracle, test))
        facts = [facts_of(_probs(part, self.classes), labels_B) for part, labels_B in parts]
        all_of = {name: torch.cat([fact[name] for fact in facts]) for name in facts[0]}
        numbers = summary(all_of, oracle.access, self.classes)
        numbers["repeat"] = self.repeat(oracle, parts[0][0])
        for name, images in (("trained", self.data.train), ("fresh", self.data.pool)):
            known = None if isinstance(self.victim.model, BlackBox) else images
            confidence, right = (None, None) if known is None else self.sureness(oracle, known)
            numbers |= {f"confidence_{name}": confidence, f"accuracy_{name}": right}
        return {**numbers, "classes": float(self.classes)}, all_of["predicted"]

    @property
    def classes(self) -> int:
        return self.data.num_classes

    @property
    def device(self) -> torch.device:
        """Where the victim is."""
        box = isinstance(self.victim.model, BlackBox)
        return torch.device("cpu") if box else next(self.victim.network.parameters(), torch.empty(0)).device

    def door(self, model: nn.Module | BlackBox, queries: int = 0) -> Oracle:
        """The victim as the threat model serves it."""
        return Oracle(
            model,
            self.card.access,
            queries=queries,
            top_k=self.card.top or TOP,
            digits=self.card.digits,
            bank=self.bank,
            behind=self.victim.behind,
            seed=self.seed,
        )

    def answers(self, oracle: Oracle, images: ImageSet) -> Iterator[tuple[Answer, Tensor]]:
        """(answer, labels) of all images in their order, the first 32 apart; out of the bank where there is one."""
        recall = None
        if len(images) > 1 and self.bank is not None:
            recall = oracle.recall(ImageBatches(images, 2, seed=0, role="test", device=self.device), 1)
        for rows in [slice(0, TWICE), *(slice(TWICE + c.start, TWICE + c.stop) for c in _rest(images))]:
            pixels_BCHW, index_B = images.seen(rows, self.device), images.index_N[rows].to(self.device)
            answer = oracle.ask(pixels_BCHW) if recall is None else recall(Batch(pixels_BCHW, None, index_B, 0))
            yield answer, images.labels_N[rows]

    def repeat(self, oracle: Oracle, once: Answer) -> float | None:
        """The largest difference between two answers to the first test images."""
        pixels_BCHW = self.data.test.seen(slice(0, TWICE), self.device)
        box = self.victim.model
        if not isinstance(box, BlackBox):
            once = oracle.ask(pixels_BCHW)  # as the second time, and not out of a bank
        elif isinstance(box.predict, Ledger):  # which would say again what it was told
            if box.predict.ask is not None:
                oracle = self.door(replace(box.predict.ask, predict=box.predict.again), oracle.queries)
            elif not any(defense.random for defense in self.victim.behind):
                return None
        first_BC, second_BC = (_probs(answer, self.classes) for answer in (once, oracle.ask(pixels_BCHW)))
        return float((first_BC - second_BC).abs().max())

    def sureness(self, oracle: Oracle, images: ImageSet) -> tuple[float | None, float]:
        """(mean confidence, accuracy) in percent on the first of these images."""
        some = images.take(torch.arange(min(KNOWN, len(images))))
        parts = [facts_of(_probs(answer, self.classes), labels_B) for answer, labels_B in self.answers(oracle, some)]
        confidence, right = (torch.cat([part[name] for part in parts]) for name in ("confidence", "right"))
        return None if oracle.access is Access.LABEL else _percent(confidence), _percent(right)


def _rest(images: ImageSet) -> list[slice]:
    """Rows behind the first 32, counted from there."""
    size = batch_for(images)
    return [slice(start, start + size) for start in range(0, len(images) - TWICE, size)]


def _probs(answer: Answer, classes: int) -> Tensor:
    """B × C float64 probabilities as they are shown, on the CPU; of a label all for its class."""
    values = answer.values.cpu()
    if answer.access is Access.LABEL:
        return F.one_hot(values, classes).double()
    return values.double().softmax(dim=1) if answer.access >= Access.LOGITS else values.double()


def completed(probs_BC: Tensor) -> Tensor:
    """B × C float64, rows sum to 1: what a row lacks to 1 goes to the classes of probability 0 in equal parts."""
    hidden_BC = probs_BC == 0
    missing_B1 = 1 - probs_BC.sum(dim=1, keepdim=True)
    missing_B1 = torch.where(missing_B1 > NOTHING, missing_B1, 0.0)
    filled_BC = torch.where(hidden_BC, missing_B1 / hidden_BC.sum(dim=1, keepdim=True).clamp_min(1), probs_BC)
    return filled_BC / filled_BC.sum(dim=1, keepdim=True)


def facts_of(probs_BC: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
    """What is known of each answer, B numbers each, from float64 probabilities as they are shown and the true classes."""
    own_B1, shown_BC, full_BC = labels_B[:, None], probs_BC > 0, completed(probs_BC)
    truth_B1, place_C = probs_BC.gather(1, own_B1), torch.arange(probs_BC.shape[1])
    before_B = ((probs_BC > truth_B1) | ((probs_BC == truth_B1) & (place_C < own_B1))).sum(dim=1)
    top_B2 = probs_BC.topk(2, dim=1).values
    count_B = shown_BC.sum(dim=1)
    log_BC = torch.where(shown_BC, probs_BC, 1.0).log()
    away_BC = torch.where(shown_BC, log_BC - log_BC.sum(dim=1, keepdim=True) / count_B[:, None], 0.0)
    spread_B = (away_BC.square().sum(dim=1) / count_B).sqrt()
    predicted_B = probs_BC.argmax(dim=1)
    return {
        "predicted": predicted_B,
        "right": (predicted_B == labels_B).double(),
        "confidence": top_B2[:, 0],
        "ratio": top_B2[:, 1] / top_B2[:, 0],
        "in_five": ((before_B < TOP) & (truth_B1[:, 0] > 0)).double(),
        "truth": full_BC.gather(1, own_B1)[:, 0],
        "brier": (full_BC - F.one_hot(labels_B, probs_BC.shape[1])).square().sum(dim=1),
        "spread": torch.where(count_B > 1, spread_B, torch.nan),
    }


def summary(facts: dict[str, Tensor], access: Access, classes: int) -> Numbers:
    """The numbers that follow from N answers; see `served`."""
    named, truth_N = access is Access.LABEL, facts["truth"]
    spread_M = facts["spread"][~facts["spread"].isnan()]
    lost = _percent((truth_N == 0).double())
    return {
        "accuracy": _percent(facts["right"]),
        "top5": None if named or classes <= TOP else _percent(facts["in_five"]),
        "nll": None if lost else float(-truth_N.log().mean()),
        "lost": lost,
        "ece": None if named else _ece(facts["confidence"], facts["right"]),
        "brier": float(facts["brier"].mean()),
        "spread": float(spread_M.mean()) if len(spread_M) else None,
        **{f"second_{t}": None if named else float((facts["ratio"] ** (1 / t)).mean()) for t in TEMPERATURES},
    }


def _percent(values_N: Tensor) -> float:
    return 100 * float(values_N.double().mean())


def _ece(confidence_N: Tensor, right_N: Tensor) -> float:
    """Expected calibration error, percent: |accuracy − confidence| of 15 equal bins, weighted by their images."""
    place_N = (confidence_N * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place_N, right_N - confidence_N)
    return 100 * float(gaps.abs().sum()) / len(right_N)


def victim_cell(
    run: Run, data: Splits, experiment: str, *, device: torch.device | None = None
) -> tuple[Cell, dict[str, Array]]:
    """(cell, per-sample predictions): what a finished `train` or `protect` run is worth to its users; predicted on `device`."""
    victim = resolve(run)
    result = run.result
    cell = Cell(
        id=identify({"victim_id": victim.id, "data": data.fingerprint, "kind": "victim"}),
        kind="victim",
        experiment=experiment,
        victim=victim.label,
        victim_id=victim.id,
        defense=victim.defense,
        student=run.recipe.model.name,
        student_settings=run.recipe.model.settings,
        images=len(data.train),
        seeds={"victim": run.recipe.seed},
        accuracy=result["accuracy"],
        accuracy_val=result["accuracy_val"],
        n_test=result["n_test"],
        nll=result["nll"],
        ece=result["ece"],
        curve=run.metrics(),
        data=data.fingerprint,
        data_note=data.note,
        recipe={"training": run.recipe.dump()["training"], "views": run.recipe.dump()["data"]["views"]},
        env=_env(run),
        seconds=result["seconds"],
    )
    predicted_N = predict(victim.network.to(device or "cpu"), data.test).argmax(1)
    labels_N = data.test.labels_N
    return cell, {"predicted": predicted_N.numpy().astype(np.int16), "labels": labels_N.numpy().astype(np.int16)}


def top_class_cell(
    victim: Victim, data: Splits, experiment: str, env: dict[str, Any], said_N: Tensor
) -> tuple[Cell, dict[str, Array]]:
    """(cell, per-sample predictions) of a victim that no run folder describes: its accuracy by its top class, no more."""
    fixed = {"victim_id": victim.id, "data": data.fingerprint, "kind": "victim"}
    if isinstance(victim.model, BlackBox):  # two functions may have one name
        fixed["answers"] = hashlib.sha256(said_N.numpy().tobytes()).hexdigest()[:16]
    cell = Cell(
        id=identify(fixed),
        kind="victim",
        experiment=experiment,
        victim=victim.label,
        victim_id=victim.id,
        defense=victim.defense,
        student="black box" if isinstance(victim.model, BlackBox) else victim.network.config["name"],
        seeds={"victim": victim.seed or 0},
        accuracy=round(100 * float((said_N == data.test.labels_N).double().mean()), 6),
        n_test=len(data.test),
        data=data.fingerprint,
        data_note=data.note,
        env=env,
    )
    return cell, {"predicted": said_N.numpy().astype(np.int16)}


def logit_response(
    normal: Run, hardened: Run, data: Splits, experiment: str, *, temperatures: Sequence[float], images: int = 4
) -> tuple[Cell, dict[str, Array]]:
    """(figure cell, arrays): both victims' raw answers to the first test image of each of the first classes.

    Source: Ma et al. 2021, figure 1 (bars of the logit response). The images are chosen by place, not by what is answered.
    """
    first, second = resolve(normal), resolve(hardened)
    labels_N = data.test.labels_N
    rows = [int((labels_N == c).nonzero()[0]) for c in labels_N.unique()[:images].tolist()]
    shown = data.test.take(torch.tensor(rows))
    arrays: dict[str, Array] = {
        "images": centre(shown.images_NCHW[:], shown.image_size).numpy(),
        "labels": shown.labels_N.numpy(),
        "class_names": np.array(data.test.class_names),
    }
    with torch.inference_mode():
        pixels = shown.seen()
        arrays["normal"] = first.network(pixels).numpy()
        arrays["hardened"] = second.network(pixels).numpy()
    settings: dict[str, Any] = {"temperatures": list(temperatures)}
    fixed = {"victims": [first.id, second.id], "rows": rows, **settings}
    cell = figure_cell(
        "logit-response", second, hardened, data, experiment, settings=settings, fixed=fixed, env=_env(hardened)
    )
    return cell, arrays


def figure_cell(
    figure: str,
    victim: Victim,
    run: Run,
    data: Splits,
    experiment: str,
    *,
    settings: dict[str, Any],
    fixed: dict[str, Any],
    env: dict[str, Any],
    numbers: dict[str, float] | None = None,
) -> Cell:
    """The cell of a figure about a victim and its run; `fixed` is what its data follow from, and with the figure's name its id."""
    return Cell(
        id=identify({"figure": figure, **fixed}),
        kind="figure",
        experiment=experiment,
        victim=victim.label,
        victim_id=victim.id,
        defense=victim.defense,
        attack=figure,
        attack_settings=settings,
        seeds={"victim": run.recipe.seed},
        numbers=numbers or {},
        n_test=len(data.test),
        data=data.fingerprint,
        data_note=data.note,
        env=env,
    )


def _env(run: Run) -> dict[str, Any]:
    return read_json(run.folder / "env.json")
