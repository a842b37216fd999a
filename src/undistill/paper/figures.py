"""How the data of figures are made. Legend: N images, D features, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from undistill.attacks.base import ATTACKS
from undistill.attacks.deep_inversion import DeepInversion, invert
from undistill.data import ImageSet, Splits
from undistill.data.augment import to_float
from undistill.errors import UsageError
from undistill.experiments.cell import Array, Cell
from undistill.experiments.victim_metrics import figure_cell
from undistill.models import Classifier
from undistill.oracle.victim import resolve
from undistill.seeds import derive, generator
from undistill.training.environment import choose_device, describe
from undistill.training.evaluate import batch_for
from undistill.training.run_folder import Run

NEIGHBOURS = 10


def embedding(
    normal: Run, nasty: Run, data: Splits, experiment: str, *, points: int, seed: int, device: str = "auto"
) -> tuple[Cell, dict[str, Array]]:
    """(figure cell, arrays): t-SNE of both teachers' features and logits for the same test images, and a number for each.

    `numbers` hold the silhouette (−1 to 1, by true class) and the leave-one-out accuracy of 10 nearest neighbours (percent), both
    of Euclidean distances in the full space. Arrays: `normal features` and the other three, N × 2 float32, and `labels` N.
    At most 5,000 images, drawn at (seed, "figure", "points"). Source: Ma et al. 2021, section 4.3; van der Maaten & Hinton 2008.
    """
    from sklearn.manifold import TSNE

    victims, where = {"normal": resolve(normal), "nasty": resolve(nasty)}, choose_device(device)
    count = min(points, 5_000, len(data.test))
    rows = torch.randperm(len(data.test), generator=generator(seed, "figure", "points"))[:count].sort().values
    shown = data.test.take(rows)
    labels_N = shown.labels_N.numpy()
    arrays: dict[str, Array] = {"labels": labels_N.astype(np.int16), "class_names": np.array(data.test.class_names)}
    numbers: dict[str, float] = {}
    for who, victim in victims.items():
        for what, values in zip(("features", "logits"), hidden(victim.network.to(where), shown), strict=True):
            numbers |= {f"{who} {what} {name}": value for name, value in structure(values.numpy(), labels_N).items()}
            drawn = TSNE(
                init="pca", perplexity=min(30.0, (count - 1) / 3), random_state=derive(seed, "figure", "tsne") % 2**32
            )
            arrays[f"{who} {what}"] = drawn.fit_transform(values.numpy()).astype(np.float32)
    fixed = {"victims": [v.id for v in victims.values()], "points": count, "seed": seed}
    settings = {"points": count, "perplexity": min(30.0, (count - 1) / 3), "neighbours": NEIGHBOURS}
    about: dict[str, Any] = {"settings": settings, "fixed": fixed, "env": describe(where)}
    return figure_cell("embedding", victims["nasty"], nasty, data, experiment, numbers=numbers, **about), arrays


def hidden(network: Classifier, images: ImageSet) -> tuple[Tensor, Tensor]:
    """(N × D features, N × C logits) on the CPU, in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    features, logits = [], []
    with torch.inference_mode():
        for chunk in images.chunks(batch_for(images, device)):
            features_BD = network.features(images.seen(chunk, device))
            features.append(features_BD.float().cpu())
            logits.append(network.head(features_BD).float().cpu())
    return torch.cat(features), torch.cat(logits)


def structure(values_ND: Array, labels_N: Array) -> dict[str, float]:
    """How well classes lie apart: `silhouette`, and `knn`, the leave-one-out accuracy of 10 nearest neighbours in percent."""
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(labels_N) - 1)).fit(values_ND)
    votes = labels_N[near.kneighbors(return_distance=False)]  # without itself
    counts = (votes[:, :, None] == np.arange(labels_N.max() + 1)).sum(axis=1)
    right = float((counts.argmax(axis=1) == labels_N).mean())
    return {"silhouette": round(float(silhouette_score(values_ND, labels_N)), 6), "knn": round(100 * right, 6)}


def inversion(
    normal: Run,
    nasty: Run,
    data: Splits,
    experiment: str,
    *,
    attack: dict[str, Any],
    pictures: int,
    seed: int,
    device: str = "auto",
) -> tuple[Cell, dict[str, Array]]:
    """(figure cell, arrays): what DeepInversion draws out of both teachers, from the same noise, `pictures` images a class.

    One batch of the attack's size is made for each teacher, the first images of each class are kept. Arrays: `normal` and `nasty`,
    N × C × H × W uint8, and `targets` N. `numbers`: how many of the batch the teacher itself names as meant, percent.
    Source: Ma et al. 2021, section 4.4; Yin et al. 2020.
    """
    chosen, where = ATTACKS.make(attack), choose_device(device)
    if not isinstance(chosen, DeepInversion):
        raise UsageError(f"the figure is drawn by deep-inversion, not by {chosen.name}")
    victims = {"normal": resolve(normal), "nasty": resolve(nasty)}
    targets_B = torch.arange(chosen.batch) % data.num_classes
    kept = torch.arange(chosen.batch).div(data.num_classes, rounding_mode="floor") < pictures
    arrays: dict[str, Array] = {"targets": targets_B[kept].numpy().astype(np.int16)}
    arrays["class_names"] = np.array(data.test.class_names)
    numbers: dict[str, float] = {}
    for who, victim in victims.items():
        network = victim.network.to(where).eval().requires_grad_(False)
        size, channels = data.test.image_size, data.test.channels
        drawn = derive(seed, "figure", "inversion")
        images, _ = invert(network, targets_B, chosen, size=size, channels=channels, seed=drawn, device=where)
        bytes_BCHW = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        with torch.inference_mode():
            named = network(to_float(bytes_BCHW).to(where)).argmax(dim=1).cpu()
        numbers[f"{who} hit"] = round(100 * float((named == targets_B).double().mean()), 6)
        arrays[who] = bytes_BCHW[kept].numpy()
    fixed = {"victims": [v.id for v in victims.values()], "pictures": pictures, "seed": seed, "attack": attack}
    settings = {"pictures": pictures, **chosen.settings}
    about: dict[str, Any] = {"settings": settings, "fixed": fixed, "env": describe(where)}
    return figure_cell("inversion", victims["nasty"], nasty, data, experiment, numbers=numbers, **about), arrays
