"""quantize: a map as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan_quantize(plan: Plan, options: dict[str, Any]) -> Spec:
    """Tell the shape; refuse segmentations."""
    spec = plan.spec(options["chunk"])
    if spec.dtype is not None and spec.dtype != "uint8" and not spec.dtype.startswith("float"):
        raise UsageError(f"a map of floats in [0, 1] is needed; '{options['chunk']}' is {spec.dtype}")
    affinities = spec.layer_type == "affinity_map" or (
        spec.shape and len(spec.shape) == 4 and spec.shape[0] == 3
    )
    if affinities and spec.shape:
        return spec.change(shape=spec.shape[-3:], dtype="uint8", layer_type="image")
    return spec.change(dtype="uint8")


@operator("Image", plan=plan_quantize, example="segflow read-h5 -f affs.h5 quantize write-tif -f affs.tif")
@name_in(help="Affinity or probability map.")
@option("--mode", type=click.Choice(["xy", "z"]), default="xy",
        help="Of affinities: the mean of x and y, or z.")  # fmt: skip
@name_out()
def quantize(chunk: Chunk, *, mode: str = "xy") -> Chunk:
    """Turn affinities into one grey image, or a probability map into bytes: round(255 a), uint8."""
    from segflow import image

    return image.quantize(chunk, mode)
