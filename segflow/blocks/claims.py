"""Who computes what: claims, files that are touched every few seconds while their process lives.

The name of a worker tells, on its own machine, whether its process lives.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread

PROC = Path("/proc")
BEAT = 5.0  # seconds between two touches of a claim
DEAD = 60.0  # seconds without a touch after which a claim of another machine is void


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
    """Name the machine, its boot and the namespace in which process ids mean something."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append((PROC / "sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink(PROC / "self/ns/pid"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


@lru_cache
def _name(pid: int) -> str:
    return f"{_machine(pid)}-{pid}-{_started(pid)}"


def worker_name() -> str:
    """Name this process: machine, process id, start."""
    return _name(os.getpid())


def lives(name: str) -> bool | None:
    """Tell whether the process of a worker's name lives; None if it is of another machine.

    >>> lives(worker_name()), lives("elsewhere-2-3")
    (True, None)
    """
    machine, pid, start = (name.rsplit("-", 2) + ["", ""])[:3]
    if machine != _machine(os.getpid()) or not pid.isdigit():
        return None
    return bool(start) and _started(int(pid)) == start


@dataclass(frozen=True)
class Claim:
    """Who computes a block, since when (seconds since 1970), and seconds since the last sign of life."""

    worker: str
    host: str
    since: float
    age: float

    @classmethod
    def read(cls, path: Path) -> Claim | None:
        """Read a claim; None where it was given back. One that is still being written has no worker."""
        try:
            text, age = path.read_text(), time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return None
        try:
            told = json.loads(text)
            return cls(told["worker"], told["host"], told["since"], age)
        except (ValueError, KeyError):
            return cls("", "", time.time() - age, age)

    @property
    def alive(self) -> bool:
        """Whether the block is being computed: the process lives, or beats if it is elsewhere."""
        known = lives(self.worker)
        return self.age < DEAD if known is None else known


class Claims:
    """The claims that this process holds."""

    def __init__(self) -> None:
        self._held: set[Path] = set()

    def take(self, path: Path) -> bool:
        """Make a claim at ``path`` unless another one is alive there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = {"worker": worker_name(), "host": socket.gethostname(), "since": time.time()}
        for _ in range(2):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                claim = Claim.read(path)
                if claim is not None and claim.alive:
                    return False
                path.unlink(missing_ok=True)
                continue
            self._held.add(path)
            with os.fdopen(handle, "w") as file:
                json.dump(mine, file)
            return True
        return False

    def give_back(self, path: Path) -> None:
        """End a claim."""
        self._held.discard(path)
        path.unlink(missing_ok=True)

    @contextmanager
    def heartbeat(self, every: float = BEAT) -> Iterator[None]:
        """Touch what is held every few seconds; at the end give all back."""
        ended = Event()

        def beat() -> None:
            while not ended.wait(every):
                for path in tuple(self._held):
                    with suppress(OSError):
                        os.utime(path)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for path in tuple(self._held):
                self.give_back(path)
