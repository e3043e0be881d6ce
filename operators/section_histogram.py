"""section-histogram: histograms of sections, in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import mip_option, name_in, operator, option, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import can_write, existing
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_histogram(plan: Plan, options: dict[str, Any]) -> None:
    """Check the image and the place of the files."""
    if options["volume"] is None:
        name = options["chunk"] or "chunk"
        if name not in plan.chunks:
            raise UsageError("histograms of what? give --volume-path, or a chunk with -i")
        if options["mip"] is not None:
            raise UsageError("-m is the mip of --volume-path; a chunk is at the mip it was read at")
        dtype, channels = plan.spec(name).dtype, 1
        shape = plan.spec(name).shape
        channels = shape[0] if shape and len(shape) == 4 else 1
    else:
        if options["chunk"]:
            raise UsageError("give --volume-path or -i, not both")
        info = existing(plan, options["volume"], plan.mip if options["mip"] is None else options["mip"])
        dtype, channels = (info.dtype, info.channels) if info else (None, 1)
    if dtype not in (None, "uint8", "uint16") or channels != 1:
        raise UsageError(
            f"histograms are of uint8 or uint16 images of one channel, not of {channels} of {dtype}"
        )
    can_write(options["levels_path"])
    plan.makes(options["levels_path"])


@operator("Image", uses="io", plan=plan_histogram,
          example="segflow generate-tasks -v em -m 1 -c 16 99999 99999 section-histogram -v em -m 1 "
          "-p em/levels/1")  # fmt: skip
@name_in(default=None, help="Image to count, instead of a volume; default without --volume-path: chunk.")
@volume_option("Volume whose whole sections are counted, for the z range of the task, else all.",
               required=False)  # fmt: skip
@mip_option("Mip of the volume that is counted; default: that of the task (--mip).")
@option("-p", "--levels-path", "levels_path", required=True, metavar="PATH",
        help="Folder or bucket of the files, one a section: PATH/<z>.")  # fmt: skip
def section_histogram(
    chunk: Chunk | None = None,
    *,
    volume: str | None = None,
    mip: int | None = None,
    levels_path: str,
    state: State | None = None,
) -> None:
    """Save the histogram of every section, for normalize-section-contrast.

    With a volume a task counts whole sections, in its z range, tile by tile. With a chunk it counts
    what the chunk has of the task's box; the parts of a section are added up, each once however
    often it is counted. Several workers may count at once.
    """
    from segflow.image import levels
    from segflow.volumes import open_volume

    task, task_mip = (state.bbox, state.mip) if state is not None else (None, 0)
    if volume is not None:
        source: Any = open_volume(volume)
        level = task_mip if mip is None else mip
        sections = levels.task_sections(source, level, task, task_mip)
        levels.write_volume_levels(levels_path, source, level, *sections)
    else:
        held: Chunk = chunk if chunk is not None else state["chunk"]  # type: ignore[index]
        same = held.source.get("mip", task_mip) == task_mip
        part, whole = levels.task_part(held, task if same else None)
        if part is not None:
            levels.write_chunk_levels(levels_path, part, whole)
    if state is not None:
        state.run.wrote(levels.open_levels(levels_path).path)
