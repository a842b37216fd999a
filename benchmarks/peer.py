"""KD by torchdistill on the same networks, pictures and batches, for `make bench-peer`; its environment is its own.

`python -m benchmarks.peer '{"network": "cnn", "other": "resnet18", …}'` prints what benchmarks/arm.py prints.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

BEGAN = time.perf_counter()


def main() -> None:
    """Train and print."""
    import torch

    lacking = torch.library.Library("torchvision", "FRAGMENT")  # torchvision's wheel needs them, a CPU torch has none
    for name in ("nms", "qnms"):
        lacking.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from benchmarks.arm import images_of, network
    from benchmarks.plain import Pictures
    from torchdistill.core.distillation import get_distillation_box  # type: ignore[import-not-found]

    spec: dict[str, Any] = json.loads(sys.argv[1])
    device = torch.device(spec.get("device", "cpu"))
    images = images_of(spec)
    padding, flip = (4, True) if spec["images"] else (1, False)
    pictures = Pictures(images.images_NCHW, images.labels_N, padding, flip=flip)
    loader = {"dataset_id": "train", "random_sample": True, "batch_size": spec["batch"]}
    loader |= {
        "kwargs": {"batch_size": spec["batch"], "num_workers": 2, "persistent_workers": True},
        "requires_supp": True,
    }
    head = {"kd": {"criterion": {"key": "KDLoss", "kwargs": KD}, "weight": 1.0}}
    config = {
        "num_epochs": spec["epochs"],
        "train_data_loader": {**loader, "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}}},
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 1e-3, "momentum": 0.9}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": head}},
    }
    teacher = network(spec.get("other", spec["network"]), images, 1).to(device)
    student = network(spec["network"], images, 0).to(device)
    box = get_distillation_box(teacher, student, {"train": pictures}, config, device, None, False, 1.0)
    seconds: list[float] = []
    started = last = time.perf_counter()
    for epoch in range(spec["epochs"]):
        box.pre_epoch_process(epoch=epoch)
        for batch, targets, extra in box.train_data_loader:
            batch, targets = batch.to(device), targets.to(device)
            loss = box.forward_process(batch, targets, extra)
            box.post_forward_process(loss=loss)
            loss.item()  # its examples log it at every step
        box.post_epoch_process()
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    print(json.dumps({"start": started - BEGAN, "epochs": seconds}))


KD = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
    "temperature": 4.0,
    "alpha": 0.1,
    "beta": 0.9,
    "reduction": "batchmean",
}

if __name__ == "__main__":
    main()
