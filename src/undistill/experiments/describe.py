"""Cells that hold no thief: the victims themselves, and the data of figures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill.data import Splits
from undistill.data.augment import centre
from undistill.experiments.cell import Array, Cell, identify
from undistill.files import read_json
from undistill.oracle.black_box import BlackBox
from undistill.oracle.victim import Victim, resolve
from undistill.training.evaluate import predict
from undistill.training.run_folder import Run


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


def served_cell(
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
        "images": centre(shown.images_NCHW, shown.image_size).numpy(),
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
