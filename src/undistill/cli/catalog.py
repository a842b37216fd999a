"""What there is, for `undistill list`."""

from __future__ import annotations

import re
from typing import Any

from undistill.errors import unknown
from undistill.registry import Registry

KINDS = (
    *("attack", "defense", "output-defense", "model", "data", "view", "optimizer", "schedule"),
    *("executor", "recipe", "threat-model"),
)
SPELLED = {
    "card": "threat-model",
    "answer-defense": "output-defense",
    "augmentation": "view",
    "dataset": "data",
    "data-set": "data",
    "network": "model",
}
"""Other words for a kind."""
FORMULA = re.compile(r"[∥‖Στ²=/·∂σ]|\bCE\(|KL\(")
"""Marks of a line that is a formula rather than words."""


def kind_of(text: str) -> str:
    """The kind of component that is meant: singular or plural, American or British; UsageError for none."""
    name = text.lower().replace("_", "-").replace("defence", "defense").replace("optimiser", "optimizer")
    for word in (name, name.removesuffix("s")):
        if (found := SPELLED.get(word, word)) in KINDS:
            return found
    raise unknown("kind", text, KINDS)


def catalog(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every component of a kind (or of all kinds): its name, what it is, its formula, settings with defaults."""
    from undistill.attacks.base import ATTACKS
    from undistill.data import SOURCES, VIEWS
    from undistill.defenses.base import DEFENSES
    from undistill.experiments.executors import EXECUTORS
    from undistill.models import MODELS
    from undistill.oracle.output_defense import ANSWER_DEFENSES
    from undistill.threat_model import NAMED
    from undistill.training.optim import OPTIMIZERS, SCHEDULES
    from undistill.training.recipe import FOLDER, names

    registries: dict[str, Registry[Any]] = {
        "attack": ATTACKS,
        "defense": DEFENSES,
        "output-defense": ANSWER_DEFENSES,
        "model": MODELS,
        "data": SOURCES,
        "view": VIEWS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "executor": EXECUTORS,
    }
    wanted = None if kind is None else kind_of(kind)
    found = {
        name: [_component(cls) for cls in registry.everything().values()]
        for name, registry in registries.items()
        if wanted in (None, name)
    }
    if wanted in (None, "recipe"):
        about = {name: _header((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in names()}
        found["recipe"] = [{"name": name, "about": line, "settings": {}} for name, line in about.items()]
    if wanted in (None, "threat-model"):
        found["threat-model"] = [
            {"name": name, "about": f"{WORDS[name]}: {card}", "settings": {}} for name, card in NAMED.items()
        ]
    return found


WORDS = {
    "paper": "The paper's: logits for every view of the victim's own labelled training images",
    "api": "A paid API: probabilities for 50 unlabelled images that the victim never saw",
    "data-free": "The weights are public, and the attacker has no images",
}
"""The named threat models in words; the written form is access/data(share)/pool/start[/queries]."""


def _header(text: str) -> str:
    """The comment at the top of a recipe: what it is and its source."""
    return " ".join(line.lstrip("# ") for line in text.partition("\ndata:")[0].splitlines())


def _component(cls: Any) -> dict[str, Any]:
    settings = {
        field.alias or name: "required" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in cls.model_fields.items()
        if name != "name"
    }
    return {
        "name": cls.shown or cls.model_fields["name"].default,
        **_words_and_formula(cls.__doc__ or ""),
        "settings": settings,
    }


def _words_and_formula(text: str) -> dict[str, str]:
    """Of a docstring: its first paragraph (`about`), and the first line of the second where that is a formula."""
    paragraphs = text.strip().split("\n\n")
    second = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    formula = re.split(r"(?<=[.;]) (?=[A-Z])", second)[0]
    about = {"about": " ".join(paragraphs[0].split())}
    return about | ({"formula": formula} if FORMULA.search(formula) else {})
