"""What read-zarr and read-n5 share: options, the check before the run, the reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from segflow.cli.files import before_the_run, place_options, spec_of
from segflow.cli.operator import mip_option, option, triple
from segflow.cli.plan import UNKNOWN, Plan, Spec, check_file

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State
    from segflow.volumes.arrays import ArrayVolume

F = TypeVar("F", bound=Callable[..., Any])


def array_option(help: str) -> Callable[[F], F]:
    """Declare the address: ``-f/--file-name`` and ``-v/--volume-path``, passed as ``path``."""
    return option(
        "-f", "-v", "--file-name", "--volume-path", "path",
        metavar="FOLDER", required=True, aliases=("--store",), help=help,
    )  # fmt: skip


def box_options(function: F) -> F:
    """Declare which part of a volume is read."""
    for mark in (
        place_options,
        option("--fill-missing/--no-fill-missing", default=True,
               help="Read missing blocks as zeros, or end with an error."),
        mip_option(),
        triple("--size", default=None, aliases=("--chunk-size",), help="Voxels to read, at the mip read."),
        triple("--stop", default=None, aliases=("--chunk-stop",), help="End of the box, voxels."),
        triple("--start", default=None, aliases=("--chunk-start",),
               help="Begin of the box, voxels; default: the task's box, else all."),
        option("--dataset-path", "dataset", metavar="NAME", default=None, aliases=("--path",),
               help="Array or pyramid inside FOLDER."),
    ):  # fmt: skip
        function = mark(function)
    return function


def open_array(form: str, path: str, dataset: str | None) -> ArrayVolume:
    """Open a zarr or n5 by its address, with the name of a part of it added."""
    from segflow.volumes.zarr import N5Volume, ZarrVolume

    place = f"{path.rstrip('/')}/{dataset.strip('/')}" if dataset else path
    return ZarrVolume(place) if form == "zarr" else N5Volume(place)


def reads_array(form: str) -> Callable[[Plan, dict[str, Any]], Spec]:
    """Give the plan of read-zarr or read-n5; only local volumes are looked at."""

    def plan(plan: Plan, options: dict[str, Any]) -> Spec:
        from segflow.volumes.files import override

        with before_the_run():
            volume = open_array(form, options["path"], options["dataset"])
            local = volume.place.removeprefix("file://")
            if "://" in local or not check_file(plan, local):
                return UNKNOWN
            mip = plan.mip if options["mip"] is None else options["mip"]
            start, stop, size = (options[k] for k in ("start", "stop", "size"))
            info = volume.info(mip)
            if plan.tasks and not (start or stop or size):
                return spec_of(info, options["dtype"]).change(shape=None, voxel_offset=None)
            wanted = volume.choose(mip, start, stop, size, plan.bbox, plan.mip)
            volume.inside(wanted, info)
        info = override(info, voxel_size=options["voxel_size"], layer_type=options["layer_type"])
        spec = spec_of(info, options["dtype"])
        lead = (spec.shape or ())[:-3]
        place = options["voxel_offset"] or wanted.start
        return spec.change(shape=(*lead, *wanted.shape), voxel_offset=place)

    return plan


def read_array(form: str, state: State | None, **options: Any) -> Chunk:
    """Read the box that the options of ``box_options`` choose."""
    from dataclasses import replace

    from segflow.volumes.files import converted, warn_of_dark

    volume = open_array(form, options["path"], options["dataset"])
    task, task_mip = (state.bbox, state.mip) if state is not None else (None, 0)
    mip = task_mip if options["mip"] is None else options["mip"]
    box = volume.choose(mip, options["start"], options["stop"], options["size"], task, task_mip)
    chunk = volume.read(box, mip, fill_missing=options["fill_missing"])
    told = {k: options[k] for k in ("voxel_offset", "voxel_size", "layer_type") if options[k] is not None}
    if told.get("layer_type", "affinity_map") != "affinity_map":
        told["offsets"] = None
    chunk = replace(chunk, **told)
    warn_of_dark(chunk)
    return converted(chunk, options["dtype"])
