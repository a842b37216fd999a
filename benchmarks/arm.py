"""One arm of a benchmark in a process of its own: `python -m benchmarks.arm '{"arm": "ours", "work": "kd", …}'` prints JSON.

Arms: `reference` (benchmarks/plain.py); `ours`; `grid`, ours with a student for each τ and α; `bare`, forward, backward and step
over batches that are there already (`compile`: in a mode of torch.compile; `search`: with cuDNN's search for kernels).
Pixels are random and of CIFAR-10's size, unless `images` is 0: then they are the embedded digits.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each epoch, and of the start before them."""
    import torch

    if spec.get("threads"):
        torch.set_num_threads(spec["threads"])
    device = torch.device(spec.get("device", "cpu"))
    seconds: list[float] = []
    epochs = {"ours": ours, "grid": grid, "reference": reference, "bare": bare}[spec["arm"]](spec, device)
    started = last = time.perf_counter()
    for _ in epochs:
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"start": started - BEGAN, "epochs": seconds, "cuda_mib": peak}


def images_of(spec: dict[str, Any]) -> Any:
    """The image set to train on."""
    import torch

    from undistill.data import ImageSet, load

    if not spec["images"]:
        return load("digits").train
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (spec["images"], 3, 32, 32), generator=rng, dtype=torch.uint8)
    return ImageSet.of(pixels, torch.arange(spec["images"]) % 10, tuple("0123456789"))


def network(name: str, images: Any, seed: int) -> Any:
    """A network with fresh weights for these images."""
    from undistill.models import build

    return build(name, 10, images.channels, images.image_size, seed=seed, role="bench")


def recipe_of(spec: dict[str, Any]) -> Any:
    """The recipe of our arms."""
    from undistill.training import Recipe

    views = [{"name": "crop", "padding": 4 if spec["images"] else 1}] + ([{"name": "flip"}] if spec["images"] else [])
    training = {"epochs": spec["epochs"], "batch": spec["batch"], "precision": spec.get("precision", "fp32")}
    training["optimizer"] = {"name": "sgd", "lr": 1e-3, "momentum": 0.9}
    return Recipe.model_validate({"data": {"views": views}, "training": training})


def ours(spec: dict[str, Any], device: Any) -> Iterator[object]:
    """`fit`, driven by the defense or attack itself; the bank begins empty."""
    from undistill.attacks.base import ATTACKS
    from undistill.defenses.base import DEFENSES
    from undistill.oracle import LogitCache, Oracle
    from undistill.threat_model import Access
    from undistill.training import fit
    from undistill.training.objectives import CrossEntropy
    from undistill.training.train import image_batches

    images, recipe = images_of(spec), recipe_of(spec)
    model = network(spec["network"], images, 0).to(device)
    other = network(spec.get("other", spec["network"]), images, 1).to(device)
    with tempfile.TemporaryDirectory() as folder:
        bank = LogitCache(Path(folder)) if spec.get("bank", True) else None
        if spec["work"] == "plain":
            batches = image_batches(images, recipe, role="teacher", device=str(device))
            yield from fit(model, batches, CrossEntropy(), recipe.training, seed=0)
        elif spec["work"] == "nasty":
            yield from DEFENSES.make("nasty").harden(model, other, images, recipe, device=device, bank=bank)
        else:
            oracle = Oracle(other, Access.LOGITS, bank=bank, precision=recipe.training.precision)
            yield from ATTACKS.make("kd").steal(oracle, model, images, recipe, device=device)


TEMPERATURES, ALPHAS = (1, 2, 4, 8, 16), (0.3, 0.5, 0.7, 0.9)


def grid(spec: dict[str, Any], device: Any) -> Iterator[object]:
    """A student for each τ and α, in `jobs` processes over one bank, which begins empty. One "epoch": all of them."""
    from undistill.experiments.executors import Job, run_jobs

    with tempfile.TemporaryDirectory() as folder:
        pairs = [(temperature, alpha) for temperature in TEMPERATURES for alpha in ALPHAS]
        jobs = [Job(f"{pair}", one_of_grid, ({**spec, "device": str(device)}, *pair, folder)) for pair in pairs]
        yield list(run_jobs(jobs, spec["jobs"]))


def one_of_grid(spec: dict[str, Any], temperature: float, alpha: float, folder: str) -> str:
    """One student; runs in a worker."""
    import torch

    from undistill.attacks.base import ATTACKS
    from undistill.oracle import LogitCache, Oracle
    from undistill.threat_model import Access

    images, recipe, device = images_of(spec), recipe_of(spec), torch.device(spec["device"])
    model, other = network(spec["network"], images, 0).to(device), network(spec["other"], images, 1).to(device)
    oracle = Oracle(other, Access.LOGITS, bank=LogitCache(Path(folder)), precision=recipe.training.precision)
    attacker = ATTACKS.make({"name": "kd", "temperature": temperature, "alpha": alpha})
    return f"{[record.terms['loss'] for record in attacker.steal(oracle, model, images, recipe, device=device)]}"


def reference(spec: dict[str, Any], device: Any) -> Iterator[object]:
    """The textbook loop."""
    import torch
    from benchmarks import plain
    from torch.utils.data import DataLoader

    images = images_of(spec)
    other = (
        None if spec["work"] == "plain" else network(spec.get("other", spec["network"]), images, 1).eval().to(device)
    )
    padding, flip = (4, True) if spec["images"] else (1, False)
    pictures = plain.Pictures(images.images_NCHW, images.labels_N, padding, flip=flip)
    workers = spec.get("workers", min(os.cpu_count() or 1, 8))
    pinned = device.type == "cuda"
    kept: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pinned}
    loader = DataLoader(pictures, spec["batch"], shuffle=True, **kept)
    losses: dict[str, list[plain.Loss]] = {
        "plain": [plain.cross_entropy],
        "nasty": [plain.nasty],
        "kd": [plain.distillation()],
    }
    losses["grid"] = [plain.distillation(temperature, alpha) for temperature in TEMPERATURES for alpha in ALPHAS]
    for loss in losses[spec["work"]]:
        model = network(spec["network"], images, 0).to(device)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)
        for _ in range(spec["epochs"]):
            bf16 = spec.get("precision") == "bf16"
            yield plain.epoch(model, other, loader, loss, optimizer, device, bf16=bf16)


def bare(spec: dict[str, Any], device: Any) -> Iterator[object]:
    """Forward, backward and step alone, over views that are made beforehand, in our layout."""
    import torch
    import torch.nn.functional as F

    from undistill.training.train import image_batches

    images, recipe = images_of(spec), recipe_of(spec)
    model = network(spec["network"], images, 0).to(device).train()
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    optimizer = recipe.training.optimizer.build(model, spec["batch"])
    batches = [
        (batch.images_BCHW.contiguous(memory_format=torch.channels_last), batch.labels_B)
        for batch in image_batches(images, recipe, role="teacher", device=str(device)).epoch(0)
    ]
    if spec.get("compile"):
        model = torch.compile(model, mode=spec["compile"])
    torch.backends.cudnn.benchmark = spec.get("search", False)
    for _ in range(spec["epochs"]):
        for images_BCHW, labels_B in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=spec.get("precision") == "bf16"):
                logits_BC = model(images_BCHW)
            assert labels_B is not None
            loss = F.cross_entropy(logits_BC.float(), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield None


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
