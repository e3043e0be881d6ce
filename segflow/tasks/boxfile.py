"""Files of tasks: npy arrays of N x 6 integers, first corner and last, z y x z y x in voxels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from segflow.errors import UsageError, VolumeError
from segflow.geometry import Box, vec
from segflow.volumes.files import reading, replacing

ROWS = 1 << 16  # boxes that are held at once


def file_name(path: str) -> str:
    """Give the name under which boxes are written: ``.npy`` is added where it lacks."""
    return path if path.endswith(".npy") else f"{path}.npy"


def write_boxes(path: str, boxes: Iterable[Box], count: int) -> str:
    """Write boxes, some at a time; give the file's name.

    Args:
        path: the file; ``.npy`` is added if it lacks.
        boxes: exactly ``count`` of them.
        count: how many there are.

    Raises:
        VolumeError: it cannot be written.
    """
    import numpy as np

    name = file_name(path)
    rest = iter(boxes)
    with replacing(name) as place:
        rows: Any = np.lib.format.open_memmap(place, "w+", np.int64, (count, 6))
        for first in range(0, count, ROWS):
            part = [[*box.start, *box.stop] for box in islice(rest, ROWS)]
            rows[first : first + len(part)] = part
        rows.flush()
        del rows
    return name


def read_boxes(path: str) -> Any:
    """Give the N x 6 array of a file, mapped, not read.

    Raises:
        VolumeError: it is no such array.
    """
    import numpy as np

    with reading(path):
        rows: Any = np.lib.format.open_memmap(Path(path).expanduser(), mode="r")
    if rows.ndim != 2 or rows.shape[1] != 6 or rows.dtype.kind not in "iu":
        raise VolumeError(
            f"{path} holds {rows.dtype} of shape {rows.shape}; tasks are N x 6 whole numbers, z y x of the "
            "first corner and z y x of the last"
        )
    return rows


def chosen(count: int, job_index: int | None, granularity: int, slurm: bool) -> range:
    """Give which of ``count`` tasks a job takes.

    Args:
        count: of the file.
        job_index: the job's number from 0; None: all tasks.
        granularity: tasks a job.
        slurm: the job's number is $SLURM_ARRAY_TASK_ID.

    Raises:
        UsageError: there is no such number, or no task for it.

    >>> chosen(10, 2, 4, False)
    range(8, 10)
    """
    if slurm:
        number = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        if not number.isdigit():
            raise UsageError("--slurm-job-array takes the job from $SLURM_ARRAY_TASK_ID, no number here")
        if job_index is not None:
            raise UsageError("give --job-index or --slurm-job-array, not both")
        job_index = int(number)
    if job_index is None:
        return range(count)
    first = job_index * granularity
    if not first < count:
        jobs = -(-count // granularity)
        raise UsageError(
            f"job {job_index} has no task: the file's {count} tasks, {granularity} a job, are "
            f"{jobs} job{'s' * (jobs != 1)} counted from 0"
        )
    return range(first, min(count, first + granularity))


def boxes_of(rows: Any, indices: Sequence[int], path: str) -> Iterator[tuple[int, Box]]:
    """Give the boxes at ``indices`` of an array, each with its index.

    Raises:
        VolumeError: a box is empty.
    """
    for index in indices:
        row = [int(n) for n in rows[index]]
        box = Box(vec(row[:3]), vec(row[3:]))
        if box.empty:
            raise VolumeError(f"row {index} of {path} is the empty box {box}; stops must exceed starts")
        yield index, box
