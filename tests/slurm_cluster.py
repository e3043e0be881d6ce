"""A real SLURM of one node, for tests: its own daemons, ports and key, all on the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

CONFIG = """\
ClusterName=t{port}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/s
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
MinJobAge=3600
MaxArraySize=4
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
JobRequeue=1
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> str:
    """Say why there can be no cluster here; empty where there can."""
    absent = [name for name in NEEDED if not find(name)]
    if absent:
        return f"SLURM is not installed ({absent[0]}); Debian: slurm-wlm slurm-wlm-basic-plugins munge"
    return "" if os.getuid() == 0 else "a SLURM of its own needs root"


def find(name: str) -> str | None:
    """Give a program, of the system's too."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def until(true: Callable[[], object], seconds: float = 40) -> None:
    """Wait until something is true; fail if it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Cluster:
    """SLURM's daemons in a folder; ``config`` is for $SLURM_CONF."""

    def __init__(self, place: Path) -> None:
        self.place, self.config = place, place / "slurm.conf"
        for name in ("munge", "state", "spool"):
            (place / name).mkdir()
        (place / "munge").chmod(0o711)

    def start(self) -> None:
        key, munge = self.place / "munge/key", self.place / "munge"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 1024
        told = {"host": host, "cores": os.cpu_count(), "memory": memory, "place": self.place}
        self.config.write_text(CONFIG.format(port=free_port(), node_port=free_port(), **told))
        self.run("munged", "--force", f"--key-file={key}", f"--socket={munge}/s", f"--pid-file={munge}/pid",
                 f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2")  # fmt: skip
        for daemon in ("slurmctld", "slurmd"):
            self.run(daemon, "-c", "-f", str(self.config))
        until(lambda: self.run("sinfo", "-h", "-o", "%T", check=False).strip() == "idle")

    def run(self, name: str, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [find(name) or name, *words], capture_output=True, text=True, timeout=30,
            env={**os.environ, "SLURM_CONF": str(self.config)},
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        self.run("scancel", "-u", "root", check=False)
        end = time.monotonic() + 10
        while self.run("squeue", "-h", check=False).strip() and time.monotonic() < end:
            time.sleep(0.1)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            file = self.place / name
            if file.exists():
                pid = int(file.read_text())
                subprocess.run(["kill", str(pid)], check=False)
                until(lambda pid=pid: ended(pid), 20)
