"""Who computes: a name for this process that tells, on the same machine, whether it still lives."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from pathlib import Path

PROC = Path("/proc")


def _started(pid: int) -> str:
    """Give the time a process began, in ticks since boot; empty where there is no such process.

    A process id is given to another process later, but never with the same start; one that has
    ended and is not yet waited for (a zombie) counts as gone.
    """
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@lru_cache
def _machine(_pid: int) -> str:
    """Name the boot and the process namespace, in which process ids mean something."""
    boot = (PROC / "sys/kernel/random/boot_id").read_text()[:8]
    return boot + os.readlink(PROC / "self/ns/pid").strip("pid:[]")


@lru_cache
def _name(pid: int) -> str:
    return f"{_machine(pid)}-{pid}-{_started(pid)}"


def worker_name() -> str:
    """Name this process: machine, process id, start."""
    return _name(os.getpid())


def host() -> str:
    """Give this machine's name, for people."""
    return socket.gethostname()


def lives(name: str) -> bool | None:
    """Tell whether the process of a worker's name lives; None if it is of another machine.

    >>> lives(worker_name()), lives("elsewhere-2-3")
    (True, None)
    """
    machine, pid, start = (name.rsplit("-", 2) + ["", ""])[:3]
    if machine != _machine(os.getpid()) or not pid.isdigit():
        return None
    return bool(start) and _started(int(pid)) == start
