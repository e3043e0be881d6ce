"""adjust-bbox: move the corners of the task's box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import operator, option
from segflow.cli.plan import Plan
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.geometry import Box
    from segflow.state import State

Six = tuple[int, int, int, int, int, int]


def _moved(box: Box | None, offset: Six) -> Box:
    if box is None:
        raise UsageError("the task has no box; begin with generate-tasks, fetch-task or create-bbox")
    moved = box.grow([*(-n for n in offset[:3]), *offset[3:]])
    if moved.empty:
        raise UsageError(f"--corner-offset {' '.join(map(str, offset))} leaves nothing of {box}")
    return moved


def plan_adjust(plan: Plan, options: dict[str, Any]) -> None:
    """Move the box; check that something is left."""
    if plan.bbox is not None or not (plan.tasks or plan.lease):
        plan.bbox = _moved(plan.bbox, options["corner_offset"])


@operator("Tasks", plan=plan_adjust,
          example="segflow create-bbox -s 0 0 0 -z 20 256 256 adjust-bbox -c -2 -16 -16 2 16 16 "
          "cutout -v em view")  # fmt: skip
@option("--corner-offset", aliases=("-c",), nargs=6, type=int, required=True, metavar="Z Y X Z Y X",
        help="Added to the first corner, and to the last, voxels.")  # fmt: skip
def adjust_bbox(state: State, *, corner_offset: Six) -> None:
    """Move both corners of the task's box."""
    state.bbox = _moved(state.bbox, corner_offset)
