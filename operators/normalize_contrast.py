"""normalize-contrast: stretch an image by its histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan_contrast(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check dtype, fractions and levels."""
    spec = plan.spec(options["chunk"])
    if spec.dtype not in (None, "uint8", "uint16"):
        raise UsageError(
            f"contrast is normalised in uint8 or uint16 images; '{options['chunk']}' is {spec.dtype}"
        )
    if options["lower_clip_fraction"] + options["upper_clip_fraction"] >= 1:
        raise UsageError("the clip fractions leave nothing; give two shares that add up to less than 1")
    if options["minval"] >= options["maxval"]:
        raise UsageError("--minval must be less than --maxval")
    return spec.change(dtype="uint8" if options["maxval"] <= 255 else spec.dtype)


@operator("Image", plan=plan_contrast, example="segflow read-tif -f image.tif normalize-contrast view")
@name_in()
@option("--lower-clip-fraction", aliases=("-l",), type=click.FloatRange(0, 1), default=0.01,
        help="Share of the voxels that becomes black.")  # fmt: skip
@option("--upper-clip-fraction", aliases=("-u",), type=click.FloatRange(0, 1), default=0.01,
        help="Share of the voxels that becomes white.")  # fmt: skip
@option(
    "--minval", type=click.IntRange(0), default=1, help="Smallest level given; with 0, black stays black."
)
@option("--maxval", type=click.IntRange(1), default=255, help="Largest level given.")
@option("--per-section/--whole", default=True, help="Every section by its own histogram, or all by one.")
@name_out()
def normalize_contrast(
    chunk: Chunk,
    *,
    lower_clip_fraction: float = 0.01,
    upper_clip_fraction: float = 0.01,
    minval: int = 1,
    maxval: int = 255,
    per_section: bool = True,
) -> Chunk:
    """Stretch an image (uint8, uint16) so that the percentiles of its histogram span the range."""
    from segflow import image

    return image.normalize_contrast(
        chunk, lower_clip_fraction, upper_clip_fraction, minval, maxval, per_section
    )
