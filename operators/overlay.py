"""overlay: image, affinities and segmentation in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import WRITES, writes
from segflow.cli.operator import file_option, name_in, operator, option
from segflow.cli.plan import Plan

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check the file and the list of sections."""
    from segflow.view.names import parse_sections

    parse_sections(options["sections"])
    writes(".png")(plan, options)


@operator("Viewing", uses="io", plan=plan,
          example="segflow ... overlay -i image --segmentation seg -f sheet.png")  # fmt: skip
@name_in("image", "-i", "--input", help="Image, shown in grey.")
@name_in("affinities", "--affinities", default=None, help="Affinities; x, y, z become red, green, blue.")
@name_in("segmentation", "--segmentation", default=None, help="Labels, laid over the image; 0 stays clear.")
@name_in("groundtruth", "--groundtruth", default=None, help="More labels, in a column of their own.")
@file_option(f"PNG file to make or replace; {WRITES}")
@option("--sections", metavar="Z,Z,...", default=None, show_default="3x",
        help="Sections to show, z in voxels; 5x: five, evenly spread.")  # fmt: skip
@option("--tile", type=click.IntRange(32, 8192), default=512, help="Longer side of a section, pixels.")
@option("--dust-threshold", type=click.IntRange(0), default=0,
        help="Segments with fewer voxels stay clear.")  # fmt: skip
def overlay(
    image: Chunk,
    affinities: Chunk | None = None,
    segmentation: Chunk | None = None,
    groundtruth: Chunk | None = None,
    *,
    path: str,
    sections: str | None = None,
    tile: int = 512,
    dust_threshold: int = 0,
    state: State | None = None,
) -> None:
    """Draw image, affinities and segmentation side by side, a row for each section, as one PNG."""
    from segflow.view import overlay as sheet
    from segflow.view.names import parse_sections
    from segflow.volumes import files

    picture = sheet.overlay(
        image,
        affinities,
        segmentation,
        groundtruth,
        sections=parse_sections(sections),
        tile=tile,
        dust_threshold=dust_threshold,
    )
    target = files.output_path(path, state, ".png", image.bbox)
    with files.replacing(target) as beside:
        picture.save(beside, "PNG")
    if state is not None:
        state.run.wrote(target)
