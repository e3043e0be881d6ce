"""write-npy: a chunk as a NumPy array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.files import WRITES, dtype_option, writes
from segflow.cli.operator import file_option, name_in, operator

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator("Writing", uses="io", plan=writes(".npy"), example="segflow create-chunk write-npy -f chunk.npy")
@name_in()
@file_option(f"npy file to make or replace; {WRITES}")
@dtype_option("Convert to this dtype; default: the chunk's own.")
def write_npy(chunk: Chunk, *, path: str, dtype: str | None = None, state: State | None = None) -> None:
    """Write a chunk as a NumPy array (npy).

    The array alone: place and voxel size are not kept, but a file named by its task's box is read
    back at its place. How it was made is written beside, as FILE.provenance.json.
    """
    from segflow.volumes import files, npy

    chunk = files.task_chunk(chunk, state)
    target = files.output_path(path, state, ".npy", chunk.bbox)
    record = state.run.provenance() if state is not None else None
    npy.write_npy(target, chunk, dtype=dtype, provenance=record)
    files.wrote(state, target, chunk, "npy")
