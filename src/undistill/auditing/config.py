"""What an audit is asked to do, and what that means: threat models, attacks, seeds, and its victims."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from undistill.attacks.base import ATTACKS
from undistill.auditing.making import Attackers
from undistill.auditing.suite import FIRST_SEARCH_SEED, NAIVE, Suite
from undistill.auditing.verdict import check_control
from undistill.data import Splits
from undistill.errors import UsageError
from undistill.experiments.plan import Skipped, Subject
from undistill.experiments.runtime import Config
from undistill.models.base import FIXED, MODELS
from undistill.oracle.black_box import BlackBox
from undistill.oracle.output_defense import chain, shown
from undistill.oracle.victim import Model, Victim
from undistill.registry import problem, registry
from undistill.threat_model import Access, ThreatModel
from undistill.training.evaluate import accuracy, predict
from undistill.training.recipe import Recipe, Student, component, for_student, read
from undistill.training.run_folder import Run

USUAL_HOLDINGS = "unlabelled/fresh"
USUAL_TIME = 600.0
"""Seconds that the suite that grows takes, unless it is given others."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 60.0}
LONGEST_TIME = 30 * 24 * 3600.0
ALWAYS_SKIPPED = (
    Skipped(
        what="data-free attacks (dafl, deep-inversion)",
        why="hours each; `undistill attack --threat-model data-free` runs one",
    ),
    Skipped(what="attackers with images of another kind (knockoff)", why="not built yet"),
)
GIVEN = "(given)"
"""Stands for the path of a model that was handed over in Python."""


class AuditConfig(Config):
    """The settings of `audit`; None is left to the suite and the model.

    Args:
        control: the same network without the defense: same data, about as accurate. Without one the audit says what an attacker
            gets, and not whether a defense helps; with an output defense it is the model itself.
        suite: `timed` adds seeds until differences of `delta` are resolved or `time` is used; `quick` is an indication in minutes;
            `standard` (the newest version) searches and gives verdicts.
        time: of the suite `timed`: `"10m"`, `"90s"`, `"2h"`, or a number of minutes.
        threat_model: what the attacker holds: `unlabelled/fresh`, `labelled/fresh`, `paper`, or all of it.
        access: output accesses: `probs`, `top5:2`, `top1`, `label`, `weights`. None for the suite's.
        unqueried: images of the pool that attackers hold, without labels, beyond those that they query. Baselines get them, too.
        queries: query budgets; the first is searched on. None for an eighth of the pool, and twice and four times as many.
        output_defense: output defenses of the model, the first one first.
        outputs: what a callable returns: `logits`, `probs`, `topk`, `label`.
        assume_fresh: asserts, unverified, that a model of unknown origin was not trained on the fresh pool.
        name: what reports call a callable.
        students: attackers' networks: `cnn:0.5` or settings; the first is searched with. None for the victim's own architecture.
        extra_attack: attacks of your own, tried too.
        public: weights that attackers start from.
        seeds: report seeds; with a method, for each teacher. None for the suite's.
        steps: training steps of an attacker with a query budget.
        delta: the smallest difference that matters, in points of accuracy. None for half a point on 10,000 test images, 2 on 500.
        accept_accuracy: go on with a model whose accuracy cannot be that of a classifier of these data.
        method: a defense to audit as a method, on pairs of teachers that are trained for it.
        teachers: how many pairs.
        recipe: of attackers (and of a method's teachers); None for the one that the model was trained by.
        cells: folder of cells, for audits to share; None for `cells` in the audit's folder.
    """

    control: Any = None
    suite: str = "timed"
    time: str | float | None = None
    threat_model: str | ThreatModel = USUAL_HOLDINGS
    access: tuple[str, ...] = ()
    queries: tuple[int, ...] = ()
    unqueried: int | None = None
    output_defense: tuple[Any, ...] = ()
    outputs: str | None = None
    assume_fresh: bool = False
    name: str | None = None
    students: tuple[str | dict[str, Any], ...] = ()
    extra_attack: tuple[str | dict[str, Any], ...] = ()
    public: str | Path | None = None
    seeds: int | None = None
    steps: int | None = None
    delta: float | None = None
    accept_accuracy: bool = False
    method: str | dict[str, Any] | None = None
    teachers: int = 3
    recipe: Any = None
    cells: Path | None = None
    verb: ClassVar[str] = "audit"
    old: ClassVar[dict[str, str]] = {
        "serve": "access",
        "questions": "queries",
        "behind": "output_defense",
        "answers": "outputs",
        "unseen": "assume_fresh",
        "also": "extra_attack",
        "called": "name",
        "card": "threat_model",
    }


