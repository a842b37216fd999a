"""The data of figures, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undistill.data import Splits, load
from undistill.defenses.protect import protect
from undistill.errors import UsageError
from undistill.paper import figures
from undistill.seeds import generator
from undistill.training.run_folder import Run
from undistill.training.train import train

Pair = tuple[Run, Run, Splits]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    out = tmp_path_factory.mktemp("figures")
    data = load("digits", limit=700, test=497, pool=0, val=0)
    recipe = {"training": {"epochs": 2, "batch": 50}, "model": {"name": "cnn", "width": 0.125}}
    normal = train(None, data, recipe, seed=3, out=out / "normal")
    return normal, protect(normal, data, seed=3, out=out / "nasty"), data


def test_structure_against_a_slow_twin() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    values = rng.normal(size=(60, 5)).astype(np.float32) + labels[:, None]
    distance = np.sqrt(((values[:, None].astype(float) - values[None]) ** 2).sum(-1))
    hits, widths = [], []
    for i in range(60):
        others = [j for j in np.argsort(distance[i], kind="stable") if j != i][:10]
        hits.append(np.bincount(labels[others], minlength=4).argmax() == labels[i])
        inside = distance[i][(labels == labels[i]) & (np.arange(60) != i)].mean()
        outside = min(distance[i][labels == c].mean() for c in range(4) if c != labels[i])
        widths.append((outside - inside) / max(inside, outside))
    found = figures.structure(values, labels)
    assert found["knn"] == pytest.approx(100 * np.mean(hits), abs=1e-4)
    assert found["silhouette"] == pytest.approx(np.mean(widths), abs=1e-4)


def test_an_embedding_is_of_what_the_networks_compute(pair: Pair) -> None:
    normal, nasty, data = pair
    cell, arrays = figures.embedding(normal, nasty, data, "test", points=60, seed=5)
    rows = torch.randperm(len(data.test), generator=generator(5, "figure", "points"))[:60].sort().values
    assert arrays["labels"].tolist() == data.test.labels_N[rows].tolist()
    for who, run in (("normal", normal), ("nasty", nasty)):
        network, pixels = run.model(), data.test.images_NCHW[rows].float() / 255
        with torch.no_grad():
            features, logits = network.features(pixels), network(pixels)
        for what, values in (("features", features), ("logits", logits)):
            expected = figures.structure(values.numpy(), arrays["labels"])
            assert cell.numbers[f"{who} {what} silhouette"] == pytest.approx(expected["silhouette"], abs=1e-4)
            assert cell.numbers[f"{who} {what} knn"] == pytest.approx(expected["knn"])
            assert arrays[f"{who} {what}"].shape == (60, 2)
    assert cell.kind == "figure"
    assert cell.seeds == {"victim": 3}


def test_an_embedding_again_is_the_same(pair: Pair) -> None:
    (one, first), (two, second) = (figures.embedding(*pair, "test", points=40, seed=1) for _ in range(2))
    assert one == two
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_inversion_draws_both_teachers_from_the_same_noise(pair: Pair) -> None:
    normal, nasty, data = pair
    attack = {"name": "deep-inversion", "iterations": 3, "batch": 30}
    cell, arrays = figures.inversion(normal, nasty, data, "test", attack=attack, pictures=2, seed=0, device="cpu")
    assert arrays["normal"].shape == arrays["nasty"].shape == (20, 1, 8, 8)
    assert arrays["normal"].dtype == np.uint8
    assert arrays["targets"].tolist() == [*range(10), *range(10)]
    assert not np.array_equal(arrays["normal"], arrays["nasty"])
    again = figures.inversion(normal, normal, data, "test", attack=attack, pictures=2, seed=0, device="cpu")[1]
    assert np.array_equal(again["normal"], again["nasty"])
    assert np.array_equal(again["normal"], arrays["normal"])
    assert cell.numbers.keys() == {"normal hit", "nasty hit"}


def test_inversion_is_drawn_by_nothing_else(pair: Pair) -> None:
    with pytest.raises(UsageError, match="drawn by deep-inversion, not by kd"):
        figures.inversion(*pair, "test", attack={"name": "kd"}, pictures=1, seed=0)
