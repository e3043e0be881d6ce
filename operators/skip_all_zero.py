"""skip-all-zero: pass over empty tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.operator import name_in, operator, option
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator(
    "State",
    example="segflow generate-tasks -c 8 64 64 -g 2 2 2 create-chunk skip-all-zero write-h5 -f chunks/",
)
@name_in()
@option("--prefix", aliases=("-p",), default=None, metavar="PREFIX", show_default=False,
        help="Leave an empty file PREFIX<box>SUFFIX for a task that is passed over: a path, file://, s3:// "
        "or gs://.")  # fmt: skip
@option("--suffix", aliases=("-s",), default="", help="End of that file's name.")
@option("--adjust-size", aliases=("-a",), type=int, default=None,
        help="Grow the box in that name by this on every face (negative: shrink), voxels.")  # fmt: skip
@option("--chunk-bbox/--task-bbox", default=True, help="The box in that name.")
def skip_all_zero(
    state: State,
    chunk: Chunk,
    *,
    prefix: str | None = None,
    suffix: str = "",
    adjust_size: int | None = None,
    chunk_bbox: bool = True,
) -> None:
    """Pass over the task, up to the end of the chain, when a chunk is all zero."""
    if chunk.array.any():
        return
    if prefix is not None:
        box = chunk.bbox if chunk_bbox else state.bbox
        if box is None:
            raise UsageError("--task-bbox, but the task has no box; use --chunk-bbox")
        from segflow.tasks import marks

        marks.touch(marks.mark(prefix, box, suffix, adjust_size))
    state.skip("all zero")
