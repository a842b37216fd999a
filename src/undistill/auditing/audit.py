"""`audit`: what a thief still gets from a model, by how it is served and how often it may be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undistill.access import Access, Card
from undistill.attacks.base import ATTACKS
from undistill.auditing import planned
from undistill.auditing.desk import Desk, compute
from undistill.auditing.making import Thieves
from undistill.auditing.planned import Plan, Skipped, Subject
from undistill.auditing.planner import Planner
from undistill.auditing.suite import Suite, expected_resolution, suite, usual_delta
from undistill.auditing.verdict import check_control
from undistill.data import Splits
from undistill.data.load import load
from undistill.errors import UsageError
from undistill.files import locked
from undistill.jobs import Job, run_jobs
from undistill.models.base import FIXED
from undistill.oracle.bank import USUAL, Bank
from undistill.oracle.blackbox import BlackBox
from undistill.oracle.serving import AnswerDefense, chain, shown
from undistill.oracle.victim import Model, Victim, resolve
from undistill.registry import registry
from undistill.training.evaluate import accuracy, predict
from undistill.training.recipe import Recipe, component, read
from undistill.training.run import Run

Say = Callable[[str], None]
ALWAYS_SKIPPED = (
    Skipped(
        what="data-free thieves (dafl, deep-inversion)", why="hours each; `undistill attack --card data-free` runs one"
    ),
    Skipped(what="thieves with images of another kind (knockoff)", why="not built yet"),
)
MINE: dict[str, Any] = {"name": "cnn"}


@dataclass(frozen=True)
class Request:
    """What an audit is asked to do; `None` is left to the suite and the model. See `audit`."""

    suite: str = "quick"
    card: str | Card = "unlabelled/fresh"
    serve: Sequence[str] = ()
    questions: Sequence[int] = ()
    students: Sequence[str | dict[str, Any]] = ()
    seeds: int | None = None
    steps: int | None = None
    delta: float | None = None
    public: str | None = None
    also: Sequence[str | dict[str, Any]] = ()
    behind: Sequence[str | dict[str, Any] | AnswerDefense] = ()
    answers: str | None = None
    unseen: bool = False
    method: str | dict[str, Any] | None = None
    teachers: int = 3


@dataclass(frozen=True)
class Ready:
    """A plan and what its cells are computed from."""

    plan: Plan
    desk: Desk


def prepare(
    model: Model | None,
    data: Splits | None,
    request: Request,
    *,
    control: Model | None = None,
    recipe: str | Path | dict[str, Any] | Recipe | None = None,
    out: str | Path,
    cells: str | Path | None = None,
    device: str = "auto",
    bank: Bank | None = USUAL,
    command: str = "",
) -> Ready:
    """The plan of an audit, not written yet. Arguments and errors as `audit` has them."""
    chosen = _with_more(suite(request.suite), request.also)
    if model is None and request.method is None:
        raise UsageError("audit what? Name a MODEL, or a defense with --method")
    twin = model if control is None and request.behind else control  # without what stands in front of it
    known = {} if model is None else {"defended": (model, request.behind), "undefended": (twin, ())}
    recipe = _recipe(model, recipe)
    splits = data if data is not None else load(recipe.data)
    victims = {
        side: resolve(given, splits, answers=request.answers, behind=behind)
        for side, (given, behind) in known.items()
        if given is not None
    }
    delta = request.delta if request.delta is not None else usual_delta(len(splits.test))
    _check(victims, splits, delta)
    subjects = (
        _method(request, recipe)
        if model is None
        else tuple(
            _subject(side, given, victims[side], request, behind)
            for side, (given, behind) in known.items()
            if given is not None
        )
    )
    seeds = range(recipe.seed, recipe.seed + _seeds(request, chosen))
    cards = _cards(request, chosen, splits, victims)
    thieves = _thieves(request, recipe, splits, next(iter(victims.values()), None))
    planner = Planner(chosen, subjects, cards, thieves, seeds, splits.fingerprint)
    found, skipped = planner.plan()
    plan = Plan(
        title=_title(subjects, request),
        suite=chosen.name,
        question="model" if model is not None else "method",
        verdicts=chosen.verdicts,
        delta=delta,
        resolves=expected_resolution(len(seeds) if model is not None else request.teachers, len(splits.test)),
        data=recipe.data.model_dump(mode="json") | {"views": []},
        fingerprint=splits.fingerprint,
        data_note=splits.note,
        test_images=len(splits.test),
        classes=splits.num_classes,
        subjects=subjects,
        cells=found,
        skipped=(*skipped, *_left_out(chosen, cards, request), *ALWAYS_SKIPPED),
        known={name: attack.knows for name, attack in ATTACKS.classes().items()},
        grid={"temperature": chosen.temperatures, "alpha": chosen.alphas},
        seeds=tuple(seeds),
        command=command,
    )
    given_by_hand = {
        subject.name: victims[subject.side] for subject in subjects if subject.recipe is None and subject.model == GIVEN
    }
    desk = Desk(
        Path(out), None if cells is None else Path(cells), device, bank, given_by_hand, None if data is None else data
    )
    return Ready(plan, desk)


def run(ready: Ready, *, jobs: int | None = None, say: Say | None = None) -> None:
    """Write the plan and compute all of its cells that are not there."""
    folder, desk = ready.desk.folder, ready.desk
    with locked(folder):
        planned.write(folder, ready.plan)
        todo = [cell for cell in ready.plan.cells if (done := desk.done(cell.key)) is None or done.status == "failed"]
        if say is not None and len(todo) < len(ready.plan.cells):
            say(f"{len(ready.plan.cells) - len(todo)} of {len(ready.plan.cells)} cells are there already")
        waits = {cell.key for cell in todo}
        if desk.victims:
            jobs = 1  # what no path leads to cannot be told to another process
        else:
            desk = replace(desk, data=None)
        work = [
            Job(cell.key, compute, (desk, cell.key), tuple(need for need in cell.needs if need in waits))
            for cell in todo
        ]
        for number, line in enumerate(run_jobs(work, jobs), start=1):
            if say is not None:
                say(f"[{number}/{len(work)}] {line}")


# -- what is audited -------------------------------------------------------------------------------------------------

GIVEN = "(given)"
"""Stands for the path of a model that was handed over in Python."""


def _recipe(model: Model | None, recipe: str | Path | dict[str, Any] | Recipe | None) -> Recipe:
    if recipe is not None:
        return read(recipe)
    if model is None:
        raise UsageError("a method needs a recipe for its teachers; name one with --config or --data")
    source = model.recipe if isinstance(model, Victim | Run) else None
    if source is None and isinstance(model, str | Path) and (Path(model) / "config.yaml").exists():
        source = resolve(model).recipe
    if source is None:
        raise UsageError("the model brings no recipe for its thieves; name one with --config")
    return source


def _check(victims: dict[str, Victim], data: Splits, delta: float) -> None:
    """UsageError for a victim that the data do not fit, or a control that is none."""
    for victim in victims.values():
        victim.check(data)
    if len(victims) == 2 and not any(isinstance(victim.model, BlackBox) for victim in victims.values()):
        ours, twin = victims["defended"], victims["undefended"]
        reached = [accuracy(predict(v.network, data.test), data.test.labels_N) for v in (ours, twin)]
        prints = [v.data_fingerprint or data.fingerprint for v in (ours, twin)]
        check_control(reached[0], reached[1], delta, prints)


def _subject(
    side: Any, given: Model, victim: Victim, request: Request, behind: Sequence[str | dict[str, Any] | AnswerDefense]
) -> Subject:
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
        behind=tuple(item.model_dump(mode="json") for item in chain(behind)),
        shows=shown(Access.LOGITS, chain(behind)).label if behind else Access.WEIGHTS.label,
        answers=request.answers if black else None,
        unseen=request.unseen,
    )


def _method(request: Request, recipe: Recipe) -> tuple[Subject, ...]:
    """Pairs of teachers that the audit trains itself: an ordinary one and its hardened twin, or the same behind a defense."""
    wanted = request.method
    name = wanted if isinstance(wanted, str) else str((wanted or {}).get("name"))
    answers = name in registry("answer-defense").classes()
    settings = {} if answers else read(component(recipe.dump(), "defense", wanted)).dump()["defense"]
    behind = tuple(item.model_dump(mode="json") for item in chain([wanted])) if answers and wanted else ()
    found = []
    for number in range(request.teachers):
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


# -- how it is audited -----------------------------------------------------------------------------------------------


def _with_more(chosen: Suite, also: Sequence[str | dict[str, Any]]) -> Suite:
    """The suite with attacks of one's own, each where it belongs by what it needs."""
    for given in also:
        attack = ATTACKS.make(given)
        if attack.control or not attack.holds_images:
            raise UsageError(f"{attack.name} is no thief who asks about images: an audit cannot add it")
        inside = attack.needs is Access.WEIGHTS
        kind = "inside" if inside else "labels" if attack.reads is Access.LABEL else "soft"
        more = {"name": attack.name, **attack.settings} if isinstance(given, dict) else {"name": attack.name}
        chosen = replace(chosen, **{"name": f"{chosen.name} + {attack.name}", kind: (*getattr(chosen, kind), more)})
    return chosen


