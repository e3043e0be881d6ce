"""write-precomputed: a chunk into a volume."""

from __future__ import annotations

import logging
from logging import DEBUG
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import LAYER_TYPES
from segflow.cli.operator import mip_option, name_in, operator, option, triple, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import check_box, look, view_line, writable
from segflow.errors import UsageError
from segflow.volumes.info import DTYPES, ENCODINGS

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_write(plan: Plan, options: dict[str, Any]) -> None:
    """Check the volume that is there against the chunk, or that one can be made for it."""
    mip = plan.mip if options["mip"] is None else options["mip"]
    spec = plan.spec(options["chunk"])
    info = look(plan, options["volume"], mip)
    writable(plan, options["volume"])
    kind = options["layer_type"] or spec.layer_type
    if options["create_thumbnail"] and kind == "segmentation":
        raise UsageError("a thumbnail is an average, which labels do not have; leave --create-thumbnail out")
    if info is None:
        if spec.dtype == "uint16" and kind is None:
            raise UsageError(
                "uint16 may be an image or a segmentation; say which with --layer-type image or "
                "--layer-type segmentation"
            )
        return
    if spec.shape is not None:
        channels = spec.shape[0] if len(spec.shape) == 4 else 1
        if channels != info.channels:
            raise UsageError(f"the chunk has {channels} channel(s) and {info.path} has {info.channels}")
        if spec.voxel_offset is not None:
            from segflow.geometry import Box

            check_box(Box.of(spec.voxel_offset, spec.shape[-3:]), info)


@operator("Writing", uses="io", plan=plan_write,
          example="segflow read-tif -f em.tif write-precomputed -v /data/em --voxel-size 30 6 6")  # fmt: skip
@name_in()
@volume_option("Volume, made if it is not there: a folder, file://, s3:// or gs://.")
@mip_option("Mip to write; default: that of the task (--mip).")
@triple("--block-size", default=(64, 64, 64), help="Of a new volume, voxels.")
@option("--encoding", type=click.Choice(ENCODINGS), default=None,
        help="Of a new volume; default: compressed_segmentation for labels, else raw.")  # fmt: skip
@triple("--voxel-size", type=float, default=None, help="Of a new volume, nm; default: the chunk's.")
@option("--mips", type=click.IntRange(1), default=1,
        help="How many mips a new volume names; downsample fills them.")  # fmt: skip
@triple("--factor", default=None, help="Between the mips of a new volume; default: towards cubic voxels.")
@option("--layer-type", type=click.Choice(LAYER_TYPES), default=None,
        help="Of a new volume; default: the chunk's.")  # fmt: skip
@option("--dtype", type=click.Choice(DTYPES), default=None,
        help="Of a new volume; default: the chunk's, uint8 (round(255 a)) for float affinities.")  # fmt: skip
@option("--upload-log/--no-upload-log", default=False, help="Write the task's timing to log/BBOX.json there.")
@option("--create-thumbnail/--no-create-thumbnail", default=False,
        help="Write the xy-average, mip 6, into thumbnail/ there.")  # fmt: skip
@option("--intensity-threshold", type=float, default=None, help="Write nothing if no voxel is above this.")
@option("--nproc", "threads", type=click.IntRange(0), default=0, aliases=("--parallel", "-p"),
        help="Threads; 0 is one a core.")  # fmt: skip
@option("--fill-missing/--no-fill-missing", " /--no-fill", default=True, hidden=True,
        expose_value=False, help="Accepted; missing voxels of a block are zeros.")  # fmt: skip
def write_precomputed(
    chunk: Chunk | None = None,
    *,
    volume: str,
    mip: int | None = None,
    block_size: tuple[int, int, int] = (64, 64, 64),
    encoding: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    mips: int = 1,
    factor: tuple[int, int, int] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    upload_log: bool = False,
    create_thumbnail: bool = False,
    intensity_threshold: float | None = None,
    threads: int = 0,
    state: State | None = None,
) -> None:
    """Write a chunk into a volume at its place; make the volume if there is none.

    Any box can be written to a folder, by several workers at once; to a bucket boxes of whole
    blocks. A volume that is there keeps its dtype: floats in [0, 1] become uint8 by round(255 a).
    """
    from segflow.volumes import files, open_volume
    from segflow.volumes.create import make_volume, thumbnail_of

    level = mip if mip is not None else state.mip if state is not None else 0
    target: Any = open_volume(volume, threads=threads)
    if state is not None and state.lease is not None:
        target.border = DEBUG  # tasks at the volume's faces
    if not target.exists:
        tasks = state is not None and (state.lease is not None or (state.count or 1) > 1)
        make_volume(
            target, None if state is not None and state.resumed else chunk, whole=tasks, mip=level,
            mips=mips, block_size=block_size, encoding=encoding, voxel_size=voxel_size, factor=factor,
            layer_type=layer_type, dtype=dtype,
        )  # fmt: skip
    chunk = files.task_chunk(chunk, state, target.info(level))
    if intensity_threshold is not None and not (chunk.array > intensity_threshold).any():
        logging.getLogger("segflow").info("nothing in %s is above %g", chunk.bbox, intensity_threshold)
        target.leave_out(chunk.bbox, level)
        return
    target.write(chunk, level)
    if create_thumbnail:
        thumbnail_of(target, chunk, level)
    if state is None:
        return
    target.note(state.run.provenance())
    if upload_log:
        from segflow.tasks.log import log_dict

        box = state.bbox or chunk.bbox
        target.put_json(f"log/{box}.json", log_dict(state) | {"bbox": str(box)})
    inside = target.inside(chunk.bbox, target.info(level))
    state.run.wrote(target.path, inside.voxels, view_line(target))
