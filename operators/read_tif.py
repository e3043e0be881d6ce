"""read-tif: TIFF stacks and folders of sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.files import place_options, reads
from segflow.cli.operator import file_option, name_out, operator

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator(
    "Reading", uses="io", plan=reads(".tif", "tif.peek_tif"), example="segflow read-tif -f image.tif view"
)
@file_option("TIFF file (stack, BigTIFF, OME, ImageJ), or a folder of sections in natural order.")
@place_options
@name_out()
def read_tif(
    *,
    path: str,
    voxel_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    state: State | None = None,
) -> Chunk:
    """Read a TIFF file or a folder of sections.

    Place, voxel size and layer type come back as write-tif stored them. In a folder, a file
    named as the task's box is read alone.
    """
    from segflow.volumes import files, tif

    return tif.read_tif(
        files.input_path(path, state, ".tif"),
        voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type, dtype=dtype,
    )  # fmt: skip