def time_of(config: AuditConfig) -> float:
    """Seconds that an audit may add seeds for; `10m`, `90s`, `1.5h`, or a number of minutes. UsageError for what is no time."""
    given = config.time
    if given is None:
        return USUAL_TIME
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:([smh])[a-z]*)?\s*", str(given).lower())
    seconds = float(found[1]) * UNITS[found[2] or ""] if found else 0.0
    if not 0 < seconds <= LONGEST_TIME:
        raise UsageError(f"{given!r} is no time for an audit; write 90s, 10m or 2h, at most 30 days")
    return seconds


def with_more(chosen: Suite, also: Sequence[str | dict[str, Any]]) -> Suite:
    """The suite with attacks of one's own, each where it belongs by what it needs."""
    for given in also:
        attack = ATTACKS.make(given)
        if attack.control or not attack.holds_images:
            raise UsageError(f"{attack.name} queries no images: an audit cannot add it")
        inside = attack.needs is Access.WEIGHTS
        kind = "labels" if attack.reads is Access.LABEL else "soft"
        more = ({"name": attack.name, **attack.settings} if isinstance(given, dict) else {"name": attack.name},)
        more_of = {"inside": chosen.inside + more} if inside else {kind: getattr(chosen, kind) + more}
        chosen = replace(chosen, name=f"{chosen.name} + {attack.name}", **more_of)
    return chosen


def seeds_of(config: AuditConfig, chosen: Suite, first: int) -> range:
    """Report seeds: as many as asked for, the suite's, or two for each teacher of a method, from `first` on."""
    count = config.seeds if config.seeds is not None else chosen.seeds if config.method is None else 2
    if count < 1 or config.teachers < 1:
        raise UsageError(f"an audit needs at least 1 seed and 1 teacher, not {count} and {config.teachers}")
    last = first + count * (config.teachers if config.method is not None else 1)
    if last > FIRST_SEARCH_SEED:
        raise UsageError(
            f"report seeds end below {FIRST_SEARCH_SEED}, where those of the search begin, not at {last - 1}"
        )
    return range(first, first + count)


def cards_of(config: AuditConfig, chosen: Suite, data: Splits, victims: Mapping[str, Victim]) -> list[ThreatModel]:
    """Every output access × every query budget, the strongest and first one first."""
    base, whole = _base(config.threat_model)
    instead = chosen.grows and data.pool is None and config.threat_model == USUAL_HOLDINGS
    if instead:  # an answer about trained images, which a flag doubts, says more than none
        base = base.model_copy(update={"pool": "trained"})
    if base.data == "none":
        raise UsageError(
            "an audit's attacks hold images; `undistill attack --threat-model data-free` runs one that holds none"
        )
    pool = data.pool if base.pool == "fresh" else data.train
    if pool is None:
        raise UsageError(
            "no fresh images were set aside, which the threat model needs: train the model with -s data.pool=…, or take "
            "--threat-model paper"
        )
    usual: tuple[int | None, ...] = (base.questions,)
    if base.questions is None and (base.pool == "fresh" or instead) and base.share == 1.0:
        usual = _budgets(chosen, len(pool) - (config.unqueried or 0), data.num_classes)
    serve = tuple(config.access) or ((base.serving,) if whole else _accesses(config, chosen, victims))
    kinds = [victim.model.kind for victim in victims.values() if isinstance(victim.model, BlackBox)]
    made = [base.served(name) for name in dict.fromkeys(serve)]
    made = [card for card in made if all(card.access <= kind for kind in kinds)]
    if not made:
        raise UsageError(
            f"{kinds[0].label} is all that the model returns: none of --access {','.join(serve)} can be had"
        )
    order = sorted(made, key=lambda card: (card.access is Access.WEIGHTS, -card.access, -(card.top or 5)))
    counts = tuple(config.queries) or usual
    more = base.unqueried if config.unqueried is None else config.unqueried
    _affordable(counts, more, base.pool, len(pool))
    start = "public" if config.public else base.start
    if start == "public" and config.public is None:
        raise UsageError(f"the threat model {base} starts from public weights: name them with --public")
    for victim in victims.values():
        _playable(victim, base, counts, config)
    return [
        card.model_copy(update={"questions": q, "unqueried": more, "start": start, "share": 1.0 if q else card.share})
        for q in counts
        for card in order
    ]


