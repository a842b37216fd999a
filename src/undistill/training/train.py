"""`train`: an ordinary classifier, into a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from undistill import plugins
from undistill.data import ImageBatches, ImageSet, Splits
from undistill.errors import UsageError
from undistill.models import Classifier, Network, build
from undistill.models import model_folder as models
from undistill.training.environment import begin_on, describe
from undistill.training.evaluate import accuracy, predict, predict_finite, score
from undistill.training.init_weights import begin, knows_pool, network_in
from undistill.training.loop import EpochRecord, State, fit
from undistill.training.objectives import CrossEntropy
from undistill.training.recipe import Recipe, component, read
from undistill.training.run_folder import Run, Watch, drive


def train(
    model: str | dict[str, Any] | Network | None,
    data: Splits,
    recipe: str | Path | dict[str, Any] | Recipe = "digits",
    *,
    seed: int | None = None,
    weights: str | Path | None = None,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    watch: Watch | None = None,
) -> Run:
    """Train a classifier on `data.train` by cross-entropy and read the test split once, at the end.

    Args:
        model: a name, `{name: …, width: …}`, or None for the recipe's, or for that of `weights` where these are a folder.
        data: from `load`.
        recipe: a name, a YAML file, plain values or a `Recipe`; its `training` and `data.views` are used.
        seed: of weights, order and views; None for the recipe's.
        weights: to start from instead of fresh ones (fine-tuning): a run folder, a model folder, or a state dict as safetensors or
            `torch.save` wrote it. A head for another number of classes is drawn anew.
        out: run folder.
        resume: go on with an unfinished run there; at most one epoch is done again.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        watch: told each epoch.

    Raises:
        UsageError: settings that do not fit, a folder that holds another run.
        Diverged: the loss was not finite; the last good epoch is kept in `out`.
    """
    recipe = of_data(with_seed(read(recipe), seed), data)
    if isinstance(model, str) and ":" in model:
        plugins.trust(model)
    if model is not None:
        recipe = read(component(recipe.dump(), "model", model))
    elif weights is not None and Path(weights).is_dir():
        recipe = recipe.model_copy(update={"model": network_in(Path(weights))})
    where = begin_on(device)
    begun: dict[str, Any] = {}
    unseen = weights is None or knows_pool(Path(weights).expanduser(), data)
    if weights is None:
        network = fresh(recipe.model, data, seed=recipe.seed, role="teacher").to(where)
    else:
        network, facts = begin(recipe.model, data, Path(weights).expanduser(), seed=recipe.seed, role="teacher")
        network, begun = network.to(where), {"weights": facts}
    batches = image_batches(data.train, recipe, role="teacher", device=str(where))
    objective = CrossEntropy(recipe.training.smoothing)

    def steps(state: State | None, _: dict[str, Any]) -> Iterator[EpochRecord]:
        return fit(network, batches, objective, recipe.training, seed=recipe.seed, state=state)

    return drive(
        Path(out),
        {"kind": "train", "data_fingerprint": data.fingerprint, **begun, "recipe": recipe.dump()},
        describe(where, recipe.training.precision),
        steps,
        lambda metrics: conclude(
            Path(out), network, data, metrics, {"seed": recipe.seed, **begun}, "train", fresh_pool=unseen
        ),
        resume=resume,
        measure=lambda: validation(network, data),
        watch=watch,
    )


def with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    """The recipe with another seed; UsageError for a negative one."""
    if seed is None:
        return recipe
    if seed < 0:
        raise UsageError(f"a seed is a whole number of at least 0, not {seed}")
    return recipe.model_copy(update={"seed": seed})


def of_data(recipe: Recipe, data: Splits) -> Recipe:
    """The recipe with what the data were really made with in its `data` section; its views stay."""
    if not data.settings:
        return recipe
    views = {"views": recipe.dump()["data"]["views"]}
    return read({**recipe.dump(), "data": data.settings | views})


def fresh(network: Network, data: Splits, *, seed: int, role: str) -> Classifier:
    """A network with fresh weights that fits the data, normalised by its training pixels."""
    made = build(
        network,
        data.num_classes,
        data.train.channels,
        data.train.image_size,
        mean=data.mean,
        std=data.std,
        seed=seed,
        role=role,
    )
    made.initialize(lambda count: data.train.seen(slice(count)))
    return made


def image_batches(images: ImageSet, recipe: Recipe, *, role: str, device: str) -> ImageBatches:
    """Batches of these images as the recipe has them."""
    training = recipe.training
    return ImageBatches(
        images,
        training.batch,
        recipe.data.views,
        seed=recipe.seed,
        role=role,
        passes=training.passes,
        device=device,
        accumulate=training.accumulate,
    )


def validation(model: Classifier, data: Splits) -> dict[str, float]:
    """Accuracy on the validation split, where there is one."""
    if data.val is None:
        return {}
    return {"accuracy_val": accuracy(predict(model, data.val), data.val.labels_N)}


def conclude(
    folder: Path,
    model: Classifier,
    data: Splits,
    metrics: list[dict[str, Any]],
    facts: dict[str, Any],
    kind: str,
    *,
    fresh_pool: bool,
) -> dict[str, Any]:
    """Write the model folder, read the test split once, and return the result.

    `fresh_pool` says whether neither this training nor any before it, of whatever the network came from, saw `data.pool`.
    """
    scores = score(predict_finite(model, data.test), data.test.labels_N)
    result = {
        "status": "ok",
        **{name: round(value, 6) for name, value in asdict(scores).items()},
        "accuracy_val": metrics[-1].get("accuracy_val") if metrics else None,
        "n_test": len(data.test),
        "model_id": models.weights_id(model),
        "data": data.fingerprint,
        "seconds": round(sum(line["seconds"] for line in metrics), 3),
        **facts,
    }
    title = f"{model.config['name']} on {data.name}"
    origin = {"kind": kind, "data": data.fingerprint, "seed": facts["seed"], "defense": facts.get("defense", {})}
    origin["fresh_pool"] = fresh_pool
    card = {
        "accuracy on the test split, percent": round(scores.accuracy, 2),
        "data": f"{data.note} ({data.fingerprint})",
        **facts,
    }
    models.save(folder / "model", model, data.train.class_names, models.model_card(title, card), origin)
    return result
