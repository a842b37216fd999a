"""Breaks things while the tool works, and looks at what is left: `make faults`, or parts of it with `--only kills disk`.

Each trial has a command in a folder of its own, and a fault: a signal at a random moment, a disk that is full, a bit that
flipped, a file made to harm. Where a fault passes, the same command is given again. What counts as what:

- right result: what the same command gives undisturbed, to the last bit, at once or when it was given again
- clear error: it ended with one sentence and one of its exit codes, before it gave the right result or in place of it
- lost: another result than the undisturbed one, without a word; or the right one can no longer be had
- executed: code from a file ran
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SMALL = ("--data", "digits", "-s", "model.width=0.125", "-s", "data.limit=1100", "-s", "data.pool=200", "-q")
SHORT = ("--data", "digits", "-s", "training.epochs=6", "-q")
PLAN = ("--data", "digits", "--access", "probs", "--queries", "50", "--steps", "60", "--seeds", "2", "-q")
CODES = (1, 2, 3, 130, 143)
TIMES = ("seconds", "env", "curve", "forwards")
"""Fields of cells that say what was spent, not what came out: a cache that a first attempt has filled saves forward passes."""
LIMIT = 400.0


@dataclass
class Row:
    """One line of the table."""

    fault: str
    at: str
    tried: int = 0
    right: int = 0
    clear: int = 0
    lost: int = 0
    executed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    err: str

    @property
    def clear(self) -> bool:
        """In one sentence, with one of the tool's exit codes."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.code in CODES and bool(lines) and "Traceback" not in self.err and len(lines[-1]) < 600


@dataclass(frozen=True)
class Verb:
    """A command, the folder or file that it makes, and what of that must be the same."""

    name: str
    words: tuple[str, ...]
    made: str
    result: Callable[[Path], Any]
    needs: tuple[str, ...] = ("normal",)


def weights(run: Path) -> Any:
    """What a training leaves."""
    found = json.loads((run / "result.json").read_text())
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(), found["accuracy"]


def cells(folder: Path) -> Any:
    """What an attack or an audit leaves."""
    found = {}
    for path in sorted(folder.rglob("cells/*.json")):
        values = json.loads(path.read_text())
        values.pop("check", None)
        arrays = path.with_suffix(".npz")
        digest = hashlib.sha256(arrays.read_bytes()).hexdigest() if arrays.exists() else ""
        found[path.name] = {name: value for name, value in values.items() if name not in TIMES}, digest
    return found


def packed(file: Path) -> Any:
    """What is in a file of evidence."""
    with tempfile.TemporaryDirectory() as place:
        call("evidence", "unpack", str(file), "-o", place, home=file.parent)
        return cells(Path(place))


VERBS = {
    "train": Verb("train", ("train", "--model", "cnn", *SMALL, "-s", "training.epochs=6", "-o"), "out", weights, ()),
    "protect": Verb("protect", ("protect", "normal", *SHORT, "-o"), "out", weights),
    "attack": Verb("attack", ("attack", "normal", *SHORT, "-o"), "out", cells),
    "run": Verb("run", ("run", "--jobs", "1", "-q"), "audit", cells, ("normal", "audit")),
    "pack": Verb("evidence pack", ("evidence", "pack", "done", "-o"), "out.parquet", packed, ("done",)),
}


REPORT = Verb(
    "report", ("report",), "done", lambda folder: json.loads((folder / "report" / "report.json").read_text()), ("done",)
)


