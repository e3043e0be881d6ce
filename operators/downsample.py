"""downsample: a chunk, or a volume's pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option, triple, volume_option
from segflow.cli.plan import UNKNOWN, Plan, Spec
from segflow.cli.volumes import existing, view_line, writable
from segflow.errors import ChunkError, UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import Run, State


def plan_downsample(plan: Plan, options: dict[str, Any]) -> Spec | tuple[()]:
    """Check the chunk or the volume; refuse a whole pyramid in a worker."""
    if options["volume"] is None:
        name = options["chunk"] or "chunk"
        if name not in plan.chunks:
            raise UsageError("no chunk named 'chunk'; name one with -i, or a volume with -v")
        return _smaller(plan.spec(name), options)
    if plan.lease:
        raise UsageError(
            "-v makes the pyramid of the whole volume, once, but this chain works on tasks of a queue; "
            "use downsample-upload, which writes a task's part"
        )
    info = existing(plan, options["volume"])
    if info is not None and info.layer_type is None:
        raise UsageError(f"{options['volume']} does not say whether its {info.dtype} are labels")
    writable(plan, options["volume"])
    return ()


def _smaller(spec: Spec, options: dict[str, Any]) -> Spec:
    if spec.dtype == "uint16" and not (options["layer_type"] or spec.layer_type):
        raise UsageError("uint16 may be an image or labels; say which with --layer-type")
    if not spec.shape or spec.voxel_offset is None or options["factor"] is None or options["levels"] != 1:
        return UNKNOWN
    from segflow.geometry import Box
    from segflow.volumes.info import coarser

    box = coarser(Box.of(spec.voxel_offset, spec.shape[-3:]), options["factor"])
    size = spec.voxel_size and tuple(s * f for s, f in zip(spec.voxel_size, options["factor"]))
    return spec.change(shape=(*spec.shape[:-3], *box.shape), voxel_offset=box.start, voxel_size=size)


def finish(run: Run, **options: Any) -> None:
    """Make the volume's pyramid, when the stream has ended."""
    if options["volume"] is None:
        return
    from segflow.volumes import open_volume
    from segflow.volumes.pyramid import build_pyramid

    volume: Any = open_volume(options["volume"])
    mips = build_pyramid(
        volume, start_mip=options["start_mip"], stop_mip=options["stop_mip"], factor=options["factor"],
        fill_missing=options["fill_missing"],
    )  # fmt: skip
    volume.note(run.provenance())
    run.wrote(volume.path, sum(volume.info(m).bounds.voxels for m in mips), view_line(volume))


@operator("Volumes", uses="io", plan=plan_downsample, finish=finish,
          example="segflow create-chunk write-precomputed -v seg downsample -v seg")  # fmt: skip
@name_in(default=None, help="Chunk to read, 'chunk' by default; not with -v.")
@volume_option("Volume whose coarser mips are made, when all tasks are done.", required=False)
@triple("--factor", default=None,
        help="Window, voxels; default: as the volume says, else towards cubic voxels or 2 2 2.")  # fmt: skip
@option("--levels", type=click.IntRange(1), default=1, help="How often a chunk is downsampled.")
@option("--start-mip", type=click.IntRange(1), default=1, help="First mip of the volume to fill.")
@option("--stop-mip", type=click.IntRange(2), default=None, aliases=("--mips",),
        help="Mip after the last; default: all that the volume names, else 5.")  # fmt: skip
@option("--fill-missing/--no-fill-missing", default=True, help="Missing blocks are zeros, or an error.")
@option("--layer-type", type=click.Choice(["image", "segmentation"]), default=None,
        help="Mean (image) or mode (segmentation); default: as the chunk says.")  # fmt: skip
@name_out()
def downsample(
    chunk: Chunk | None = None,
    *,
    volume: str | None = None,
    factor: tuple[int, int, int] | None = None,
    levels: int = 1,
    start_mip: int = 1,
    stop_mip: int | None = None,
    fill_missing: bool = True,
    layer_type: str | None = None,
    state: State | None = None,
) -> Chunk | None:
    """Downsample a chunk, or with -v make a volume's coarser mips: mean of images, mode of labels.

    With -v the chunks pass by untouched, and the volume is done once, block by block, when the
    stream ends. Windows are counted from voxel 0, so a chunk's result is its part of the volume's.
    """
    if volume is not None:
        return None
    from dataclasses import replace

    from segflow.image.downsample import downsample_chunk
    from segflow.volumes.info import isotropic_factor

    if chunk is None:
        if state is None:
            raise ChunkError("give a chunk, or a volume")
        chunk = state["chunk"]
    kind = layer_type or chunk.layer_type
    small = replace(chunk, layer_type=kind)
    for _ in range(levels):
        small = downsample_chunk(small, factor or isotropic_factor(small.voxel_size))
    return small
