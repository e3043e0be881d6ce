"""What a person reads: error lines, the plan of a dry run, the closing lines."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import SegflowError
from segflow.secrets import hide

if TYPE_CHECKING:
    from segflow.cli.engine import Chain
    from segflow.cli.plan import Spec
    from segflow.state import Run

log = logging.getLogger("segflow")

SHOWN = 10  # files or volumes of the closing lines


def explain(error: BaseException, debug: bool = False) -> str:
    """Give the one line for an error; an unforeseen one names the file that holds its traceback."""
    step = getattr(error, "segflow_step", None)
    task = getattr(error, "segflow_task", None)
    name = step.name if step else getattr(error, "segflow_job", "")
    where = f"segflow {name}" if name else "segflow"
    text = hide(" ".join(_message(error, debug).split()))
    return f"{where}: {text}" + (f" (task {task})" if task else "")


def _message(error: BaseException, debug: bool) -> str:
    if isinstance(error, SegflowError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); use smaller chunks or blocks" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.errno is not None:
        what = os.strerror(error.errno).lower()
        more = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{error.filename or 'input or output'}: {what}{more}"
    if debug:
        return f"{type(error).__name__}: {error}"
    place = crash_log(error)
    return f"{type(error).__name__}: {error}; a mistake of segflow's own, its traceback is in {place}"


def crash_log(error: BaseException) -> Path:
    """Write the traceback of ``error`` to a file and give its path."""
    import tempfile

    lines = [f"segflow {' '.join(sys.argv[1:])}\n", *traceback.format_exception(error)]
    handle, name = tempfile.mkstemp(".log", f"segflow-crash-{os.getpid()}-")
    with open(handle, "w") as file:
        file.write(hide("".join(lines)))
    return Path(name)


def show_plan(rows: Iterable[tuple[Any, Any, list[Spec]]], chain: Chain) -> str:
    """Give the table of ``--dry-run``: steps, chunks read and written, shapes, dtypes, memory."""
    lines, peak, known = [], 0, True
    notes: list[str] = []
    for step, plan, specs in rows:
        reads = ",".join(n for names in step.named("in", "ins").values() for n in names)
        writes = ", ".join(f"{name} {spec}" for name, spec in zip(step.outputs, specs))
        box = f"  box {plan.bbox}" if plan.bbox is not None else ""
        lines.append(f"{step.number:3d}  {step.name:24s} {reads or '-':>16s} -> {writes or '-'}{box}")
        notes = plan.notes
        sizes = [s.bytes for s in plan.chunks.values()]
        known &= all(s is not None for s in sizes)
        peak = max(peak, sum(s or 0 for s in sizes))
    total = peak * (1 + chain.prefetch)
    least = "" if known else "at least "
    tasks = f"{1 + chain.prefetch} task(s) at a time"
    lines.append(f"memory of the chunks: {least}{total / 1e6:.1f} MB ({tasks})")
    return "\n".join([*lines, *notes])


def closing(run: Run, began: float) -> None:
    """Log what was written, how fast, on which device, and how to look at it."""
    seconds = time.monotonic() - began
    for path, view in list(run.written.items())[:SHOWN]:
        voxels = run.voxels.get(path, 0) / 1e6
        speed = f" ({voxels:.2f} Mvoxel, {voxels / seconds:.2f} Mvoxel/s)" if voxels else ""
        log.info("wrote %s%s", path, speed)
        if view:
            log.info("  view it: %s", view)
    if len(run.written) > SHOWN:
        log.info("and %d more", len(run.written) - SHOWN)
    if run.passed:
        log.info("%d task%s passed over; --verbose tells why", run.passed, "s" * (run.passed != 1))
    device = f" on {run.device}" if run.device else ""
    log.info("done in %.1f s%s", seconds, device)
    if run.device and run.device.startswith("cpu") and Path("/dev/nvidia0").exists():
        log.warning("there is a GPU, but this torch has no CUDA; install a CUDA build of torch to use it")