def call(*words: str, home: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> Said:
    """A command of the tool, to its end."""
    process = begin(*words, home=home, env=env, before=before)
    try:
        _, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        end(process)
        return Said(-99, "it hung")
    return Said(process.returncode, err)


def begin(*words: str, home: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()) -> Any:
    """The same, in the background, in a session of its own."""
    place = os.environ | {"OMP_NUM_THREADS": "1", "UNDISTILL_CACHE": str(home / ".cache"), **(env or {})}
    line = [*before, sys.executable, "-m", "undistill", *words]
    return subprocess.Popen(
        line,
        cwd=home,
        env=place,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def end(process: Any) -> None:
    """Kill it and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Faults:
    """The trials, their random moments and their table."""

    def __init__(self, base: Path, seed: int, share: float) -> None:
        self.base, self.rng, self.share = base, random.Random(seed), share
        self.rows: list[Row] = []
        self.known: dict[str, tuple[Any, float]] = {}

    def times(self, count: int) -> int:
        """How often, of so many in a whole run."""
        return max(1, round(count * self.share))

    @contextmanager
    def home(self, *needs: str) -> Iterator[Path]:
        """A fresh folder with copies of what a verb needs."""
        with tempfile.TemporaryDirectory(prefix="faults-") as place:
            for name in needs:
                shutil.copytree(self.base / name, Path(place) / name)
            yield Path(place)

    def undisturbed(self, verb: Verb) -> tuple[Any, float]:
        """(its result, the seconds it takes)."""
        if verb.name not in self.known:
            with self.home(*verb.needs) as home:
                began = time.monotonic()
                said = call(*verb.words, verb.made, home=home)
                assert said.code == 0, said.err
                self.known[verb.name] = verb.result(home / verb.made), time.monotonic() - began
        return self.known[verb.name]

    @contextmanager
    def row(self, fault: str, at: str) -> Iterator[Row]:
        """A row, printed when it is full."""
        row, began = Row(fault, at), time.monotonic()
        yield row
        row.seconds = round(time.monotonic() - began, 1)
        self.rows.append(row)
        print(json.dumps(asdict(row)), flush=True)

    def judge(
        self, row: Row, verb: Verb, home: Path, said: Said, *, again: bool = True, mark: Path | None = None
    ) -> None:
        """Count a trial: after the fault, and the same command again where it passed."""
        row.tried += 1
        row.executed += mark is not None and mark.exists()
        expected = self.undisturbed(verb)[0]
        failed = said.code != 0
        if failed and again:
            if said.clear:
                row.clear += 1
            said = call(*verb.words, verb.made, home=home)
        if said.code == 0:
            try:
                same = verb.result(home / verb.made) == expected
            except (OSError, ValueError, KeyError) as error:
                row.notes += (repr(error)[:200],)
                same = False
            row.right += same
            row.lost += not same
        elif said.clear and not again:
            row.clear += 1
        else:
            row.lost += 1
            row.notes += (f"{said.code}: {said.err[-300:]}",)

    # -- kills -------------------------------------------------------------------------------------------------------

    def kills(self) -> None:
        """Signals at random moments of every verb."""
        for verb in VERBS.values():
            takes = self.undisturbed(verb)[1]
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
                with self.row(number.name, verb.name) as row:
                    for _ in range(self.times(6 if number == signal.SIGKILL else 3)):
                        with self.home(*verb.needs) as home:
                            process = begin(*verb.words, verb.made, home=home)
                            time.sleep(self.rng.uniform(0.2, 1.0) * takes)
                            with suppress(ProcessLookupError):
                                process.send_signal(number)
                            _, err = process.communicate(timeout=LIMIT)
                            self.judge(row, verb, home, Said(process.returncode, err))

    def workers(self) -> None:
        """Workers of an audit are killed; the driver goes on by itself."""
        verb, kinds = VERBS["run"], {"local": 4}
        with suppress(ImportError):
            import ray  # noqa: F401

            kinds["ray"] = 4
        for executor, count in kinds.items():
            words = ("run", "--jobs", "2", "-q", "--executor", executor)
            with self.row("SIGKILL", f"a worker, {executor}") as row:
                for _ in range(self.times(count)):
                    with self.home(*verb.needs) as home:
                        process = begin(*words, verb.made, home=home)
                        self.shoot(process, executor)
                        _, err = process.communicate(timeout=LIMIT)
                        self.judge(row, verb, home, Said(process.returncode, err))

    def shoot(self, process: Any, executor: str) -> None:
        """Kill a worker once there is one, at a random moment."""
        wait, until = self.rng.uniform(0.0, 4.0), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if found := [pid for pid in _below(process.pid) if _is_worker(pid, executor)]:
                time.sleep(wait)
                with suppress(ProcessLookupError):
                    os.kill(self.rng.choice(found), signal.SIGKILL)
                return
            time.sleep(0.05)

    def nodes(self) -> None:
        """A machine of a Ray cluster is gone, and the one that leads it; then the audit goes on here."""
        try:
            from ray.cluster_utils import Cluster
        except ImportError:
            return
        verb = VERBS["run"]
        for which in ("a Ray node", "a Ray head"):
            with self.row("SIGKILL", which) as row:
                for _ in range(self.times(2)):
                    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
                    head, node = cluster.head_node, cluster.add_node(num_cpus=1)
                    with self.home(*verb.needs) as home:
                        process = begin("run", "-q", "--executor", f"ray address={cluster.address}", "audit", home=home)
                        while process.poll() is None and not list((home / "audit").glob("done/*.json")):
                            time.sleep(0.05)
                        time.sleep(self.rng.uniform(0.0, 2.0))
                        lost: Any = node if which == "a Ray node" else head
                        cluster.remove_node(lost, allow_graceful=False)
                        try:
                            _, err = process.communicate(timeout=LIMIT)
                        except subprocess.TimeoutExpired:
                            end(process)
                            err = "it hung"
                        self.judge(row, verb, home, Said(process.returncode, err))
                    cluster.shutdown()

    def together(self) -> None:
        """Two processes with the same command on the same folder."""
        for verb in (VERBS["train"], VERBS["attack"], VERBS["run"]):
            with self.row("two processes on one folder", verb.name) as row:
                for _ in range(self.times(3)):
                    with self.home(*verb.needs) as home:
                        both = [begin(*verb.words, verb.made, home=home) for _ in range(2)]
                        said = [Said(p.returncode, e) for p in both for _, e in [p.communicate(timeout=LIMIT)]]
                        worst = max(said, key=lambda each: (each.code != 0, not each.clear))
                        self.judge(row, verb, home, worst)

    # -- disks -------------------------------------------------------------------------------------------------------

    def disk(self) -> None:
        """A disk that is full after a random number of bytes, a read-only one, one that fails to write, sync or rename."""
        for verb in (VERBS["train"], VERBS["protect"], VERBS["attack"], VERBS["run"]):
            with self.home(*verb.needs) as home:
                call(*verb.words, verb.made, home=home)
                size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
            with self.row("full disk", verb.name) as row:
                for _ in range(self.times(4)):
                    with self.home(*verb.needs) as home, mounted(home / "disk", "size=64m") as disk:
                        self.fill(disk, verb, home)
                        there = shutil.disk_usage(disk).used + 4096
                        room = there + int(self.rng.uniform(0.0, 1.0) * (size - there + 40_000))
                        remount(disk, f"size={max(4096, room)}")
                        said = call(*verb.words, verb.made, home=disk)
                        remount(disk, "size=64m")
                        self.judge(row, verb, disk, said)
            with (
                self.row("read-only disk", verb.name) as row,
                self.home(*verb.needs) as home,
                mounted(home / "disk", "size=64m") as disk,
            ):
                self.fill(disk, verb, home)
                remount(disk, "ro")
                said = call(*verb.words, verb.made, home=disk)
                remount(disk, "rw")
                self.judge(row, verb, disk, said)
            for point in ("fsync", "rename", "write") if shutil.which("gcc") else ():
                with self.row(f"EIO of {point}", verb.name) as row:
                    for _ in range(self.times(3)):
                        share = self.rng.uniform(0.05, 0.4)
                        with self.home(*verb.needs) as home:
                            said = call(*verb.words, verb.made, home=home, env=self.failing(home, point, share))
                            self.judge(row, verb, home, said)

    def failing(self, home: Path, point: str, share: float) -> dict[str, str]:
        """Variables with which a function of the C library fails at random."""
        source, shim = Path(__file__).with_name("eio.c"), home / "eio.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
        fault = {"FAULT_POINT": point, "FAULT_SHARE": f"{share:.3f}", "FAULT_SEED": str(self.rng.randrange(10**6))}
        return {"LD_PRELOAD": str(shim), **fault}

    def fill(self, disk: Path, verb: Verb, home: Path) -> None:
        """What a verb needs, on this disk."""
        for name in verb.needs:
            shutil.copytree(home / name, disk / name)

    def locks(self) -> None:
        """A file system without locks, as some of NFS are, and a clock that was set back."""
        for verb in (VERBS["train"], VERBS["run"]):
            with self.row("locks fail (ENOLCK)", verb.name) as row, self.home(*verb.needs) as home:
                patch = "import errno, fcntl\ndef no(*_):\n    raise OSError(errno.ENOLCK, 'No locks available')\n"
                (home / "patch").mkdir()
                (home / "patch" / "sitecustomize.py").write_text(f"{patch}fcntl.flock = fcntl.lockf = no\n")
                path = f"{home / 'patch'}:{os.environ.get('PYTHONPATH', '')}"
                said = call(*verb.words, verb.made, home=home, env={"PYTHONPATH": path})
                self.judge(row, verb, home, said)
            if shutil.which("faketime") is None:
                continue
            with self.row("clock set back a year", verb.name) as row:
                for _ in range(self.times(2)):
                    with self.home(*verb.needs) as home:
                        process = begin(*verb.words, verb.made, home=home)
                        time.sleep(self.rng.uniform(0.4, 0.9) * self.undisturbed(verb)[1])
                        end(process)
                        said = call(*verb.words, verb.made, home=home, before=("faketime", "-f", "-365d"))
                        self.judge(row, verb, home, said)

    # -- files -------------------------------------------------------------------------------------------------------

    def flips(self) -> None:
        """A bit flips in a file that a verb reads."""
        again = ("attack", "normal", *SHORT, "-o")
        kinds: list[tuple[str, str, Verb, tuple[str, ...]]] = [
            ("weights", "normal/model/model.safetensors", VERBS["attack"], ()),
            ("a model's config.json", "normal/model/config.json", VERBS["attack"], ()),
            ("a run's config.yaml", "normal/config.yaml", VERBS["attack"], ()),
            ("a run's result.json", "normal/result.json", VERBS["attack"], ()),
            ("checkpoint", "half/checkpoint/epoch-*.safetensors", _on("half", VERBS["train"]), ("half",)),
            ("checkpoint's state.json", "half/checkpoint/state.json", _on("half", VERBS["train"]), ("half",)),
            ("metrics.jsonl", "half/metrics.jsonl", _on("half", VERBS["train"]), ("half",)),
            ("plan", "audit/audit.json", VERBS["run"], ()),
            ("a finished cell", "begun/cells/*.json", _on("begun", VERBS["run"]), ("begun",)),
            ("a cell's arrays", "begun/cells/*.npz", _on("begun", VERBS["run"]), ("begun",)),
            ("a cell that is reported", "done/cells/*.json", REPORT, ()),
            ("its arrays", "done/cells/*.npz", REPORT, ()),
            ("a cell's marker", "begun/done/*.json", _on("begun", VERBS["run"]), ("begun",)),
            (
                "evidence",
                "packed/done.parquet",
                Verb("unpack", ("evidence", "unpack", "packed/done.parquet", "-o"), "out", cells, ("packed",)),
                (),
            ),
            ("logit cache", ".cache/**/*.*", Verb("attack", again, "out", cells), (".cache",)),
        ]
        for name, pattern, verb, more in kinds:
            with self.row("a flipped bit", name) as row:
                for _ in range(self.times(8)):
                    with self.home(*dict.fromkeys((*verb.needs, *more))) as home:
                        files = [path for path in sorted(home.glob(pattern)) if path.is_file() and path.stat().st_size]
                        content = bytearray((file := self.rng.choice(files)).read_bytes())
                        place = self.rng.randrange(len(content))
                        content[place] ^= 1 << self.rng.randrange(8)
                        file.write_bytes(content)
                        said = call(*verb.words, verb.made, home=home)
                        self.judge(row, verb, home, said, again=False)

    def hostile(self) -> None:
        """Files made to harm."""
        from studies.faults.hostile import FILES

        for name, make, words in FILES:
            with self.row("hostile file", name) as row, self.home("normal", "audit") as home:
                mark = home / "executed"
                make(home, mark)
                began = time.monotonic()
                said = call(*words, home=home, before=("prlimit", f"--as={6 << 30}"))
                row.tried, row.executed = 1, int(mark.exists())
                row.clear, row.right = int(said.clear), int(said.code == 0)
                outside = [path.name for path in home.parent.glob("faults-escaped*")]
                if outside or not (said.clear or said.code == 0) or time.monotonic() - began > 60:
                    row.lost = 1
                row.notes = (f"{said.code}: {' '.join(said.err.split())[-240:]}",)


def _on(folder: str, verb: Verb) -> Verb:
    """The same verb going on in a folder that was begun."""
    return Verb(verb.name, verb.words, folder, verb.result, (*(n for n in verb.needs if n != verb.made), folder))


def _below(pid: int) -> Iterator[int]:
    """All processes below one, and those of Ray, which leave their family."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parts = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(parts[3]) == pid or (folder / "cmdline").read_bytes().startswith(b"ray::"):
                yield int(folder.name)


def _is_worker(pid: int, executor: str) -> bool:
    with suppress(OSError):
        line = (Path("/proc") / str(pid) / "cmdline").read_bytes()
        return line.startswith(b"ray::work") if executor == "ray" else b"spawn_main" in line
    return False


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small disk in memory; needs root."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """The same disk with another size, or read-only."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def prepare(base: Path) -> None:
    """A teacher, a planned audit, one that is half done and one that is done, a training that was interrupted, a cache."""
    for words in (
        ("train", "--model", "cnn", *SMALL, "-s", "training.epochs=4", "-o", "normal"),
        ("audit", "plan", "normal", *PLAN, "-o", "audit"),
    ):
        said = call(*words, home=base)
        assert said.code == 0, said.err
    for name in ("done", "begun"):
        shutil.copytree(base / "audit", base / name)
    assert call("run", "-q", "done", home=base).code == 0
    for key in sorted(path.stem for path in (base / "done" / "done").glob("*.json"))[:4]:
        call("run", "-q", "begun", key, home=base)
    assert list((base / "begun" / "done").glob("*.json"))
    assert call("evidence", "pack", "done", "-o", "packed/done.parquet", home=base).code == 0
    process = begin(*VERBS["train"].words, "half", home=base)
    while not list((base / "half" / "checkpoint").glob("state.json")):
        time.sleep(0.01)
    end(process)


def main() -> None:
    """All of it, or some."""
    parts = ("kills", "workers", "nodes", "together", "disk", "locks", "flips", "hostile")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials; 0.1 for a look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    import torch

    from undistill.training.environment import describe

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-base-") as place:
        prepare(Path(place))
        faults = Faults(Path(place), asked.seed, asked.share)
        for part in asked.only:
            getattr(faults, part)()
    only = "" if set(asked.only) == set(parts) else f" --only {' '.join(asked.only)}"
    command = f"python -m studies.faults.faults --seed {asked.seed}{only}"
    found: dict[str, Any] = {"command": command, "seconds": round(time.monotonic() - began)}
    found |= describe(torch.device("cpu")) | {"rows": [asdict(row) for row in faults.rows]}
    total = {
        name: sum(getattr(row, name) for row in faults.rows) for name in ("tried", "right", "clear", "lost", "executed")
    }
    print(total)
    if asked.out is not None:
        asked.out.write_text(json.dumps(joined(asked.out, found), indent=1) + "\n")


def joined(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """These rows in place of the file's own of the same name, which keeps its others, and what each run was."""
    before = json.loads(file.read_text()) if file.is_file() else {"rows": []}
    about = {name: found[name] for name in ("command", "commit", "seconds")}
    runs = before.get("runs", [{name: before[name] for name in about}] if before["rows"] else [])
    new = {(row["fault"], row["at"]): row for row in found["rows"]}
    kept = {(row["fault"], row["at"]): row for row in before["rows"]}
    return {**found, "rows": list((kept | new).values()), "runs": [*runs, about]}


if __name__ == "__main__":
    main()
