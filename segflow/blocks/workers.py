"""The worker processes of a block job on one machine: they share its cores and end with their driver."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from segflow.compiled import cores
from segflow.errors import Interrupted, SegflowError

DRIVER = "SEGFLOW_DRIVER"  # tells a worker its driver's process id, and when the run began
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PATIENCE = 10.0  # seconds that workers have to end when they are told to


class Worker:
    """A process that joined; what it says on stderr is kept."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.read, self.last = 0, ""
        line = [sys.executable, "-m", "segflow", "--log-level", "warning", *words]
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
            env={**os.environ, **environment},
        )  # fmt: skip

    def heard(self) -> list[str]:
        """Give the lines it wrote since the last time; the file's position is the process's own."""
        new = os.pread(self.errors.fileno(), 1 << 20, self.read)
        new = new[: new.rfind(b"\n") + 1]
        self.read += len(new)
        lines = new.decode(errors="replace").splitlines()
        self.last = lines[-1] if lines else self.last
        return lines

    def check(self, folder: str) -> None:
        """Raise SegflowError if it was killed or failed; ``folder`` is where what is done stays."""
        code = self.process.poll() or 0
        if code < 0:
            cause = ", probably for want of memory" if code == -signal.SIGKILL else ""
            raise SegflowError(
                f"a worker process was killed by {signal.Signals(-code).name}{cause}; what is done stays in "
                f"{folder}: run the same line again, with fewer processes or smaller blocks"
            )
        if code > 0:
            self.heard()
            why = self.last.removeprefix("segflow").partition(": ")[2] or f"exit code {code}"
            raise SegflowError(f"a worker process ended: {why}")


@contextmanager
def workers(words: Sequence[str], processes: int, since: float) -> Iterator[list[Worker]]:
    """Start ``processes`` workers on the line ``words``, each with its share of the cores; end them at last.

    ``since`` is when the run began, seconds since 1970: what failed before is tried again.
    """
    threads = str(max(1, cores() // processes))
    environment = {**dict.fromkeys(THREADS, threads), DRIVER: f"{os.getpid()} {since}"}
    started: list[Worker] = []
    try:
        for _ in range(processes):
            started.append(Worker(words, environment))
        yield started
    finally:
        for worker in started:
            worker.process.terminate()
        until = time.monotonic() + PATIENCE
        for worker in started:
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.errors.close()


@cache
def driver_of_this() -> tuple[int, float]:
    """Give the driver of this worker and the time its run began; (0, 0) for other processes.

    The system is asked to kill the worker when its driver dies, which is safe at any moment.

    Raises:
        Interrupted: the driver is gone already.
    """
    told = os.environ.pop(DRIVER, "")
    if not told:
        return 0, 0.0
    pid, since = told.split()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(pid):
        raise Interrupted("the process that started this one is gone")
    return int(pid), float(since)
