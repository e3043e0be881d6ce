"""read-zarr: zarr arrays and OME-Zarr pyramids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.arrays import array_option, box_options, read_array, reads_array
from segflow.cli.operator import name_out, operator, option

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator(
    "Reading", uses="io", plan=reads_array("zarr"),
    example="segflow read-zarr -f image.zarr --start 0 0 0 --size 64 512 512 view",
)  # fmt: skip
@array_option("Zarr array or OME-Zarr (v2, v3, sharded): a folder, or zarr://, s3://, gs://, https://.")
@box_options
@option("--driver", hidden=True, expose_value=False, default=None, help="Accepted; found out by itself.")
@name_out()
def read_zarr(
    *,
    path: str,
    dataset: str | None = None,
    start: tuple[int, int, int] | None = None,
    stop: tuple[int, int, int] | None = None,
    size: tuple[int, int, int] | None = None,
    mip: int | None = None,
    fill_missing: bool = True,
    voxel_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    state: State | None = None,
) -> Chunk:
    """Read a zarr array or OME-Zarr pyramid, or a box of it.

    Levels of a pyramid are mips. A part of the box that lies outside comes back as zeros.
    """
    return read_array(
        "zarr", state, path=path, dataset=dataset, start=start, stop=stop, size=size, mip=mip,
        fill_missing=fill_missing, voxel_offset=voxel_offset, voxel_size=voxel_size,
        layer_type=layer_type, dtype=dtype,
    )  # fmt: skip
