"""mask: zeros where a coarser volume says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import operator, option, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import existing
from segflow.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.geometry import Box
    from segflow.state import State


def _names(inputs: str, outputs: str | None) -> list[tuple[str, str]]:
    """Give each input name with its output name."""
    given = [name.strip() for name in inputs.split(",") if name.strip()]
    wanted = [name.strip() for name in outputs.split(",") if name.strip()] if outputs else given
    if not given or len(given) != len(wanted):
        raise UsageError(f"{len(given)} chunks are masked and {len(wanted)} names given to --output-names")
    return list(zip(given, wanted))


def plan_mask(plan: Plan, options: dict[str, Any]) -> None:
    """Check the names, the volume, its voxels, and where a skip leads to."""
    from segflow.volumes.info import voxel_factor

    info = existing(plan, options["volume"], options["mip"])
    if options["check_all_zero"]:
        plan.jump = options["skip_to"]
    for source, target in _names(options["input_names"], options["output_names"]):
        if source not in plan.chunks:
            if options["check_all_zero"] and (plan.bbox is not None or plan.tasks or plan.lease):
                continue
            held = ", ".join(f"'{n}'" for n in plan.chunks) or "nothing"
            near = did_you_mean(source, list(plan.chunks))
            raise UsageError(f"no chunk named '{source}'{near}; the steps before write {held}")
        spec = plan.spec(source)
        if info is not None and info.voxel_size and spec.voxel_size:
            with before_the_run():
                voxel_factor(spec.voxel_size, info.voxel_size, f"{info.path} at mip {info.mip}", source)
        if not options["check_all_zero"]:
            plan.chunks[target] = spec


@operator("Image", uses="io", plan=plan_mask,
          example="segflow --mip 1 fetch-task -q tasks cutout -v em mask -v tissue --mip 6 write-precomputed "
          "-v masked delete-task-in-queue")  # fmt: skip
@option("-i", "--input-names", metavar="NAMES", default="chunk", aliases=("--inputs",),
        help="Chunks to mask, separated by commas.")  # fmt: skip
@option("-o", "--output-names", metavar="NAMES", default=None, aliases=("--outputs",), show_default=False,
        help="Their new names, separated by commas; default: the same.")  # fmt: skip
@volume_option("The mask: a volume of one channel; its voxels are whole multiples of the chunk's.")
@option("-m", "--mip", type=click.IntRange(0, 30), default=5, help="Mip of the mask.")
@option("--inverse/--no-inverse", default=False, help="Keep where the mask is zero, or where it is not.")
@option("--fill-missing/--no-fill-missing", default=True,
        help="Missing blocks of the mask are zeros, or an error.")  # fmt: skip
@option("--check-all-zero/--maskout", default=False,
        help="Only look: pass over a task if the mask keeps nothing of its box; or mask.")  # fmt: skip
@option("--skip-to", metavar="NAME", default="save",
        help="Step (--name, command, alias) where such a task goes on; a writer writes zeros.")  # fmt: skip
def mask(
    state: State,
    *,
    input_names: str = "chunk",
    output_names: str | None = None,
    volume: str,
    mip: int = 5,
    inverse: bool = False,
    fill_missing: bool = True,
    check_all_zero: bool = False,
    skip_to: str = "save",
) -> None:
    """Set chunks to zero where a coarser mask is zero (with --inverse: where it is not).

    Voxel v of a chunk belongs to voxel v // factor of the mask, factor being the ratio of the voxel
    sizes (where one is unknown: of the mask's own mips). Outside its bounds a mask is zero. With
    --check-all-zero no chunk is needed or changed, so it may stand before anything is read.
    """
    from segflow.image import mask as masks
    from segflow.volumes import open_volume

    target: Any = open_volume(volume)
    pairs = _names(input_names, output_names)
    if check_all_zero:
        box, size, at = _place(state, pairs[0][0])
        factor = masks.mask_factor(target, mip, size, at)
        found = masks.read_mask(target, box, factor, mip, inverse=inverse, fill_missing=fill_missing)
        if not found.any:
            state.skip(f"the mask {target.path} keeps nothing", to=skip_to)
        return
    made, read = {}, {}
    for source, name in pairs:
        chunk: Chunk = state[source]
        at = chunk.source.get("mip", state.mip)
        factor = masks.mask_factor(target, mip, chunk.voxel_size, at, f"'{source}'")
        key = (chunk.bbox, factor)
        if key not in read:
            read[key] = masks.read_mask(
                target, chunk.bbox, factor, mip, inverse=inverse, fill_missing=fill_missing
            )
        made[name] = masks.apply_mask(chunk, read[key])
    state.update(made)


def _place(state: State, name: str) -> tuple[Box, tuple[float, ...] | None, int]:
    """Give the box to look at, its voxel size (nm) and its mip: the task's, else the chunk's.

    What the task has beyond the volume that the chunk was read from does not count.
    """
    chunk: Chunk | None = state.get(name)
    if state.bbox is None:
        held: Chunk = state[name]
        return held.bbox, held.voxel_size, held.source.get("mip", state.mip)
    if chunk is None or chunk.source.get("mip", state.mip) != state.mip:
        return state.bbox, None, state.mip
    inside = state.bbox.intersect(chunk.source.get("bounds", state.bbox))
    return state.bbox if inside.empty else inside, chunk.voxel_size, state.mip
