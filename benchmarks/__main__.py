"""`make bench`: ratios of two arms, each in a process of its own, run in turn; medians over repeats, as JSON and as a table.

Machines are noisy: read the ratios, not the seconds. Rows are named in ROWS; `--only` picks some, `--quick` does less of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.decoding import decode
from benchmarks.measure import arm, in_turn, median, once, steady

Row = dict[str, Any]


class Bench:
    """What is measured on and how long."""

    def __init__(self, device: str, repeats: int, peer: str | None, scale: float) -> None:
        self.device, self.repeats, self.peer, self.scale = device, repeats, peer, scale
        self.cuda = device.startswith("cuda")

    def images(self, network: str) -> int:
        """How many a training takes; whole batches."""
        many = {"cnn": 2560, "resnetc20": 1280, "resnet18": 256}[network] * (20 if self.cuda else 1)
        return max(256, int(many * self.scale) // 128 * 128)

    def spec(self, work: str, network: str, other: str | None = None, **more: Any) -> dict[str, Any]:
        """The common part of both arms."""
        heavy = "resnet18" if "resnet18" in (network, other) and work != "plain" else network
        given = {"work": work, "network": network, "images": self.images(heavy), "batch": 128, "epochs": 2}
        return {**given, **({"other": other} if other else {}), "device": self.device, **more}

    def pair(
        self, what: str, spec: dict[str, Any], ours: dict[str, Any] | None = None, other: str = "reference"
    ) -> Row:
        """`other` against ours: seconds of an epoch behind the first, and memory."""
        commands = {other: arm(arm=other, **spec), "ours": arm(arm="ours", **{**spec, **(ours or {})})}
        runs = in_turn(commands, self.repeats)
        row = _row(what, steady(runs[other]), steady(runs["ours"]), "s an epoch")
        name = "cuda_mib" if self.cuda else "mib"
        return row | {"memory": round(median(runs["ours"], name) / median(runs[other], name), 3)}


def _row(what: str, reference: float, ours: float, unit: str) -> Row:
    return {"what": what, "reference": reference, "ours": ours, "unit": unit, "ratio": round(reference / ours, 3)}


def trainings(bench: Bench) -> Iterator[Row]:
    """Nasty, KD and ordinary training of three networks, fp32."""
    yield bench.pair("nasty training, resnet18", bench.spec("nasty", "resnet18"))
    for name, of in (("cnn", "resnet18"), ("cnn", "resnetc20"), ("resnetc20", "resnet18"), ("resnet18", "resnet18")):
        yield bench.pair(f"KD of {name} from {of}, first student", bench.spec("kd", name, of))
    for name in ("cnn", "resnetc20", "resnet18"):
        yield bench.pair(f"ordinary training, {name}", bench.spec("plain", name))
    for name in ("cnn", "resnetc20"):
        yield bench.pair(f"nasty training, {name}", bench.spec("nasty", name))


def bf16(bench: Bench) -> list[Row]:
    """The same with bf16, against the reference in fp32."""
    specs = {"nasty training, resnet18": bench.spec("nasty", "resnet18")}
    specs["KD of cnn from resnet18, first student"] = bench.spec("kd", "cnn", "resnet18")
    return [bench.pair(f"{what}, ours in bf16", spec, {"precision": "bf16"}) for what, spec in specs.items()]


def grid(bench: Bench) -> list[Row]:
    """20 students of one ResNet18, τ × α, in all, with start-up; once, for it takes long."""
    spec = bench.spec("grid", "cnn", "resnet18", epochs=2)
    spec["images"] = max(256, 2 * spec["images"])
    reference = once(arm(arm="reference", **spec))
    ours = once(arm(arm="grid", **spec, jobs=1 if bench.cuda else 2))
    row = _row("5 × 4 grid of τ × α, cnn from resnet18, 20 students", reference["wall"], ours["wall"], "s in all")
    return [row | {"memory": round(ours["mib"] / reference["mib"], 3), "note": "one run"}]


def whole(bench: Bench) -> list[Row]:
    """KD of `cnn` from `resnetc20` on digits, 30 epochs: the shell's command against a script, with start-up and test."""
    import torch

    from undistill.training.run_folder import Run

    with tempfile.TemporaryDirectory() as name:
        folder, shell = Path(name), [sys.executable, "-m", "undistill"]
        teacher = [*shell, "train", "--model", "resnetc20", "-s", "training.epochs=1", "-o", f"{folder}/t", "-q"]
        once(teacher)
        torch.save(Run.open(folder / "t").model().state_dict(), folder / "t.pt")
        attack = [*shell, "attack", f"{folder}/t", "--with", "kd", "--student", "cnn", "-q", "-s", "training.epochs=30"]
        attack += ["-s", "student.width=1.0", "-s", "training.batch=64", "--bank", f"{folder}/bank"]
        reference, ours, second = [], [], []
        for number in range(bench.repeats):
            reference.append(
                once([sys.executable, "-m", "benchmarks.script", f"{folder}/t.pt", "30", f"{folder}/s.pt"])
            )
            ours.append(once([*attack, "-o", f"{folder}/{number}", "--seed", str(number)]))
            again = ["-o", f"{folder}/{number}b", "--seed", str(number), "-s", "attack.temperature=2"]
            second.append(once([*attack, *again]))
    rows = []
    for what, runs in (("first student", ours), ("second student", second)):
        what = f"KD of cnn from resnetc20 on digits, 30 epochs, end to end, {what}"
        row = _row(what, median(reference, "wall"), median(runs, "wall"), "s in all")
        rows.append(row | {"memory": round(median(runs, "mib") / median(reference, "mib"), 3)})
    return rows


