"""crop-margin: cut the margins off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError
from segflow.geometry import Box

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

Six = tuple[int, int, int, int, int, int]


def plan_crop(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check that something is left."""
    spec, margin = plan.spec(options["chunk"]), options["margin_size"]
    if margin is None and plan.bbox is None and not plan.tasks:
        raise UsageError("there is no task box to crop to; give --margin-size")
    if spec.shape is None or spec.voxel_offset is None or (plan.tasks and margin is None):
        return spec.change(shape=None, voxel_offset=None)
    box = _left(Box.of(spec.voxel_offset, spec.shape[-3:]), plan.bbox, margin)
    return spec.change(shape=(*spec.shape[:-3], *box.shape), voxel_offset=box.start)


def _left(held: Box, task: Box | None, margin: Six | None) -> Box:
    """Give what is left of ``held``: all but its margins, or the task's box."""
    if margin is None and task is None:
        raise UsageError("there is no task box to crop to; give --margin-size")
    box = held.grow([-m for m in margin]) if margin is not None else task
    if box is None or box.empty or not held.contains(box):
        what = f"the task's {task}" if margin is None else f"margins of {' '.join(map(str, margin))} leave"
        raise UsageError(f"{what} {'lies not in' if margin is None else 'nothing of'} the chunk's {held}")
    return box


@operator(
    "Image",
    plan=plan_crop,
    example="segflow create-chunk crop-margin --margin-size 2 16 16 2 16 16 write-tif -f inner.tif",
)
@name_in()
@option("--margin-size", aliases=("-m",), nargs=6, type=click.IntRange(0), default=None,
        metavar="Z Y X Z Y X", help="Low, high faces, voxels; default: to the task's box.")  # fmt: skip
@option("--crop-bbox/--no-crop-bbox", default=False, help="Cut the margins off the task's box too.")
@name_out()
def crop_margin(
    chunk: Chunk,
    *,
    margin_size: Six | None = None,
    crop_bbox: bool = False,
    state: State | None = None,
) -> Chunk:
    """Cut margins off a chunk, or all that is outside the task's box."""
    task = state.bbox if state is not None else None
    left = chunk.cutout(_left(chunk.bbox, task, margin_size))
    if crop_bbox and margin_size and state is not None and task is not None:
        state.bbox = task.grow([-m for m in margin_size])
    return left
