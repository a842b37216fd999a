"""The reference from end to end: what one writes to distil a teacher of digits, started from a shell.

`python -m benchmarks.script TEACHER.pt EPOCHS OUT.pt`; prints JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from benchmarks import plain
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from undistill.models import build


def main() -> None:
    """Load, train, test, save."""
    teacher_file, epochs, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels * 255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    train = plain.Pictures(images[:810], torch.tensor(labels[:810]), 1, flip=False)
    test = plain.Pictures(images[810:1307], torch.tensor(labels[810:1307]), 0, flip=False)
    loader = DataLoader(train, 64, shuffle=True, num_workers=2, persistent_workers=True)
    pixels_N = images[:810].float() / 255
    moments: Any = {"mean": [float(pixels_N.mean())], "std": [float(pixels_N.std())]}
    teacher, student = build("resnetc20", 10, 1, 8, seed=0, **moments), build("cnn", 10, 1, 8, seed=1, **moments)
    teacher.load_state_dict(torch.load(teacher_file, weights_only=True))
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9)
    for _ in range(epochs):
        plain.epoch(student, teacher, loader, plain.distillation(), optimizer, torch.device("cpu"))
    student.eval()
    with torch.no_grad():
        hits = sum(int((student(x).argmax(1) == y).sum()) for x, y in DataLoader(test, 64, num_workers=2))
    torch.save(student.state_dict(), out)
    print(json.dumps({"accuracy": 100 * hits / len(test)}))


if __name__ == "__main__":
    main()