def loop(bench: Bench) -> list[Row]:
    """`fit` against forward, backward and step alone: a ratio below 1 is overhead."""
    networks = ("cnn", "resnet18") if bench.cuda else ("cnn", "resnetc20", "resnet18")
    what = "bare forward, backward and step against fit"
    return [
        bench.pair(f"{what}, {name}", bench.spec("plain", name, epochs=4), other="bare") | {"memory": None}
        for name in networks
    ]


def floor(bench: Bench) -> list[Row]:
    """The share of the floor that training reaches."""
    rows = []
    for name in ("cnn", "resnetc20", "resnet18"):
        spec = bench.spec("plain", name)
        measured = in_turn(
            {"floor": arm(module="benchmarks.floor", **spec), "ours": arm(arm="ours", **spec)}, bench.repeats
        )
        step = min(run["step"] for run in measured["floor"])
        ours = steady(measured["ours"]) / (spec["images"] / spec["batch"])
        best = max(measured["floor"], key=lambda run: run["gflops"])
        note = f"{best['gflops']:.0f} GFLOP/s convolution, {best['gbytes']:.1f} GB/s"
        rows.append(_row(f"share of the floor, ordinary training, {name}", step, ours, "s a step") | {"note": note})
        for part in ("forward", "backward") if "kernels" in best else ():
            spent = min(run["kernels"][part] for run in measured["floor"])
            share = spent / sum(best["kernels"].values())
            what = f"share of the peak, {part} convolutions, {name}"
            rows.append(_row(what, best[f"{part}_floor"], spent, "s a step") | {"note": f"{share:.0%} of a step"})
    return rows


def candidates(bench: Bench) -> list[Row]:
    """On CUDA: what might make the bare step faster, against the step as it is."""
    tries: dict[str, dict[str, Any]] = {"cuDNN's search": {"search": True}}
    tries |= {f"torch.compile, {mode}": {"compile": mode} for mode in ("default", "reduce-overhead", "max-autotune")}
    rows = []
    for name, precision in (("cnn", "fp32"), ("resnetc20", "fp32"), ("resnet18", "fp32"), ("resnet18", "bf16")):
        spec = bench.spec("plain", name, precision=precision, arm="bare")
        for what, more in tries.items():
            runs = in_turn({"as it is": arm(**spec), what: arm(**spec, **more)}, bench.repeats)
            row = _row(
                f"{what}: bare step, {name}, {precision}", steady(runs["as it is"]), steady(runs[what]), "s an epoch"
            )
            rows.append(row | {"note": f"first epoch {runs[what][0]['epochs'][0]:.0f} s"})
    return rows


