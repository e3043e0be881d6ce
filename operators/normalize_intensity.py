"""normalize-intensity: an image in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import name_in, name_out, operator
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan_intensity(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the dtype."""
    spec = plan.spec(options["chunk"])
    if spec.dtype not in (None, "uint8", "uint16"):
        raise UsageError(
            f"intensities are normalised in uint8 or uint16 images; '{options['chunk']}' is {spec.dtype}"
        )
    return spec.change(dtype="float32")


@operator("Image", plan=plan_intensity,
          example="segflow read-tif -f image.tif normalize-intensity write-h5 -f image.h5")  # fmt: skip
@name_in()
@name_out()
def normalize_intensity(chunk: Chunk) -> Chunk:
    """Map an image (uint8, uint16) to float32 in [-1, 1]."""
    from segflow import image

    return image.normalize_intensity(chunk)
