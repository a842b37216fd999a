"""What all tests share: one thread, no network, caches that die with the session, and small synthetic data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from undistill.data.image_set import ImageSet, Splits
from undistill.models import Classifier, build
from undistill.training.recipe import Recipe, read

HOME = tempfile.TemporaryDirectory(prefix="undistill-tests-")
os.environ |= {
    "UNDISTILL_CACHE": f"{HOME.name}/undistill",
    "HF_HOME": f"{HOME.name}/huggingface",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
}
torch.set_num_threads(1)
settings.register_profile("undistill", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("undistill")

MakeImages = Callable[..., ImageSet]
MakeModel = Callable[..., Classifier]


def pytest_unconfigure() -> None:
    """Remove the session's caches."""
    HOME.cleanup()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing here outlives a power cut; tests of what does (test_files.py) put their own `fsync` in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def make_images() -> MakeImages:
    """`make_images(count, classes=4, channels=3, size=8, seed=0)`: a noisy prototype for each class, classes in turn."""

    def make(count: int = 24, classes: int = 4, channels: int = 3, size: int = 8, seed: int = 0) -> ImageSet:
        labels_N = np.arange(count) % classes
        prototypes = np.random.default_rng(99).integers(0, 256, (classes, channels, size, size))
        noise = np.random.default_rng(seed).integers(-30, 31, (count, channels, size, size))
        pixels = np.clip(prototypes[labels_N] + noise, 0, 255).astype(np.uint8)
        names = tuple(f"class {c}" for c in range(classes))
        return ImageSet.of(torch.from_numpy(pixels), torch.from_numpy(labels_N), names)

    return make


@pytest.fixture(scope="session")
def images(make_images: MakeImages) -> ImageSet:
    """24 colour images of 8 × 8 pixels in 4 classes."""
    return make_images()


@pytest.fixture(scope="session")
def splits(make_images: MakeImages) -> Splits:
    """24 training, 12 fresh, 8 validation and 20 test images."""
    train, pool, val, test = (make_images(count, seed=seed) for seed, count in enumerate((24, 12, 8, 20)))
    mean, std = train.moments()
    return Splits("synthetic", train, pool, val, test, "0123456789abcdef", "made up", mean=mean, std=std)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(seed=0, role="teacher", name="cnn")`: a network of an eighth of the width for `images`."""

    def make(seed: int = 0, role: str = "teacher", name: str = "cnn") -> Classifier:
        return build(name, num_classes=4, in_channels=3, image_size=8, width=0.125, seed=seed, role=role)

    return make


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Two epochs of three batches, without views."""
    return read(
        {
            "data": {"name": "digits"},
            "model": {"name": "cnn", "width": 0.125},
            "training": {"epochs": 2, "batch": 8, "optimizer": {"name": "sgd", "lr": 0.05}},
            "student": {"name": "cnn", "width": 0.125},
        }
    )
