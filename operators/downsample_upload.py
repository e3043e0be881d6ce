"""downsample-upload: a task's part of a pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, operator, option, triple, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import existing, view_line, writable
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_upload(plan: Plan, options: dict[str, Any]) -> None:
    """Check the volume and the mips."""
    mip = plan.mip if options["chunk_mip"] is None else options["chunk_mip"]
    first = mip + 1 if options["start_mip"] is None else options["start_mip"]
    if not mip <= first < options["stop_mip"]:
        raise UsageError(
            f"nothing to write: mips from {first} up to (not including) {options['stop_mip']}, "
            f"with a chunk at mip {mip}"
        )
    existing(plan, options["volume"], mip)
    writable(plan, options["volume"])


@operator("Volumes", uses="io", plan=plan_upload,
          example="segflow --mip 0 fetch-task -q tasks read-precomputed -v seg downsample-upload -v seg "
          "delete-task-in-queue")  # fmt: skip
@name_in()
@volume_option("Volume whose coarser mips are written.")
@triple("--factor", default=None, aliases=("-f",),
        help="Window, voxels, for mips that the volume does not name yet; default: 1 2 2.")  # fmt: skip
@option("--chunk-mip", "-c", type=click.IntRange(0), default=None,
        help="Mip of the chunk; default: that of the task (--mip).")  # fmt: skip
@option("--start-mip", "-s", type=click.IntRange(0), default=None,
        help="First mip to write; default: the one after the chunk's.")  # fmt: skip
@option("--stop-mip", "-p", type=click.IntRange(1), default=5, help="Mip after the last.")
@option("--fill-missing/--no-fill-missing", default=True, hidden=True, expose_value=False,
        help="Accepted; of no effect: nothing is read.")  # fmt: skip
def downsample_upload(
    chunk: Chunk,
    *,
    volume: str,
    factor: tuple[int, int, int] | None = None,
    chunk_mip: int | None = None,
    start_mip: int | None = None,
    stop_mip: int = 5,
    state: State | None = None,
) -> None:
    """Write a task's part of the coarser mips of a volume: mean of images, mode of labels.

    A box that does not divide by the factors is completed with what the volume holds around it at the
    chunk's mip, so the chunk has to be saved there. To a bucket, boxes of whole blocks of every mip.
    """
    from dataclasses import replace
    from math import prod

    from segflow.volumes import files, open_volume
    from segflow.volumes.pyramid import write_pyramid

    target: Any = open_volume(volume)
    mip = chunk_mip if chunk_mip is not None else state.mip if state is not None else 0
    chunk = files.task_chunk(chunk, state, target.info(mip))
    chunk = replace(chunk, layer_type=target.info(mip).layer_type)
    mips = write_pyramid(target, chunk, mip=mip, start_mip=start_mip, stop_mip=stop_mip, factor=factor)
    if state is not None:
        target.note(state.run.provenance())
        inside = target.inside(chunk.bbox, target.info(mip))
        voxels = sum(inside.voxels // prod(target.ratio(mip, level)[1]) for level in mips)
        state.run.wrote(target.path, voxels, view_line(target))
