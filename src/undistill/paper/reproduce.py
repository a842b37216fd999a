"""`reproduce`: the paper's experiments at one scale, into a folder of runs and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undistill.errors import UsageError, unknown
from undistill.experiments.graph import run
from undistill.experiments.runtime import Runtime, runtime_of
from undistill.files import locked
from undistill.paper.compute import PaperFolder, Task
from undistill.paper.experiments import EXPERIMENTS, NAMES
from undistill.paper.plan import FILE, Plan, read, write
from undistill.paper.planner import Planner
from undistill.paper.scales import Scale, chosen


def prepare(
    names: Sequence[str],
    *,
    scale: str = "smoke",
    recipe: str = "",
    seed: int = 0,
    seeds: int = 1,
    only: Sequence[str] = (),
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
    data_dir: str | Path | None = None,
    runtime: Runtime | None = None,
    plan_only: bool = False,
    **settings: Any,
) -> Path:
    """Do experiments of the paper; what is done already, by this or another experiment, is found and not done again.

    Args:
        names: of experiments, or `all`.
        out: folder; locked meanwhile. It may hold other experiments of the same scale, and goes on with them.
        data_dir: folder with `cifar10`, `cifar100` and `tiny-imagenet` in the hub's format; None to download.
        runtime: device, cache, processes, log.
        plan_only: write the plan and compute nothing.
        settings: of `prepare`: scale, recipe, seed, seeds, only; and of `Runtime`: device, jobs, cache, log.

    Returns:
        `out`, with `reproduction.json` and `cells/`.

    Raises:
        UsageError: names or settings that do not fit, a folder of another scale.
    """
    runtime, settings = runtime_of(runtime, settings)
    plan, planner = prepare(names, **settings)
    folder = PaperFolder(Path(out), data_dir=None if data_dir is None else Path(data_dir), runtime=runtime.in_worker())
    with locked(folder.folder):
        write(folder.folder, _joined(folder.folder, plan))
        if not plan_only:
            _run(folder, planner.tasks, runtime, planner)
    return folder.folder


def resume(out: Path, *, data_dir: Path | None = None, runtime: Runtime | None = None) -> Path:
    """Do what is missing of the plan in a folder."""
    runtime = runtime or Runtime()
    folder = PaperFolder(out, data_dir=data_dir, runtime=runtime.in_worker())
    with locked(out):
        plan = read(out)
        planner = Planner(chosen(plan.scale, plan.recipe), plan.seeds)
        planner.points(plan.names)
        if other := {point.key for point in plan.points} - planner.tasks.keys():
            raise UsageError(
                f"{out} was planned by another version ({len(other)} of its cells are filled otherwise now); plan it anew with "
                f"{plan.command.splitlines()[0] if plan.command else 'undistill reproduce'}"
            )
        planner.keep(point.key for point in plan.points)
        _run(folder, planner.tasks, runtime, planner)
    return out


def _run(folder: PaperFolder, tasks: Mapping[str, Task], runtime: Runtime, planner: Planner) -> None:
    for data in {task.data for task in tasks.values()}:
        folder.where(planner.recipe(data).data.name)
    todo = folder.graph(tasks).missing()
    if len(todo) < len(tasks):
        runtime.say(f"{len(tasks) - len(todo)} of {len(tasks)} are done already")
    for number, line in enumerate(run(todo, runtime.at_once, runtime.executor, folder.folder), start=1):
        runtime.say(f"[{number}/{len(todo)}] {line}")


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
