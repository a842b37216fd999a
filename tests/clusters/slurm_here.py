"""A Slurm cluster of one node on this machine, without systemd, for as long as a block runs."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge=2
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SwitchType=switch/none
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be none here; "" where there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return f"no {', '.join(lacking)}" if lacking else "" if os.geteuid() == 0 else "not root"


@contextmanager
def cluster(home: Path) -> Iterator[dict[str, str]]:
    """Its daemons, in a folder of their own; yields the variables by which commands find it."""
    for name in ("state", "spool"):
        (home / name).mkdir(parents=True)
    key = home / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    told = CONF.format(host=socket.gethostname().split(".")[0], home=home, port=_port(), other=_port())
    (home / "slurm.conf").write_text(told)
    variables = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    place = os.environ | variables
    files = [f"--{name}-file={home}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    subprocess.run(["munged", "--force", f"--socket={home}/munge.socket", *files], env=place, check=True)
    try:
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], env=place, check=True)
        _until_idle(place, home)
        yield variables
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            _stop(home / f"{name}.pid")


def _until_idle(place: dict[str, str], home: Path) -> None:
    for _ in range(150):
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=place, capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm did not start: {told.stdout}{told.stderr}{(home / 'slurmd.log').read_text()[-2000:]}")


def _stop(pid: Path) -> None:
    with suppress(OSError, ValueError):
        number = int(pid.read_text())
        os.kill(number, signal.SIGTERM)
        for _ in range(50):
            os.kill(number, 0)
            time.sleep(0.1)
        os.kill(number, signal.SIGKILL)


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
