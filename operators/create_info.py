"""create-info: an empty precomputed volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, operator, option, triple
from segflow.cli.plan import Plan
from segflow.cli.volumes import look, writable
from segflow.errors import UsageError
from segflow.volumes.info import DTYPES, ENCODINGS

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

KINDS = ("image", "segmentation", "affinity_map", "probability_map")


def plan_info(plan: Plan, options: dict[str, Any]) -> None:
    """Check that the place can be written, and what there is to know of the volume."""
    if options["chunk"] is None and options["volume_size"] is None and "chunk" not in plan.chunks:
        raise UsageError("how large is the volume? give --volume-size Z Y X, or a chunk with -i")
    look(plan, options["volume"])
    writable(plan, options["volume"])


@operator("Volumes", uses="io", plan=plan_info,
          example="segflow create-info -v file:///data/seg --volume-size 100 1024 1024 --block-size 64 64 64 "
          "--data-type uint64 --voxel-size 30 6 6 --max-mip 4")  # fmt: skip
@name_in(default=None, help="Chunk that tells what is not given: size, offset, voxel size, dtype, channels.")
@option(
    "-v", "--volume-path", "volume", metavar="VOLUME", default="file://.", help="Where the volume will be."
)
@option(
    "--channel-num",
    type=click.IntRange(1),
    default=None,
    aliases=("-c",),
    help="Channels; default: the chunk's, else 1.",
)
@option("--layer-type", type=click.Choice(KINDS), default=None, aliases=("-t",),
        help="Default: the chunk's, else segmentation for uint32 and uint64, else image.")  # fmt: skip
@option("--data-type", type=click.Choice(DTYPES), default=None, aliases=("--dtype", "-d"),
        help="Default: the chunk's, uint8 for float affinities; else uint8.")  # fmt: skip
@option(
    "--encoding", type=click.Choice(ENCODINGS), default="raw", aliases=("-e",), help="How blocks are stored."
)
@triple("--voxel-size", type=float, default=None, aliases=("-s",), help="Of mip 0, nm; default: the chunk's.")
@triple(
    "--voxel-offset",
    default=None,
    help="First voxel of the volume, at mip 0; default: the chunk's, else 0 0 0.",
)
@triple(
    "--volume-size", default=None, aliases=("-z",), help="Size of the volume, voxels; default: the chunk's."
)
@triple(
    "--block-size", required=True, show_default=False, aliases=("-b",), help="Size of its blocks, voxels."
)
@triple("--factor", default=None, aliases=("-f",), show_default=False,
        help="Downsampling from each mip to the next; default: as in the volume if it is there, else 2 2 2.",
        )  # fmt: skip
@option(
    "--max-mip",
    type=click.IntRange(0, 30),
    default=0,
    aliases=("-m",),
    help="The coarsest mip that is named.",
)
def create_info(
    chunk: Chunk | None = None,
    *,
    volume: str = "file://.",
    block_size: tuple[int, int, int],
    channel_num: int | None = None,
    layer_type: str | None = None,
    data_type: str | None = None,
    encoding: str = "raw",
    voxel_size: tuple[float, float, float] | None = None,
    voxel_offset: tuple[int, int, int] | None = None,
    volume_size: tuple[int, int, int] | None = None,
    factor: tuple[int, int, int] | None = None,
    max_mip: int = 0,
    state: State | None = None,
) -> None:
    """Make the info of a precomputed volume, into which chunks are then written.

    A volume that is there gets the mips it lacks; one of another size, voxel size or dtype is an
    error. All sizes are z y x.
    """
    from segflow.volumes import open_volume
    from segflow.volumes.create import empty_info, realise, with_own_mips

    if chunk is None and volume_size is None and state is not None:
        chunk = state["chunk"]
    raw = empty_info(
        chunk, size=volume_size, offset=voxel_offset, voxel_size=voxel_size, dtype=data_type,
        channels=channel_num, layer_type=layer_type, block_size=block_size, encoding=encoding,
    )  # fmt: skip
    target: Any = open_volume(volume)
    realise(target, with_own_mips(target, raw, max_mip + 1, factor), same=True)
    if state is not None:
        target.note(state.run.provenance())
        state.run.wrote(f"{target.path}/info")
