"""watershed: affinities to fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def plan_fragments(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the shape and dtype of affinities, and the limits of the watershed."""
    from segflow.segmentation.affinities import check_affinities, check_limits

    if not options.get("fragments"):
        check_limits(options["aff_threshold_low"], options["aff_threshold_high"])
    spec = plan.spec(options["chunk"])
    if spec.shape and spec.dtype:
        with before_the_run():
            check_affinities(spec.shape, spec.dtype)
    shape = spec.shape[-3:] if spec.shape else None
    return spec.change(shape=shape, dtype="uint64", layer_type="segmentation")


@operator(
    "Segmentation",
    plan=plan_fragments,
    example="segflow read-h5 -f affs.h5 watershed -o fragments write-h5 -i fragments -f fragments.h5",
)
@name_in(help="Affinities, czyx.")
@option("-l", "--aff-threshold-low", type=click.FloatRange(0, 1), default=0.0001,
        help="Voxels whose best affinity is not above this become 0.")  # fmt: skip
@option("-h", "--aff-threshold-high", type=click.FloatRange(0, 1), default=0.9999,
        help="Affinities at or above this always join.")  # fmt: skip
@name_out(help="Fragments to write.")
def watershed(
    chunk: Chunk, *, aff_threshold_low: float = 0.0001, aff_threshold_high: float = 0.9999
) -> Chunk:
    """Cut affinities into fragments (supervoxels), numbered from 1.

    Affinities are float in [0, 1] or uint8 (value / 255); channels are picked by their offsets.
    Gives uint64 labels, 0 where every affinity is low.
    """
    from segflow.segmentation import watershed as cut

    return cut(chunk, aff_threshold_low=aff_threshold_low, aff_threshold_high=aff_threshold_high)
