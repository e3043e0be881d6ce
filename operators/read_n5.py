"""read-n5: n5 arrays and pyramids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.arrays import array_option, box_options, read_array, reads_array
from segflow.cli.operator import name_out, operator

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator(
    "Reading", uses="io", plan=reads_array("n5"),
    example="segflow read-n5 -f volume.n5/raw --size 64 512 512 view",
)  # fmt: skip
@array_option("n5 array, or group with s0, s1, ...: a folder, or n5://, s3://, gs://, https://.")
@box_options
@name_out()
def read_n5(
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
    """Read an n5 array or pyramid, or a box of it.

    An n5 counts its dimensions from x; the chunk and all options are zyx.
    """
    return read_array(
        "n5", state, path=path, dataset=dataset, start=start, stop=stop, size=size, mip=mip,
        fill_missing=fill_missing, voxel_offset=voxel_offset, voxel_size=voxel_size,
        layer_type=layer_type, dtype=dtype,
    )  # fmt: skip
