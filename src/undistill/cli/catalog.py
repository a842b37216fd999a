"""What there is, for `undistill list`."""

from __future__ import annotations

from typing import Any

from undistill.errors import unknown
from undistill.registry import Registry


def catalog(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every component of a kind (or of all kinds): its name, first line of documentation, settings with defaults."""
    from undistill.access import NAMED
    from undistill.attacks.base import ATTACKS
    from undistill.data import SOURCES, VIEWS
    from undistill.defenses.base import DEFENSES
    from undistill.models import MODELS
    from undistill.oracle.serving import ANSWER_DEFENSES
    from undistill.training.optim import OPTIMIZERS, SCHEDULES
    from undistill.training.recipe import FOLDER, names

    registries: dict[str, Registry[Any]] = {
        "attack": ATTACKS,
        "defense": DEFENSES,
        "answer-defense": ANSWER_DEFENSES,
        "model": MODELS,
        "data": SOURCES,
        "view": VIEWS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }
    known = [*registries, "recipe", "card"]
    if kind is not None and kind not in known:
        raise unknown("kind", kind, known)
    found = {
        name: [_component(cls) for cls in registry.everything().values()]
        for name, registry in registries.items()
        if kind in (None, name)
    }
    if kind in (None, "recipe"):
        about = {name: _header((FOLDER / f"{name}.yaml").read_text()) for name in names()}
        found["recipe"] = [{"name": name, "about": line, "settings": {}} for name, line in about.items()]
    if kind in (None, "card"):
        found["card"] = [
            {"name": name, "about": f"{card} (access/data(share)/pool/start[/questions])", "settings": {}}
            for name, card in NAMED.items()
        ]
    return found


def _header(text: str) -> str:
    """The comment at the top of a recipe: what it is and its source."""
    return " ".join(line.lstrip("# ") for line in text.partition("\ndata:")[0].splitlines())


def _component(cls: Any) -> dict[str, Any]:
    settings = {
        field.alias or name: "required" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in cls.model_fields.items()
        if name != "name"
    }
    about = (cls.__doc__ or "").strip().splitlines()[0]
    return {"name": cls.shown or cls.model_fields["name"].default, "about": about, "settings": settings}
