"""read-npy: NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.files import place_options, reads
from segflow.cli.operator import file_option, name_out, operator

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator(
    "Reading", uses="io", plan=reads(".npy", "npy.peek_npy"), example="segflow read-npy -f image.npy view"
)
@file_option("npy file of zyx, czyx or yx; in a folder, the one named as the task's box.")
@place_options
@name_out()
def read_npy(
    *,
    path: str,
    voxel_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    state: State | None = None,
) -> Chunk:
    """Read a NumPy array (npy).

    The format keeps no place: a file named as a box (0-20_0-256_0-256.npy) lies there, others at 0 0 0.
    """
    from segflow.volumes import files, npy

    return npy.read_npy(
        files.input_path(path, state, ".npy"),
        voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type, dtype=dtype,
    )  # fmt: skip
