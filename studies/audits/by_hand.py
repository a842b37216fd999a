"""The demo's quick audit, measured again without it: `python studies/audits/by_hand.py AUDIT [DEMO]`.

Trains the attackers that its numbers rest on by `undistill.attack`, one by one, and computes what its flags rest on with NumPy and
PyTorch alone. Prints both, and writes them to `by_hand.json` beside this file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import undistill

CARD = "probs/unlabelled(1.0)/fresh/random/50"
STUDENT = {"name": "cnn", "width": 0.5}
TRAINING = ("training.epochs=20", "training.passes=20", "training.batch=50")
KD4, KD1 = ({"name": "kd", "temperature": t, "alpha": 1.0} for t in (4, 1))
SEEDS = (0, 1, 2)


def main(audit: Path, demo: Path) -> None:
    """Measure, compare, write."""
    data = undistill.load("digits", test=497, pool=400, val=90)
    recipe = undistill.recipe("digits", TRAINING)
    teachers = {name: demo / "teachers" / f"{name}-s0" for name in ("nasty", "normal")}

    def got(name: str, attack: str | dict[str, Any]) -> float:
        """Mean accuracy over the seeds, percent."""
        found = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as out:
                cell = undistill.attack(
                    teachers[name],
                    data,
                    attack,
                    student=STUDENT,
                    card=CARD,
                    recipe=recipe,
                    seed=seed,
                    out=f"{out}/thief",
                )
            found.append(cell.accuracy or float("nan"))
        return float(np.mean(found))

    def answers(name: str, images: torch.Tensor) -> NDArray[np.float64]:
        with torch.no_grad():
            return undistill.load_model(teachers[name])(images).double().log_softmax(1).numpy()

    assert data.pool is not None
    test, trained, fresh = (images.seen(slice(0, 500)) for images in (data.test, data.train, data.pool))
    spread = {name: float(answers(name, test).std(1).mean()) for name in teachers}
    sure = {
        name: [100 * float(np.exp(answers(name, images)).max(1).mean()) for images in (trained, fresh)]
        for name in teachers
    }
    hand = {
        "naive kd, defended": got("nasty", KD4),
        "kd at τ 1, defended": got("nasty", KD1),
        "label-only, defended": got("nasty", "label-only"),
        "naive kd, undefended": got("normal", KD4),
        "label-only, undefended": got("normal", "label-only"),
        "spread, defended over undefended (scale-masking above 3)": spread["nasty"] / spread["normal"],
        "confidence on trained less on fresh images, defended (trained-fresh-differ above 5)": sure["nasty"][0]
        - sure["nasty"][1],
        "confidence on trained less on fresh images, undefended": sure["normal"][0] - sure["normal"][1],
        "seeds (few-seeds below 5)": float(len(SEEDS)),
    }
    judged = json.loads((audit / "report" / "report.json").read_text())["judgement"]
    said = {f"{t['name']}, {t['side']}": t["accuracy"]["mean"] for t in judged["cards"][0]["thieves"] if t["accuracy"]}
    flags = sorted({flag["name"] for flag in judged["flags"]})
    out = {"by hand": {k: round(v, 2) for k, v in hand.items()}, "audit": said, "flags": flags}
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(out, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs/demo"))
