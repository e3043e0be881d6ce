"""threshold: where a map is above a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan_mask(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check that there is one channel."""
    spec = plan.spec(options["chunk"])
    if spec.shape and len(spec.shape) == 4 and spec.shape[0] != 1:
        raise UsageError(f"this needs one channel, but '{options['chunk']}' has {spec.shape[0]}")
    shape = spec.shape[-3:] if spec.shape else None
    return spec.change(shape=shape, dtype="uint8", layer_type="segmentation")


@operator(
    "Segmentation",
    plan=plan_mask,
    example="segflow read-h5 -f cleft.h5 threshold -t 0.3 -o mask write-tif -i mask -f mask.tif",
)
@name_in(help="Map of one channel.")
@option("-t", "--threshold", type=float, default=0.5,
        help="Voxels above this become 1; a fraction for uint8 probability maps (value / 255).")  # fmt: skip
@name_out(help="Mask to write.")
def threshold(chunk: Chunk, *, threshold: float = 0.5) -> Chunk:
    """Turn a map into a mask: 1 where it is above the threshold, else 0 (uint8)."""
    from segflow.segmentation import binarize

    return binarize(chunk, threshold)
