"""write-tif: a chunk as a TIFF stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.files import WRITES, dtype_option, writes
from segflow.cli.operator import file_option, name_in, operator, option

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

COMPRESSIONS = ("zlib", "lzw", "zstd", "lzma", "packbits", "jpeg", "none")


@operator("Writing", uses="io", plan=writes(".tif"), example="segflow create-chunk write-tif -f chunk.tif")
@name_in()
@file_option(f"TIFF file to make or replace; {WRITES}")
@dtype_option("Convert to this dtype; default: the chunk's own, so float32 stays float32.")
@option("--compression", type=click.Choice(COMPRESSIONS), default="zlib",
        help="How pages are compressed; jpeg loses detail (uint8 images only).")  # fmt: skip
def write_tif(
    chunk: Chunk,
    *,
    path: str,
    dtype: str | None = None,
    compression: str = "zlib",
    state: State | None = None,
) -> None:
    """Write a chunk as a TIFF stack, one page a section; BigTIFF where it is large.

    Voxel size, place, layer type and channel offsets are kept in the first page's description.
    """
    from segflow.volumes import files, tif

    chunk = files.task_chunk(chunk, state)
    target = files.output_path(path, state, ".tif", chunk.bbox)
    record = state.run.provenance() if state is not None else None
    tif.write_tif(target, chunk, dtype=dtype, compression=compression, provenance=record)
    files.wrote(state, target, chunk, "tif")