def start(bench: Bench) -> list[Row]:
    """From nothing to the first step of an optimiser, and to `--help`."""
    first = "import torch; m = torch.nn.Linear(2, 2); {0}; m(torch.ones(1, 2)).sum().backward(); o.step()"
    plain = first.format("o = torch.optim.SGD(m.parameters(), 0.1, 0.9)")
    made = "from undistill.training.optim import SGD; o = SGD(lr=0.1).build(m, 2)"
    python = [sys.executable, "-c"]
    steps = in_turn({"reference": [*python, plain], "ours": [*python, first.format(made)]}, bench.repeats + 2)
    helps = in_turn(
        {"reference": [*python, "import torch"], "ours": [sys.executable, "-m", "undistill", "--help"]}, bench.repeats
    )
    rows = [
        ("start to the first optimiser step, torch.optim against ours", steps),
        ("import torch against undistill --help", helps),
    ]
    return [_row(what, median(runs["reference"], "wall"), median(runs["ours"], "wall"), "s") for what, runs in rows]


def speed(bench: Bench) -> list[Row]:
    """A CIFAR-10 teacher: the paper's ResNet18 and epochs by the reference's loop, against `speed-cifar10` by ours.

    Hours are extrapolated from the measured seconds an image: 160 epochs of 50,000 images there, 24 here.
    """
    spec = bench.spec("plain", "resnet18", threads=1)
    mine = {
        **spec,
        "network": "airbench",
        "images": 2048 * (20 if bench.cuda else 1),
        "batch": 1024,
        "precision": "auto",
    }
    runs = in_turn({"reference": arm(arm="reference", **spec), "ours": arm(arm="ours", **mine)}, bench.repeats)
    hours = [
        steady(runs[name]) / given["images"] * 50_000 * epochs / 3600
        for name, given, epochs in (("reference", spec, 160), ("ours", mine, 24))
    ]
    what = "a CIFAR-10 teacher, 160 epochs of ResNet18 against 24 of airbench in bf16 where there is any, one thread, extrapolated"
    return [_row(what, hours[0], hours[1], "h")]


def peer(bench: Bench) -> list[Row]:
    """The reference against torchdistill, on the same networks and pictures; the environment is `make bench-peer`'s."""
    rows = []
    for name, of in (("cnn", "resnet18"), ("cnn", "resnetc20")):
        spec = bench.spec("kd", name, of)
        command = arm(bench.peer or "", "benchmarks.peer", **spec)
        runs = in_turn({"torchdistill": command, "reference": arm(arm="reference", **spec)}, bench.repeats)
        what = f"torchdistill against the reference, KD of {name} from {of}"
        rows.append(_row(what, steady(runs["torchdistill"]), steady(runs["reference"]), "s an epoch"))
    return rows


ROWS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "start": start,
    "whole": whole,
    "loop": loop,
    "decode": decode,
    "trainings": trainings,
    "floor": floor,
    "grid": grid,
    "bf16": bf16,
    "speed": speed,
    "peer": peer,
    "candidates": candidates,
}


def main() -> None:
    """Measure, print, and keep what was measured."""
    import torch

    from undistill.files import write_json
    from undistill.training.environment import choose_device, describe

    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--only", nargs="+", choices=list(ROWS), default=None)
    options.add_argument("--device", default="auto")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--quick", action="store_true", help="a quarter of the images, one repeat")
    options.add_argument("--peer", help="a Python with torchdistill, as `make bench-peer` sets up")
    options.add_argument("--out", type=Path, help="JSON to write; rows that it holds already and are not measured stay")
    given = options.parse_args()
    device = choose_device(given.device)
    bench = Bench(str(device), 1 if given.quick else given.repeats, given.peer, 0.25 if given.quick else 1.0)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    for name in given.only or ROWS:
        lacking = {
            "peer": given.peer is None and "no --peer is given",
            "bf16": "emulated" in describe(device, "bf16")["precision"] and "this processor has no bf16",
            "candidates": not bench.cuda and "they are for CUDA",
        }
        if lacking.get(name):
            print(f"{name}: left out, for {lacking[name]}", file=sys.stderr)
            continue
        env = describe(device) | {"repeats": bench.repeats, "quick": given.quick, "threads": torch.get_num_threads()}
        found[name] = {"env": env, "rows": []}
        for row in ROWS[name](bench):
            found[name]["rows"].append(row)
            print(table.line(row), flush=True)
            if given.out:
                write_json(given.out, found)


if __name__ == "__main__":
    main()
