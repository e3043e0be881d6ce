"""watershed: affinities to fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk


METHODS = ("exact", "waterz", "distance")
OF_DISTANCE = {
    "per_section": False,
    "interior_threshold": None,
    "min_distance": 3,
    "seeds": "maxima",
    "surface": None,
}


def plan_fragments(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the shape and dtype of affinities, and the limits of the watershed."""
    from segflow.segmentation.affinities import check_affinities, check_limits

    if not options.get("fragments"):
        check_limits(options["aff_threshold_low"], options["aff_threshold_high"])
        check_method(options)
    spec = plan.spec(options["chunk"])
    if spec.shape and spec.dtype:
        with before_the_run():
            check_affinities(spec.shape, spec.dtype)
    shape = spec.shape[-3:] if spec.shape else None
    return spec.change(shape=shape, dtype="uint64", layer_type="segmentation")


def check_method(options: dict[str, Any]) -> None:
    """Raise UsageError for options that the method has not; ``agglomerate`` has no method."""
    method = options.get("method")
    if method == "distance" and options["aff_threshold_high"] != 0.9999:
        raise UsageError("--aff-threshold-high has no meaning for --method distance")
    for name, default in OF_DISTANCE.items():
        if method not in (None, "distance") and options[name] != default:
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to --method distance, but the method is {method}"
            )


@operator(
    "Segmentation",
    plan=plan_fragments,
    example="segflow read-h5 -f affs.h5 watershed -o fragments write-h5 -i fragments -f fragments.h5",
)
@name_in(help="Affinities, czyx.")
@option("--method", type=click.Choice(METHODS), default="exact",
        help="exact: each voxel goes to its neighbour of highest affinity, by a rule that no block changes. "
        "waterz: the same, as waterz does it. distance: from seeds in the middle of what is inside, as in "
        "K_NeuronSeg and PyTC.")  # fmt: skip
@option("-l", "--aff-threshold-low", type=click.FloatRange(0, 1), default=0.0001,
        help="Voxels whose best affinity is not above this become 0.")  # fmt: skip
@option("-h", "--aff-threshold-high", type=click.FloatRange(0, 1), default=0.9999,
        help="Affinities at or above this always join (exact, waterz).")  # fmt: skip
@option("--per-section", is_flag=True,
        help="distance: cut each section for itself, by its y and x affinities.")  # fmt: skip
@option("--interior-threshold", type=click.FloatRange(0, 1, max_open=True), default=None,
        help="distance: a voxel is inside if its mean affinity is above this.  "
        "[default: 0.1; 0.5 per section; both as in K_NeuronSeg]")  # fmt: skip
@option("--min-distance", type=click.IntRange(min=1), default=3,
        help="distance: no second seed within so many voxels on every axis; spacing of a grid.")  # fmt: skip
@option("--seeds", type=click.Choice(["maxima", "minima", "grid"]), default="maxima",
        help="distance: maxima of the distance to the outside, minima of 1 - mean affinity, "
        "or a grid.")  # fmt: skip
@option("--surface", type=click.Choice(["distance", "boundary"]), default=None,
        help="distance: flood the inside from its middle (distance; all else is 0), or every voxel along "
        "1 - mean affinity (boundary).  [default: distance; boundary per section]")  # fmt: skip
@name_out(help="Fragments to write.")
def watershed(
    chunk: Chunk,
    *,
    method: str = "exact",
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    per_section: bool = False,
    interior_threshold: float | None = None,
    min_distance: int = 3,
    seeds: str = "maxima",
    surface: str | None = None,
) -> Chunk:
    """Cut affinities into fragments (supervoxels).

    Affinities are float in [0, 1] or uint8 (value / 255); channels are picked by their offsets.
    Gives uint64 labels, 0 where every affinity is low.
    """
    from segflow.segmentation import distance_watershed
    from segflow.segmentation import watershed as cut

    if method == "distance":
        return distance_watershed(
            chunk,
            per_section=per_section,
            interior_threshold=interior_threshold,
            min_distance=min_distance,
            seeds=seeds,
            surface=surface,
            aff_threshold_low=aff_threshold_low,
        )
    limits = {"aff_threshold_low": aff_threshold_low, "aff_threshold_high": aff_threshold_high}
    return cut(chunk, method=method, **limits)
