"""normalize-section-contrast: stretch sections by saved histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError, VolumeError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_sections(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check dtype, fractions, levels and that the folder is there."""
    from pathlib import Path

    spec, path = plan.spec(options["chunk"]), options["levels_path"]
    if spec.dtype not in (None, "uint8", "uint16"):
        raise UsageError(
            f"contrast is normalised in uint8 or uint16 images; '{options['chunk']}' is {spec.dtype}"
        )
    if options["lower_clip_fraction"] + options["upper_clip_fraction"] >= 1:
        raise UsageError("the clip fractions leave nothing; give two shares that add up to less than 1")
    if options["minval"] >= options["maxval"]:
        raise UsageError("--minval must be less than --maxval")
    local = path.removeprefix("file://")
    if "://" not in local and not plan.made(local) and not Path(local).expanduser().is_dir():
        raise UsageError(f"there is no folder {local} of histograms; section-histogram makes it")
    return spec.change(dtype="uint8" if options["maxval"] <= 255 else spec.dtype)


@operator("Image", plan=plan_sections,
          example="segflow cutout -v em -m 1 normalize-section-contrast -p levels/1 view")  # fmt: skip
@name_in()
@option("-p", "--levels-path", "levels_path", required=True, metavar="PATH",
        help='Folder or bucket of the histograms at the image\'s mip: PATH/<z> holds {"levels": [...]}.',
        )  # fmt: skip
@option("--lower-clip-fraction", aliases=("-l",), type=click.FloatRange(0, 1), default=0.01,
        help="Share of the section's voxels that becomes black.")  # fmt: skip
@option("--upper-clip-fraction", aliases=("-u",), type=click.FloatRange(0, 1), default=0.01,
        help="Share of the section's voxels that becomes white.")  # fmt: skip
@option(
    "--minval", type=click.IntRange(0), default=1, help="Smallest level given; with 0, black stays black."
)
@option("--maxval", type=click.IntRange(1), default=255, help="Largest level given.")
@name_out()
def normalize_section_contrast(
    chunk: Chunk,
    *,
    levels_path: str,
    lower_clip_fraction: float = 0.01,
    upper_clip_fraction: float = 0.01,
    minval: int = 1,
    maxval: int = 255,
    state: State | None = None,
) -> Chunk:
    """Stretch sections of an image (uint8, uint16) by saved histograms of the whole sections.

    So a section looks alike in every task. section-histogram makes the files. A section without a
    file is an error unless it is all black, as outside the volume.
    """
    from segflow.image.contrast import normalize_sections
    from segflow.image.levels import open_levels, read_levels

    known: dict[int, Any] = {}
    if state is not None:
        known = state.run.memory.setdefault("levels", {}).setdefault(levels_path, {})
    first = chunk.voxel_offset[0]
    sections = range(first, first + chunk.shape[-3])
    known |= read_levels(levels_path, [z for z in sections if z not in known])
    lacking = [z for z in sections if z not in known and chunk.array[..., z - first, :, :].any()]
    if lacking:
        more = f", nor for {len(lacking) - 1} more of this chunk" if len(lacking) > 1 else ""
        raise VolumeError(
            f"there is no histogram {open_levels(levels_path).path}/{lacking[0]} for section "
            f"{lacking[0]}{more}; make it with section-histogram at the image's mip"
        )
    return normalize_sections(chunk, known, lower_clip_fraction, upper_clip_fraction, minval, maxval)