def _affordable(budgets: Sequence[int | None], unqueried: int, pool: str, size: int) -> None:
    """UsageError for query budgets, and images beyond them, that a pool has not enough images for."""
    if not 0 <= unqueried <= size - 2:
        raise UsageError(
            f"the {pool} pool has {size:,} images; --unqueried leaves at least 2 to query, not {unqueried:,}"
        )
    if unqueried and None in budgets:
        raise UsageError("without a query budget every image is queried: --unqueried goes with --queries")
    for count in budgets:
        if count is not None and not 2 <= count <= size - unqueried:
            more = f" and {unqueried:,} images that are not queried" if unqueried else ""
            raise UsageError(f"the {pool} pool has {size:,} images; {count:,} queries{more} need as many")


def _accesses(config: AuditConfig, chosen: Suite, victims: Mapping[str, Victim]) -> tuple[str, ...]:
    """The suite's output accesses. Weights are given where there are some, and no output defense, which they would go around."""
    if chosen.grows:
        boxes = any(isinstance(victim.model, BlackBox) for victim in victims.values())
        return ("probs", "top1", "label", *(() if boxes or config.output_defense else ("weights",)))
    return ("probs", "top5:2", "top1", "label") if chosen.verdicts else ("probs", "label")


def _budgets(chosen: Suite, pool: int, classes: int) -> tuple[int, ...]:
    """An eighth of the pool, at most 1,000, and for a suite with verdicts or one that grows twice and four times as many.

    Where seeds are added, a small pool gives enough for two images a class, at most half of it.
    """
    first = max(2, min(1000, pool // 8))
    if chosen.grows:
        first = max(first, min(max(20, 2 * classes), pool // 2))
    several = chosen.verdicts or chosen.grows
    return (first, *(n for n in (2 * first, 4 * first) if several and n <= pool))


def _playable(victim: Victim, base: ThreatModel, counts: Sequence[int | None], config: AuditConfig) -> None:
    """UsageError for a victim that no attack of these threat models could be tried on."""
    if base.pool == "fresh" and not (victim.fresh_pool or config.assume_fresh):
        raise UsageError(
            f"nothing says which images {victim.label} and what it came from were trained on, so none are known to be fresh; if "
            "you know that it never saw those of data.pool, say so (--assume-fresh, assume_fresh=True)"
        )
    if isinstance(victim.model, BlackBox) and None in counts:
        raise UsageError(f"{victim.label} would be queried on every view of every image: give a budget with --queries")


def without_search(chosen: Suite, why: str) -> tuple[Suite, tuple[Skipped, ...]]:
    """The suite with its attacks as they come, `kd` at each temperature among them, and a line that says so."""
    grid = tuple({"name": "kd", "temperature": t} for t in chosen.temperatures if t != NAIVE["temperature"])
    plain = replace(
        chosen,
        name=f"{chosen.name} without its search",
        search=0,
        temperatures=(),
        alphas=(),
        soft=(*grid, *chosen.soft),
    )
    return plain, (Skipped(what="the search", why=why),)


def _base(card: str | ThreatModel) -> tuple[ThreatModel, bool]:
    """(a threat model, whether it was given whole); else only DATA/POOL was, and any output access goes with it."""
    if isinstance(card, str) and card.count("/") == 1:
        return ThreatModel.parse(f"probs/{card}/random"), False
    return ThreatModel.parse(card), True


def attackers_of(config: AuditConfig, recipe: Recipe, data: Splits, victim: Victim | None) -> Attackers:
    """How attacks are trained: as the recipe has students trained, for steps that fit the size of the images."""
    values = for_student(recipe.dump())
    steps = config.steps or (400 if data.train.image_size <= 16 else 1500)
    return Attackers(
        training=values["training"],
        views=values["data"]["views"],
        students=tuple(_student(item, config) for item in config.students) or (_own(recipe, victim, config),),
        steps=steps,
        pool=0 if data.pool is None else len(data.pool),
        trained=len(data.train),
        public="" if config.public is None else _digest(Path(config.public)),
    )


def _digest(weights: Path) -> str:
    """What tells public weights apart, wherever they lie; UsageError where there are none."""
    files = sorted(path for path in weights.rglob("*.safetensors")) if weights.is_dir() else [weights]
    if not files or not all(path.is_file() for path in files):
        raise UsageError(f"there are no public weights at {weights}")
    found = hashlib.sha256()
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _own(recipe: Recipe, victim: Victim | None, config: AuditConfig) -> dict[str, Any]:
    """The victim's own architecture, which an attacker may guess; where it shows none, what the recipe would train on these data.

    Not the recipe's student, which may be a small one: an attacker takes a network that is good at the task.
    """
    hidden = victim is None or isinstance(victim.model, BlackBox)
    if victim is None or hidden or any(sign in str(victim.network.config["name"]) for sign in ":("):
        settings = recipe.model.model_dump(mode="json", by_alias=True)
    else:
        settings = {key: value for key, value in victim.network.config.items() if key not in FIXED}
    plain = {"name": settings.pop("name"), "width": settings.pop("width", 1.0)}
    return _student(plain | ({"settings": settings} if settings else {}), config)


def _student(item: str | dict[str, Any], config: AuditConfig) -> dict[str, Any]:
    """`cnn`, `cnn:0.5` (its width) or settings, as a recipe has them; UsageError for a network that there is not."""
    if isinstance(item, str):
        name, colon, width = item.rpartition(":")
        try:
            item = {"name": name, "width": float(width)} if colon else {"name": item}
        except ValueError:
            item = {"name": item}  # a network by its code: package.module:callable
    MODELS.make(item["name"])
    try:
        Student.model_validate(item)
    except ValidationError as error:
        raise UsageError(f"student {item['name']}: {problem(error, Student)}") from None
    return {**item, "weights": str(config.public)} if config.public else dict(item)


def left_out(chosen: Suite, cards: Sequence[ThreatModel], config: AuditConfig) -> list[Skipped]:
    """What this audit does not try, and why."""
    found = []
    if all(card.access < Access.WEIGHTS for card in cards):
        names = ", ".join(dict.fromkeys(str(s["name"]) for s in chosen.inside))
        found.append(
            Skipped(what=f"attackers who hold the weights ({names})", why="not served; --access weights tries them")
        )
    if not any(card.unqueried for card in cards):
        found.append(
            Skipped(
                what="attackers who hold more images than they may query (semi, active)",
                why="none were given; --unqueried NUMBER tries them",
            )
        )
    if config.public is None:
        found.append(
            Skipped(what="attackers who start from public weights", why="none were named; --public WEIGHTS tries them")
        )
    return found


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
        label=victim.label if side == "defended" else f"{victim.label}, the control",
        network=victim.label if black else str(victim.network.config["name"]),
        defense=victim.defense,
        behind=tuple(item.model_dump(mode="json") for item in victim.behind),
        shows=shown(Access.LOGITS, victim.behind).label if victim.behind else Access.WEIGHTS.label,
        answers=config.outputs if black else None,
        unseen=config.assume_fresh,
    )


def teachers(config: AuditConfig, recipe: Recipe) -> tuple[Subject, ...]:
    """Pairs of teachers that the audit trains itself: an ordinary one and its hardened version, or the same behind a defense."""
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
