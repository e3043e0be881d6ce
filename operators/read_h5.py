"""read-h5: HDF5 data sets of segflow, chunkflow, CREMI and PyTorch Connectomics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run, place_options, plan_read, spec_of
from segflow.cli.operator import file_option, name_out, operator, option, triple
from segflow.cli.plan import UNKNOWN, Plan, Spec

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_h5(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check file, data set and cutout from the header."""
    import os

    from segflow.volumes import files, hdf5

    path, named = hdf5.split_dataset(options["path"])
    if options["remove_empty"] and os.path.isfile(path) and not os.path.getsize(path):
        return UNKNOWN
    look = partial(hdf5.peek_h5, dataset=options["dataset"] or named)
    info = plan_read(plan, options | {"path": path}, ".h5", look)
    if info is None:
        return UNKNOWN
    with before_the_run():
        box = files.box_from(info.bounds, *(options[f"cutout_{k}"] for k in ("start", "stop", "size")))
        order = options["channel_order"]
        info = hdf5.select(info, channels=options["channels"], box=box, channel_order=order)
    if options["set_bbox"]:
        plan.bbox = info.bounds
    return spec_of(info, options["dtype"])


@operator("Reading", uses="io", plan=plan_h5, example="segflow read-h5 -f sample.h5 -d /volumes/raw view")
@file_option("HDF5 file, or FILE.h5:DATASET; in a folder, the one named as the task's box.")
@option("-d", "--dataset-path", "dataset", metavar="NAME", default=None,
        help="Data set; default: main, else the only volume in the file.")  # fmt: skip
@triple("--cutout-start", default=None, help="Read from here, voxels of the volume.")
@triple("--cutout-stop", default=None, help="Read up to here, voxels of the volume.")
@triple("--cutout-size", default=None, help="Read this many voxels.")
@option("--channels", default=None, help="Channels to read, as 0,2 or 0:3; one number gives zyx.")
@option("--channel-order", type=click.Choice(["xyz", "zyx"]), default="xyz",
        help="Order of three affinity channels in the file; zyx ones are handed on as xyz.")  # fmt: skip
@option("--set-bbox/--no-set-bbox", default=False, help="Make the chunk's box that of the task.")
@option("--remove-empty/--do-not-remove", default=False,
        help="Delete a file of 0 bytes and skip its task, instead of an error.")  # fmt: skip
@place_options
@name_out()
def read_h5(
    *,
    path: str,
    dataset: str | None = None,
    cutout_start: tuple[int, int, int] | None = None,
    cutout_stop: tuple[int, int, int] | None = None,
    cutout_size: tuple[int, int, int] | None = None,
    channels: str | None = None,
    channel_order: str = "xyz",
    set_bbox: bool = False,
    remove_empty: bool = False,
    voxel_offset: tuple[int, int, int] | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    state: State | None = None,
) -> Chunk | None:
    """Read an HDF5 data set, or a part of it.

    Place and voxel size come from chunkflow's voxel_offset and voxel_size, or from CREMI's
    attributes resolution and offset (nm).
    """
    from pathlib import Path

    from segflow.volumes import files, hdf5

    path, named = hdf5.split_dataset(path)
    path, dataset = files.input_path(path, state, ".h5"), dataset or named
    place = Path(path).expanduser()
    if remove_empty and state is not None and place.is_file() and not place.stat().st_size:
        place.unlink()
        state.skip(f"{path} was empty and is deleted")
        return None
    bounds = files.override(hdf5.peek_h5(path, dataset), voxel_offset=voxel_offset).bounds
    chunk = hdf5.read_h5(
        path, dataset, box=files.box_from(bounds, cutout_start, cutout_stop, cutout_size),
        channels=channels, channel_order=channel_order,
        voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type, dtype=dtype,
    )  # fmt: skip
    if set_bbox and state is not None:
        state.bbox = chunk.bbox
    return chunk
