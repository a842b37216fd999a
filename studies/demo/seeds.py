"""Ten demos, one a seed, and what each of them found: is the headline's interval on one side of 0?

    python studies/demo/seeds.py runs/seeds evidence/demo-avx512.json
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python studies/demo/seeds.py runs/seeds-avx2 evidence/demo-avx2.json

A seed takes about a minute of one core, and half of that with `--attackers kd-4`, which the headline's interval rests on. The other
attackers can follow: a finished training is not done again. The file is replaced after every seed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from undistill.experiments.runtime import Runtime
from undistill.files import write_text
from undistill.paper.demo import Demo, run_demo
from undistill.paper.demo_result import ATTACKERS, SOFT, read
from undistill.paper.demo_result import Demo as Result
from undistill.reporting.demo import provenance, statements
from undistill.statistics import Difference


def found(demo: Result) -> dict[str, Any]:
    """What one demo found; accuracies are percent, differences are [mean, low, high] in points.

    A draw is [seed of the teachers, seed of the draw, accuracy with the normal teacher, with the nasty one], where both were tried.
    """
    return {
        "seed": demo.settings["seed"],
        "says": {statement.head: statement.text for statement in statements(demo) if statement.text},
        "taken": {name: numbers(taken) for name, taken in demo.taken.items()},
        "headroom": numbers(demo.headroom),
        "users": numbers(demo.users),
        "teachers": {name: rounded(each) for name, each in demo.teachers.items()},
        "draws": {
            name: [
                [draw.pair, draw.draw, *rounded(draw.accuracy[t] for t in sorted(draw.accuracy, reverse=True))]
                for draw in draws
            ]
            for name, draws in demo.draws.items()
            if draws
        },
        "training": provenance(demo)["training"],
    }


def numbers(taken: Difference) -> list[float] | None:
    """[mean, low, high]; None where nothing is known."""
    return rounded((taken.mean, taken.low, taken.high)) if taken.finite else None


def rounded(values: Any) -> list[float]:
    """To a thousandth of a point."""
    return [round(float(value), 3) for value in values]


def main() -> None:
    """Run the seeds that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--attackers", nargs="+", choices=[each.name for each in ATTACKERS])
    given = parser.parse_args()
    attackers = [each for each in ATTACKERS if given.attackers is None or each.name in given.attackers]
    rows = []
    for seed in range(given.seeds):
        out = run_demo(given.runs / f"s{seed}", Demo(seed), resume=True, runtime=Runtime(jobs=1), attackers=attackers)
        demo = read(out)
        rows.append(found(demo))
        apart = sum(row["taken"][SOFT.name][1] > 0 for row in rows)
        facts = {
            name: fact for name, fact in provenance(demo).items() if name not in ("teachers", "attackers", "training")
        }
        whole = {"excludes 0": f"{apart} of {len(rows)}", "computed with": facts, "seeds": rows}
        write_text(given.table, json.dumps(whole, ensure_ascii=False).replace('{"seed"', '\n{"seed"') + "\n")
        print(seed, rows[-1]["taken"][SOFT.name], flush=True)


if __name__ == "__main__":
    main()
