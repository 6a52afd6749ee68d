"""A private one-node Slurm for tests: daemons on loopback, without systemd, state in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATHS = f"{os.environ['PATH']}:/usr/sbin:/sbin"

SETTINGS = """
ClusterName=isoflop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PlugStackConfig=/dev/null
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
"""Short-lived credentials (cred_expire) let a requeued job start after seconds, not minutes."""


def missing() -> str | None:
    """Why Slurm cannot be started here; None where it can."""
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=PATHS) is None]
    if absent:
        return f"no {', '.join(absent)} here; make test-slurm installs them"
    return None if os.getuid() == 0 else "Slurm's daemons are started as root here"


class Slurm:
    """The daemons; `environment` is what their clients need."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": PATHS,
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        first, second = free_ports(2)
        settings = SETTINGS.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            controller_port=first,
            node_port=second,
            cpus=cpus,
        )
        (folder / "slurm.conf").write_text(settings)

    def start(self) -> None:
        """Start the daemons and wait until the node is idle."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        files = [f"--{flag}={self.folder}/munge.{end}" for flag, end in names.items()]
        self.call("munged", "--force", f"--seed-file={self.folder}/munge.seed", *files)
        self.call("slurmctld")
        self.call("slurmd", "-N", socket.gethostname().split(".")[0])
        for _ in range(100):
            if self.call("sinfo", "--noheader", "--format=%T", check=False).strip() == "idle":
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "slurmctld.log").read_text()[-2000:])

    def stop(self) -> None:
        """End the daemons."""
        for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
            path = self.folder / name
            if path.exists():
                os.kill(int(path.read_text()), signal.SIGTERM)

    def call(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands; returns what it prints."""
        out = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        if check and out.returncode:
            raise RuntimeError(f"{' '.join(command)}: {out.stderr}")
        return out.stdout

    def jobs(self) -> dict[str, str]:
        """State of every job that is not over, by job id."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
