"""write-h5: a chunk as HDF5, in chunkflow's layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.files import WRITES, dtype_option, writes
from segflow.cli.operator import file_option, name_in, operator, option, triple

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator("Writing", uses="io", plan=writes(".h5"), example="segflow create-chunk write-h5 -f chunk.h5")
@name_in()
@file_option(f"HDF5 file to make or replace; {WRITES}")
@dtype_option("Convert to this dtype; default: the chunk's own.")
@option("--compression", type=click.Choice(["gzip", "lzf", "szip", "none"]), default="gzip",
        help="How blocks are compressed.")  # fmt: skip
@triple("--chunk-size", "block_size", default=(16, 128, 128), help="HDF5's own blocks, voxels.")
@option("--with-offset/--without-offset", default=True, help="Store the chunk's place.")
@triple("--voxel-size", type=float, default=None, help="Voxel size, nm; default: the chunk's.")
@option("--touch/--no-touch", default=True, hidden=True, expose_value=False, help="Accepted; of no effect.")
def write_h5(
    chunk: Chunk,
    *,
    path: str,
    dtype: str | None = None,
    compression: str = "gzip",
    block_size: tuple[int, int, int] = (16, 128, 128),
    with_offset: bool = True,
    voxel_size: tuple[float, float, float] | None = None,
    state: State | None = None,
) -> None:
    """Write a chunk as HDF5: data set main, with voxel_offset and voxel_size (zyx) beside it.

    Layer type and channel offsets are attributes of main; how the file was made is the file's
    attribute provenance.
    """
    from segflow.volumes import files, hdf5

    chunk = files.task_chunk(chunk, state)
    target = files.output_path(path, state, ".h5", chunk.bbox)
    hdf5.write_h5(
        target, chunk, dtype=dtype, compression=compression, block_size=block_size,
        with_offset=with_offset, voxel_size=voxel_size,
        provenance=state.run.provenance() if state is not None else None,
    )  # fmt: skip
    files.wrote(state, target, chunk, "h5")
