"""write-zarr: a chunk into a zarr volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.arrays import array_option, open_array
from segflow.cli.files import LAYER_TYPES, before_the_run, check_writable, dtype_option
from segflow.cli.operator import mip_option, name_in, operator, option, triple
from segflow.cli.plan import Plan

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_write(plan: Plan, options: dict[str, Any]) -> None:
    """Check the volume that is there, or that one can be made."""
    with before_the_run():
        volume: Any = open_array("zarr", options["path"], None)
        local = volume.place.removeprefix("file://")
        if "://" not in local and not plan.made(local):
            if volume.exists:
                volume.info(plan.mip if options["mip"] is None else options["mip"])
            else:
                check_writable(plan, local, folder=True)
    plan.makes(local)


@operator("Writing", uses="io", plan=plan_write, example="segflow create-chunk write-zarr -f chunk.zarr")
@name_in()
@array_option("Zarr volume, made if it is not there: a folder, or zarr://, s3://, gs://.")
@mip_option("Mip to write; default: that of the task (--mip).")
@dtype_option("Of a new volume; default: the chunk's own, uint8 (round(255 a)) for float maps.")
@option("--infer-dtype/--no-infer-dtype", default=False, help="Keep the chunk's own dtype, float maps too.")
@triple("--block-size", default=(64, 64, 64), aliases=("--chunk-size",), help="Of a new volume, voxels.")
@triple("--shard-size", default=None, help="Of a new volume: blocks are joined in files, voxels; v3 only.")
@option("--zarr-version", "version", type=click.Choice(["2", "3"]), default="3", help="Of a new volume.")
@option("--ome/--plain", default=True, help="New volume: OME-Zarr, which can hold mips, or a lone array.")
@option("--order", type=click.Choice(["zyx", "xyz"]), default="zyx", help="Axes of a new plain array.")
@option("--compression", type=click.Choice(["zstd", "gzip", "blosc", "none"]), default="zstd",
        help="Of a new volume.")  # fmt: skip
@triple("--shape", default=None, aliases=("--volume-size",),
        help="Size of a new volume, voxels; default: the chunk's.")  # fmt: skip
@triple("--volume-offset", default=None,
        help="First voxel of a new volume; default: the chunk's; 0 0 0 with --shape.")  # fmt: skip
@triple("--voxel-size", type=float, default=None, aliases=("--resolution",),
        help="Of a new volume, nm; default: the chunk's.")  # fmt: skip
@option("--layer-type", type=click.Choice(LAYER_TYPES), default=None,
        help="Of a new volume; default: the chunk's.")  # fmt: skip
def write_zarr(
    chunk: Chunk | None = None,
    *,
    path: str,
    mip: int | None = None,
    dtype: str | None = None,
    infer_dtype: bool = False,
    block_size: tuple[int, int, int] = (64, 64, 64),
    shard_size: tuple[int, int, int] | None = None,
    version: str = "3",
    ome: bool = True,
    order: str = "zyx",
    compression: str = "zstd",
    shape: tuple[int, int, int] | None = None,
    volume_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    state: State | None = None,
) -> None:
    """Write a chunk into a zarr volume at its place; make the volume if there is none.

    A new one is an OME-Zarr (v3, or --zarr-version 2); downsample adds its mips. Any box can be
    written, by several workers at once.
    """
    from segflow.volumes import files
    from segflow.volumes.zarr import ZarrVolume, volume_for

    volume = ZarrVolume(path)
    if not volume.exists:
        several = state is not None and (state.lease is not None or (state.count or 1) > 1)
        volume = volume_for(
            chunk, path, several=several, shape=shape, start=volume_offset, dtype=dtype,
            keep_dtype=infer_dtype, voxel_size=voxel_size, layer_type=layer_type, block_size=block_size,
            shard_size=shard_size, version=int(version), ome=ome, compression=compression, order=order,
        )  # fmt: skip
    level = mip if mip is not None else state.mip if state is not None else 0
    chunk = files.task_chunk(chunk, state, volume.info(level))
    volume.write(chunk, level)
    if state is not None:
        volume.note(state.run.provenance())
    files.wrote(state, path, chunk, "zarr")
