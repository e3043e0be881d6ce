"""create-chunk: a chunk made from nothing, to try things with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_out, operator, option, triple
from segflow.cli.plan import Plan, Spec

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.geometry import Box
    from segflow.state import State

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64")
SIZE = (64, 64, 64)


def plan_chunk(plan: Plan, options: dict[str, Any]) -> Spec:
    """Tell what is made."""
    size, offset = place(options["size"], options["voxel_offset"], plan.bbox)
    known = options["size"] is not None or not plan.tasks
    return Spec(size if known else None, options["dtype"], offset, options["voxel_size"])


def place(size: Any, offset: Any, box: Box | None) -> tuple[Any, Any]:
    """Give size and offset: as told, else the task's box, else 64 64 64 at 0 0 0."""
    if size is None and box is not None:
        return box.shape, offset or box.start
    return size or SIZE, offset or (0, 0, 0)


@operator("Sources", plan=plan_chunk, example="segflow create-chunk --size 64 512 512 neuroglancer")
@triple("--size", aliases=("-s",), type=click.IntRange(1), default=None,
        help="Size, voxels; default: the task's box, else 64 64 64.")  # fmt: skip
@option("--dtype", aliases=("-d",), type=click.Choice(DTYPES), default="uint8",
        help="dtype; integers other than uint8 hold a segmentation.")  # fmt: skip
@option("--pattern", aliases=("-p",), type=click.Choice(["random", "sin", "zero"]), default="random",
        help="random: smooth blobs and noise, the centre black; sin: waves; zero: zeros.")  # fmt: skip
@option("--all-zero", is_flag=True, hidden=True, help="Older spelling of --pattern zero.")
@triple("--voxel-offset", aliases=("-t",), default=None, help="First voxel; default: the task's, else 0 0 0.")
@triple("--voxel-size", aliases=("-e",), type=float, default=None, help="Voxel size, nm; default: unknown.")
@option("--seed", type=click.IntRange(0), default=0, help="Of random; the offset counts too.")
@name_out()
def create_chunk(
    *,
    size: tuple[int, int, int] | None = None,
    dtype: str = "uint8",
    pattern: str = "random",
    all_zero: bool = False,
    voxel_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    seed: int = 0,
    state: State | None = None,
) -> Chunk:
    """Make a test chunk: random blobs with a black centre, waves or zeros."""
    from segflow import image

    size, offset = place(size, voxel_offset, state.bbox if state is not None else None)
    return image.create_chunk(size, dtype, "zero" if all_zero else pattern, offset, voxel_size, seed)
