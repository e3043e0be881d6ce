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
    """A process of the same command line; what it says on stderr is kept.

    Args:
        words: its line, without ``segflow``.
        environment: variables that it gets beside those of this process.
        apart: Ctrl+C on the terminal shall reach this process only.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str], apart: bool = False) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.read, self.last = 0, ""
        self.began = time.monotonic()
        line = [sys.executable, "-m", "segflow", "--log-level", "warning", *words]
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
            env={**os.environ, **environment}, process_group=0 if apart else None,
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
    environment = share(processes, since)
    started: list[Worker] = []
    try:
        for _ in range(processes):
            started.append(Worker(words, environment))
        yield started
    finally:
        end(started)


def share(processes: int, since: float) -> dict[str, str]:
    """Give the environment of one of several workers: its share of the cores, and who its driver is."""
    threads = str(max(1, cores() // processes))
    return {**dict.fromkeys(THREADS, threads), DRIVER: f"{os.getpid()} {since}"}


def end(started: Sequence[Worker], patience: float = PATIENCE) -> None:
    """Tell workers to end, and kill those that have not after so many seconds."""
    for worker in started:
        worker.process.terminate()
    until = time.monotonic() + patience
    for worker in started:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()


@cache
def driver_of_this(at_its_death: signal.Signals = signal.SIGKILL) -> tuple[int, float]:
    """Give the driver of this worker and the time its run began; (0, 0) for other processes.

    The system is asked to send the worker ``at_its_death`` when its driver dies; to kill it is safe
    at any moment, SIGTERM lets it give its tasks back.

    Raises:
        Interrupted: the driver is gone already.
    """
    told = os.environ.pop(DRIVER, "")
    if not told:
        return 0, 0.0
    pid, since = told.split()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, at_its_death)  # PR_SET_PDEATHSIG
    if os.getppid() != int(pid):
        raise Interrupted("the process that started this one is gone")
    return int(pid), float(since)
