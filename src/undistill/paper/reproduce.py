"""`reproduce`: the paper's experiments at one scale, into a folder of runs and cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from undistill.errors import UsageError, unknown
from undistill.experiments.executors import Job, processes, run_jobs
from undistill.files import locked
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.paper.experiments import EXPERIMENTS, NAMES
from undistill.paper.plan import FILE, Plan, read, write
from undistill.paper.planner import Planner
from undistill.paper.scales import Scale, chosen
from undistill.paper.work import Place, do, finished

Say = Callable[[str], None]


def prepare(
    names: Sequence[str],
    *,
    scale: str = "smoke",
    recipe: str = "",
    seed: int = 0,
    seeds: int = 1,
    only: Sequence[str] = (),
    data_dir: Path | None = None,
) -> tuple[Plan, Planner]:
    """What would be done: the plan of these experiments, and the planner that holds its tasks.

    Raises:
        UsageError: an unknown experiment, scale or cell.
    """
    for name in names:
        if name not in ("all", *NAMES, *EXPERIMENTS):
            raise unknown("experiment", name, ("all", *NAMES))
    if seeds < 1 or seed < 0:
        raise UsageError(f"a reproduction needs at least 1 seed from 0 up, not {seeds} from {seed}")
    size = chosen(scale, recipe)
    planner = Planner(size, range(seed, seed + seeds))
    points = planner.points(names, only)
    plan = Plan(
        title=f"{scale}, fast recipes" if recipe == "fast" else scale,
        scale=scale,
        recipe=recipe,
        names=tuple(experiment.name for experiment in planner.experiments(names)),
        seeds=planner.seeds,
        networks=networks(size),
        notes=size.notes,
        command=_command(names, scale, recipe, seed, seeds, only),
        points=points,
    )
    return plan, planner


def reproduce(
    names: Sequence[str],
    *,
    out: str | Path,
    scale: str = "smoke",
    recipe: str = "",
    seed: int = 0,
    seeds: int = 1,
    only: Sequence[str] = (),
    data_dir: str | Path | None = None,
    jobs: int | None = None,
    device: str = "auto",
    bank: Bank | None = USUAL,
    say: Say | None = None,
) -> Path:
    """Do experiments of the paper; what is done already, by this or another experiment, is found and not done again.

    Args:
        names: of experiments, or `all`.
        out: folder; locked meanwhile. It may hold other experiments of the same scale, and goes on with them.
        scale: `smoke`, `small`, `small-paper-card`, `laptop` or `paper`.
        recipe: `fast` for shorter recipes at `paper`.
        seed: the first seed of teachers and students.
        seeds: how many.
        only: patterns of cells such as `table1/*/CNN/*`.
        data_dir: folder with `cifar10`, `cifar100` and `tiny-imagenet` in the hub's format; None to download.
        jobs: processes at a time, of one thread each; None for one a core, or one on CUDA.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        bank: keeps networks' answers, for all that ask them again; None keeps nothing.
        say: told what was done, a line at a time.

    Returns:
        `out`, with `reproduction.json` and `cells/`.

    Raises:
        UsageError: names or settings that do not fit, a folder of another scale.
    """
    place = Place(Path(out), None if data_dir is None else Path(data_dir), device, bank)
    plan, planner = prepare(names, scale=scale, recipe=recipe, seed=seed, seeds=seeds, only=only)
    with locked(place.out):
        write(place.out, _joined(place.out, plan))
        for experiment in {task.data for task in planner.tasks.values()}:
            place.where(planner.recipe(experiment).data.name)
        todo = [task for task in planner.tasks.values() if finished(place, task.key) is None]
        if say is not None and len(todo) < len(planner.tasks):
            say(f"{len(planner.tasks) - len(todo)} of {len(planner.tasks)} are done already")
        waits = {task.key for task in todo}
        work = [
            Job(
                task.key,
                do,
                (place, task, {key: planner.tasks[key] for key in task.needs}),
                tuple(key for key in task.needs if key in waits),
            )
            for task in todo
        ]
        for number, line in enumerate(run_jobs(work, processes(jobs, device)), start=1):
            if say is not None:
                say(f"[{number}/{len(work)}] {line}")
    return place.out


def networks(scale: Scale) -> dict[str, dict[str, str]]:
    """What plays each role, by data set; as `ROLE as a student` where that is another one."""
    found: dict[str, dict[str, str]] = {}
    for data, stage in scale.stages.items():
        found[data] = {role: _network(settings) for role, settings in stage.networks.items()}
        found[data] |= {f"{role} as a student": _network(settings) for role, settings in stage.students.items()}
    return found


def _network(settings: dict[str, object]) -> str:
    width = settings.get("width", 1.0)
    return str(settings["name"]) if width == 1.0 else f"{settings['name']}, width {width:g}"


def _joined(out: Path, plan: Plan) -> Plan:
    """The plan with the places that the folder's own has already, filled by what today's grid fills them with.

    Raises:
        UsageError: the folder holds something else, or another scale.
    """
    if not (out / FILE).exists():
        others = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
        if others:
            raise UsageError(f"{out} holds no reproduction, but {others[0]!r}; choose another folder with -o")
        return plan
    old = read(out)
    if (old.scale, old.recipe) != (plan.scale, plan.recipe):
        raise UsageError(f"{out} holds a reproduction of scale {old.title}, not {plan.title}; choose another with -o")
    names = tuple(name for name in EXPERIMENTS if name in {*old.names, *plan.names})
    seeds = tuple(sorted({*old.seeds, *plan.seeds}))
    wanted = {point.name for point in (*old.points, *plan.points)}
    every = Planner(chosen(plan.scale, plan.recipe), seeds).points(names)
    commands = dict.fromkeys([*old.command.splitlines(), plan.command])
    return plan.model_copy(
        update={
            "names": names,
            "seeds": seeds,
            "points": tuple(point for point in every if point.name in wanted),
            "command": "\n".join(commands),
        }
    )


def _command(names: Sequence[str], scale: str, recipe: str, seed: int, seeds: int, only: Sequence[str]) -> str:
    parts = ["undistill reproduce", *names, f"--scale {scale}", f"--recipe {recipe}" if recipe else ""]
    parts += [f"--seed {seed}" if seed else "", f"--seeds {seeds}", *(f"--only '{pattern}'" for pattern in only)]
    return " ".join(part for part in parts if part)
