"""Audits on Ray and Slurm: what machines that die do to them, and that their reports are those of this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusters import slurm_here
from undistill.cli.main import main
from undistill.experiments.executors import Job, run_jobs

pytestmark = [pytest.mark.clusters, pytest.mark.filterwarnings("ignore")]
TINY = ("--data", "digits", "-s", "training.epochs=2", "-s", "model.width=0.25", "-s", "data.pool=200", "-q")
SUITE = os.environ.get("UNDISTILL_SUITE")
"""Such as standard, for an evening: some hundred cells instead of a dozen."""
FEW = ("--steps", "120", "--seeds", "2")
SMALL = ("--access", "probs", "--queries", "50", "-q", *(FEW if SUITE is None else ("--suite", SUITE)))
AUDIT = ("audit", "nasty", "--control", "normal", *SMALL)
TIMES = ("seconds", "minutes")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair of teachers and an audit of it by this machine."""
    folder = tmp_path_factory.mktemp("clusters")
    for words in (
        ("train", "--model", "cnn", *TINY, "-o", str(folder / "normal")),
        ("protect", str(folder / "normal"), "-s", "training.epochs=2", "-q", "-o", str(folder / "nasty")),
    ):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 0
    assert finish(start(folder, "local"))
    (folder / "audit").rename(folder / "local")
    return folder


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, a core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm cluster of one node."""
    pytest.importorskip("submitit")
    if why := slurm_here.missing():
        pytest.skip(why)
    with slurm_here.cluster(tmp_path / "slurm") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


def start(home: Path, executor: str) -> subprocess.Popen[str]:
    """The audit, in a process of its own."""
    words = (sys.executable, "-m", "undistill", *AUDIT, "--executor", executor, "-o", "audit")
    place = os.environ | {"OMP_NUM_THREADS": "1", "COVERAGE_PROCESS_START": ""}
    return subprocess.Popen(words, cwd=home, env=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    """What it said on stderr, once it has succeeded."""
    _, said = process.communicate(timeout=400 if SUITE is None else 7200)
    assert process.returncode == 0, said
    return said or " "


def when(home: Path, cells: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many cells are done."""
    until = time.monotonic() + 300
    while len(list((home / "audit" / "done").glob("*.json"))) < cells:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "it does not get on"
        time.sleep(0.05)


def report(folder: Path) -> Any:
    """What an audit says, but for times and the name of its folder."""
    text = (folder / "report" / "report.json").read_text().replace(f"{folder.name}", "audit")

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if key not in TIMES}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return bare(json.loads(text))


def same_as_here(home: Path) -> None:
    """Numbers and words, to the last character; and nothing is left beside them."""
    assert report(home / "audit") == report(home / "local")
    assert not list((home / "audit").glob(".undistill-slurm-*"))
    assert not (home / "audit" / "work").exists()
    shutil.rmtree(home / "audit")


def second(nodes: Any) -> Any:
    """The node that is not the head."""
    return next(node for node in nodes.list_all_nodes() if not node.head)


def test_a_ray_node_that_is_killed_and_a_driver_that_is_change_nothing(home: Path, nodes: Any) -> None:
    first = start(home, f"ray address={nodes.address}")
    when(home, 3, first)
    nodes.remove_node(second(nodes), allow_graceful=False)
    when(home, 5, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(start(home, f"ray address={nodes.address}"))
    same_as_here(home)


def test_what_a_ray_node_was_at_is_done_again(tmp_path: Path, nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    slowly = f"echo begun >> {tmp_path}/log; sleep 3; echo done"
    jobs = [Job(str(number), subprocess.getoutput, (slowly,)) for number in range(2)]
    (tmp_path / "log").touch()

    def kill() -> None:
        while len((tmp_path / "log").read_text().split()) < 2:
            time.sleep(0.1)
        nodes.remove_node(second(nodes), allow_graceful=False)

    threading.Thread(target=kill).start()
    assert list(run_jobs(jobs, executor=f"ray address={nodes.address}")) == ["done", "done"]
    assert "is done again: its worker is gone" in caplog.text
    assert len((tmp_path / "log").read_text().split()) == 3


@pytest.mark.usefixtures("slurm")
def test_slurm_jobs_that_are_killed_and_a_driver_that_is_change_nothing(home: Path) -> None:
    first = start(home, "slurm memory=1")
    when(home, 1, first)
    queue = ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i"]
    running = subprocess.run(queue, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["scancel", "--signal=KILL", "--full", *running[:1]], check=True)
    when(home, 4, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert list((home / "audit").glob(".undistill-slurm-*"))
    finish(start(home, "slurm memory=1"))
    same_as_here(home)


@pytest.mark.usefixtures("slurm")
def test_what_slurm_lost_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark = tmp_path / "again"
    once = f"test -e {mark} && echo done || (touch {mark}; kill -9 $PPID; sleep 9)"
    jobs = [Job("a", subprocess.getoutput, (once,)), Job("b", str.upper, ("b",))]
    assert sorted(run_jobs(jobs, executor="slurm memory=1", folder=tmp_path)) == ["B", "done"]
    assert "is done again: its job left Slurm's queue" in caplog.text


@pytest.mark.parametrize("executor", ["ray", "slurm memory=1"])
def test_what_a_cluster_lacks_is_one_sentence(
    home: Path, executor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"{executor} address=127.0.0.1:1" if executor == "ray" else executor
    if executor != "ray":
        monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as ended:
        main([*AUDIT, "--executor", asked, "-o", "other"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    shutil.rmtree(home / "other", ignore_errors=True)
