"""generate-tasks: boxes from a volume, a region or a grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run, check_writable
from segflow.cli.operator import mip_option, operator, option, triple, volume_option
from segflow.cli.plan import Plan
from segflow.cli.queues import plan_queue, queue_option
from segflow.cli.volumes import existing
from segflow.errors import UsageError
from segflow.geometry import Box
from segflow.tasks.boxfile import file_name, write_boxes
from segflow.tasks.tasks import Tasks, make_tasks

if TYPE_CHECKING:
    from segflow.state import State

log = logging.getLogger("segflow")

Three = tuple[int, int, int]


def plan_tasks(plan: Plan, options: dict[str, Any]) -> None:
    """Check the sizes; tell the first box and the number of tasks."""
    told = dict(options)
    mip, https = told.pop("mip"), told.pop("use_https")
    file, queue = told.pop("file_path"), told.pop("queue_name")
    if queue is not None:
        plan_queue(queue)
    if file:
        check_writable(plan, file_name(file))
        plan.makes(file_name(file))
    plan.mip = plan.mip if mip is None else mip
    path = told.pop("volume")
    info = existing(plan, path, plan.mip) if path and not https else None
    if path and info is None:
        plan.tasks, plan.bbox = True, None
        return
    with before_the_run():
        tasks = _tasks(info.bounds if info else None, **told)
    plan.tasks |= len(tasks) > 1
    plan.bbox = tasks.box(tasks.indices[0])


def _tasks(bounds: Box | None, *, disbatch: bool, bounding_box: str | None, **sizes: Any) -> Tasks:
    if disbatch:
        number = os.environ.get("DISBATCH_REPEAT_INDEX", "")
        if not number.isdigit():
            raise UsageError("--disbatch takes the task from $DISBATCH_REPEAT_INDEX, which is no number here")
        sizes |= {"index_start": int(number), "index_stop": int(number) + 1}
    return make_tasks(bounds, bounding_box=Box.parse(bounding_box) if bounding_box else None, **sizes)


def tasks_of(level: int, *, volume: str | None, use_https: bool = False, **sizes: Any) -> Tasks:
    """Give the tasks that the options say; ``level`` is the mip of their boxes."""
    bounds = None
    if volume:
        from segflow.volumes import open_volume

        bounds = open_volume(volume, use_https=use_https).info(level).bounds
    return _tasks(bounds, **sizes)


@operator(
    "Tasks",
    kind="expand",
    source=True,
    uses="io",
    plan=plan_tasks,
    example="segflow generate-tasks -c 64 512 512 --grid-size 2 2 2 create-chunk write-h5 -f chunks/",
)
@volume_option("Volume that is cut into tasks.", required=False, aliases=("-l", "--layer-path"))
@mip_option("Mip of the boxes; default: --mip of the run.")
@triple("--roi-start", default=None, aliases=("-s",), help="First voxel; default: the volume's, else 0 0 0.")
@triple("--roi-stop", default=None, aliases=("-r",), help="The voxel after the last; default: the volume's.")
@triple("--roi-size", default=None, aliases=("-z",), help="Size instead of stop, voxels.")
@option(
    "--bounding-box", aliases=("-b",), metavar="BOX", default=None, help="All as z0-z1_y0-y1_x0-x1, voxels."
)
@triple("-c", "--chunk-size", default=None, help="Size of a task's box, voxels; default: the region.")
@triple("--grid-size", default=None, aliases=("-g",), help="Number of boxes; default: to cover the region.")
@triple("--stride", default=None, help="Voxels from box to box; default: --chunk-size less --overlap.")
@triple("-o", "--overlap", default=None, help="Voxels that neighbours share; default: 0 0 0.")
@triple("--aligned-block-size", default=None, aliases=("-a",),
        help="Grow the region to whole blocks, voxels; they are counted from the volume's first voxel.",
        )  # fmt: skip
@option("--respect-chunk-size/--respect-stop", default=True,
        help="Boxes at the end are whole, beyond the region; or end with it.")  # fmt: skip
@option("--task-index-start", "index_start", aliases=("-i",), type=click.IntRange(0), default=0,
        help="First task, counted from 0.")  # fmt: skip
@option("--task-index-stop", "index_stop", aliases=("-p",), type=click.IntRange(1), default=None,
        help="The task after the last; default: all.")  # fmt: skip
@option("--file-path", aliases=("-f",), metavar="FILE", default=None, show_default=False,
        help="Write the boxes to this .npy file for fetch-task-from-file; nothing flows on.")  # fmt: skip
@option("--disbatch/--no-disbatch", default=False, aliases=("-d",), help="Only task $DISBATCH_REPEAT_INDEX.")
@queue_option("Put the tasks into this queue; nothing flows on. It is made if it is not there.",
              required=False)  # fmt: skip
@option("--use-https/--use-credential", default=False, help="Read the volume's info without credentials.")
def generate_tasks(
    state: State,
    *,
    volume: str | None = None,
    mip: int | None = None,
    roi_start: Three | None = None,
    roi_stop: Three | None = None,
    roi_size: Three | None = None,
    bounding_box: str | None = None,
    chunk_size: Three | None = None,
    grid_size: Three | None = None,
    stride: Three | None = None,
    overlap: Three | None = None,
    aligned_block_size: Three | None = None,
    respect_chunk_size: bool = True,
    index_start: int = 0,
    index_stop: int | None = None,
    file_path: str | None = None,
    disbatch: bool = False,
    queue_name: str | None = None,
    use_https: bool = False,
) -> Iterator[State]:
    """Cut a volume, a region or a grid into tasks; the rest of the chain runs once for each box."""
    level = state.mip if mip is None else mip
    tasks = tasks_of(
        level, volume=volume, use_https=use_https, disbatch=disbatch, bounding_box=bounding_box,
        roi_start=roi_start, roi_stop=roi_stop, roi_size=roi_size, chunk_size=chunk_size,
        grid_size=grid_size, stride=stride, overlap=overlap, aligned_block_size=aligned_block_size,
        respect_chunk_size=respect_chunk_size, index_start=index_start, index_stop=index_stop,
    )  # fmt: skip
    if file_path:
        state.run.wrote(write_boxes(file_path, (box for _, box in tasks), len(tasks)))
    if queue_name is not None:
        from segflow.tasks.queues import fill

        known = volume is not None or mip is not None or level > 0
        fill(queue_name, (box for _, box in tasks), level if known else None)
    if file_path or queue_name is not None:
        return
    for index, box in tasks:
        yield state.child(bbox=box, index=index, count=len(tasks.grid), mip=level)