def _seeds(request: Request, chosen: Suite) -> int:
    count = request.seeds if request.seeds is not None else chosen.seeds if request.method is None else 2
    if count < 1 or request.teachers < 1:
        raise UsageError(f"an audit needs at least 1 seed and 1 teacher, not {count} and {request.teachers}")
    return count


def _cards(request: Request, chosen: Suite, data: Splits, victims: dict[str, Victim]) -> list[Card]:
    """Every way of serving × every number of questions, the strongest and first one first."""
    base = _base(request.card)
    pool = data.pool if base.pool == "fresh" else data.train
    if pool is None:
        raise UsageError(
            "no fresh images were set aside, which the card wants: train the model with -s data.pool=…, or take --card paper"
        )
    usual: tuple[int | None, ...] = (base.questions,)
    if base.questions is None and base.pool == "fresh" and base.share == 1.0:
        first = max(2, min(1000, len(pool) // 8))
        usual = (first, *(n for n in (2 * first, 4 * first) if chosen.verdicts and n <= len(pool)))
    serve = tuple(request.serve) or (
        ("probs", "label") if not chosen.verdicts else ("probs", "top5:2", "top1", "label")
    )
    kinds = [victim.model.kind for victim in victims.values() if isinstance(victim.model, BlackBox)]
    made = [base.served(name) for name in dict.fromkeys(serve)]
    made = [card for card in made if all(card.access <= kind for kind in kinds)]
    if not made:
        raise UsageError(
            f"{kinds[0].label} is all that the model answers: none of --serve {','.join(serve)} can be had"
        )
    order = sorted(made, key=lambda card: (card.access is Access.WEIGHTS, -card.access, -(card.top or 5)))
    counts = tuple(request.questions) or usual
    for count in counts:
        if count is not None and not 2 <= count <= len(pool):
            raise UsageError(
                f"the {base.pool} pool has {len(pool):,} images; {count:,} questions cannot be asked about them"
            )
    start = "public" if request.public else base.start
    return [
        card.model_copy(update={"questions": q, "start": start, "share": 1.0 if q else card.share})
        for q in counts
        for card in order
    ]


def _base(card: str | Card) -> Card:
    """A card, or the DATA/POOL part of one."""
    if isinstance(card, str) and card.count("/") == 1:
        return Card.parse(f"probs/{card}/random")
    return Card.parse(card)


def _thieves(request: Request, recipe: Recipe, data: Splits, victim: Victim | None) -> Thieves:
    values = recipe.dump()
    if recipe.student.recipe is not None:
        values["training"] = read(recipe.student.recipe).dump()["training"]
    steps = request.steps or (400 if data.train.image_size <= 16 else 1500)
    return Thieves(
        training=values["training"],
        views=values["data"]["views"],
        students=tuple(_student(item, request) for item in request.students) or (_own(recipe, victim, request),),
        steps=steps,
        pool=0 if data.pool is None else len(data.pool),
        trained=len(data.train),
    )


def _own(recipe: Recipe, victim: Victim | None, request: Request) -> dict[str, Any]:
    """The victim's own architecture, which a thief may guess; the recipe's student where the victim shows none."""
    if victim is None:
        settings = recipe.model.model_dump(mode="json", by_alias=True)
    elif (
        isinstance(victim.model, BlackBox)
        or ":" in str(victim.network.config["name"])
        or "(" in victim.network.config["name"]
    ):
        return _student({"name": recipe.student.name, "width": recipe.student.width}, request)
    else:
        settings = {key: value for key, value in victim.network.config.items() if key not in FIXED}
    plain = {"name": settings.pop("name"), "width": settings.pop("width", 1.0)}
    return _student(plain | ({"settings": settings} if settings else {}), request)


def _student(item: str | dict[str, Any], request: Request) -> dict[str, Any]:
    """`cnn`, `cnn:0.5` (its width) or settings, as a recipe has them."""
    if isinstance(item, str):
        name, colon, width = item.rpartition(":")
        try:
            item = {"name": name, "width": float(width)} if colon else {"name": item}
        except ValueError:
            item = {"name": item}  # a network of somebody's: package.module:callable
    return {**item, "weights": request.public} if request.public else dict(item)


def _left_out(chosen: Suite, cards: Sequence[Card], request: Request) -> list[Skipped]:
    """What this audit does not try, and why."""
    found = []
    if all(card.access < Access.WEIGHTS for card in cards):
        names = ", ".join(str(s["name"]) for s in chosen.inside)
        found.append(
            Skipped(what=f"thieves who hold the weights ({names})", why="not served; --serve weights tries them")
        )
    if request.public is None:
        found.append(
            Skipped(what="thieves who start from public weights", why="none were named; --public WEIGHTS tries them")
        )
    return found


def _title(subjects: Sequence[Subject], request: Request) -> str:
    if request.method is not None and subjects[0].recipe is not None:
        name = request.method if isinstance(request.method, str) else request.method.get("name")
        return f"the method {name}, {request.teachers} teachers"
    first = next(subject for subject in subjects if subject.side == "defended")
    twin = next((subject.label for subject in subjects if subject.side == "undefended"), None)
    return first.label if twin is None else f"{first.label} against {twin.removesuffix(', the twin')}"
