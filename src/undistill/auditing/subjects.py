"""Victims of an audit: the model, its undefended twin, or pairs of teachers that the audit trains itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undistill.auditing.config import AuditConfig
from undistill.auditing.verdict import check_control
from undistill.data import Splits
from undistill.errors import UsageError
from undistill.experiments.plan import Subject
from undistill.oracle.black_box import BlackBox
from undistill.oracle.output_defense import chain, shown
from undistill.oracle.victim import Model, Victim
from undistill.registry import registry
from undistill.threat_model import Access
from undistill.training.evaluate import accuracy, predict
from undistill.training.recipe import Recipe, component, read
from undistill.training.run_folder import Run

GIVEN = "(given)"
"""Stands for the path of a model that was handed over in Python."""


def check(victims: Mapping[str, Victim], data: Splits, delta: float) -> None:
    """UsageError for a victim that the data do not fit, or a control that is none."""
    for victim in victims.values():
        victim.check(data)
    if len({victim.id for victim in victims.values()}) < len(victims):
        raise UsageError(
            "the control is the audited model itself, by its weights or its name: they could not be told apart"
        )
    if len(victims) == 2 and not any(isinstance(victim.model, BlackBox) for victim in victims.values()):
        ours, twin = victims["defended"], victims["undefended"]
        reached = [accuracy(predict(v.network, data.test), data.test.labels_N) for v in (ours, twin)]
        prints = [v.data_fingerprint or data.fingerprint for v in (ours, twin)]
        check_control(reached[0], reached[1], delta, prints)


def subject(side: Any, given: Model, victim: Victim, config: AuditConfig) -> Subject:
    """A victim as the plan keeps it."""
    path = given.folder if isinstance(given, Run) else given if isinstance(given, str | Path) else GIVEN
    black = isinstance(victim.model, BlackBox)
    return Subject(
        name=side,
        side=side,
        model=str(path),
        id=victim.id,
        label=victim.label if side == "defended" else f"{victim.label}, the twin",
        network=victim.label if black else str(victim.network.config["name"]),
        defense=victim.defense,
        behind=tuple(item.model_dump(mode="json") for item in victim.behind),
        shows=shown(Access.LOGITS, victim.behind).label if victim.behind else Access.WEIGHTS.label,
        answers=config.outputs if black else None,
        unseen=config.assume_fresh,
    )


def teachers(config: AuditConfig, recipe: Recipe) -> tuple[Subject, ...]:
    """Pairs of teachers that the audit trains itself: an ordinary one and its hardened twin, or the same behind a defense."""
    wanted = config.method
    name = wanted if isinstance(wanted, str) else str((wanted or {}).get("name"))
    answers = name in registry("answer-defense").classes()
    settings = {} if answers else read(component(recipe.dump(), "defense", wanted)).dump()["defense"]
    behind = tuple(item.model_dump(mode="json") for item in chain([wanted])) if answers and wanted else ()
    found = []
    for number in range(config.teachers):
        seed = recipe.seed + number
        values = read({**recipe.dump(), "seed": seed}).dump()
        twin = f"teachers/normal-s{seed}"
        common: dict[str, Any] = {"teacher": number, "recipe": values, "network": recipe.model.name}
        found.append(
            Subject(name=f"undefended-{number}", side="undefended", model=twin, label=f"normal {seed}", **common)
        )
        found.append(
            Subject(
                name=f"defended-{number}",
                side="defended",
                model=twin if answers else f"teachers/{name}-s{seed}",
                label=f"{name} {seed}",
                defense=settings,
                behind=behind,
                shows=shown(Access.LOGITS, chain(behind)).label if behind else Access.WEIGHTS.label,
                adversary=f"undefended-{number}",
                **common,
            )
        )
    return tuple(found)
