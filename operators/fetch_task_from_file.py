"""fetch-task-from-file: tasks from a file of boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import operator, option
from segflow.cli.plan import Plan, check_file
from segflow.tasks import boxfile

if TYPE_CHECKING:
    from segflow.state import State


def plan_fetch(plan: Plan, options: dict[str, Any]) -> None:
    """Check the file and that the job has a task; tell the first box and the number of tasks."""
    plan.tasks, plan.bbox = True, None
    if not check_file(plan, options["path"]):
        return
    with before_the_run():
        rows = boxfile.read_boxes(options["path"])
        own = boxfile.chosen(
            len(rows), options["job_index"], options["granularity"], options["slurm_job_array"]
        )
        plan.tasks = len(own) > 1
        plan.bbox = next(boxfile.boxes_of(rows, own, options["path"]), (0, None))[1]


@operator("Tasks", kind="expand", source=True, uses="io", plan=plan_fetch,
          example="segflow fetch-task-from-file -f tasks.npy --slurm-job-array -g 10 cutout -v em "
          "write-h5 -f chunks/")  # fmt: skip
@option("-f", "--file-path", "path", metavar="FILE", required=True, aliases=("--file-name",),
        help="npy of N x 6 whole numbers, a task's first corner and last, voxels.")  # fmt: skip
@option("--job-index", aliases=("-i",), type=click.IntRange(0), default=None, show_default=False,
        help="Only the tasks of this job, counted from 0; default: all.")  # fmt: skip
@option("--slurm-job-array/--no-slurm-job-array", default=False,
        help="The job's index is $SLURM_ARRAY_TASK_ID.")  # fmt: skip
@option("--granularity", aliases=("-g",), type=click.IntRange(1), default=1, help="Tasks a job.")
def fetch_task_from_file(
    state: State,
    *,
    path: str,
    job_index: int | None = None,
    slurm_job_array: bool = False,
    granularity: int = 1,
) -> Iterator[State]:
    """Take tasks from a file that generate-tasks --file-path wrote; boxes are at the run's --mip."""
    rows = boxfile.read_boxes(path)
    own = boxfile.chosen(len(rows), job_index, granularity, slurm_job_array)
    for index, box in boxfile.boxes_of(rows, own, path):
        yield state.child(bbox=box, index=index, count=len(rows))
