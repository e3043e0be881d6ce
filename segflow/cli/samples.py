"""What try and estimate share: the chain, the folder, what is told of a task and of all of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import Terminated, UsageError
from segflow.tasks.supervise import span

if TYPE_CHECKING:
    import click

    from segflow.cli.aside import Sample
    from segflow.cli.engine import Chain

ASSUMPTIONS = (
    "every task takes as long, and as much memory, as the one that was run",
    "each worker has the cores, the GPU and the disk that this process had",
    "storage is as fast for all workers together as it was for one",
)


def chain_of(ctx: click.Context, line: Sequence[str]) -> Chain:
    """Give the checked chain after ``--``.

    Raises:
        UsageError: it is none, or it cannot work.
    """
    from segflow.cli.wrapped import check_line

    found = check_line(ctx, line)
    if found.chain is None:
        raise UsageError(f"{found.job} is a job and has no tasks; give a chain")
    chain: Chain = found.chain
    return chain


def empty_folder(folder: str | None) -> Path:
    """Give the folder that a task is written to, made if it is not there.

    Raises:
        UsageError: it holds something, or cannot be made.
    """
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="segflow-try-"))
    place = Path(folder).expanduser().absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise UsageError(f"--to {folder} is not empty; give a new folder")
    except OSError as error:
        raise UsageError(f"--to {folder} cannot be a folder: {error.strerror}") from error
    return place


@contextmanager
def aside_in(folder: str | None, keep: bool) -> Iterator[Path]:
    """Give the folder that a task is written to; remove what is in it after a failure, or unless ``keep``.

    Raises:
        KeyboardInterrupt: also for SIGTERM: nothing here is a worker, which would end well.
    """
    place, done = empty_folder(folder), False
    try:
        yield place
        done = True
    except Terminated:
        raise KeyboardInterrupt from None
    finally:
        if not (done and keep):
            tidy(place, folder)


def tidy(place: Path, folder: str | None) -> None:
    """Remove a temporary folder; of one that was named, what was written into it."""
    for path in [place] if folder is None else list(place.iterdir()):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def size(count: float) -> str:
    """Give bytes in words.

    >>> size(1234), size(5e9)
    ('1.2 kB', '5.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def told(sample: Sample, chain: Chain) -> str:
    """Give what try prints: the time of each step, memory, files and how to look at them."""
    of = f" of {sample.count}" if sample.count > 1 else ""
    lines = [f"one task{of}{f': {sample.bbox}' if sample.bbox else ''}"]
    width = max(len(name) for name, _, _ in sample.steps)
    lines += [f"  {name:{width}s}  {seconds:9.3f} s" for name, seconds, _ in sample.steps]
    lines.append(f"time: {span(round(sample.seconds, 3))}, after {sample.begin:.1f} s to begin")
    lines.append(f"peak memory: {size(sample.memory)}")
    for address, (side, count) in sample.written.items():
        lines.append(f"wrote {side} ({size(count)}) instead of {address}")
    lines += [f"  view it: {view}" for view in sample.views]
    return "\n".join([*lines, *(f"note: {note}" for note in sample.notes)])


def extrapolated(
    sample: Sample, prefetch: int, workers: Sequence[int], cost_per_hour: float | None
) -> dict[str, Any]:
    """Give what all tasks take, from one.

    A worker does its share of the tasks one after the other, ``Sample.pace`` apart.
    """
    pace = sample.pace(prefetch)
    written = sum(count for _, count in sample.written.values())
    rows = []
    for number in workers:
        rounds = -(-sample.count // number)
        seconds = sample.begin + sample.seconds + (rounds - 1) * pace
        row: dict[str, Any] = {"workers": number, "seconds": round(seconds, 3)}
        if cost_per_hour is not None:
            row["cost"] = round(min(number, sample.count) * seconds / 3600 * cost_per_hour, 6)
        rows.append(row)
    overlap = f"parts of a task overlap, {1 + prefetch} tasks in memory (--prefetch {prefetch})"
    return {
        "tasks": sample.count, "task": sample.bbox, "seconds_per_task": round(sample.seconds, 6),
        "seconds_between_tasks": round(pace, 6), "seconds_to_begin": round(sample.begin, 3),
        "steps": [{"name": name, "seconds": round(s, 6), "uses": uses} for name, s, uses in sample.steps],
        "memory_per_worker": sample.memory + prefetch * sample.chunks,
        "bytes_per_task": written, "bytes": written * sample.count, "workers": rows,
        "assumptions": [*ASSUMPTIONS, *([overlap] if prefetch else [])], "notes": sample.notes,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Give what estimate prints."""
    lines = [
        f"tasks: {found['tasks']}; one ({found['task'] or 'the whole chain'}) took "
        f"{span(round(found['seconds_per_task'], 3))}",
        f"memory: {size(found['memory_per_worker'])} a worker",
        f"written: {size(found['bytes'])}, {size(found['bytes_per_task'])} a task",
    ]
    cost = "cost" in found["workers"][0]
    lines.append(f"{'workers':>9}  {'time':>14}" + (f"  {'cost':>12}" if cost else ""))
    for row in found["workers"]:
        price = f"  {row['cost']:>12.4g}" if cost else ""
        lines.append(f"{row['workers']:>9}  {span(round(row['seconds'], 1)):>14}{price}")
    return "\n".join([*lines, "assumed:", *(f"  {text}" for text in found["assumptions"])])
