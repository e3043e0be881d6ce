"""connected-components: number the connected parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError
from segflow.operators.threshold import plan_mask

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check that there is one channel, and a threshold if it is a float map."""
    dtype = plan.spec(options["chunk"]).dtype or ""
    if dtype.startswith("float") and options["threshold"] is None:
        raise UsageError(f"'{options['chunk']}' is a {dtype} map, not labels: give --threshold")
    return plan_mask(plan, options).change(dtype="uint32")


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-tif -f cleft.tif -o cleft connected-components -i cleft -o seg -t 0.1",
)
@name_in(help="Map of one channel, mask or labels.")
@option("-t", "--threshold", type=float, default=None, show_default="the values are labels",
        help="Connect voxels above this; a fraction for uint8 probability maps (value / 255).")  # fmt: skip
@option("-c", "--connectivity", type=click.Choice(["6", "18", "26"]), default="6",
        help="Neighbours: 6 by faces, 18 also by edges, 26 also by corners.")  # fmt: skip
@name_out(help="Segmentation to write.")
def connected_components(
    chunk: Chunk, *, threshold: float | None = None, connectivity: str | int = 6
) -> Chunk:
    """Number the connected parts of a thresholded map, a mask or labels (uint32)."""
    from segflow.segmentation import connected_components as connect

    return connect(chunk, threshold, connectivity=int(connectivity))
