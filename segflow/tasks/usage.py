"""What a task took of its machine: peak memory, processor time, time on the device."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segflow.state import Record

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory() -> int:
    """Give the most memory (resident, bytes) of this process since ``forget``; what malloc keeps counts."""
    try:
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def device_peak_memory() -> int | None:
    """Give the most CUDA memory (bytes, all devices) of this process since ``forget``; None if unused."""
    cuda = _cuda()
    if cuda is None:
        return None
    return sum(int(cuda.max_memory_allocated(i)) for i in range(cuda.device_count()))


def forget() -> None:
    """Let the peaks begin anew, where the system can: Linux, CUDA."""
    with suppress(OSError):
        CLEAR.write_text("5")
    cuda = _cuda()
    if cuda is not None:
        for i in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(i)


def _cuda() -> Any:
    """Give torch's CUDA if this process uses it; torch is not imported for that."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


class Meter:
    """What a process takes from one task to the next.

    Tasks that are read ahead overlap: what they take counts for the task that runs. Peaks begin anew
    (for other programs that ask, too) only after a log was asked for.

    Args:
        device_steps: numbers of the steps that run on the device.
    """

    def __init__(self, device_steps: Iterable[int] = ()) -> None:
        self.device_steps = frozenset(device_steps)
        self.asked = False
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def usage(self, records: Iterable[Record] = ()) -> dict[str, Any]:
        """Give what was taken since the last task.

        ``peak_memory`` and ``device_peak_memory`` are bytes, ``cpu_use`` is the mean number of busy
        cores, ``device_use`` the share of the task's time in steps that run on the device.
        """
        self.asked = True
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        done = list(records)
        total = sum(r.seconds for r in done)
        device = sum(r.seconds for r in done if r.step in self.device_steps)
        found = {
            "peak_memory": peak_memory(),
            "device_peak_memory": device_peak_memory(),
            "cpu_use": round(cpu / wall, 3) if wall > 0 else None,
            "device_use": round(device / total, 4) if total > 0 and self.device_steps else None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def next(self) -> None:
        """Begin the next task."""
        if self.asked:
            forget()
        self.asked = False
        self.wall, self.cpu = time.perf_counter(), time.process_time()
