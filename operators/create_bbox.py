"""create-bbox: one task with a box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from segflow.cli.operator import operator, triple
from segflow.cli.plan import Plan
from segflow.errors import UsageError
from segflow.tasks.tasks import region_from

if TYPE_CHECKING:
    from segflow.geometry import Box
    from segflow.state import State


def _box(start: Any, stop: Any, size: Any) -> Box:
    box = region_from(None, start, stop, size)
    if box is None:
        raise UsageError("give --stop or --size")
    return box


def plan_bbox(plan: Plan, options: dict[str, Any]) -> None:
    """Set the task's box."""
    plan.bbox = _box(options["start"], options["stop"], options["size"])


@operator(
    "Tasks",
    kind="expand",
    source=True,
    plan=plan_bbox,
    example="segflow create-bbox --start 0 0 0 --size 64 512 512 cutout -v file://image view",
)
@triple("--start", aliases=("-s",), required=True, help="First voxel, at the run's --mip.")
@triple("--stop", aliases=("-p",), default=None, help="The voxel after the last.")
@triple("--size", aliases=("-z",), default=None, help="Size instead of stop, voxels.")
def create_bbox(
    state: State,
    *,
    start: tuple[int, int, int],
    stop: tuple[int, int, int] | None = None,
    size: tuple[int, int, int] | None = None,
) -> Iterator[State]:
    """Give one task with a bounding box."""
    yield state.child(bbox=_box(start, stop, size), index=0, count=1)
