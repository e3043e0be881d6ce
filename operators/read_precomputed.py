"""read-precomputed: a box of a volume."""

from __future__ import annotations

from logging import DEBUG
from typing import TYPE_CHECKING, Any

from segflow.cli.files import before_the_run, spec_of
from segflow.cli.operator import mip_option, name_out, operator, option, triple, volume_option
from segflow.cli.plan import UNKNOWN, Plan, Spec
from segflow.cli.volumes import check_box, existing

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_precomputed(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check info and box."""
    from segflow.volumes import open_volume

    mip = plan.mip if options["mip"] is None else options["mip"]
    told = [options[key] for key in ("start", "stop", "size")]
    info = existing(plan, options["volume"], mip)
    if info is None:
        return UNKNOWN
    volume: Any = open_volume(options["volume"])
    if plan.tasks and not any(told):
        return spec_of(info).change(shape=None, voxel_offset=None)
    with before_the_run():
        box = volume.choose(mip, *told, plan.bbox, plan.mip)
    if any(told) and plan.bbox is None and mip == plan.mip and not plan.tasks:
        plan.bbox = box
    box = box.grow(options["margin"] or (0, 0, 0))
    check_box(box, info)
    spec = spec_of(info)
    return spec.change(shape=(*(spec.shape or ())[:-3], *box.shape), voxel_offset=box.start)


@operator("Reading", uses="io", plan=plan_precomputed,
          example="segflow read-precomputed -v s3://bucket/em --start 0 0 0 --size 64 512 512")  # fmt: skip
@volume_option("Volume: a folder, file://, s3:// or gs:// (precomputed), zarr:// or n5://.")
@mip_option()
@triple("--start", default=None, aliases=("--chunk-start", "-s"), help="First voxel, at the mip read.")
@triple("--stop", default=None, aliases=("--chunk-stop",), help="The voxel after the last, at the mip read.")
@triple("--size", default=None, aliases=("--chunk-size", "-z"), help="Size of the box, voxels.")
@triple(
    "--expand-margin-size", "-e", "margin", default=None, help="Read this much more on each side, voxels."
)
@option("--fill-missing/--no-fill-missing", default=True, help="Missing blocks are zeros, or an error.")
@option("--validate-mip", type=int, default=None, help="Compare with this coarser mip; end if they differ.")
@option("--blackout-sections/--no-blackout-sections", default=False,
        help="Set to zero the sections that blackout_section_ids.json in the volume names.")  # fmt: skip
@option("--use-https/--use-credential", default=False, help="Read a bucket over https, without credentials.")
@name_out()
def read_precomputed(
    *,
    volume: str,
    mip: int | None = None,
    start: tuple[int, int, int] | None = None,
    stop: tuple[int, int, int] | None = None,
    size: tuple[int, int, int] | None = None,
    margin: tuple[int, int, int] | None = None,
    fill_missing: bool = True,
    validate_mip: int | None = None,
    blackout_sections: bool = False,
    use_https: bool = False,
    state: State | None = None,
) -> Chunk:
    """Read a box of a volume: by --start, --stop or --size, else the task's box, else all of it.

    What lies outside the volume is zeros, with a warning unless a queue gave the task. The task's box
    is at --mip of the run; with another -m it is scaled and has to divide.
    """
    from segflow.volumes import open_volume
    from segflow.volumes.checks import black_out, check_against

    source: Any = open_volume(volume, use_https=use_https)
    if state is not None and state.lease is not None:
        source.border = DEBUG  # tasks at the volume's faces
    level = mip if mip is not None else state.mip if state is not None else 0
    task, task_mip = (state.bbox, state.mip) if state is not None else (None, 0)
    box = source.choose(level, start, stop, size, task, task_mip)
    if state is not None and task is None and (start or stop or size) and level == task_mip:
        state.bbox = box
    chunk = source.read(box.grow(margin or (0, 0, 0)), level, fill_missing=fill_missing)
    if validate_mip is not None:
        check_against(source, chunk, level, validate_mip)
    if blackout_sections:
        chunk = black_out(source, chunk, level)
    return chunk
