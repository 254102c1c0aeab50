"""A Slurm of one node on loopback, of the machine's own munged, slurmctld and slurmd; its state is in one folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
_CONF = """\
ClusterName=own
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
PlugStackConfig={folder}/plugstack.conf
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=own Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be none here; empty where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacks = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return (
        f"needs Debian's slurm-wlm and munge ({', '.join(lacks)})"
        if lacks
        else ""
        if os.getuid() == 0
        else "needs root"
    )


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, wait until its node is idle, and give the environment that finds it."""
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "plugstack.conf").touch()
    (folder / "cgroup.conf").touch()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=host, user="root", ports=_free_ports(2), cpus=os.cpu_count()))
    env = os.environ | {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}"
        for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
    ]
    commands = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-i", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    ]
    daemons = []
    with (folder / "said.log").open("w") as said:
        try:
            for command in commands:
                daemons.append(subprocess.Popen(command, env=env, stdout=said, stderr=said))
                time.sleep(1)
            end = time.monotonic() + 60
            while "idle" not in (state := _said(["sinfo", "-h", "-o", "%T"], env)):
                logs = "\n".join(path.read_text()[-1500:] for path in folder.glob("*.log"))
                assert time.monotonic() < end, f"the node is {state!r}:\n{logs}"
                time.sleep(0.5)
            yield env
        finally:
            _said(["scancel", "--user=root"], env)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


def _said(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30).stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
